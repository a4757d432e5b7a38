import { FdbError } from '../../errors.js'
import { type OwnedFd, sizeOf } from '../../kernel/index.js'
import type { StateLimits } from '../limits.js'
import { damagedError, type FoundRecord, recordsOf } from '../reader.js'
import { readHeader, type SegmentHeader } from '../segment.js'
import { type Mark, readMarks } from './marks.js'

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
  const passMarks = () => {
    if (marks === 0) return
    const read = readMarks(fd, position, first.epoch, marks)
    mark = read.mark
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
    const found = step.value
    if (found) {
      if (header.kind === 'snapshot' && whole)
        throw damagedError(header, found.offset, sequence, 'records follow the end of the snapshot')
      yield { found, header }
      sequence = found.record.sequence
      position = found.next
      if (!whole && found.record.end !== null) {
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
  return { sequence, position, torn: Math.max(0, size - position) }
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
