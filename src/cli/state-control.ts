import type { FdbErrorCode } from '../errors.js'
import { type AskCommand, StateCopy } from '../operator/state-copy.js'
import type { Position } from '../state/history.js'
import type { StateLog } from '../state/state-log.js'
import { type AskFlags, askService, IDEMPOTENT_RETRY_CODES } from './ask-service.js'
import type { ProgressLine } from './output.js'

/**
 * Errors after which a request about the state is repeated: {@link IDEMPOTENT_RETRY_CODES}, and ERR_FDB_STATE_MOVED, which follows a
 * compaction of the log. The service does not apply a repeated change twice, because the request id identifies the change.
 */
export const STATE_RETRY_CODES: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  ...IDEMPOTENT_RETRY_CODES,
  'ERR_FDB_STATE_MOVED',
])

interface ControlOptions extends AskFlags {
  service: string
}

/** Runs `work` with the serving process. If another process starts to serve before `work` is done, runs it again: `work` must be idempotent. */
export async function withServing<T>(
  options: ControlOptions,
  work: (ask: AskCommand) => Promise<T>,
): Promise<T> {
  const { service } = options
  return await askService(options, STATE_RETRY_CODES, (client, timeout) =>
    work((command, body) => client.command(command, body, { timeout, service })),
  )
}

/** Copies the log of the serving process, up to its last record at the time of the request. */
export async function copyState(
  options: ControlOptions,
  progress: ProgressLine,
): Promise<{ log: StateLog; position: Position }> {
  const copy = new StateCopy()
  const reading = (done: number, total: number) => progress.bytes('reading the state', done, total)
  try {
    const position = await withServing(options, ask => copy.readNew(ask, reading))
    // In a sealed segment an incomplete record at the end is damage, not a record that is being written.
    copy.log.segments.at(-1)?.seal()
    return { log: copy.log, position }
  } catch (error) {
    copy.log.close()
    throw error
  }
}
