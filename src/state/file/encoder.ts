import { readAt } from '../../kernel/index.js'
import type { LogPiece } from '../history.js'
import { DEFAULT_LIMITS, type StateLimits } from '../limits.js'
import { recordsOf } from '../reader.js'
import { headerFrame, type Segment } from '../segment.js'
import type { StateLog } from '../state-log.js'
import type { StateFileKind } from './files.js'
import { type FileEnd, firstMarks, MARKS, type Mark, markFrame } from './records.js'
import { reframed } from './transcribe.js'

const NOTHING = Buffer.alloc(0)
/** Bytes per write, unless the caller gives another number: reading that many from the segment takes well under a millisecond. */
export const WRITE_BYTES = 256 * 1024

/** The position in the log up to which records were copied. */
interface CopyPosition {
  segment: { kind: Segment['kind']; epoch: number }
  offset: number
  /** The segment is final and was copied to its end. */
  whole: boolean
}

/** A position in the log: the end of a record. */
interface Goal {
  readonly kind: Segment['kind']
  readonly epoch: number
  readonly end: number
  readonly sequence: number
}

/** A state file that a first process has read, and how much of its own log has the same records. */
export interface BegunFile {
  readonly end: FileEnd
  readonly log: { readonly epoch: number; readonly end: number; readonly sequence: number }
}

export interface NextWrite {
  bytes: Buffer
  /** The bytes begin with a segment header. Everything before a header must be synced before it is written. */
  header: boolean
  /** Bytes of records. */
  count: number
  /** The caller must call this function when the bytes are written at the file offset {@link FileEncoder.size}. */
  onWritten(): void
}

/** The log that is copied has been read within the limits of this process. */
const ANY_LIMITS: StateLimits = {
  ...DEFAULT_LIMITS,
  segmentBytes: Number.MAX_SAFE_INTEGER,
  recordBytes: Number.MAX_SAFE_INTEGER,
  changesPerRecord: Number.MAX_SAFE_INTEGER,
}

/** Encodes a log as a state file: headers of segments, marks and records, one write at a time. */
export class FileEncoder {
  readonly #kind: StateFileKind
  /** In a file that another process has begun: what is added to the epochs and sequence numbers of the log. */
  readonly #shift: { readonly epoch: number; readonly sequence: number } | null
  /** The next write must begin with a header although it does not begin a segment. */
  #needsHeader = false
  #copiedTo: CopyPosition | null = null
  /** The copy ends here; null: at the end of the log. See {@link aim}. */
  #goal: Goal | null = null
  /** The epoch and file offset of the marks; null until the first ones are written. */
  #marks: { readonly epoch: number; readonly at: number } | null = null
  /** Which mark to overwrite next. */
  #nextMark = 0
  #markedLength = 0
  /** Bytes written, and the file offset of the next write. */
  size = 0
  /** The length of the file, and the sequence number of its last change, when it last ended with a complete record. */
  wholeAt: Mark = { length: 0, sequence: 0 }

  /** `begun`: the file has the log up to there already. */
  constructor(kind: StateFileKind, begun: BegunFile | null = null) {
    this.#kind = kind
    this.#shift = null
    if (begun === null) return
    const { end, log } = begun
    const { marks, position, epoch, sequence } = end
    this.#shift = { epoch, sequence: sequence - log.sequence }
    this.#needsHeader = true
    this.#copiedTo = { segment: { kind: 'epoch', epoch: log.epoch }, offset: log.end, whole: false }
    this.size = position
    this.wholeAt = { length: position, sequence: log.sequence }
    this.#marks = marks
    this.#nextMark = marks?.next ?? 0
    this.#markedLength = marks?.length ?? 0
  }

  /** Whether another process has begun the file. */
  get isContinued(): boolean {
    return this.#shift !== null
  }

  /** The sequence number of the last change in {@link wholeAt}. */
  get sequence(): number {
    return this.wholeAt.sequence
  }

  /** Makes the copy end where the log ends now. The log may grow as fast as it is copied, so a copy without a goal might never end. */
  aim(log: StateLog): void {
    const last = log.pieces().at(-1)
    if (last === undefined) return
    const { segment, end, sequence } = last
    this.#goal = { kind: segment.kind, epoch: segment.epoch, end, sequence }
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

  /** Returns the next write, at most `most` bytes of records; 0 at the goal or the end of the log; null if the copy cannot be continued. */
  next(log: StateLog, most = WRITE_BYTES): NextWrite | 0 | null {
    if (log.secret && !this.#kind.secret) return null
    // A compaction has merged the goal's segment.
    if (this.#goal !== null && !log.pieces().some(piece => isIn(piece, this.#goal))) this.aim(log)
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
    if (this.#shift !== null) return this.#nextShifted(piece, from, most, this.#shift)
    const to = Math.min(end, from + most)
    const header = from === segment.start
    const first = this.size === 0 ? { service: this.#kind.service, marks: MARKS } : {}
    const head = header ? headerFrame(epoch, kind, first) : NOTHING
    // The marks precede the first record of an epoch, or follow the snapshot: every change that is written after the installation comes after the marks.
    const blank = this.#marks === null && (kind === 'epoch' || to === end) ? firstMarks(epoch) : NOTHING
    const count = to - from
    const length = this.size + head.length + blank.length + count
    const wholeAt = to === end ? { length, sequence } : null
    // The file is synced before it is installed: the first mark may come with the bytes that it covers.
    const marks = blank.length > 0 && wholeAt !== null ? firstMarks(epoch, wholeAt) : blank
    const marksAt = kind === 'epoch' ? head.length : head.length + count
    const recordsAt = kind === 'epoch' ? head.length + marks.length : head.length
    const bytes = Buffer.allocUnsafe(head.length + marks.length + count)
    head.copy(bytes)
    marks.copy(bytes, marksAt)
    readAt(segment.fd, bytes, recordsAt, count, from)
    const onWritten = () => {
      if (marks.length > 0) this.#marks = { epoch, at: this.size + marksAt }
      this.size += bytes.length
      this.#copiedTo = { segment: { kind, epoch }, offset: to, whole: final && to === end }
      if (wholeAt === null) return
      this.wholeAt = wholeAt
      if (marks !== blank) this.onMarked(wholeAt)
    }
    return { bytes, header, count, onWritten }
  }

  /** Returns whole records, with the epoch and sequence numbers that follow those in the file. */
  #nextShifted(
    { segment, end, final, sequence }: LogPiece,
    from: number,
    most: number,
    shift: { epoch: number; sequence: number },
  ): NextWrite | null {
    const { kind, epoch, fd, start } = segment
    // A snapshot can only begin a file.
    if (kind === 'snapshot') return null
    const fileEpoch = epoch + shift.epoch
    const header = from === start || this.#needsHeader
    const frames = header ? [headerFrame(fileEpoch, kind)] : []
    let to = from
    const records = recordsOf(
      { kind, epoch, fd, start, sealed: false, size: () => end },
      { from, live: true, limits: ANY_LIMITS },
    )
    for (const found of records) {
      if (!found) continue
      frames.push(reframed(found, { epoch: fileEpoch, sequence: found.record.sequence + shift.sequence }))
      to = found.next
      if (to - from >= most) break
    }
    if (to === from) return null
    const bytes = Buffer.concat(frames)
    const onWritten = () => {
      this.#needsHeader = false
      this.size += bytes.length
      this.#copiedTo = { segment: { kind, epoch }, offset: to, whole: final && to === end }
      if (to === end) this.wholeAt = { length: this.size, sequence }
    }
    return { bytes, header, count: to - from, onWritten }
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
    const goal = this.#goal
    if (pieces.slice(0, at.index).some(piece => isIn(piece, goal))) return 'all'
    for (const [i, piece] of pieces.slice(at.index).entries()) {
      const from = piece.segment.start + (i === 0 ? at.copied : 0)
      const limited = isIn(piece, goal) ? upTo(piece, goal!) : piece
      if (from < limited.end) return { piece: limited, from }
      // The next piece may be copied only if this piece is final.
      if (!piece.final || limited !== piece) break
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

  /** Returns the mark of a {@link wholeAt} to write, or null if it is written. */
  nextMark(mark: Mark): { bytes: Buffer; at: number } | null {
    if (this.#marks === null || mark.length <= this.#markedLength) return null
    const { length, sequence } = mark
    const bytes = markFrame(this.#marks.epoch, { length, sequence: sequence + (this.#shift?.sequence ?? 0) })
    return { bytes, at: this.#marks.at + this.#nextMark * bytes.length }
  }

  /** The caller must call this method when the bytes of {@link nextMark} are written. */
  onMarked({ length }: Mark): void {
    this.#nextMark = (this.#nextMark + 1) % MARKS
    this.#markedLength = length
  }
}

function isIn({ segment }: LogPiece, goal: Goal | null): boolean {
  return segment.kind === goal?.kind && segment.epoch === goal.epoch
}

/** Returns the part of the goal's piece that is before the goal. */
function upTo(piece: LogPiece, { end, sequence }: Goal): LogPiece {
  return piece.end <= end ? piece : { ...piece, end, sequence, final: false }
}
