import { open, stat } from 'node:fs/promises'
import { FdbError } from '../../errors.js'
import { tryLockNow } from '../../kernel/index.js'
import { stateFileSettings } from '../../state/file/options.js'
import { StateFile } from '../../state/file/state-file.js'
import { StateLog } from '../../state/state-log.js'
import type { Logger } from '../options.js'
import type { SegmentShelf } from '../segment-shelf.js'

/** What the clocks of the file system and of this process may differ by. */
const CLOCKS_MS = 1_000

export interface KeptState {
  readonly service: string
  /** The state file of the members. */
  readonly path: string
  /** When the last one died, milliseconds since 1970. */
  readonly diedAt: number
  readonly shelf: SegmentShelf
  readonly logger: Logger
  readonly timeoutMs: number
}

/**
 * Writes what a daemon alone holds of a service's state to the file that its members keep it in: it has every acknowledged
 * change, the file perhaps not the last ones before the member was killed. Never rejects: what came of it is logged.
 */
export async function keepState({
  service,
  path,
  diedAt,
  shelf,
  logger,
  timeoutMs,
}: KeptState): Promise<void> {
  const log = new StateLog({ logger })
  try {
    await refuseOthers(path, diedAt)
    for (const segment of shelf.all) {
      // Who wrote there is dead.
      segment.sealForTheDead()
      await log.adopt(segment.dup())
    }
    const file = new StateFile(stateFileSettings({ path, sync: 'always' }, service), log, logger, () => true)
    file.serve()
    await file.finish(timeoutMs)
    logger.info({ service, path, sequence: file.status().sequence }, 'the state is in its file')
  } catch (error) {
    logger.error({ err: error, service, path }, 'the state that this daemon alone holds is not in its file')
  } finally {
    log.close()
  }
}

/** Throws ERR_FDB_STATE_FILE when a process goes on with the file, or has: what is here is older then. */
async function refuseOthers(path: string, diedAt: number): Promise<void> {
  const handle = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (handle === null) return
  const refuse = (why: string) =>
    new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} ${why}: it is left as it is`)
  try {
    if (!tryLockNow(handle)) throw refuse('is written by another process')
  } finally {
    await handle.close()
  }
  const { mtimeMs } = await stat(path)
  if (mtimeMs > diedAt + CLOCKS_MS)
    throw refuse(
      `was written at ${new Date(mtimeMs).toISOString()}, after the last member of this daemon had ended`,
    )
}
