import { FdbError } from '../errors.js'
import { OperatorClient } from '../operator/client.js'
import { UPGRADE_SELF } from '../operator/service-commands.js'
import type { SupervisorStatus } from '../run/status.js'
import type { AskFlags } from './ask-service.js'
import { jsonText } from './output.js'

const LOOK_MS = 50

/** Has a supervisor go on as what is installed now, and waits until it answers as that. */
export async function upgradeSelf(
  { control, timeout }: AskFlags,
  service: string,
  json: boolean,
): Promise<void> {
  const begun = performance.now()
  const before = await supervisorAt(control, timeout)
  using client = await OperatorClient.connect(control, { timeout })
  try {
    await client.command(UPGRADE_SELF, '', { timeout, service })
  } catch (error) {
    // The connection is one of those that its next image has not.
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_CHANNEL_CLOSED') throw error
  }
  const { pid } = await again(control, before?.replaced ?? 0, begun + timeout)
  const ms = Math.round(performance.now() - begun)
  if (json) process.stdout.write(jsonText({ ok: true, pid, ms }))
  else process.stdout.write(`supervisor ${pid} goes on as what is installed now, after ${ms} ms\n`)
}

async function again(
  control: string,
  replaced: number,
  until: number,
): Promise<SupervisorStatus['supervisor']> {
  for (;;) {
    const left = Math.max(1, Math.round(until - performance.now()))
    const now = await supervisorAt(control, left).catch(() => null)
    if (now && now.replaced > replaced) return now
    if (performance.now() + LOOK_MS >= until)
      throw new FdbError(
        'ERR_FDB_DEADLINE',
        `the supervisor at ${control} has left the connection, and did not answer as another program: see its log`,
      )
    await new Promise(resolve => setTimeout(resolve, LOOK_MS))
  }
}

/** Undefined: it is no supervisor, and will say so. */
async function supervisorAt(
  control: string,
  timeout: number,
): Promise<SupervisorStatus['supervisor'] | undefined> {
  using client = await OperatorClient.connect(control, { timeout })
  return ((await client.status({ timeout })) as Partial<SupervisorStatus>).supervisor
}
