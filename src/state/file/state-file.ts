import { atExit } from '../../base/at-exit.js'
import { InOrder } from '../../base/in-order.js'
import type { Logger } from '../../base/logger.js'
import { withinRunningTime } from '../../base/running-time.js'
import { FdbError } from '../../errors.js'
import type { StateLog } from '../state-log.js'
import { FileClaim, inUseError } from './claim.js'
import { DISK_FULL_CODES, FileCopy, finishAtOnce } from './copy.js'
import type { BegunFile } from './encoder.js'
import {
  checkReplaceable,
  hasRoom,
  removeLeftovers,
  removeOthers,
  type StateFileKind,
  type StateFileSettings,
  temporaryFiles,
} from './files.js'
import { LONGEST_BACKOFF_MS, WriteFailures } from './write-failures.js'

/** Delay before new changes are written, so that several are written together. */
const FOLLOW_MS = 10
/** Interval of the check that the file was not removed or replaced, unless syncs are more frequent. */
const FILE_CHECK_MS = 1000
/** The file is rewritten if it is larger than twice the log in memory plus this many bytes. */
const SPARE_BYTES = 16 * 1024 * 1024
/** A new file of this size is synced before it is brought up to date, and synced again, to replace the present one. */
const SYNC_BEFORE_BYTES = 1024 * 1024

/** How often a flush writes if the right to write is lost for a moment each time. */
const FLUSH_ATTEMPTS = 10

type Mode = 'idle' | 'preparing' | 'serving'

/**
 * Copies a state log to a file asynchronously, so that a slow or failing disk delays no change. Only the process with the unsealed segment writes: it
 * creates a new file and renames it over the state file: a process that was paused (SIGSTOP), and was replaced during the pause, then writes
 * only to its unlinked file.
 */
export class StateFile {
  /** Called when `ok` changes. Must not throw. */
  onChange: ((status: StateFileStatus) => void) | null = null
  /** Called when the disk is full: if the log gets smaller, a smaller file can replace the present one. Must not throw. */
  onNoRoom: (() => void) | null = null
  readonly #settings: StateFileSettings
  readonly #log: StateLog
  readonly #logger: Pick<Logger, 'info' | 'warn'>
  readonly #mayWrite: () => boolean
  #mode: Mode = 'idle'
  /** Number of calls of stop(). Work that began before the last call must have no effect any more. */
  #stops = 0
  readonly #failures = new WriteFailures()
  /** The state file that this process created. */
  #file: FileCopy | null = null
  /** The file being written; it replaces `#file` when it is complete. */
  #next: FileCopy | null = null
  /** {@link #next} is being renamed to the path of the state file. */
  #installing = false
  /** Ends the writing of acknowledged changes that are only in memory, at the exit of the process. */
  #endAtExit: (() => void) | null = null
  readonly #onAppended = () => this.#schedulePass(FOLLOW_MS)
  /** The making of a file that replaces {@link #file}; changes are written to {@link #file} meanwhile. */
  #replacing: Promise<void> | null = null
  /** Another process may have written the state file since this one did. */
  #mayBeReplaced = false
  /** {@link #file} can have every change of the log. */
  #follows = false
  #flushing: Promise<void> | null = null
  /** After a failed rewrite the next one starts at this time of performance.now() at the earliest. */
  #rewriteAfter = 0
  /** The time (performance.now()) of the next sync and check. */
  #checkAt = 0
  #passTimer: NodeJS.Timeout | undefined
  #checkTimer: NodeJS.Timeout | undefined
  /** Until this process has written its own file; null in a successor. */
  #claim: FileClaim | null = null
  /** No other process may write the file: this one has claimed or written it. */
  #owns = false
  /** The file that this first process has read and claimed, until it has its own. */
  #begun: BegunFile | null = null
  /** Passes, and the exchange of the file, one after the other. */
  readonly #order = new InOrder()
  #queued = false
  #onReplaced: (() => void) | null = null

  /** `mayWrite` returns whether this process still has the right to write; it is called before each access to the state file. */
  constructor(
    settings: StateFileSettings,
    log: StateLog,
    logger: Pick<Logger, 'info' | 'warn'>,
    mayWrite: () => boolean,
  ) {
    this.#settings = settings
    this.#log = log
    this.#logger = logger
    this.#mayWrite = mayWrite
  }

  /** Makes this process, which is the first one, the owner of the file. Rejects with ERR_FDB_STATE_FILE_IN_USE; see {@link FileClaim}. */
  async claim(patienceMs?: number): Promise<void> {
    this.#claim = await FileClaim.take(this.#settings.path, this.#logger, patienceMs)
    this.#owns = true
  }

  /** Tells what the claimed file has: if there is no room for a second file, this process continues that one. */
  begin(begun: BegunFile): void {
    this.#begun = begun
  }

  /**
   * Starts to write the log to a temporary file before this process serves, so that {@link serve} has little left to write. Resolves when the file of
   * a service without a state file is there, so that its first durable change need not wait for that.
   */
  async prepare(): Promise<void> {
    if (this.#mode !== 'idle') return
    this.#mode = 'preparing'
    const stops = this.#stops
    if (this.#log.pieces().length === 0) await this.#openNext(() => stops !== this.#stops).catch(() => {})
    void this.#pass()
  }

  /** Keeps the state file up to date from now on; call it when this process may write, for the first time or again. Idempotent. */
  serve(): void {
    if (this.#mode === 'serving') this.#mayBeReplaced = true
    else this.#endAtExit = atExit(() => this.#finishNow())
    this.#mode = 'serving'
    this.#log.appendListeners.add(this.#onAppended)
    this.#schedulePass(0)
  }

  /** For a process that ends without a successor: if another program has replaced the file, calls `onReplaced` and does not write it again. */
  watchForReplacement(onReplaced: () => void): void {
    this.#onReplaced = onReplaced
  }

  /** Stops writing at once, because the right to write has ended. Idempotent. */
  stop(): void {
    this.#endClaim()
    this.#owns = false
    this.#begun = null
    if (this.#mode === 'idle') return
    this.#mode = 'idle'
    this.#endAtExit?.()
    this.#stops++
    this.#log.appendListeners.delete(this.#onAppended)
    for (const timer of [this.#passTimer, this.#checkTimer]) clearTimeout(timer)
    this.#passTimer = this.#checkTimer = undefined
    this.#failures.stop()
    for (const copy of [this.#file, this.#next]) void copy?.close()
    this.#file = this.#next = this.#replacing = this.#flushing = null
    this.#installing = this.#follows = false
  }

  #endClaim(): void {
    this.#claim?.close()
    this.#claim = null
  }

  /** Resolves when everything that is in the log now is synced. Rejects with ERR_FDB_STATE_FILE or ERR_FDB_FENCED. */
  async flush({
    marked = true,
    attempts = FLUSH_ATTEMPTS,
  }: {
    readonly marked?: boolean
    readonly attempts?: number
  } = {}): Promise<void> {
    this.checkServing()
    const stops = this.#stops
    const { completeSequence: sequence } = this.#log
    await (this.#flushing ??= this.#flush(sequence))
    if (marked) await this.#file?.marked()
    const synced = this.#file?.syncedSequence ?? 0
    if (synced >= sequence) return
    // The right to write has ended meanwhile, and may have come back; without a call of stop() if only the segment was sealed.
    if (stops !== this.#stops) return await this.flush({ marked, attempts })
    if (this.#failures.ok && attempts > 1) return await this.flush({ marked, attempts: attempts - 1 })
    this.checkServing()
    const { message = 'the state changes faster than the disk can write' } = this.#failures.last ?? {}
    throw new FdbError(
      'ERR_FDB_STATE_FILE',
      `the last ${sequence - synced} records of the state are not yet in the state file ${this.#settings.path}: ${message}`,
      { retryable: true },
    )
  }

  async #flush(sequence: number): Promise<void> {
    try {
      await this.#pass()
      if (!this.#follows && this.#replacing !== null) {
        await this.#replacing
        // The new file was synced, and renamed to its place, with these changes.
        if (this.#file !== null && this.#file.syncedSequence >= sequence) return
        if (this.#file !== null) await this.#pass()
      }
    } finally {
      this.#flushing = null
    }
    const file = this.#file
    if (file === null) return
    // Together, because each takes a turn of the event loop.
    const inPlace = file.isAt(this.#settings.path)
    inPlace.catch(() => {})
    try {
      await file.sync()
      if (!(await inPlace)) await this.#enqueue(() => this.#checkInPlace())
    } catch (error) {
      await this.#fileFailed(file, error)
    }
  }

  /** Throws ERR_FDB_FENCED unless this process writes the state file. */
  checkServing(): void {
    if (this.#mode === 'serving' && this.#mayWrite()) return
    const reason =
      this.#mode === 'preparing'
        ? 'this process starts writing the state file after ready()'
        : 'another process writes the state file: flush there'
    throw new FdbError('ERR_FDB_FENCED', reason, { retryable: true })
  }

  /** Writes the remaining changes, then stops, so that the next process may write. Resolves after `timeoutMs` at the latest. */
  async finish(timeoutMs: number): Promise<void> {
    if (this.#mode !== 'serving' || !this.#mayWrite()) {
      this.stop()
      return
    }
    const late = () => new Error(`writing took more than ${timeoutMs} ms`)
    try {
      await withinRunningTime(this.flush(), timeoutMs, late)
    } catch (error) {
      this.#logger.warn({ err: error, path: this.#settings.path }, 'the state file lacks the last changes')
    } finally {
      this.stop()
    }
  }

  status(): StateFileStatus {
    const file = this.#file
    return {
      path: this.#settings.path,
      ok: this.#failures.ok,
      writing: file !== null,
      lastError: this.#failures.last,
      behindBytes: file?.missingBytes(this.#log) ?? this.#logBytes,
      sequence: file?.sequence ?? 0,
      syncedSequence: file?.syncedSequence ?? 0,
      bytes: file?.size ?? 0,
    }
  }

  get #logBytes(): number {
    return this.#log.pieces().reduce((sum, { segment, end }) => sum + end - segment.start, 0)
  }

  #schedulePass(ms: number): void {
    if (this.#passTimer || this.#failures.waiting) return
    this.#passTimer = setTimeout(() => {
      this.#passTimer = undefined
      if (!this.#queued) void this.#pass()
    }, ms).unref()
  }

  #pass(): Promise<void> {
    this.#queued = true
    return this.#enqueue(async () => {
      this.#queued = false
      // Later calls of flush() need another pass, because this one ends at the present end of the log.
      this.#flushing = null
      await this.#writeOnce()
    })
  }

  #enqueue(work: () => Promise<void>): Promise<void> {
    return this.#order.run(async () => {
      const stops = this.#stops
      try {
        await work()
        if (stops === this.#stops && this.#mode === 'serving' && this.#mayWrite()) this.#writeSucceeded()
      } catch (error) {
        await this.#closeLost()
        // Another process may have replaced the file by now, if this one has lost the right to write.
        if (stops !== this.#stops || this.#mode !== 'serving' || !this.#mayWrite()) return
        this.#file?.truncateTornNow()
        this.#writeFailed(error as NodeJS.ErrnoException)
      }
    })
  }

  async #writeOnce(): Promise<void> {
    if (this.#mode === 'idle' || (this.#mode === 'serving' && !this.#mayWrite())) return
    const stops = this.#stops
    if (this.#mayBeReplaced) await this.#leaveReplaced()
    if (stops !== this.#stops) return
    const file = this.#file
    if (file !== null && this.#onReplaced !== null && !(await file.isAt(this.#settings.path))) {
      this.#onReplaced()
      this.stop()
      return
    }
    if (stops !== this.#stops) return
    const follows = file !== null && (await this.#copyNew(file))
    if (stops !== this.#stops) return
    this.#follows = follows
    if (!follows) this.#replace()
    else if (performance.now() >= this.#rewriteAfter) {
      const large = file.size > 2 * this.#logBytes + SPARE_BYTES
      if (file.isContinued) await this.#replaceIfRoom()
      else if (large) this.#replace()
    }
  }

  /** Replaces a file that another process has begun, or that cannot grow, when the disk has room for a second one. */
  async #replaceIfRoom(): Promise<void> {
    this.#rewriteAfter = performance.now() + LOOK_FOR_ROOM_MS
    const stops = this.#stops
    const isRoom = await hasRoom(this.#settings.path, this.#logBytes)
    if (stops === this.#stops) isRoom ? this.#replace() : this.onNoRoom?.()
  }

  /** Whether this process can append to the claimed file. A file with secrets is always written again, without those that were replaced. */
  get #mayContinue(): boolean {
    return this.#file === null && this.#claim !== null && this.#begun !== null && !this.#log.secret
  }

  async #continueBegun(over: () => boolean): Promise<void> {
    const { path } = this.#settings
    const file = await FileCopy.continue(path, this.#kind, this.#begun!)
    await this.#order.run(async () => {
      if (over() || this.#file !== null || this.#mode !== 'serving') return await file.close()
      this.#file = file
      this.#follows = true
      this.#rewriteAfter = performance.now() + LOOK_FOR_ROOM_MS
    })
    this.#logger.warn(
      { path, bytes: file.size },
      'the disk has no room for a second state file: fd-broker appends to the present one, and replaces it when there is room',
    )
    this.#schedulePass(0)
  }

  /** Copies the changes that are in the log now. Returns false if this copy cannot be continued. */
  async #copyNew(file: FileCopy): Promise<boolean> {
    const always = this.#settings.sync === 'always'
    // Beside the copy, because each takes a turn of the event loop.
    const inPlace = performance.now() < this.#checkAt ? null : file.isAt(this.#settings.path)
    inPlace?.catch(() => {})
    const whole = await file.copyAll(this.#log, async () => {
      if (always) await file.sync()
      return this.#mayWrite()
    })
    if (whole && this.#mayWrite()) await this.#syncWhenDue(file, inPlace)
    return whole
  }

  /** Closes the file if its contents on disk are unknown; the next pass writes a new one. */
  async #closeLost(): Promise<void> {
    const file = this.#file
    if (!file?.lost) return
    this.#file = null
    await file.close()
  }

  get #inUse(): ((inode: bigint) => FdbError) | null {
    return this.#owns ? inode => inUseError(this.#settings.path, inode) : null
  }

  get #kind(): StateFileKind {
    return { secret: this.#log.secret, service: this.#settings.service }
  }

  #finishNow(): void {
    const { path } = this.#settings
    try {
      if (!this.#mayWrite()) return
      // The `position` getter appends the changes that wait for the end of the turn.
      void this.#log.position
      this.#endClaim()
      const installing = this.#installing ? this.#next : null
      finishAtOnce(path, this.#log, this.#kind, { installing, file: this.#file, inUse: this.#inUse })
    } catch (error) {
      this.#logger.warn({ err: error, path }, 'the state file lacks the last changes')
    } finally {
      if (!this.#installing) void this.#next?.close()
    }
  }

  /** `inPlace`: whether the file is in its place, if the check is due. */
  async #syncWhenDue(file: FileCopy, inPlace: Promise<boolean> | null): Promise<void> {
    const { sync } = this.#settings
    const every = typeof sync === 'number' ? sync : FILE_CHECK_MS
    const now = performance.now()
    if (inPlace === null) {
      if (file.unsynced || file.markUnsynced) this.#scheduleCheck(this.#checkAt - now)
      return
    }
    this.#checkAt = now + every
    if (!(await inPlace)) await this.#leaveFile(file)
    if (sync === 'never') return
    // Beside the next passes: while the disk is slow, changes still reach the page cache, where they survive the end of this process.
    const settled = () => {
      if (file.markUnsynced && this.#file === file) this.#scheduleCheck(every)
    }
    file.settle().then(settled, error => void this.#fileFailed(file, error))
  }

  /** Reports the failure of a sync, unless the file was replaced and closed meanwhile: the new file has all that it had, and is synced. */
  async #fileFailed(file: FileCopy, error: unknown): Promise<void> {
    await this.#enqueue(async () => {
      if (this.#file === file) throw error
    })
  }

  /** Leaves a file that another process of the service has replaced, while that one had the right to write. */
  async #leaveReplaced(): Promise<void> {
    this.#mayBeReplaced = false
    const file = this.#file
    if (file !== null && !(await file.isAt(this.#settings.path))) await this.#closeFile(file)
  }

  async #checkInPlace(): Promise<void> {
    const file = this.#file
    if (file !== null && !(await file.isAt(this.#settings.path))) await this.#leaveFile(file)
  }

  /** The next pass writes a new file. */
  async #closeFile(file: FileCopy): Promise<void> {
    if (this.#file === file) this.#file = null
    await file.close()
  }

  /** Throws: another program has removed or replaced the file; the next pass writes a new one. */
  async #leaveFile(file: FileCopy): Promise<never> {
    await this.#closeFile(file)
    throw new FdbError(
      'ERR_FDB_STATE_FILE',
      `another program removed or replaced the state file ${this.#settings.path}; only its service may do that`,
    )
  }

  #scheduleCheck(ms: number): void {
    this.#checkTimer ??= setTimeout(() => {
      this.#checkTimer = undefined
      this.#schedulePass(0)
    }, ms).unref()
  }

  /** Starts to copy the whole log to a new file, which then replaces the present one, unless that is under way. */
  #replace(): void {
    if (this.#replacing !== null) return
    const stops = this.#stops
    const over = () => stops !== this.#stops
    const replacing = this.#makeNext(over)
      .catch(async error => {
        if (!DISK_FULL_CODES.has(error.code ?? '') || over() || !this.#mayContinue) throw error
        if (this.#mode === 'serving') await this.#continueBegun(over)
      })
      .catch(error => {
        if (over() || this.#mode !== 'serving' || !this.#mayWrite()) return
        if (!this.#follows) return this.#writeFailed(error)
        this.#rewriteAfter = performance.now() + LONGEST_BACKOFF_MS
        this.#logger.warn(
          { err: error, path: this.#settings.path },
          'the state file is complete, but cannot be made smaller; fd-broker tries again after 10 s',
        )
      })
      .finally(() => {
        if (over()) return
        this.#replacing = null
        // serve() was called after the copy that prepare() made.
        if (this.#mode === 'serving' && this.#file === null) this.#schedulePass(0)
      })
    this.#replacing = replacing
  }

  /** Ends when the new file is installed or, before serve(), complete. flush() relies on that. */
  async #makeNext(over: () => boolean): Promise<void> {
    const { path } = this.#settings
    if (this.#mayContinue && !(await hasRoom(path, this.#logBytes))) {
      if (this.#mode === 'serving' && !over()) await this.#continueBegun(over)
      return
    }
    do {
      if (this.#log.pieces().length === 0) return
      const next = this.#next ?? (await this.#openNext(over))
      if (next === null) return
      try {
        // Copies and syncs a large log before the exchange, so that this takes less time.
        const isLarge = this.#logBytes > SYNC_BEFORE_BYTES || this.#mode !== 'serving'
        if (!isLarge || (await next.copyAll(this.#log))) {
          if (next.size > SYNC_BEFORE_BYTES) await next.sync()
          if (this.#mode !== 'serving' || over()) return
          if (await this.#order.run(async () => over() || (await this.#install(next)))) return
        }
      } catch (error) {
        if (this.#next === next) this.#next = null
        await next.close()
        throw error
      }
      if (this.#next === next) this.#next = null
      await next.close()
      // Records were merged while the copy was made: start again.
    } while (!over() && this.#mayWrite())
  }

  /** Makes the next file, still empty, unless it is over or another call has made one meanwhile. */
  async #openNext(over: () => boolean): Promise<FileCopy | null> {
    const { path } = this.#settings
    // A claim has removed them.
    if (this.#claim === null) await removeLeftovers(path)
    const next = await FileCopy.create(path, this.#kind, this.#owns)
    if (!over() && this.#next === null) this.#next = next
    else await next.close()
    return over() ? null : this.#next
  }

  /** Returns false if the copy cannot be continued, was removed, or if another process may write now. No pass runs meanwhile. */
  async #install(next: FileCopy): Promise<boolean> {
    const { path } = this.#settings
    // The new file must have every change that the present one has.
    if (!(await next.copyAll(this.#log))) return false
    const before = this.#file
    // The present file has this process's own lock until it is replaced.
    const inUse = before === null ? this.#inUse : null
    this.#endClaim()
    const others = async () => {
      // A process that was paused and replaced by this one must not rename its file later. An owner has replaced no process.
      const replaces = before === null && inUse === null
      const check = checkReplaceable(path, this.#settings.service, this.#owns, inUse)
      const [beside] = await Promise.all([replaces ? temporaryFiles(path) : [], check])
      if (this.#mayWrite()) await removeOthers(beside, next.path)
    }
    // The process before may have removed the file, while it installed its own.
    const [isBeside] = await Promise.all([next.isAt(next.path), next.sync(), others()])
    if (!this.#mayWrite() || !isBeside) return false
    const stops = this.#stops
    this.#installing = true
    try {
      await next.install(path)
    } finally {
      if (stops === this.#stops) {
        this.#installing = false
        // Even after an error the rename may have succeeded.
        if (next.installed) {
          this.#file = next.lost ? null : next
          this.#owns = true
          this.#begun = null
          this.#next = null
          await before?.close()
        }
      }
    }
    if (stops !== this.#stops) return true
    this.#checkAt = 0
    this.#follows = true
    this.#writeSucceeded()
    this.#schedulePass(0)
    return true
  }

  #writeSucceeded(): void {
    if (this.#file === null || !this.#follows) return
    this.#failures.backoff.reset()
    if (!this.#failures.recordSuccess()) return
    const { path } = this.#settings
    this.#logger.info({ path, sequence: this.#file.sequence }, 'the state file is complete again')
    this.onChange?.(this.status())
  }

  #writeFailed(error: NodeJS.ErrnoException): void {
    const { path } = this.#settings
    const full = DISK_FULL_CODES.has(error.code ?? '')
    const isNew = this.#failures.recordFailure(error, () => this.#schedulePass(0))
    // A replacement that fails, as without free inodes, leads here too.
    if (full && performance.now() >= this.#rewriteAfter) void this.#replaceIfRoom()
    if (!isNew) return
    const remedy = full ? 'make room' : 'see the error'
    const message = `the state file cannot be written: the state is in memory only, and survives upgrades but no reboot; ${remedy}. fd-broker tries again`
    this.#logger.warn({ err: error, path }, message)
    this.onChange?.(this.status())
  }
}

const LOOK_FOR_ROOM_MS = 2_000

/** The state file in `status`. */
export interface StateFileStatus {
  readonly path: string
  /** False if changes do not reach the file; this process keeps retrying. */
  readonly ok: boolean
  /** Whether this process writes the file. */
  readonly writing: boolean
  readonly lastError: { readonly code: string; readonly message: string; readonly at: string } | null
  /** Bytes of the log that are not in the file. */
  readonly behindBytes: number
  /** Sequence number of the last change in the file. */
  readonly sequence: number
  /** Sequence number of the last change that is synced. */
  readonly syncedSequence: number
  readonly bytes: number
}
