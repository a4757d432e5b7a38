import { crc32 } from 'node:zlib'
import { FdbError } from '../errors.js'
import { findPuts, type OwnedFd, readAt } from '../kernel/index.js'
import { limitError, type StateLimits } from './limits.js'
import { emptyRecord, MalformedRecord, type ScannedRecord, scanRecord } from './records.js'
import { decodeHeader, FRAME_HEADER, isHeader, type SegmentHeader } from './segment.js'

const READ_BYTES = 256 * 1024
const UNPARSED = emptyRecord()

/** A source of records: a segment, or a part of a file that has the same format. */
export interface RecordSource extends SegmentHeader {
  readonly fd: OwnedFd
  readonly start: number
  readonly sealed: boolean
  size(): number
}

/** A record in the reader's buffer; valid until the next record is read. */
export interface FoundRecord {
  record: ScannedRecord
  buffer: Buffer
  /** File offset of the buffer's first byte. */
  base: number
  /** File offset of the record's frame. */
  offset: number
  /** File offset after the record. */
  next: number
}

export interface FrameOptions {
  /** File offset to start from; default: the first record. */
  from?: number
  /** The sequence number of the previous record, if known. */
  after?: number | undefined
  /** Whether another process may be writing now; default: true unless the segment is sealed. */
  live?: boolean
  /** Called for the header of each further segment in the same file; may throw. */
  next?: (header: SegmentHeader, offset: number) => void
  limits: StateLimits
  /** Joins consecutive records that have one put of the same section each. */
  joined?: boolean
  /** Checks lengths and checksums only, for a copy whose readers check the records: `record` is empty, and one above the limits is not read at all. */
  unparsed?: boolean
}

export function damagedError(
  segment: { readonly epoch: number },
  offset: number,
  after: number | undefined,
  reason: string,
): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_DAMAGED',
    `the segment of epoch ${segment.epoch} is damaged at offset ${offset}, after sequence ${after ?? 'unknown'}: ${reason}; ` +
      'use the records before it, or another copy',
    { details: { epoch: segment.epoch, offset, sequence: after } },
  )
}

/**
 * Reads the records of a segment up to its current size; checks each checksum before parsing. Yields `undefined` where the caller may interrupt the
 * work. Does not allocate memory for a length that exceeds the file. The log ends without an error at an incomplete frame, a length of 0, a
 * wrong checksum in the last frame, or any wrong checksum in an unsealed segment: the writer is still writing the record, or was killed. Throws
 * ERR_FDB_STATE_DAMAGED for a wrong checksum elsewhere, a malformed record with a correct checksum, another epoch, or a sequence number that does
 * not follow the previous one. Throws ERR_FDB_STATE_LIMIT for a record that exceeds the limits of this reader.
 */
export function* recordsOf(
  segment: RecordSource,
  options: FrameOptions,
): Generator<FoundRecord | undefined, void> {
  const { limits } = options
  const live = options.live ?? !segment.sealed
  const size = segment.size()
  let after = options.after
  let position = options.from ?? segment.start
  let source: SegmentHeader = segment
  if (size > limits.segmentBytes) {
    throw limitError(`the segment of epoch ${segment.epoch}`, size, 'segmentBytes', limits.segmentBytes)
  }
  if (position >= size) return

  const joined = options.joined ? new JoinedPuts(limits) : null
  const window = Buffer.allocUnsafe(Math.min(READ_BYTES, size - position))
  let base = position
  let filled = 0
  const fill = (from: number) => {
    base = from
    filled = readAt(segment.fd, window, 0, Math.min(window.length, size - from), from)
  }
  while (position < size) {
    if (size - position < FRAME_HEADER) return
    if (position - base + FRAME_HEADER > filled) {
      fill(position)
      if (filled < FRAME_HEADER) return
      yield
    }
    let start = position - base
    const length = window.readUInt32LE(start)
    const checksum = window.readUInt32LE(start + 4)
    if (length === 0) return
    const next = position + FRAME_HEADER + length
    if (joined !== null && after !== undefined) {
      const record = joined.find(window, start, filled, segment.epoch, after)
      if (record !== null) {
        const end = base + joined.end
        yield { record, buffer: window, base, offset: position, next: end }
        after = record.sequence
        position = end
        continue
      }
    }
    const large = length > limits.recordBytes
    if (large && next > size && !live)
      throw damagedError(
        source,
        position,
        after,
        `a record of ${length} bytes, but ${size - position} are left`,
      )
    if (next > size) return
    if (large && options.unparsed) throw tooLarge(position, length, limits)

    let buffer = window
    let bufferBase = base
    let sum: number
    if (next - base <= filled || FRAME_HEADER + length <= window.length) {
      if (next - base > filled) {
        fill(position)
        start = 0
        bufferBase = base
        if (filled < FRAME_HEADER + length) return
        yield
      }
      start += FRAME_HEADER
      sum = crc32(window.subarray(start, start + length))
    } else {
      // For a record above the limit only the checksum is checked, to distinguish the record from damage.
      buffer = Buffer.allocUnsafe(large ? READ_BYTES : length)
      bufferBase = position + FRAME_HEADER
      start = 0
      sum = 0
      for (let got = 0; got < length; ) {
        const into = large ? 0 : got
        const n = readAt(segment.fd, buffer, into, Math.min(READ_BYTES, length - got), bufferBase + got)
        if (n === 0) return
        sum = crc32(buffer.subarray(into, into + n), sum)
        got += n
        yield
      }
    }
    if (sum !== checksum) {
      if (live || next === size) return
      throw damagedError(source, position, after, `wrong checksum, and ${size - next} bytes follow`)
    }
    if (large) throw tooLarge(position, length, limits)
    if (options.next && isHeader(buffer, start)) {
      source = decodeHeader(buffer.subarray(start, start + length))
      options.next(source, position)
      position = next
      continue
    }
    if (options.unparsed) {
      yield { record: UNPARSED, buffer, base: bufferBase, offset: position, next }
      position = next
      continue
    }
    let record: ScannedRecord
    try {
      record = scanRecord(buffer, start, start + length, limits)
    } catch (error) {
      if (error instanceof MalformedRecord) throw damagedError(source, position, after, error.message)
      throw error
    }
    checkSequence(source, position, after, record)
    yield { record, buffer, base: bufferBase, offset: position, next }
    after = record.sequence
    position = next
  }
}

const JOINED_AT_ONCE = 128

/** Consecutive records with one put each, joined to one: most changes of a state are such records. */
class JoinedPuts {
  /** The end of the last found record in the buffer. */
  end = 0
  readonly #ranges = new Uint32Array(2 * JOINED_AT_ONCE)
  readonly #limits: StateLimits

  constructor(limits: StateLimits) {
    this.#limits = limits
  }

  /** Returns null unless several such records are complete and begin at `start`. `after`: the sequence number of the record before. */
  find(buffer: Buffer, start: number, filled: number, epoch: number, after: number): ScannedRecord | null {
    const { recordBytes, keyBytes } = this.#limits
    const ranges = this.#ranges
    const count = findPuts(buffer, start, filled, epoch, after + 1, recordBytes, keyBytes, ranges)
    if (count < 2) return null
    this.end = ranges[2 * count - 1]!
    const record = emptyRecord()
    record.epoch = epoch
    record.sequence = after + count
    record.changes = ranges.subarray(0, 2 * count)
    record.records = count
    return record
  }
}

function tooLarge(position: number, length: number, { recordBytes }: StateLimits): FdbError {
  return limitError(`the record at offset ${position}`, length, 'recordBytes', recordBytes)
}

/** Throws if the record's epoch or sequence number does not follow the previous record. */
function checkSequence(
  segment: SegmentHeader,
  position: number,
  after: number | undefined,
  record: ScannedRecord,
): void {
  const { epoch, sequence } = record
  if (epoch !== segment.epoch) {
    throw damagedError(segment, position, after, `a record of epoch ${epoch}`)
  }
  if (after === undefined) return
  if (segment.kind === 'snapshot') {
    if (sequence !== after)
      throw damagedError(segment, position, after, `a record of sequence ${sequence} in the same snapshot`)
  } else if (sequence !== after + 1) {
    const reason =
      sequence > after ? `${sequence - after - 1} records are missing` : 'the record is a duplicate'
    throw damagedError(segment, position, after, `sequence ${sequence}: ${reason}`)
  }
}
