import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import { type OwnedFd, sizeOf } from '../../kernel/index.js'
import { DEFAULT_LIMITS, type StateLimits } from '../limits.js'
import { Segment } from '../segment.js'
import { StateLog } from '../state-log.js'
import { runInSlices } from '../time-slices.js'
import { checkService, keepDamaged, openStateFile, type StateFileSettings } from './place.js'
import type { FileEnd, FileReading } from './records.js'
import { transcribe } from './transcribe.js'

/** The damage of a state file whose undamaged part was read. */
export interface Damage {
  readonly cause: FdbError
  readonly aside: string
}

/**
 * Fills a new segment from the state file; does nothing when there is no file. Records that did not reach the disk before a power cut are
 * left out with a warning: at most those since the last `sync`. Resolves with the damage that `damaged: 'prefix'` has passed over.
 *
 * Rejects with ERR_FDB_STATE_DAMAGED when the file is damaged elsewhere (unless `damaged: 'prefix'`), ERR_FDB_STATE_FORMAT when it is no
 * state file or a newer one, ERR_FDB_STATE_FILE when it cannot be read or is not this user's, or another service's.
 */
export async function loadStateFile(
  { path, damaged, service }: StateFileSettings,
  segment: Segment,
  limits: StateLimits,
  logger: Pick<Logger, 'info' | 'warn'>,
): Promise<Damage | null> {
  using fd = openStateFile(path)
  if (fd === null) return null
  checkService(path, fd, service)
  try {
    if (sizeOf(fd) === 0)
      throw new FdbError('ERR_FDB_STATE_DAMAGED', 'it has 0 bytes, which no state file has')
    const reading = { limits }
    // A record may be longer in its new place.
    const fits = sizeOf(fd) <= (limits.segmentBytes / 8) * 7
    const work = fits ? runInSlices(transcribe(fd, segment, reading)) : condense(fd, segment, reading)
    const { sequence, torn } = await work
    if (torn === 0) logger.info({ path, sequence }, 'the state was read from its file')
    else {
      const what =
        'the state was read from its file; its last bytes were not on the disk whole, and do not count'
      logger.warn({ path, sequence, bytes: torn }, what)
    }
    return null
  } catch (cause) {
    if (!FdbError.is(cause)) throw cause
    if (cause.code === 'ERR_FDB_STATE_DAMAGED' && damaged === 'prefix') {
      const aside = await keepDamaged(path)
      const what =
        'the state file is damaged: what stands before the damage is the state now, and the file is kept aside'
      logger.warn({ err: cause, path, aside }, what)
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
      `. Nothing was changed. Put a copy in its place, or run "fd-broker state repair --file ${path}": it keeps what stands before ` +
      "the damage, and the file as it is under another name (stateFile.damaged 'prefix' does so at a start)"
    )
  }
  if (code !== 'ERR_FDB_STATE_LIMIT') return ''
  const { limit, got } = details
  return `. Nothing was changed. Give join() stateLimits with ${String(limit)} of at least ${String(got)}`
}

/** As {@link transcribe}, for a file larger than a segment: merges its records in memory first. On damage the part before it is transcribed, then it throws. */
async function condense(fd: OwnedFd, segment: Segment, reading: FileReading): Promise<FileEnd> {
  // A record may be longer than in the file.
  const limits = { ...reading.limits, segmentBytes: DEFAULT_LIMITS.segmentBytes }
  const log = new StateLog({ limits })
  const parts = [Segment.create(1)]
  const next = () => {
    const part = Segment.create(parts.length + 1)
    parts.push(part)
    return part
  }
  try {
    try {
      return await runInSlices(transcribe(fd, parts[0]!, { ...reading, limits }, next))
    } finally {
      for (const part of parts) {
        part.seal()
        await log.adopt(part)
      }
      const [merged] = await log.compact()
      await runInSlices(transcribe(merged!.fd, segment, { ...reading, mayLackMarks: true }))
    }
  } finally {
    log.close()
    for (const part of parts) part.close()
  }
}
