import { lstatSync, renameSync, rmSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { nodeFiles } from '../../base/lazy.js'
import { identityNow, readAt, syncNow, truncateNow, writeNow } from '../../kernel/index.js'
import type { LogPiece } from '../history.js'
import { headerFrame, type Segment } from '../segment.js'
import type { StateLog } from '../state-log.js'
import { firstMarks, MARKS, MarkPlaces } from './marks.js'
import { createTemporary, replaceStateFile, type StateFileKind, syncFolderNow } from './place.js'

const NOTHING = Buffer.alloc(0)
/** Most bytes of one write: reading them takes well under a millisecond. */
const WRITE_BYTES = 256 * 1024
/** The disk is full, which passes. */
export const DISK_FULL_CODES: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

interface CopiedTo {
  segment: { kind: Segment['kind']; epoch: number }
  offset: number
  /** This is the end of a final segment. */
  whole: boolean
}

interface NextWrite {
  bytes: Buffer
  /** Starts with a header, which means that the disk has everything before it. */
  header: boolean
  count: number
  onWritten(): void
}

/** A file that becomes a copy of a log, segment by segment. One write at a time, repeated while the disk is full. Removed at close unless installed. */
export class FileCopy {
  readonly #handle: FileHandle
  readonly #path: string
  readonly #kind: StateFileKind
  #installed = false
  #copiedTo: CopiedTo | null = null
  #size = 0
  #syncedBytes = 0
  /** Null until the file has a place for them. */
  #marks: MarkPlaces | null = null
  #markedLength = 0
  /** A write has failed: the file must be cut at `#size`. */
  #needsCut = false
  /** The thread is writing this at the end, or cuts the file there. */
  #writing: NextWrite | 'cut' | null = null
  #closed = false
  #lost = false
  /** The file ends with a complete record. */
  whole = false
  /** The last change when the file was last {@link whole}. */
  sequence = 0
  syncedSequence = 0
  /** Changes were written since the last sync. */
  unsynced = false
  /** The newest mark may not be on the disk. */
  markUnsynced = false

  private constructor(path: string, handle: FileHandle, kind: StateFileKind) {
    this.#path = path
    this.#handle = handle
    this.#kind = kind
  }

  static async create(path: string, kind: StateFileKind): Promise<FileCopy> {
    const { path: beside, handle } = await createTemporary(path, kind)
    return new FileCopy(beside, handle, kind)
  }

  get path(): string {
    return this.#path
  }

  get size(): number {
    return this.#size
  }

  /** The disk's contents are unknown: a sync failed (which reports lost pages only once), or a write, except on a full disk. The copy must be written again. */
  get lost(): boolean {
    return this.#lost
  }

  /** Bytes of the log that the file lacks; null: it cannot be continued, as missing records were merged with copied ones. */
  behind(log: StateLog): number | null {
    const pieces = log.pieces()
    const at = this.#positionIn(pieces)
    if (at === null) return null
    let bytes = 0
    for (const { segment, end } of pieces.slice(at.index)) bytes += end - segment.start
    return bytes - at.copied
  }

  /** Copies the next bytes, at most 256 KiB. Returns their number, 0 at the end; null: the copy cannot be continued. */
  async copySome(log: StateLog): Promise<number | null> {
    const next = this.#nextWrite(log)
    if (next === null || next === 0) return next
    if (next.header && this.#syncedBytes < this.#size) await this.#syncData()
    await this.#append(next)
    return next.count
  }

  /** Writes and syncs the rest of the log at once, at the end of the process. False: the copy cannot be continued. */
  finishNow(log: StateLog): boolean {
    // A thread may still be writing: the same bytes at the same place. One that cuts the file would cut these off.
    const underWay = this.#writing
    if (this.#lost || this.#closed || underWay === 'cut') return false
    if (underWay !== null) this.#writeNow(underWay)
    else if (this.#needsCut) truncateNow(this.#handle, this.#size)
    for (;;) {
      const next = this.#nextWrite(log)
      if (next === null) return false
      if (next === 0) break
      if (next.header && this.#syncedBytes < this.#size) this.#syncDataNow()
      this.#writeNow(next)
    }
    if (!this.#installed) this.#markNow()
    this.#syncDataNow()
    if (this.#markNow()) this.#syncDataNow()
    return true
  }

  /** False: the newest mark is up to date. */
  #markNow(): boolean {
    const length = this.#size
    if (this.#marks === null || !this.whole || this.#markedLength === length) return false
    const { bytes, at } = this.#marks.next({ length, sequence: this.sequence })
    writeNow(this.#handle, bytes, at)
    this.#marks.advance()
    this.#markedLength = length
    return true
  }

  #syncDataNow(): void {
    syncNow(this.#handle)
    this.#syncedBytes = this.#size
    this.markUnsynced = false
  }

  #writeNow({ bytes, onWritten }: NextWrite): void {
    writeNow(this.#handle, bytes, this.#size)
    this.#size += bytes.length
    onWritten()
  }

  #nextWrite(log: StateLog): NextWrite | 0 | null {
    if (this.#lost || (log.secret && !this.#kind.secret)) return null
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
    const first = this.#size === 0 ? { service: this.#kind.service, marks: MARKS } : {}
    const head = header ? headerFrame(epoch, kind, first) : NOTHING
    // Before the first change that is written once the file is installed.
    const marks = this.#marks === null && (kind === 'epoch' || to === end) ? firstMarks(epoch) : NOTHING
    const count = to - from
    const marksAt = kind === 'epoch' ? head.length : head.length + count
    const recordsAt = kind === 'epoch' ? head.length + marks.length : head.length
    const bytes = Buffer.allocUnsafe(head.length + marks.length + count)
    head.copy(bytes)
    marks.copy(bytes, marksAt)
    readAt(segment.fd, bytes, recordsAt, count, from)
    const markPlaces = marks.length > 0 ? new MarkPlaces(epoch, this.#size + marksAt) : this.#marks
    const onWritten = () => {
      this.#marks = markPlaces
      this.#copiedTo = { segment: { kind, epoch }, offset: to, whole: final && to === end }
      this.unsynced = true
      this.whole = to === end
      if (this.whole) this.sequence = sequence
    }
    return { bytes, header, count, onWritten }
  }

  /** Notes that the last written segment is final now. */
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
      // A further record may be incomplete.
      if (!piece.final) break
    }
    return 'all'
  }

  /** The piece in which the copy ends, and its copied bytes. */
  #positionIn(pieces: readonly LogPiece[]): { index: number; copied: number } | null {
    const reached = this.#copiedTo
    if (reached === null) return { index: 0, copied: 0 }
    const { kind, epoch } = reached.segment
    const index = pieces.findIndex(({ segment }) => segment.kind === kind && segment.epoch === epoch)
    if (index >= 0) return { index, copied: reached.offset - pieces[index]!.segment.start }
    // The segment was merged, with these records or later ones. An omitted record may be a replaced secret, which must not stay here.
    if (this.#kind.secret) return null
    const merged = pieces.findIndex(({ segment }) => segment.kind === 'snapshot' && segment.epoch === epoch)
    return merged >= 0 && reached.whole ? { index: merged + 1, copied: 0 } : null
  }

  async #append(next: NextWrite): Promise<void> {
    const { bytes } = next
    try {
      if (this.#needsCut) {
        this.#writing = 'cut'
        await this.#handle.truncate(this.#size)
        this.#needsCut = false
      }
      this.#needsCut = true
      this.#writing = next
      await this.#write(bytes, this.#size)
    } catch (error) {
      this.#markLost(error)
      throw error
    } finally {
      this.#writing = null
    }
    this.#size += bytes.length
    this.#needsCut = false
    next.onWritten()
  }

  #markLost(error: unknown): void {
    if (!DISK_FULL_CODES.has((error as NodeJS.ErrnoException).code ?? '')) this.#lost = true
  }

  async #write(bytes: Buffer, at: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, at + done)
      done += bytesWritten
    }
  }

  /**
   * Brings the file to the disk, with a mark of its length if it is {@link whole}; sets {@link lost} if that fails. In the installed file a mark must not reach
   * the disk before its bytes: the next sync, or {@link settle}, brings it there. Another file is marked first.
   */
  async sync(): Promise<void> {
    if (!this.unsynced) return
    if (!this.#installed) await this.#mark()
    await this.#syncData()
    await this.#mark()
  }

  /** Brings everything to the disk, with the newest mark. */
  async settle(): Promise<void> {
    if (this.unsynced) await this.sync()
    else if (this.markUnsynced) await this.#syncData()
  }

  async #mark(): Promise<void> {
    const length = this.#size
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
    const size = this.#size
    this.unsynced = false
    try {
      await this.#handle.datasync()
    } catch (error) {
      this.#lost = true
      throw error
    }
    this.#syncedBytes = size
    this.markUnsynced = false
    if (whole) this.syncedSequence = sequence
  }

  /** Makes it the state file. If only the last step fails, the path names it, and it is {@link lost}. */
  async install(path: string): Promise<void> {
    try {
      await replaceStateFile(this.#path, path, () => {
        this.#installed = true
      })
    } catch (error) {
      this.#lost ||= this.#installed
      throw error
    }
  }

  /** As {@link install}, at once; it may be installed already. */
  installNow(path: string): void {
    try {
      renameSync(this.#path, path)
    } catch (error) {
      if (!this.isAtNow(path)) throw error
    }
    this.#installed = true
    syncFolderNow(path)
  }

  get installed(): boolean {
    return this.#installed
  }

  async isAt(path: string): Promise<boolean> {
    const own = await this.#handle.stat({ bigint: true })
    const { lstat } = nodeFiles()
    const there = await lstat(path, { bigint: true }).catch(() => null)
    return there?.ino === own.ino && there.dev === own.dev
  }

  isAtNow(path: string): boolean {
    if (this.#closed) return false
    const own = identityNow(this.#handle)
    const there = lstatSync(path, { bigint: true, throwIfNoEntry: false })
    return there?.ino === own.ino && there.dev === own.dev
  }

  /** Idempotent. A write under way ends first. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    try {
      if (!this.#installed) rmSync(this.#path, { force: true })
    } catch {
      // On a read-only disk the next writer removes it.
    }
    await this.#handle.close().catch(() => {})
  }
}
