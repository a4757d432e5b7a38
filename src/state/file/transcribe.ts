import { type OwnedFd, readAt } from '../../kernel/index.js'
import type { FoundRecord } from '../reader.js'
import { encodeEnvelope } from '../records.js'
import { frame, Segment, type SegmentHeader } from '../segment.js'
import { appendTo } from '../snapshot.js'
import { type FileEnd, type FileReading, recordsOfFile } from './records.js'

const BATCH = 256 * 1024
const EPOCH_TAG = (1 << 3) | 0
const SEQUENCE_TAG = (2 << 3) | 0

/**
 * Appends a state file's records to a new segment, with that segment's epoch and new sequence numbers. After an error the records before it stay
 * appended. `next` creates a segment for each further segment of the file.
 */
export function* transcribe(
  fd: OwnedFd,
  segment: Segment,
  reading: FileReading,
  next?: () => Segment,
): Generator<unknown, FileEnd> {
  const records = recordsOfFile(fd, reading)
  let into = segment
  let before: SegmentHeader | null = null
  let sequence = 0
  let frames: Buffer[] = []
  let bytes = 0
  const close = () => {
    if (bytes > 0) appendTo(into, Buffer.concat(frames), reading.limits, 'the state file in memory')
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
      if (next !== undefined && before !== null && !isSame(before, header)) {
        close()
        into = next()
      }
      before = header
      const bytesOfRecord = frame(bodyOf(found), encodeEnvelope({ epoch: into.epoch, sequence: ++sequence }))
      frames.push(bytesOfRecord)
      bytes += bytesOfRecord.length
      if (bytes >= BATCH) close()
    }
  } finally {
    close()
  }
}

/** Whether two headers belong to one segment. A file repeats a header to state that everything before the repeated header was synced. */
function isSame(a: SegmentHeader, b: SegmentHeader): boolean {
  return a.epoch === b.epoch && a.kind === b.kind
}

/** Returns a record without its leading epoch and sequence. (If protobuf fields are repeated, the last one counts.) */
function bodyOf({ buffer, base, offset, next }: FoundRecord): Buffer {
  const end = next - base
  let at = offset + 8 - base
  while (at < end && (buffer[at] === EPOCH_TAG || buffer[at] === SEQUENCE_TAG)) {
    at++
    while (at < end && buffer[at++]! > 127);
  }
  return buffer.subarray(at, end)
}

/** Returns the segments of a state file as sealed memory files, one per epoch; the caller owns them. `torn` is the number of bytes of an incomplete last record. */
export function* segmentsOfFile(
  fd: OwnedFd,
  reading: FileReading,
): Generator<unknown, { segments: Segment[]; torn: number }> {
  const segments: Segment[] = []
  const records = recordsOfFile(fd, reading)
  try {
    let from = 0
    let to = 0
    const close = () => {
      for (let at = from; at < to; at += BATCH) {
        const bytes = Buffer.allocUnsafe(Math.min(BATCH, to - at))
        readAt(fd, bytes, 0, bytes.length, at)
        appendTo(segments.at(-1)!, bytes, reading.limits, 'the state file in memory')
      }
      from = to
    }
    for (;;) {
      const step = records.next()
      if (step.done) {
        close()
        for (const segment of segments) segment.seal()
        return { segments, torn: step.value.torn }
      }
      yield
      if (!step.value) continue
      const { found, header } = step.value
      const last = segments.at(-1)
      const same = last !== undefined && isSame(last, header)
      if (!same || found.offset !== to || to - from >= BATCH) close()
      if (!same) segments.push(Segment.create(header.epoch, { kind: header.kind, name: 'fdb-state-file' }))
      if (found.offset !== to) from = found.offset
      to = found.next
    }
  } catch (error) {
    for (const segment of segments) segment.close()
    throw error
  }
}
