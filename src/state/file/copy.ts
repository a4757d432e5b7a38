import { lstatSync, renameSync, rmSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { nodeFiles } from '../../base/lazy.js'
import { identityNow, readAt, syncNow, truncateNow, writeNow } from '../../kernel/index.js'
import type { LogPiece } from '../history.js'
import { headerFrame, type Segment } from '../segment.js'
import type { StateLog } from '../state-log.js'
import { createTemporary, replaceStateFile, type StateFileKind, syncFolderNow } from './files.js'
import { firstMarks, MARKS, MarkSlots } from './marks.js'

const NOTHING = Buffer.alloc(0)
/** Maximum bytes per write: reading that many from the segment takes well under a millisecond. */
const WRITE_BYTES = 256 * 1024
/** Error codes of a full disk, which is a temporary failure. */
export const DISK_FULL_CODES: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/** The position in the log up to which records were copied. */
interface CopyPosition {
  segment: { kind: Segment['kind']; epoch: number }
  offset: number
  /** The segment is final and was copied to its end. */
  whole: boolean
}

interface NextWrite {
  bytes: Buffer
  /** The bytes begin with a segment header. Everything before a header must be synced before it is written. */
  header: boolean
  count: number
  onWritten(): void
}

/** Copies a log to a file, one write at a time. If the disk is full, the caller retries. close() removes the file unless it is installed as the state file. */
export class FileCopy {
  readonly #handle: FileHandle
  readonly path: string
  readonly #kind: StateFileKind
  installed = false
  #copiedTo: CopyPosition | null = null
  size = 0
  #syncedBytes = 0
  /** Null until the first marks are written. */
  #marks: MarkSlots | null = null
  #markedLength = 0
  /** A write has failed: the file must be truncated to `size`. */
  #needsTruncation = false
  /** The operation at the end of the file that a thread of Node is running. */
  #writing: NextWrite | 'truncate' | null = null
  #closed = false
  /** The contents on disk are unknown after a failed sync (the kernel reports lost pages only once) or write. The caller must then start a new copy. */
  lost = false
  /** The file ends with a complete record. */
  whole = false
  /** The sequence number of the last change when the file was last {@link whole}. */
  sequence = 0
  syncedSequence = 0
  /** Changes were written since the last sync. */
  unsynced = false
  /** The newest mark may not be on the disk. */
  markUnsynced = false

  private constructor(path: string, handle: FileHandle, kind: StateFileKind) {
    this.path = path
    this.#handle = handle
    this.#kind = kind
  }

  static async create(path: string, kind: StateFileKind): Promise<FileCopy> {
    const { path: beside, handle } = await createTemporary(path, kind)
    return new FileCopy(beside, handle, kind)
  }

  /** Returns the bytes of the log that the file lacks, or null if a compaction has merged missing records with copied ones, so that the copy cannot be continued. */
  missingBytes(log: StateLog): number | null {
    const pieces = log.pieces()
    const at = this.#positionIn(pieces)
    if (at === null) return null
    let bytes = 0
    for (const { segment, end } of pieces.slice(at.index)) bytes += end - segment.start
    return bytes - at.copied
  }

  /** Copies the next bytes, at most 256 KiB. Returns their number, 0 at the end of the log, or null if the copy cannot be continued. */
  async copySome(log: StateLog): Promise<number | null> {
    const next = this.#nextWrite(log)
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
      const next = this.#nextWrite(log)
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
    const length = this.size
    if (this.#marks === null || !this.whole || this.#markedLength === length) return false
    const { bytes, at } = this.#marks.next({ length, sequence: this.sequence })
    writeNow(this.#handle, bytes, at)
    this.#marks.advance()
    this.#markedLength = length
    return true
  }

  #syncDataNow(): void {
    syncNow(this.#handle)
    this.#syncedBytes = this.size
    this.markUnsynced = false
  }

  #writeNow({ bytes, onWritten }: NextWrite): void {
    writeNow(this.#handle, bytes, this.size)
    this.size += bytes.length
    onWritten()
  }

  #nextWrite(log: StateLog): NextWrite | 0 | null {
    if (this.lost || (log.secret && !this.#kind.secret)) return null
    const pieces = log.pieces()
    const next = this.#nextPiece(pieces)
    if (next === null) return null
    if (next === 'all') {
      this.#markSegmentWhole(pieces)
      return 0
    }
    const { piece, from } = next
    const { segment, end, final, sequence } = piece
    const { kind, epoch } = segment
    const to = Math.min(end, from + WRITE_BYTES)
    const header = from === segment.start
    const first = this.size === 0 ? { service: this.#kind.service, marks: MARKS } : {}
    const head = header ? headerFrame(epoch, kind, first) : NOTHING
    // The marks precede the first record of an epoch, or follow the snapshot: every change that is written after the installation comes after the marks.
    const marks = this.#marks === null && (kind === 'epoch' || to === end) ? firstMarks(epoch) : NOTHING
    const count = to - from
    const marksAt = kind === 'epoch' ? head.length : head.length + count
    const recordsAt = kind === 'epoch' ? head.length + marks.length : head.length
    const bytes = Buffer.allocUnsafe(head.length + marks.length + count)
    head.copy(bytes)
    marks.copy(bytes, marksAt)
    readAt(segment.fd, bytes, recordsAt, count, from)
    const markSlots = marks.length > 0 ? new MarkSlots(epoch, this.size + marksAt) : this.#marks
    const onWritten = () => {
      this.#marks = markSlots
      this.#copiedTo = { segment: { kind, epoch }, offset: to, whole: final && to === end }
      this.unsynced = true
      this.whole = to === end
      if (this.whole) this.sequence = sequence
    }
    return { bytes, header, count, onWritten }
  }

  /** Notes that the last copied segment has become final. */
  #markSegmentWhole(pieces: readonly LogPiece[]): void {
    const { segment, offset = 0 } = this.#copiedTo ?? {}
    const piece = pieces.find(
      each => each.segment.kind === segment?.kind && each.segment.epoch === segment.epoch,
    )
    if (this.#copiedTo !== null && piece?.final && piece.end === offset) this.#copiedTo.whole = true
  }

  #nextPiece(pieces: readonly LogPiece[]): { piece: LogPiece; from: number } | 'all' | null {
    const at = this.#positionIn(pieces)
    if (at === null) return null
    for (const [i, piece] of pieces.slice(at.index).entries()) {
      const from = piece.segment.start + (i === 0 ? at.copied : 0)
      if (from < piece.end) return { piece, from }
      // The next piece may be copied only if this piece is final.
      if (!piece.final) break
    }
    return 'all'
  }

  /** Returns the piece in which the copy ends and the number of its copied bytes, or null if the copy cannot be continued. */
  #positionIn(pieces: readonly LogPiece[]): { index: number; copied: number } | null {
    const position = this.#copiedTo
    if (position === null) return { index: 0, copied: 0 }
    const { kind, epoch } = position.segment
    const index = pieces.findIndex(({ segment }) => segment.kind === kind && segment.epoch === epoch)
    if (index >= 0) return { index, copied: position.offset - pieces[index]!.segment.start }
    // The segment was merged. The snapshot omits replaced secrets, which must not stay in the file either, so a new copy is needed.
    if (this.#kind.secret) return null
    const merged = pieces.findIndex(({ segment }) => segment.kind === 'snapshot' && segment.epoch === epoch)
    return merged >= 0 && position.whole ? { index: merged + 1, copied: 0 } : null
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
    this.size += bytes.length
    this.#needsTruncation = false
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
    const length = this.size
    if (this.#marks === null || !this.whole || this.#markedLength === length) return
    const { bytes, at } = this.#marks.next({ length, sequence: this.sequence })
    this.markUnsynced = true
    try {
      await this.#write(bytes, at)
    } catch (error) {
      this.#markLost(error)
      throw error
    }
    this.#marks.advance()
    this.#markedLength = length
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
