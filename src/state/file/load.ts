import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import { type OwnedFd, sizeOf } from '../../kernel/index.js'
import { DEFAULT_LIMITS, type StateLimits } from '../limits.js'
import { Segment } from '../segment.js'
import { StateLog } from '../state-log.js'
import { runInSlices } from '../time-slices.js'
import { checkService, keepDamaged, openStateFile, type StateFileSettings } from './files.js'
import type { FileEnd, FileReading } from './records.js'
import { transcribe } from './transcribe.js'

/** Damage in a state file; the part before it was read. */
export interface Damage {
  readonly cause: FdbError
  /** The path under which the damaged file was kept. */
  readonly aside: string
}

/**
 * Fills a new segment from the state file; does nothing if there is no file. Records that did not reach the disk before a power cut, at most
 * those since the last `sync`, are missing; a warning reports that. Resolves with the damage that `damaged: 'prefix'` tolerates.
 *
 * `onRead` is called with the end of an undamaged file. Rejects with ERR_FDB_STATE_DAMAGED if the file is damaged elsewhere (unless `damaged: 'prefix'`), with ERR_FDB_STATE_FORMAT if it is not a
 * state file or has a newer format, with ERR_FDB_STATE_FILE if it is unreadable or belongs to another user or service.
 */
export async function loadStateFile(
  { path, damaged, service }: StateFileSettings,
  segment: Segment,
  limits: StateLimits,
  logger: Pick<Logger, 'info' | 'warn'>,
  onRead?: (end: FileEnd) => void,
): Promise<Damage | null> {
  using fd = openStateFile(path)
  if (fd === null) return null
  checkService(path, fd, service)
  try {
    if (sizeOf(fd) === 0)
      throw new FdbError('ERR_FDB_STATE_DAMAGED', 'it is empty, which a state file never is')
    const reading = { limits }
    // In the segment a record may be longer than in the file: its epoch and sequence number may need more bytes.
    const fits = sizeOf(fd) <= (limits.segmentBytes / 8) * 7
    const work = fits ? runInSlices(transcribe(fd, reading, () => segment)) : condense(fd, segment, reading)
    const end = await work
    const { sequence, torn } = end
    onRead?.(end)
    if (torn === 0) logger.info({ path, sequence }, 'the state was read from its file')
    else {
      const message =
        'the state was read from its file; its last record is incomplete, as after a power cut, and was ignored'
      logger.warn({ path, sequence, bytes: torn }, message)
    }
    return null
  } catch (cause) {
    if (!FdbError.is(cause)) throw cause
    if (cause.code === 'ERR_FDB_STATE_DAMAGED' && damaged === 'prefix') {
      const aside = await keepDamaged(path)
      const message =
        'the state file is damaged: the state has the records before the damage, and the damaged file is kept under another name'
      logger.warn({ err: cause, path, aside }, message)
      return { cause, aside }
    }
    const { code, details, message } = cause
    throw new FdbError(code, `the state file ${path}: ${message}${remedy(path, cause)}`, {
      cause,
      details: { ...details, path },
    })
  }
}

function remedy(path: string, { code, details }: FdbError): string {
  if (code === 'ERR_FDB_STATE_DAMAGED') {
    return (
      `. Nothing was changed. Replace it by a copy, or run "fd-broker state repair --file ${path}": that keeps the records before ` +
      "the damage, and the damaged file under another name (stateFile.damaged 'prefix' does so at a start)"
    )
  }
  if (code !== 'ERR_FDB_STATE_LIMIT') return ''
  const { limit, got } = details
  return `. Nothing was changed. Give join() stateLimits with ${String(limit)} of at least ${String(got)}`
}

/** Transcribes a file that is larger than a segment: merges its records in memory first. If the file is damaged, transcribes the records before the damage, then throws. */
async function condense(fd: OwnedFd, segment: Segment, reading: FileReading): Promise<FileEnd> {
  const limits = { ...reading.limits, segmentBytes: DEFAULT_LIMITS.segmentBytes }
  const log = new StateLog({ limits })
  const parts: Segment[] = []
  const nextPart = () => {
    const part = Segment.create(parts.length + 1)
    parts.push(part)
    return part
  }
  try {
    try {
      return await runInSlices(transcribe(fd, { ...reading, limits }, nextPart))
    } finally {
      for (const part of parts) {
        part.seal()
        await log.adopt(part)
      }
      const [merged] = await log.compact()
      if (merged !== undefined)
        await runInSlices(transcribe(merged.fd, { ...reading, mayLackMarks: true }, () => segment))
    }
  } finally {
    log.close()
    for (const part of parts) part.close()
  }
}
