import { setTimeout as rest } from 'node:timers/promises'
import { FdbError, type FdbErrorCode } from '../errors.js'
import { OperatorClient } from '../operator/client.js'
import { WaitingLine } from './output.js'

/** A proxy that is just being replaced sends an operator to its successor, which may have to come up. */
const AGAIN_MS = 50
export const AGAIN: ReadonlySet<FdbErrorCode> = new Set(['ERR_FDB_FENCED', 'ERR_FDB_BUSY'])
/** A question that is harmless when repeated is asked again if the process ended before it had answered. */
export const AGAIN_HARMLESS: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  ...AGAIN,
  'ERR_FDB_CHANNEL_CLOSED',
])

/** A running service, and how long it may take to answer. */
export interface AskFlags {
  control: string
  /** Default: the only one there. */
  service?: string
  timeout: number
}

export interface AnswerFlags extends AskFlags {
  json?: true
}

/** Asks the process that serves; again if it has just been replaced and nothing was done. */
export async function asked<T>(
  { control, timeout }: AskFlags,
  codes: ReadonlySet<FdbErrorCode>,
  ask: (client: OperatorClient, timeout: number) => Promise<T>,
): Promise<T> {
  const until = performance.now() + timeout
  using _line = new WaitingLine(`waiting for the process at ${control}`)
  for (;;) {
    const left = Math.max(1, Math.round(until - performance.now()))
    using client = await OperatorClient.connect(control, { timeout: left })
    try {
      return await ask(client, left)
    } catch (error) {
      const again = FdbError.is(error) && codes.has(error.code) && error.retryable
      if (!again || performance.now() + AGAIN_MS >= until) throw error
    }
    await rest(AGAIN_MS)
  }
}

export function commanded(
  flags: AskFlags,
  codes: ReadonlySet<FdbErrorCode>,
  command: string,
  body: string | Uint8Array = '',
): Promise<Buffer> {
  const { service = '' } = flags
  return asked(flags, codes, (client, timeout) => client.command(command, body, { timeout, service }))
}

/** Looks again and again, until there is what `look` looks for; null: there was nothing by `until`. */
export async function lookedUntil<T>(
  until: number,
  look: (leftMs: number) => Promise<T | null>,
): Promise<T | null> {
  for (;;) {
    const found = await look(Math.max(1, Math.round(until - performance.now())))
    if (found !== null || performance.now() + AGAIN_MS >= until) return found
    await rest(AGAIN_MS)
  }
}
