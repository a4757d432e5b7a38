import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { StateLog } from '../state-log.js'
import { finishAtOnce } from './at-once.js'
import { FileCopy, FULL } from './copy.js'
import {
  checkReplaceable,
  removeLeftovers,
  removeOthers,
  type StateFileKind,
  type StateFileSettings,
} from './place.js'

/** Changes of so many milliseconds are written together. */
const FOLLOW_MS = 10
/** How often it is looked whether the file is still there, unless it is brought to the disk more often. */
const CHECK_MS = 1000
/** The file is written anew when it is so much larger than the log in memory. */
const SPARE_BYTES = 16 * 1024 * 1024

type Mode = 'idle' | 'preparing' | 'serving'

/**
 * Keeps a state log in a file, off the path of the changes: a slow or failing disk stops none. Only the process whose segment is not sealed writes it, never to
 * another's file: it renames its own over it, so that a process that was stopped and replaced writes to a file without a name.
 */
export class StateFile {
  /** `ok` has changed. Must not throw. */
  onChange: ((status: StateFileStatus) => void) | null = null
  readonly #settings: StateFileSettings
  readonly #log: StateLog
  readonly #logger: Pick<Logger, 'info' | 'warn'>
  readonly #mayWrite: () => boolean
  #mode: Mode = 'idle'
  /** Counts stops: what was begun before the last one has no say any more. */
  #stops = 0
  readonly #failures = new WriteFailures()
  /** The state file, as this process made it. */
  #file: FileCopy | null = null
  /** The file being written; replaces `#file` when complete. */
  #next: FileCopy | null = null
  /** {@link #next} is about to be it. */
  #installing = false
  /** Writes what is acknowledged and only in memory at process.exit() and after an uncaught exception. */
  readonly #atExit = () => this.#finishNow()
  readonly #onAppended = () => this.#schedulePass(FOLLOW_MS)
  /** Asked for, and not begun. */
  #flushing: Promise<void> | null = null
  /** Milliseconds as of performance.now(): a file that could not be written anew is not tried again before. */
  #rewriteAfter = 0
  /** When the file is to be brought to the disk, and whether it is still there. */
  #checkAt = 0
  #passTimer: NodeJS.Timeout | undefined
  #checkTimer: NodeJS.Timeout | undefined
  /** One pass after the other. */
  #work: Promise<unknown> = Promise.resolve()
  #queued = false
  #onReplaced: (() => void) | null = null

  /** `mayWrite`: this process has the right to write still; asked before anything is done to the state file. */
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

  /** Writes what the log holds to a file of its own, so that little is left to do when this process serves. */
  prepare(): void {
    if (this.#mode !== 'idle') return
    this.#mode = 'preparing'
    this.#schedulePass(0)
  }

  /** This process has the right to write: the state file follows its log from now on. Idempotent. */
  serve(): void {
    if (this.#mode !== 'serving') process.on('exit', this.#atExit)
    this.#mode = 'serving'
    this.#log.appended.add(this.#onAppended)
    this.#schedulePass(0)
  }

  /** This process ends without a successor. A file that another program has replaced is left alone, and `replaced` is called. */
  watchForReplacement(replaced: () => void): void {
    this.#onReplaced = replaced
  }

  /** The right to write has ended. Idempotent. */
  stop(): void {
    if (this.#mode === 'idle') return
    this.#mode = 'idle'
    process.off('exit', this.#atExit)
    this.#stops++
    this.#log.appended.delete(this.#onAppended)
    for (const timer of [this.#passTimer, this.#checkTimer]) clearTimeout(timer)
    this.#passTimer = this.#checkTimer = undefined
    this.#failures.stop()
    for (const copy of [this.#file, this.#next]) void copy?.close()
    this.#file = this.#next = null
    this.#installing = false
  }

  /** Everything that is in the log now is in the file, and on the disk. Rejects with ERR_FDB_STATE_FILE, ERR_FDB_FENCED. */
  async flush(): Promise<void> {
    this.checkServing()
    const { reached: sequence } = this.#log
    await (this.#flushing ??= this.#flush())
    const synced = this.#file?.syncedSequence ?? 0
    if (synced >= sequence) return
    const { message = 'it changes faster than it can be written' } = this.#failures.last ?? {}
    throw new FdbError(
      'ERR_FDB_STATE_FILE',
      `the state file ${this.#settings.path} has the changes up to ${synced}, not up to ${sequence}: ${message}`,
      { retryable: true },
    )
  }

  async #flush(): Promise<void> {
    try {
      await this.#enqueue(async () => {
        this.#flushing = null
        await this.#writeOnce()
        await this.#file?.sync()
        await this.#checkInPlace()
      })
    } finally {
      this.#flushing = null
    }
  }

  /** Throws ERR_FDB_FENCED unless this process writes the state file. */
  checkServing(): void {
    if (this.#mode === 'serving' && this.#mayWrite()) return
    const what =
      this.#mode === 'preparing'
        ? 'this process writes the state file from ready() on'
        : 'another process writes the state file: flush there'
    throw new FdbError('ERR_FDB_FENCED', what, { retryable: true })
  }

  /** Writes the rest, when no process writes any more or takes over. Resolves at the latest after `timeoutMs`. */
  async finish(timeoutMs: number): Promise<void> {
    if (this.#mode !== 'serving' || !this.#mayWrite()) {
      this.stop()
      return
    }
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`it took more than ${timeoutMs} ms`)), timeoutMs)
    })
    try {
      await Promise.race([this.flush(), late])
    } catch (error) {
      this.#logger.warn({ err: error, path: this.#settings.path }, 'the state file lacks the last changes')
    } finally {
      clearTimeout(timer)
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
      behindBytes: file?.behind(this.#log) ?? this.#logBytes,
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
      if (!this.#queued) void this.#enqueue(() => this.#writeOnce())
    }, ms).unref()
  }

  #enqueue(work: () => Promise<void>): Promise<void> {
    this.#queued = true
    const done = this.#work.then(async () => {
      this.#queued = false
      const stops = this.#stops
      try {
        if (this.#mode === 'idle') return
        await work()
        if (stops === this.#stops && this.#mode === 'serving') this.#writeSucceeded()
      } catch (error) {
        await this.#closeLost()
        if (stops === this.#stops && this.#mode === 'serving')
          this.#writeFailed(error as NodeJS.ErrnoException)
      }
    })
    this.#work = done
    return done
  }

  async #writeOnce(): Promise<void> {
    if (this.#mode === 'serving' && !this.#mayWrite()) return
    const file = this.#file
    if (file !== null && this.#onReplaced !== null && !(await file.isAt(this.#settings.path))) {
      this.#onReplaced()
      this.stop()
      return
    }
    const follows = file !== null && (await this.#copyNew(file))
    if (!follows) await this.#rewrite()
    else if (file.size > 2 * this.#logBytes + SPARE_BYTES && performance.now() >= this.#rewriteAfter) {
      try {
        await this.#rewrite()
      } catch (error) {
        // There is the larger one, which is whole.
        this.#rewriteAfter = performance.now() + MOST_MS
        this.#logger.warn({ err: error, path: this.#settings.path }, 'the state file cannot be made smaller')
      }
    }
  }

  /** Copies what is new. False: this file cannot be continued. */
  async #copyNew(file: FileCopy): Promise<boolean> {
    for (;;) {
      if (!this.#mayWrite()) return true
      const copied = await file.copySome(this.#log)
      if (copied === null) return false
      await this.#syncWhenDue(file)
      if (copied === 0) return true
    }
  }

  /** A file with unknown contents on the disk is given up: the next pass writes another. */
  async #closeLost(): Promise<void> {
    const file = this.#file
    if (!file?.lost) return
    this.#file = null
    await file.close()
  }

  get #kind(): StateFileKind {
    return { secret: this.#log.secret, service: this.#settings.service }
  }

  #finishNow(): void {
    const { path } = this.#settings
    try {
      if (!this.#mayWrite()) return
      // Appends the changes that wait for the end of the turn.
      void this.#log.position
      const installing = this.#installing ? this.#next : null
      finishAtOnce(path, this.#log, this.#kind, { installing, file: this.#file })
    } catch (error) {
      this.#logger.warn({ err: error, path }, 'the state file lacks the last changes')
    }
  }

  async #syncWhenDue(file: FileCopy): Promise<void> {
    const { sync } = this.#settings
    if (sync === 'always') await file.sync()
    const every = typeof sync === 'number' ? sync : CHECK_MS
    const now = performance.now()
    if (now < this.#checkAt) {
      if (file.unsynced || file.markUnsynced) this.#scheduleCheck(this.#checkAt - now)
      return
    }
    this.#checkAt = now + every
    await this.#checkInPlace()
    if (sync === 'never') return
    await file.settle()
    if (file.markUnsynced) this.#scheduleCheck(every)
  }

  /** Throws when the file was removed or replaced: another is written instead. */
  async #checkInPlace(): Promise<void> {
    const file = this.#file
    const { path } = this.#settings
    if (file === null || (await file.isAt(path))) return
    if (this.#file === file) this.#file = null
    await file.close()
    throw new FdbError(
      'ERR_FDB_STATE_FILE',
      `the state file ${path} was removed or replaced by somebody; it belongs to one service alone`,
    )
  }

  #scheduleCheck(ms: number): void {
    this.#checkTimer ??= setTimeout(() => {
      this.#checkTimer = undefined
      this.#schedulePass(0)
    }, ms).unref()
  }

  /** A flush waits for it: it ends with the file, or with the right to write. */
  async #rewrite(): Promise<void> {
    const stops = this.#stops
    const { path } = this.#settings
    do {
      if (this.#next === null) {
        if (this.#log.pieces().length === 0) return
        await removeLeftovers(path)
        const next = await FileCopy.create(path, this.#kind)
        if (stops !== this.#stops) return await next.close()
        this.#next = next
      }
      const next = this.#next
      try {
        if (await this.#copyAll(next)) {
          await next.sync()
          if (this.#mode !== 'serving' || (await this.#install(next))) return
        }
      } catch (error) {
        if (this.#next === next) this.#next = null
        await next.close()
        throw error
      }
      if (this.#next === next) this.#next = null
      await next.close()
      // Its contents were merged meanwhile with later records: start again.
    } while (stops === this.#stops && this.#mayWrite())
  }

  async #copyAll(next: FileCopy): Promise<boolean> {
    for (;;) {
      const copied = await next.copySome(this.#log)
      if (copied === null) return false
      if (copied === 0) return true
      // It may take long: what there is goes on.
      if (this.#queued && this.#file !== null) await this.#copyNew(this.#file)
    }
  }

  /** False: it cannot be continued, or another may write by now. */
  async #install(next: FileCopy): Promise<boolean> {
    const { path } = this.#settings
    // It must have all that the one before has, which is not written meanwhile.
    do {
      if ((await next.copySome(this.#log)) === null) return false
    } while (!next.whole)
    await next.sync()
    await checkReplaceable(path, this.#settings.service)
    if (!this.#mayWrite()) return false
    const before = this.#file
    // A process that was replaced and goes on finds nothing to rename.
    if (before === null) await removeOthers(path, next.path)
    if (!this.#mayWrite()) return false
    const stops = this.#stops
    this.#installing = true
    try {
      await next.install(path)
    } finally {
      if (stops === this.#stops) {
        this.#installing = false
        // The path names it now, whatever came after that.
        if (next.installed) {
          this.#file = next.lost ? null : next
          this.#next = null
          await before?.close()
        }
      }
    }
    if (stops !== this.#stops) return true
    this.#checkAt = 0
    await this.#copyNew(next)
    return true
  }

  #writeSucceeded(): void {
    this.#failures.resetBackoff()
    if (this.#file === null || !this.#failures.recordSuccess()) return
    const { path } = this.#settings
    this.#logger.info({ path, sequence: this.#file.sequence }, 'the state file is whole again')
    this.onChange?.(this.status())
  }

  #writeFailed(error: NodeJS.ErrnoException): void {
    const { path } = this.#settings
    if (!this.#failures.recordFailure(error, () => this.#schedulePass(0))) return
    const hint = FULL.has(error.code ?? '') ? 'make room' : 'see the error'
    const what = `the state file cannot be written: the state is in memory alone, and outlives upgrades but no reboot; ${hint}. It is tried again`
    this.#logger.warn({ err: error, path }, what)
    this.onChange?.(this.status())
  }
}

const FIRST_MS = 100
const MOST_MS = 10_000

/** Whether the state file can be written, why not, and when it is tried again. */
class WriteFailures {
  ok = true
  last: StateFileStatus['lastError'] = null
  #timer: NodeJS.Timeout | undefined
  #backoffMs = FIRST_MS

  /** It is tried again later, not before. */
  get waiting(): boolean {
    return this.#timer !== undefined
  }

  /** Returns whether it could not be written before. */
  recordSuccess(): boolean {
    const before = this.ok
    this.ok = true
    return !before
  }

  /** A try came to its end, with or without a file. */
  resetBackoff(): void {
    this.#backoffMs = FIRST_MS
  }

  /** Calls `again` after a while, longer each time. Returns whether this is news. */
  recordFailure(error: NodeJS.ErrnoException, again: () => void): boolean {
    const code = error.code ?? 'ERR_FDB_INTERNAL'
    const news = this.ok || this.last?.code !== code
    this.ok = false
    this.last = { code, message: error.message, at: new Date().toISOString() }
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      again()
    }, this.#backoffMs).unref()
    this.#backoffMs = Math.min(2 * this.#backoffMs, MOST_MS)
    return news
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.ok = true
  }
}

/** The state file in `status`. */
export interface StateFileStatus {
  readonly path: string
  /** False: what this process writes does not reach the file now. It is tried again. */
  readonly ok: boolean
  /** This process is the one that writes it. */
  readonly writing: boolean
  readonly lastError: { readonly code: string; readonly message: string; readonly at: string } | null
  /** Bytes of the log that are not in the file. */
  readonly behindBytes: number
  /** The last change that is in the file, and the last one that the disk has. */
  readonly sequence: number
  readonly syncedSequence: number
  readonly bytes: number
}
