import { FdbError } from '../../errors.js'
import { type OwnedFd, sizeOf } from '../../kernel/index.js'
import type { StateLimits } from '../limits.js'
import { damaged, type FoundRecord, recordsOf } from '../reader.js'
import { readHeader, type SegmentHeader } from '../segment.js'
import { type Mark, readMarks } from './marks.js'

export interface FileRecord {
  found: FoundRecord
  header: SegmentHeader
}

export interface FileEnd {
  /** The number of the last record, or 0. */
  sequence: number
  /** File offset behind the last record that counts, and the number of bytes behind it. */
  position: number
  torn: number
}

export interface FileReading {
  limits: StateLimits
  /** Segments in memory, and exported logs, have the same form without marks. */
  mayLackMarks?: true
}

/**
 * The records of a state file, which is a sequence of segments: a snapshot may be the first, epochs never fall, several segments may have
 * the same epoch. Checksum first, as {@link recordsOf}.
 *
 * Synced data must be there: a file that ends, or has no whole record, before the length in its newest mark throws ERR_FDB_STATE_DAMAGED
 * with the offset in the file and the sequence. A tear behind that ends the log, as half a record does: a power cut leaves it. A whole
 * record that cannot be taken is never a tear, wherever it stands: ERR_FDB_STATE_DAMAGED, ERR_FDB_STATE_FORMAT, ERR_FDB_STATE_LIMIT.
 */
export function* recordsOfFile(
  fd: OwnedFd,
  { limits, mayLackMarks }: FileReading,
): Generator<FileRecord | undefined, FileEnd> {
  const { start, marks, ...first } = readHeader(fd, 0)
  if (marks === 0 && !mayLackMarks)
    throw new FdbError(
      'ERR_FDB_STATE_FORMAT',
      'the state file has no marks of how far it was synced: a release before 0.4.0 wrote it. Remove it, and import what `fd-broker state export` of that release gives',
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
    if (!whole) throw damaged(header, offset, sequence, 'the end of the snapshot is missing')
    if (following.kind === 'snapshot' || following.epoch < header.epoch)
      throw damaged(following, offset, sequence, `a ${following.kind} segment behind epoch ${header.epoch}`)
    header = following
    position = offset
  }
  // The size is read after the marks: another process may be writing.
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
        throw damaged(header, found.offset, sequence, 'records behind the end of a snapshot')
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
  if (!whole) throw damaged(header, position, sequence, 'the end of the snapshot is missing')
  if (marks > 0) checkSynced(header, { position, sequence, size }, mark)
  return { sequence, position, torn: Math.max(0, size - position) }
}

function checkSynced(
  header: SegmentHeader,
  { position, sequence, size }: { position: number; sequence: number; size: number },
  mark: Mark | null,
): void {
  if (mark === null) throw damaged(header, position, sequence, 'its marks are damaged or missing')
  if (position >= mark.length) return
  const synced = `${mark.length} bytes, up to sequence ${mark.sequence}, were synced`
  const why =
    size < mark.length ? `the file has ${size} bytes, and ${synced}` : `no whole record, and ${synced}`
  const { code, message, details } = damaged(header, position, sequence, why)
  throw new FdbError(code, message, { details: { ...details, bytes: size, synced: { ...mark } } })
}
