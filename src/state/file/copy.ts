import { lstatSync, renameSync, rmSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { nodeFiles } from '../../base/lazy.js'
import {
  identityNow,
  openFile,
  statOf,
  syncData,
  syncNow,
  truncateNow,
  writeAllAt,
  writeNow,
} from '../../kernel/index.js'
import type { StateLog } from '../state-log.js'
import { FileEncoder, type NextWrite } from './encoder.js'
import {
  CREATE,
  checkService,
  createTemporary,
  newMode,
  openStateFile,
  replaceStateFile,
  type StateFileKind,
  syncFolderNow,
  temporaryPath,
} from './files.js'

/** Error codes of a full disk, which is a temporary failure. */
export const DISK_FULL_CODES: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/** Copies a log to a file, one write at a time. If the disk is full, the caller retries. close() removes the file unless it is installed as the state file. */
export class FileCopy extends FileEncoder {
  readonly #handle: FileHandle
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
  /** Changes were written since the last sync. */
  unsynced = false
  /** The newest mark may not be on the disk. */
  markUnsynced = false

  private constructor(path: string, handle: FileHandle, kind: StateFileKind) {
    super(kind)
    this.path = path
    this.#handle = handle
  }

  static async create(path: string, kind: StateFileKind): Promise<FileCopy> {
    const { path: beside, handle } = await createTemporary(path, kind)
    return new FileCopy(beside, handle, kind)
  }

  /** Copies the next bytes, at most 256 KiB. Returns their number, 0 at the end of the log, or null if the copy cannot be continued. */
  async copySome(log: StateLog): Promise<number | null> {
    const next = this.lost ? null : this.next(log)
    if (next === null || next === 0) return next
    if (next.header && this.#syncedBytes < this.size) await this.#syncData()
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
    for (;;) {
      const next = this.next(log)
      if (next === null) return false
      if (next === 0) break
      if (next.header && this.#syncedBytes < this.size) this.#syncDataNow()
      this.#writeNow(next)
    }
    if (!this.installed) this.#markNow()
    this.#syncDataNow()
    if (this.#markNow()) this.#syncDataNow()
    return true
  }

  /** Writes a mark. Returns false if the newest mark is up to date, or if the file does not end with a complete record. */
  #markNow(): boolean {
    const mark = this.nextMark()
    if (mark === null) return false
    writeNow(this.#handle, mark.bytes, mark.at)
    this.onMarked()
    return true
  }

  #syncDataNow(): void {
    syncNow(this.#handle)
    this.#syncedBytes = this.size
    this.markUnsynced = false
  }

  #writeNow({ bytes, onWritten }: NextWrite): void {
    writeNow(this.#handle, bytes, this.size)
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
    this.unsynced = true
    next.onWritten()
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
   * Syncs the file, and writes a mark of its length if it is {@link whole}; sets {@link lost} on failure. In the installed file a mark must not reach
   * the disk before the bytes that it covers: it is written after the sync, and the next sync or {@link settle} syncs it. A file that is not
   * installed yet is marked before the sync.
   */
  async sync(): Promise<void> {
    if (!this.unsynced) return
    if (!this.installed) await this.#mark()
    await this.#syncData()
    await this.#mark()
  }

  /** Syncs everything, including the newest mark. */
  async settle(): Promise<void> {
    if (this.unsynced) await this.sync()
    else if (this.markUnsynced) await this.#syncData()
  }

  async #mark(): Promise<void> {
    const mark = this.nextMark()
    if (mark === null) return
    this.markUnsynced = true
    try {
      await this.#write(mark.bytes, mark.at)
    } catch (error) {
      this.#markLost(error)
      throw error
    }
    this.onMarked()
  }

  async #syncData(): Promise<void> {
    const { sequence, whole } = this
    const size = this.size
    this.unsynced = false
    try {
      await this.#handle.datasync()
    } catch (error) {
      this.lost = true
      throw error
    }
    this.#syncedBytes = size
    this.markUnsynced = false
    if (whole) this.syncedSequence = sequence
  }

  /** Renames the file to `path` and syncs the directory. If only that sync fails, the file is installed and {@link lost}. */
  async install(path: string): Promise<void> {
    try {
      await replaceStateFile(this.path, path, () => {
        this.installed = true
      })
    } catch (error) {
      this.lost ||= this.installed
      throw error
    }
  }

  /** Installs the file synchronously. A thread may have renamed it already. */
  installNow(path: string): void {
    try {
      renameSync(this.path, path)
    } catch (error) {
      if (!this.isAtNow(path)) throw error
    }
    this.installed = true
    syncFolderNow(path)
  }

  async isAt(path: string): Promise<boolean> {
    const own = await this.#handle.stat({ bigint: true })
    const { lstat } = nodeFiles()
    const present = await lstat(path, { bigint: true }).catch(() => null)
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
    await this.#handle.close().catch(() => {})
  }
}

/** Brings the state file up to date and syncs it, synchronously, at the end of a process. `installing` is a copy that a thread may be renaming at this moment. */
export function finishAtOnce(
  path: string,
  log: StateLog,
  kind: StateFileKind,
  { file, installing }: { file: FileCopy | null; installing: FileCopy | null },
): void {
  if (installing?.finishNow(log)) installing.installNow(path)
  else if (file?.isAtNow(path) && file.finishNow(log)) return
  else if (log.pieces().length > 0) writeStateFileNow(path, log, kind)
}

function writeStateFileNow(path: string, log: StateLog, kind: StateFileKind): void {
  using present = openStateFile(path)
  if (present !== null) checkService(path, present, kind.service)
  const mode = newMode(present && statOf(present), kind.secret)
  const beside = temporaryPath(path)
  using fd = openFile(beside, CREATE, `new state file ${beside}`, mode)
  try {
    const encoder = new FileEncoder(kind)
    for (let next = encoder.next(log); next !== 0 && next !== null; next = encoder.next(log)) {
      writeAllAt(fd, next.bytes, encoder.size)
      next.onWritten()
    }
    const mark = encoder.nextMark()
    if (mark !== null) writeAllAt(fd, mark.bytes, mark.at)
    syncData(fd)
    renameSync(beside, path)
  } catch (error) {
    rmSync(beside, { force: true })
    throw error
  }
  syncFolderNow(path)
}
