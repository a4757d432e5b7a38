import { FdbError } from '../errors.js'
import { statusAt } from '../operator/client.js'
import { UPGRADE_SELF } from '../operator/service-commands.js'
import type { SupervisorStatus } from '../run/status.js'
import { type AskFlags, commandService, pollUntil } from './ask-service.js'
import { print } from './output.js'

/** Replaces a supervisor by the installed release, and waits until that answers. */
export async function upgradeSelf(flags: AskFlags, json: boolean | undefined): Promise<void> {
  const { control, timeout } = flags
  const begun = performance.now()
  const before = await supervisorAt(control, timeout)
  try {
    await commandService(flags, new Set(), UPGRADE_SELF)
  } catch (error) {
    // The supervisor's next image does not inherit this connection.
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_CHANNEL_CLOSED') throw error
  }
  const after = await pollUntil(begun + timeout, async left => {
    const now = await supervisorAt(control, left).catch(() => null)
    return now && now.replaced > (before?.replaced ?? 0) ? now : null
  })
  if (after === null)
    throw new FdbError(
      'ERR_FDB_DEADLINE',
      `the supervisor at ${control} closed the connection, and the installed release, which replaces it, did not answer: see the log of the supervisor`,
    )
  const { pid } = after
  const ms = Math.round(performance.now() - begun)
  print(json, { ok: true, pid, ms }, `supervisor ${pid} runs the installed release, after ${ms} ms\n`)
}

/** Returns undefined if the process is no supervisor; it refuses the command itself. */
async function supervisorAt(
  control: string,
  timeout: number,
): Promise<SupervisorStatus['supervisor'] | undefined> {
  return ((await statusAt(control, timeout)) as Partial<SupervisorStatus>).supervisor
}
