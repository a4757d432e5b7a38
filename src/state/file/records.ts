import { FdbError } from '../../errors.js'
import { type OwnedFd, sizeOf } from '../../kernel/index.js'
import type { StateLimits } from '../limits.js'
import { damagedError, type FoundRecord, recordsOf } from '../reader.js'
import { headerFrame, readHeader, type SegmentHeader } from '../segment.js'

export interface FileRecord {
  found: FoundRecord
  header: SegmentHeader
}

export interface FileEnd {
  /** The sequence number of the last record, or 0. */
  sequence: number
  /** File offset after the last valid record. */
  position: number
  /** Number of bytes in the file after the last valid record. */
  torn: number
  /** The epoch of the last segment. */
  epoch: number
  /** The file's marks; null in a segment or an exported log, which have none. */
  marks: FileMarks | null
}

/** Where the marks of a state file are. */
export interface FileMarks {
  readonly epoch: number
  /** The file offset of the first mark. */
  readonly at: number
  /** The index of the older mark, which the next one overwrites. */
  readonly next: number
  /** The length in the newest mark. */
  readonly length: number
}

export interface FileReading {
  limits: StateLimits
  /** Accepts memory segments and exported logs, which have the same format without marks. */
  mayLackMarks?: true
}

/**
 * Reads the records of a state file, which is a sequence of segments: a snapshot may be the first, epochs never decrease, several segments may have
 * the same epoch. Checks each checksum before parsing, as {@link recordsOf} does.
 *
 * Synced data must exist: if the file ends, or has no complete record, before the length in its newest mark, throws ERR_FDB_STATE_DAMAGED with the
 * file offset and the sequence number. After that length an incomplete record or a wrong checksum ends the log without an error, because a power cut
 * may leave one. An invalid record with a correct checksum is always an error: ERR_FDB_STATE_DAMAGED, ERR_FDB_STATE_FORMAT or ERR_FDB_STATE_LIMIT.
 */
export function* recordsOfFile(
  fd: OwnedFd,
  { limits, mayLackMarks }: FileReading,
): Generator<FileRecord | undefined, FileEnd> {
  const { start, marks, ...first } = readHeader(fd, 0)
  if (marks === 0 && !mayLackMarks)
    throw new FdbError(
      'ERR_FDB_STATE_FORMAT',
      'the state file has no sync marks: a release before 0.4.0 wrote it. Export it with `fd-broker state export` of that release, remove it, and import the export',
    )
  let header: SegmentHeader = first
  let sequence = 0
  let position = start
  let whole = header.kind === 'epoch'
  let mark: Mark | null = null
  let found: FileMarks | null = null
  const passMarks = () => {
    if (marks === 0) return
    const read = readMarks(fd, position, first.epoch, marks)
    mark = read.mark
    found = { epoch: first.epoch, at: position, next: read.older, length: read.mark?.length ?? 0 }
    position = read.end
  }
  const next = (following: SegmentHeader, offset: number) => {
    if (!whole) throw damagedError(header, offset, sequence, 'the end of the snapshot is missing')
    if (following.kind === 'snapshot' || following.epoch < header.epoch)
      throw damagedError(
        following,
        offset,
        sequence,
        `a ${following.kind} segment follows epoch ${header.epoch}`,
      )
    header = following
    position = offset
  }
  // Reads the size after the marks, because another process may be writing.
  const recordsFrom = (after: number | undefined) =>
    recordsOf(
      { ...header, fd, start: position, sealed: false, size: () => sizeOf(fd) },
      { live: true, after, limits: { ...limits, segmentBytes: Number.MAX_SAFE_INTEGER }, next },
    )
  if (whole) passMarks()
  let records = recordsFrom(whole ? 0 : undefined)
  for (;;) {
    const step = records.next()
    if (step.done) break
    const record = step.value
    if (record) {
      if (header.kind === 'snapshot' && whole)
        throw damagedError(header, record.offset, sequence, 'records follow the end of the snapshot')
      yield { found: record, header }
      sequence = record.record.sequence
      position = record.next
      if (!whole && record.record.end !== null) {
        whole = true
        if (marks > 0) {
          passMarks()
          records = recordsFrom(sequence)
        }
      }
    } else yield
  }
  const size = sizeOf(fd)
  if (!whole) throw damagedError(header, position, sequence, 'the end of the snapshot is missing')
  if (marks > 0) checkSynced(header, { position, sequence, size }, mark)
  return { sequence, position, torn: Math.max(0, size - position), epoch: header.epoch, marks: found }
}

function checkSynced(
  header: SegmentHeader,
  { position, sequence, size }: { position: number; sequence: number; size: number },
  mark: Mark | null,
): void {
  if (mark === null) throw damagedError(header, position, sequence, 'its marks are damaged or missing')
  if (position >= mark.length) return
  const synced = `${mark.length} bytes, up to sequence ${mark.sequence}, were synced`
  const reason =
    size < mark.length
      ? `the file has ${size} bytes, but ${synced}`
      : `no complete record is there, but ${synced}`
  const { code, message, details } = damagedError(header, position, sequence, reason)
  throw new FdbError(code, message, { details: { ...details, bytes: size, synced: { ...mark } } })
}

/** The length of the state file at a sync, and the sequence number of the last change in the file at that sync. */
export interface Mark {
  readonly length: number
  readonly sequence: number
}

/** A state file has two marks, which are overwritten alternately: a power cut can damage only one of them. */
export const MARKS = 2

const NUMBERS_BYTES = 16
const NOTHING: Mark = { length: 0, sequence: 0 }

export function markFrame(epoch: number, { length, sequence }: Mark): Buffer {
  const mark = Buffer.allocUnsafe(NUMBERS_BYTES)
  mark.writeBigUInt64LE(BigInt(length), 0)
  mark.writeBigUInt64LE(BigInt(sequence), 8)
  return headerFrame(epoch, 'epoch', { mark })
}

/** Returns the marks of a new file. `first` tells what the file has when it is installed, if that is known. */
export function firstMarks(epoch: number, first: Mark = NOTHING): Buffer {
  return Buffer.concat([markFrame(epoch, first), markFrame(epoch, NOTHING)])
}

/** Reads the marks at a file offset. `mark` is the newest complete one, or null; `end` is the offset after the marks. */
export function readMarks(
  fd: OwnedFd,
  at: number,
  epoch: number,
  count: number,
): { mark: Mark | null; end: number; older: number } {
  const { length } = markFrame(epoch, NOTHING)
  const marks = Array.from({ length: Math.min(count, MARKS) }, (_, i) => readMark(fd, at + i * length))
  const whole = marks.filter(mark => mark !== null)
  const mark = whole.reduce<Mark | null>(
    (newest, each) => (newest !== null && newest.length >= each.length ? newest : each),
    null,
  )
  const older = marks.findIndex(each => each !== mark)
  return { mark, end: at + count * length, older: Math.max(0, older) }
}

function readMark(fd: OwnedFd, at: number): Mark | null {
  try {
    const { mark } = readHeader(fd, at)
    if (mark.length !== NUMBERS_BYTES) return null
    const numbers = Buffer.from(mark)
    return { length: Number(numbers.readBigUInt64LE(0)), sequence: Number(numbers.readBigUInt64LE(8)) }
  } catch {
    return null
  }
}
