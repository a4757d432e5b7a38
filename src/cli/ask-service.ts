import { setTimeout as sleep } from 'node:timers/promises'
import { FdbError, type FdbErrorCode } from '../errors.js'
import { ASK_RETRY_MS, askAgain } from '../operator/ask-again.js'
import { OperatorClient } from '../operator/client.js'
import { WaitingLine } from './output.js'

/** Errors of a process that is being replaced: the request is retried until its successor answers. */
export const RETRY_CODES: ReadonlySet<FdbErrorCode> = new Set(['ERR_FDB_FENCED', 'ERR_FDB_BUSY'])
/** As {@link RETRY_CODES}, for requests that may run twice: also retried if the process ended before it answered. */
export const IDEMPOTENT_RETRY_CODES: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  ...RETRY_CODES,
  'ERR_FDB_CHANNEL_CLOSED',
])

export interface AskFlags {
  control: string
  /** Default: the only service at this control socket. */
  service?: string
  timeout: number
}

export interface AnswerFlags extends AskFlags {
  json?: true
}

/** Asks the serving process, and asks again after an error of `codes`, as {@link askAgain}. */
export async function askService<T>(
  { control, timeout }: AskFlags,
  codes: ReadonlySet<FdbErrorCode>,
  ask: (client: OperatorClient, timeout: number, line: WaitingLine) => Promise<T>,
): Promise<T> {
  using line = new WaitingLine(`waiting for the process at ${control}`)
  const mayRetry = (error: FdbError) => codes.has(error.code) && error.retryable
  return await askAgain(timeout, mayRetry, async left => {
    using client = await OperatorClient.connect(control, { timeout: left })
    return await ask(client, left, line)
  })
}

/** Sends a command to the serving process, as {@link askService}. */
export function commandService(
  flags: AskFlags,
  codes: ReadonlySet<FdbErrorCode>,
  command: string,
  body: string | Uint8Array = '',
): Promise<Buffer> {
  const { service = '' } = flags
  return askService(flags, codes, (client, timeout) => client.command(command, body, { timeout, service }))
}

/** Resolves with `answer`. If the service does not know the command, rejects with a message that begins with `why`: which services know the command. */
export async function ofServiceWith<T>(why: string, answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_COMMAND_UNKNOWN') throw error
    throw new FdbError(error.code, `${why} by --service or --control`, { cause: error })
  }
}

/** Returns the remedy for a serving process that does not answer. */
export function killHungText(control: string): string {
  return `fd-broker upgrade --kill-stuck --control ${control} kills it and starts its next version`
}

/** Calls `attempt` until it resolves with a value. Resolves with null if it has not by `until` (of `performance.now()`). */
export async function pollUntil<T>(
  until: number,
  attempt: (leftMs: number) => Promise<T | null>,
): Promise<T | null> {
  for (;;) {
    const found = await attempt(Math.max(1, Math.round(until - performance.now())))
    if (found !== null || performance.now() + ASK_RETRY_MS >= until) return found
    await sleep(ASK_RETRY_MS)
  }
}
