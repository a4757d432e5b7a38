import type { OwnedFd } from '../../kernel/index.js'
import type { FoundRecord } from '../reader.js'
import { encodeEnvelope } from '../records.js'
import { FRAME_HEADER, frame, Segment, type SegmentHeader } from '../segment.js'
import { appendTo } from '../snapshot.js'
import { type FileEnd, type FileReading, recordsOfFile } from './records.js'

const BATCH = 256 * 1024
const EPOCH_TAG = (1 << 3) | 0
const SEQUENCE_TAG = (2 << 3) | 0

/**
 * Appends the records of a state file to memory segments: `segmentFor` returns the segment for each segment of the file, `encode` the frame of a record.
 * After an error the records before it stay appended.
 */
function* appendRecords(
  fd: OwnedFd,
  reading: FileReading,
  segmentFor: (header: SegmentHeader) => Segment,
  encode: (found: FoundRecord, into: Segment) => Buffer,
): Generator<unknown, FileEnd> {
  const records = recordsOfFile(fd, reading)
  let current: { header: SegmentHeader; into: Segment } | null = null
  let frames: Buffer[] = []
  let bytes = 0
  const flush = () => {
    if (current !== null && bytes > 0)
      appendTo(current.into, Buffer.concat(frames), reading.limits, 'the state file in memory')
    frames = []
    bytes = 0
  }
  try {
    for (;;) {
      const step = records.next()
      if (step.done) return step.value
      yield
      if (!step.value) continue
      const { found, header } = step.value
      if (current === null || !isSame(current.header, header)) {
        flush()
        current = { header, into: segmentFor(header) }
      }
      const bytesOfRecord = encode(found, current.into)
      frames.push(bytesOfRecord)
      bytes += bytesOfRecord.length
      if (bytes >= BATCH) flush()
    }
  } finally {
    flush()
  }
}

/** Appends a state file's records to new segments, with the epochs of those segments and new sequence numbers. `segmentFor` is called for each segment of the file. */
export function transcribe(
  fd: OwnedFd,
  reading: FileReading,
  segmentFor: () => Segment,
): Generator<unknown, FileEnd> {
  let sequence = 0
  return appendRecords(fd, reading, segmentFor, (found, { epoch }) =>
    reframed(found, { epoch, sequence: ++sequence }),
  )
}

/** Whether two headers belong to one segment. A file repeats a header to state that everything before the repeated header was synced. */
function isSame(a: SegmentHeader, b: SegmentHeader): boolean {
  return a.epoch === b.epoch && a.kind === b.kind
}

/** Returns the frame of a record with another epoch and sequence number. */
export function reframed(found: FoundRecord, position: { epoch: number; sequence: number }): Buffer {
  return frame(withoutPosition(payloadOf(found)), encodeEnvelope(position))
}

function payloadOf({ buffer, base, offset, next }: FoundRecord): Buffer {
  return buffer.subarray(offset + FRAME_HEADER - base, next - base)
}

/** Returns an encoded record without its leading epoch and sequence. (If protobuf fields are repeated, the last one counts.) */
function withoutPosition(payload: Buffer): Buffer {
  let at = 0
  while (payload[at] === EPOCH_TAG || payload[at] === SEQUENCE_TAG) {
    at++
    while (at < payload.length && payload[at++]! > 127);
  }
  return payload.subarray(at)
}

/** Returns the segments of a state file as sealed memory files, one per epoch; the caller owns them. `torn` is the number of bytes of an incomplete last record. */
export function* segmentsOfFile(
  fd: OwnedFd,
  reading: FileReading,
): Generator<unknown, { segments: Segment[]; torn: number }> {
  const segments: Segment[] = []
  const segmentFor = ({ epoch, kind }: SegmentHeader) => {
    const segment = Segment.create(epoch, { kind, name: 'fdb-state-file' })
    segments.push(segment)
    return segment
  }
  try {
    const { torn } = yield* appendRecords(fd, reading, segmentFor, found => frame(payloadOf(found)))
    for (const segment of segments) segment.seal()
    return { segments, torn }
  } catch (error) {
    for (const segment of segments) segment.close()
    throw error
  }
}
