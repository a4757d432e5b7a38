import { FdbError, type FdbErrorCode } from '../../errors.js'
import { type OwnedFd, readAt, sizeOf } from '../../kernel/index.js'
import { FRAME_HEADER } from '../frame.js'
import type { StateLimits } from '../limits.js'
import { damaged, type FoundRecord, recordsOf } from '../reader.js'
import { HEADER_MARK, readHeader, type SegmentHeader } from '../segment.js'

const SEARCHED = 1024 * 1024

export interface FileRecord {
  found: FoundRecord
  /** Of the segment that it belongs to. */
  header: SegmentHeader
}

export interface FileEnd {
  /** The number of the last record; 0 when there is none. */
  sequence: number
  /** File offset behind the last record that counts, and how many bytes lie behind it. */
  position: number
  torn: number
}

export interface FileReading {
  limits: StateLimits
  /**
   * How to take damage behind which no header stands. Each header says that all before it was brought to the disk: what
   * a power cut leaves of the rest may be in any order. `torn`: it ends the log, as half a record does. `damaged`: an error.
   */
  unsynced: 'torn' | 'damaged'
}

/**
 * The records of a state file, which is segments one behind the other: a snapshot may be the first, epochs never fall, several
 * segments may be of the same epoch. Checksum first, as {@link recordsOf}. Throws ERR_FDB_STATE_DAMAGED with the offset in
 * the file and the sequence, ERR_FDB_STATE_FORMAT, ERR_FDB_STATE_LIMIT.
 */
export function* recordsOfFile(
  fd: OwnedFd,
  { limits, unsynced }: FileReading,
): Generator<FileRecord | undefined, FileEnd> {
  const size = sizeOf(fd)
  const { start, ...first } = readHeader(fd, 0)
  let header: SegmentHeader = first
  let sequence = 0
  let position = start
  let whole = header.kind === 'epoch'
  const next = (following: SegmentHeader, offset: number) => {
    if (!whole) throw damaged(header, offset, sequence, 'the end of the snapshot is missing')
    if (following.kind === 'snapshot' || following.epoch < header.epoch)
      throw damaged(following, offset, sequence, `a ${following.kind} segment behind epoch ${header.epoch}`)
    header = following
    position = offset
  }
  const source = { ...header, fd, start, sealed: true, size: () => size }
  const records = recordsOf(source, {
    live: false,
    after: whole ? 0 : undefined,
    limits: { ...limits, segmentBytes: Number.MAX_SAFE_INTEGER },
    next,
  })
  try {
    for (;;) {
      const step = records.next()
      if (step.done) {
        position = step.value.position
        if (step.value.torn && headerBehind(fd, position, size))
          throw damaged(header, position, sequence, 'no whole record, and more behind it')
        break
      }
      const found = step.value
      if (found) {
        if (header.kind === 'snapshot' && whole)
          throw damaged(header, found.offset, sequence, 'records behind the end of a snapshot')
        whole ||= found.record.end !== null
        yield { found, header }
        sequence = found.record.sequence
        position = found.next
      } else yield
    }
  } catch (error) {
    const mayBeTorn = FdbError.is(error) && TORN.has(error.code) && unsynced === 'torn'
    if (!mayBeTorn || headerBehind(fd, position, size)) throw error
  }
  if (!whole) throw damaged(header, position, sequence, 'the end of the snapshot is missing')
  return { sequence, position, torn: size - position }
}

const TORN: ReadonlySet<FdbErrorCode> = new Set(['ERR_FDB_STATE_DAMAGED', 'ERR_FDB_STATE_LIMIT'])

/** Whether a whole header begins behind this offset. */
function headerBehind(fd: OwnedFd, offset: number, size: number): boolean {
  const buffer = Buffer.allocUnsafe(Math.min(SEARCHED, Math.max(0, size - offset)))
  for (let from = offset + 1; from < size; from += Math.max(1, buffer.length - HEADER_MARK.length)) {
    const got = readAt(fd, buffer, 0, Math.min(buffer.length, size - from), from)
    const searched = buffer.subarray(0, got)
    for (let at = searched.indexOf(HEADER_MARK); at >= 0; at = searched.indexOf(HEADER_MARK, at + 1)) {
      if (from + at - FRAME_HEADER > offset && isWhole(fd, from + at - FRAME_HEADER)) return true
    }
    if (got < buffer.length) break
  }
  return false
}

function isWhole(fd: OwnedFd, offset: number): boolean {
  try {
    readHeader(fd, offset)
    return true
  } catch {
    return false
  }
}
