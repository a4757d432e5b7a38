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
/** The most bytes of one write: reading them from the log takes well under a millisecond. */
const CHUNK = 256 * 1024
/** Where there is no room now there will be. */
export const FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/** How far the log has been copied: to this offset of this segment. */
interface CopiedTo {
  segment: { kind: Segment['kind']; epoch: number }
  offset: number
  /** The segment was final, and this its end. */
  whole: boolean
}

/** Bytes to be written at the end of the file, and what is so then. */
interface NextWrite {
  bytes: Buffer
  /** A header is the first of them: it says that all before it is on the disk. */
  header: boolean
  count: number
  onWritten(): void
}

/** A file that becomes a copy of a log, segment behind segment. One write at a time; repeated where there was no room. Removed at close unless installed. */
export class FileCopy {
  readonly #handle: FileHandle
  readonly #path: string
  readonly #kind: StateFileKind
  #installed = false
  #copiedTo: CopiedTo | null = null
  #size = 0
  /** Bytes known to be on the disk. */
  #syncedBytes = 0
  /** Null until their place is written. */
  #marks: MarkPlaces | null = null
  /** The length that the newest mark says. */
  #markedLength = 0
  /** A write has failed: what lies behind `#size` is to be cut off. */
  #needsCut = false
  /** The current work of the thread: it writes this at the end, or cuts the file there. */
  #writing: NextWrite | 'cut' | null = null
  #closed = false
  #lost = false
  /** Ends with a whole record. */
  whole = false
  /** The last change in it, as of the last time that it was {@link whole}. */
  sequence = 0
  /** The last change that the disk has. */
  syncedSequence = 0
  /** Changes were written since it was brought to the disk. */
  unsynced = false
  /** The newest mark is not known to be on the disk. */
  markUnsynced = false

  private constructor(path: string, handle: FileHandle, kind: StateFileKind) {
    this.#path = path
    this.#handle = handle
    this.#kind = kind
  }

  /** A new one, beside the state file of this path. */
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

  /** The contents of the disk are unknown: a sync failed, which reports lost pages only once, or a write, but for a full disk. The copy must be written again. */
  get lost(): boolean {
    return this.#lost
  }

  /** Bytes of the log that are not in it; null: it cannot be continued, as what it lacks was merged with what it has. */
  behind(log: StateLog): number | null {
    const pieces = log.pieces()
    const at = this.#positionIn(pieces)
    if (at === null) return null
    let bytes = 0
    for (const { segment, end } of pieces.slice(at.index)) bytes += end - segment.start
    return bytes - at.copied
  }

  /** Copies what comes next, at most 256 KiB. Returns the number of bytes: 0 when there is no more; null when it cannot be continued. */
  async copySome(log: StateLog): Promise<number | null> {
    const next = this.#nextWrite(log)
    if (next === null || next === 0) return next
    if (next.header && this.#syncedBytes < this.#size) await this.#syncData()
    await this.#append(next)
    return next.count
  }

  /** Writes and syncs the rest of the log at once, at the end of the process. False: it cannot be continued. */
  finishNow(log: StateLog): boolean {
    // A thread that is writing may go on meanwhile: it writes the same bytes to the same place. One that cuts would cut these.
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

  /** False: the newest mark says all already. */
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
    const to = Math.min(end, from + CHUNK)
    const header = from === segment.start
    const first = this.#size === 0 ? { service: this.#kind.service, marks: MARKS } : {}
    const head = header ? headerFrame(epoch, kind, first) : NOTHING
    // They stand before the first change that is written when the file is the state file already.
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

  /** Where it was at the end of a segment that was written then, and that is final now. */
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
      // A record behind it may not have begun.
      if (!piece.final) break
    }
    return 'all'
  }

  /** The piece that it ends in, and how much of that it has. */
  #positionIn(pieces: readonly LogPiece[]): { index: number; copied: number } | null {
    const reached = this.#copiedTo
    if (reached === null) return { index: 0, copied: 0 }
    const { kind, epoch } = reached.segment
    const index = pieces.findIndex(({ segment }) => segment.kind === kind && segment.epoch === epoch)
    if (index >= 0) return { index, copied: reached.offset - pieces[index]!.segment.start }
    // It was merged, with the records of this copy or with later ones. A record that was left out may be a replaced secret, which must not
    // stay here.
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
    if (!FULL.has((error as NodeJS.ErrnoException).code ?? '')) this.#lost = true
  }

  async #write(bytes: Buffer, at: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, at + done)
      done += bytesWritten
    }
  }

  /**
   * Brings it to the disk, with a mark of how far that is where it is {@link whole}. {@link lost} when it fails. In the state file a mark must not reach the disk
   * before the bytes that it tells of: the next sync brings it there, or {@link settle}. Another file is marked first.
   */
  async sync(): Promise<void> {
    if (!this.unsynced) return
    if (!this.#installed) await this.#mark()
    await this.#syncData()
    await this.#mark()
  }

  /** Brings to the disk what is not there, the newest mark too. */
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

  /** From now on it is the state file. When only the last step fails, the path names it, and it is {@link lost}. */
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

  /** The same at once; it may have its place already. */
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

  /** Idempotent. A write that is under way ends first. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    try {
      if (!this.#installed) rmSync(this.#path, { force: true })
    } catch {
      // The disk may be read-only by now: the next writer removes it.
    }
    await this.#handle.close().catch(() => {})
  }
}
