import { constants, lstatSync, renameSync, rmSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { nodeFiles } from '../../base/lazy.js'
import type { FdbError } from '../../errors.js'
import {
  identityNow,
  lockIfPossible,
  openFile,
  statOf,
  syncData,
  syncNow,
  truncateNow,
  writeAllAt,
  writeNow,
} from '../../kernel/index.js'
import type { StateLog } from '../state-log.js'
import { type BegunFile, FileEncoder, type NextWrite, WRITE_BYTES } from './encoder.js'
import {
  CREATE,
  checkContents,
  createTemporary,
  newMode,
  openStateFile,
  type StateFileKind,
  syncFolderNow,
  temporaryPath,
} from './files.js'
import type { Mark } from './records.js'

/** Error codes of a full disk, which is a temporary failure. */
export const DISK_FULL_CODES: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/**
 * Bytes per write for each millisecond since the write before: so that a copy keeps up in a process whose turns of the event loop are long, because
 * there is one write per turn.
 */
const BYTES_PER_MS = 256 * 1024
const MOST_WRITE_BYTES = 8 * 1024 * 1024

/** Copies a log to a file, one write at a time. If the disk is full, the caller retries. close() removes the file unless it is installed as the state file. */
export class FileCopy extends FileEncoder {
  readonly #handle: FileHandle
  /** The folder of the file until this is installed. */
  #folder: FileHandle | null
  readonly path: string
  installed = false
  #syncedBytes = 0
  /** A write has failed: the file must be truncated to `size`. */
  #needsTruncation = false
  /** The operation at the end of the file that a thread of Node is running. */
  #writing: NextWrite | 'truncate' | null = null
  #closed = false
  /** The contents on disk are unknown after a failed sync (the kernel reports lost pages only once) or write. The caller must then start a new copy. */
  lost = false
  syncedSequence = 0
  /** The newest mark may not be on the disk. */
  markUnsynced = false
  /** The time (performance.now()) of the last write, or when the file began to be made. */
  #wroteAt = performance.now()
  #syncing: Promise<void> | null = null
  #marking: Promise<void> = Promise.resolve()
  /** Why a mark could not be written; thrown by the next {@link copySome}. */
  #markError: unknown = null
  #identity: { dev: bigint; ino: bigint } | null = null

  private constructor(
    { path, handle, folder = null }: { path: string; handle: FileHandle; folder?: FileHandle | null },
    kind: StateFileKind,
    begun: BegunFile | null = null,
  ) {
    super(kind, begun)
    this.path = path
    this.#handle = handle
    this.#folder = folder
    this.installed = begun !== null
    this.#needsTruncation = begun !== null && begun.end.torn > 0
  }

  /** Continues the state file that is there, for a disk without room for a second one. */
  static async continue(path: string, kind: StateFileKind, begun: BegunFile): Promise<FileCopy> {
    const { O_NOFOLLOW, O_RDWR } = constants
    const handle = await nodeFiles().open(path, O_RDWR | O_NOFOLLOW)
    return new FileCopy({ path, handle }, kind, begun)
  }

  /** `owns`: as for checkReplaceable(). */
  static async create(path: string, kind: StateFileKind, owns = false): Promise<FileCopy> {
    const began = performance.now()
    const copy = new FileCopy(await createTemporary(path, kind, owns), kind)
    copy.#wroteAt = began
    return copy
  }

  /** Changes were written since the last sync. */
  get unsynced(): boolean {
    return this.#syncedBytes < this.size
  }

  /** Copies the log up to its present end. `written` is called after each write, and may stop the copy by returning false. Returns false if the copy cannot be continued. */
  async copyAll(log: StateLog, written?: () => Promise<boolean>): Promise<boolean> {
    this.aim(log)
    for (;;) {
      const copied = await this.copySome(log)
      if (copied === null) return false
      if (copied === 0 || (written && !(await written()))) return true
    }
  }

  /** Copies the next bytes. Returns their number, 0 at the goal or the end of the log, or null if the copy cannot be continued. */
  async copySome(log: StateLog): Promise<number | null> {
    const failed = this.#markError
    this.#markError = null
    if (failed !== null) throw failed
    const most = Math.min(MOST_WRITE_BYTES, BYTES_PER_MS * (performance.now() - this.#wroteAt))
    const next = this.lost ? null : this.next(log, Math.max(WRITE_BYTES, Math.round(most)))
    if (next === null || next === 0) return next
    if (next.header) await this.sync()
    this.#wroteAt = performance.now()
    await this.#append(next)
    return next.count
  }

  /** Writes and syncs the remaining log synchronously, at the end of the process. Returns false if the copy cannot be continued. */
  finishNow(log: StateLog): boolean {
    // A thread that is still writing is harmless: it writes the same bytes at the same offset. A thread that truncates the file would remove them.
    const running = this.#writing
    if (this.lost || this.#closed || running === 'truncate') return false
    if (running !== null) this.#writeNow(running)
    else if (this.#needsTruncation) truncateNow(this.#handle, this.size)
    this.aim(log)
    for (;;) {
      const next = this.next(log)
      if (next === null) return false
      if (next === 0) break
      if (next.header && this.unsynced) this.#syncDataNow()
      this.#writeNow(next)
    }
    if (!this.installed) this.#markNow()
    this.#syncDataNow()
    if (this.#markNow()) this.#syncDataNow()
    return true
  }

  /** Writes a mark. Returns false if the newest mark is up to date. */
  #markNow(): boolean {
    const mark = this.nextMark(this.wholeAt)
    if (mark === null) return false
    writeNow(this.#handle, mark.bytes, mark.at)
    this.onMarked(this.wholeAt)
    return true
  }

  #syncDataNow(): void {
    syncNow(this.#handle)
    this.#syncedBytes = this.size
    this.markUnsynced = false
  }

  #writeNow({ bytes, onWritten }: NextWrite): void {
    this.#needsTruncation = true
    try {
      writeNow(this.#handle, bytes, this.size)
    } catch (error) {
      this.#truncateNow()
      throw error
    }
    this.#needsTruncation = false
    onWritten()
  }

  async #append(next: NextWrite): Promise<void> {
    const { bytes } = next
    try {
      if (this.#needsTruncation) {
        this.#writing = 'truncate'
        await this.#handle.truncate(this.size)
        this.#needsTruncation = false
      }
      this.#needsTruncation = true
      this.#writing = next
      await this.#write(bytes, this.size)
    } catch (error) {
      this.#markLost(error)
      throw error
    } finally {
      this.#writing = null
    }
    this.#needsTruncation = false
    next.onWritten()
  }

  /**
   * Removes the part of a failed write, which would keep the room of a full disk. Synchronous, because the caller has just checked that this process
   * may write; a file whose contents are unknown is left.
   */
  truncateTornNow(): void {
    if (!this.#needsTruncation || this.#writing !== null || this.lost || this.#closed) return
    this.#truncateNow()
  }

  /** If the disk refuses that too, the next write tries again. */
  #truncateNow(): void {
    try {
      truncateNow(this.#handle, this.size)
      this.#needsTruncation = false
    } catch {
      // The error of the write says what is wrong with the disk.
    }
  }

  #markLost(error: unknown): void {
    if (!DISK_FULL_CODES.has((error as NodeJS.ErrnoException).code ?? '')) this.lost = true
  }

  async #write(bytes: Buffer, at: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, at + done)
      done += bytesWritten
    }
  }

  /**
   * Syncs what is written now, and writes a mark of it; sets {@link lost} on failure. In the installed file a mark must not reach the disk before
   * the bytes that it covers: it is written after the sync, and the next sync or {@link settle} syncs it. A file that is not installed yet is marked
   * before the sync. The log may be copied meanwhile.
   */
  async sync(): Promise<void> {
    const goal = this.size
    // A running sync may have begun before the last bytes were written. The next one covers them.
    while (this.#syncedBytes < goal) await this.#syncOnce()
  }

  /** Resolves when the mark of the last sync is written. If it cannot be, the next {@link copySome} throws. */
  marked(): Promise<void> {
    return this.#marking
  }

  /** Syncs everything, including the newest mark. */
  async settle(): Promise<void> {
    await this.#marking
    if (this.unsynced) await this.sync()
    else if (this.markUnsynced) await this.#syncOnce()
  }

  #syncOnce(): Promise<void> {
    this.#syncing ??= this.#syncAndMark().finally(() => {
      this.#syncing = null
    })
    return this.#syncing
  }

  async #syncAndMark(): Promise<void> {
    const { size, wholeAt } = this
    await this.#marking
    if (!this.installed) await this.#mark(wholeAt)
    try {
      await this.#handle.datasync()
    } catch (error) {
      this.lost = true
      throw error
    }
    this.#syncedBytes = size
    this.markUnsynced = false
    this.syncedSequence = wholeAt.sequence
    // A durable change does not wait for the mark.
    this.#marking = this.#mark(wholeAt).catch(error => {
      this.#markError = error
    })
  }

  async #mark(wholeAt: Mark): Promise<void> {
    const mark = this.nextMark(wholeAt)
    if (mark === null) return
    this.markUnsynced = true
    try {
      await this.#write(mark.bytes, mark.at)
    } catch (error) {
      this.#markLost(error)
      throw error
    }
    this.onMarked(wholeAt)
  }

  /**
   * Renames the file to `path` and syncs the folder: after a power cut `path` is either the old file or this one. If only that sync fails, the file is
   * installed and {@link lost}.
   */
  async install(path: string): Promise<void> {
    const folder = this.#folder
    this.#folder = null
    try {
      await nodeFiles().rename(this.path, path)
      this.installed = true
      await folder?.sync()
    } catch (error) {
      this.lost ||= this.installed
      throw error
    } finally {
      folder?.close().catch(() => {})
    }
  }

  /** Installs the file synchronously. A thread may have renamed it already. Returns false if another process has removed it. */
  installNow(path: string): boolean {
    try {
      renameSync(this.path, path)
    } catch (error) {
      if (!this.isAtNow(path)) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
        throw error
      }
    }
    this.installed = true
    syncFolderNow(path)
    return true
  }

  async isAt(path: string): Promise<boolean> {
    const { lstat } = nodeFiles()
    // Together, because each takes a turn of the event loop.
    const [own, present] = await Promise.all([
      this.#identity ?? this.#handle.stat({ bigint: true }),
      lstat(path, { bigint: true }).catch(() => null),
    ])
    this.#identity = own
    return present?.ino === own.ino && present.dev === own.dev
  }

  isAtNow(path: string): boolean {
    if (this.#closed) return false
    const own = identityNow(this.#handle)
    const present = lstatSync(path, { bigint: true, throwIfNoEntry: false })
    return present?.ino === own.ino && present.dev === own.dev
  }

  /** Closes the file after a running write. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    try {
      if (!this.installed) rmSync(this.path, { force: true })
    } catch {
      // Removal fails on a read-only disk; the next writer removes the file.
    }
    await Promise.allSettled([this.#handle.close(), this.#folder?.close()])
  }
}

/**
 * Brings the state file up to date and syncs it, synchronously, at the end of a process. `installing` is a copy that a thread may be renaming at this
 * moment. `inUse`: as for checkReplaceable(), of a process that has had its file there.
 */
export function finishAtOnce(
  path: string,
  log: StateLog,
  kind: StateFileKind,
  {
    file,
    installing,
    inUse = null,
  }: {
    file: FileCopy | null
    installing: FileCopy | null
    inUse?: ((inode: bigint) => FdbError) | null
  },
): void {
  const isOwn = file?.isAtNow(path) ?? false
  if (installing?.finishNow(log) && installing.installNow(path)) return
  if (isOwn && file?.finishNow(log)) return
  if (log.pieces().length > 0) writeStateFileNow(path, log, kind, inUse !== null, isOwn ? null : inUse)
}

function writeStateFileNow(
  path: string,
  log: StateLog,
  kind: StateFileKind,
  owns: boolean,
  inUse: ((inode: bigint) => FdbError) | null,
): void {
  using present = openStateFile(path)
  if (present !== null) {
    checkContents(path, present, kind.service, owns)
    if (inUse !== null && lockIfPossible(present) === false) throw inUse(BigInt(statOf(present).ino))
  }
  const mode = newMode(present && statOf(present), kind.secret)
  const beside = temporaryPath(path)
  using fd = openFile(beside, CREATE, `new state file ${beside}`, mode)
  try {
    const encoder = new FileEncoder(kind)
    for (let next = encoder.next(log); next !== 0 && next !== null; next = encoder.next(log)) {
      writeAllAt(fd, next.bytes, encoder.size)
      next.onWritten()
    }
    const mark = encoder.nextMark(encoder.wholeAt)
    if (mark !== null) writeAllAt(fd, mark.bytes, mark.at)
    syncData(fd)
    renameSync(beside, path)
  } catch (error) {
    rmSync(beside, { force: true })
    throw error
  }
  syncFolderNow(path)
}
