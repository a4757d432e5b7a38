import { FdbError } from '../errors.js'
import { CHANGES, type ChangeReport, readChanges } from '../operator/service-commands.js'
import { type AskFlags, commandService, IDEMPOTENT_RETRY_CODES } from './ask-service.js'
import { namesText, plain, print } from './output.js'
import { reload } from './reload.js'

/** The decision of `fd-broker upgrade --smart`. */
export interface Plan {
  readonly done: 'upgrade' | 'reload' | 'nothing'
  readonly because: string
  readonly changes: ChangeReport
}

/** Asks the serving process for changes. Rejects with ERR_FDB_COMMAND_UNKNOWN if the process does not know the request. */
export async function planFor(flags: AskFlags): Promise<Plan> {
  const reply = await commandService(flags, IDEMPOTENT_RETRY_CODES, CHANGES).catch(error => {
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_COMMAND_UNKNOWN') throw error
    const why =
      'this service cannot tell what has changed since its start (fd-broker proxy can): omit --smart'
    throw new FdbError(error.code, why, { cause: error })
  })
  const changes = readChanges(reply)
  const { code, next, configuration } = changes
  if (code.length > 0)
    return { done: 'upgrade', because: `the code has changed (${namesText(code, SHOWN)})`, changes }
  if (next.length > 0) {
    const because = `the configuration has changes that only the next process applies (${namesText(next, SHOWN)})`
    return { done: 'upgrade', because, changes }
  }
  if (configuration.length > 0) {
    return {
      done: 'reload',
      because: `the configuration has changed (${namesText(configuration, SHOWN)})`,
      changes,
    }
  }
  return { done: 'nothing', because: 'nothing has changed', changes }
}

const SHOWN = 3

/** Carries out a plan without an upgrade: a reload, or nothing. */
export async function executePlan(
  { done, because, changes }: Plan,
  flags: AskFlags,
  json: boolean | undefined,
): Promise<void> {
  const begun = Date.now()
  const reply = done === 'reload' ? await reload(flags) : null
  const by = reply && `: generation ${reply.generation} (pid ${reply.pid}) has read it`
  const ms = Math.max(0, Date.now() - begun)
  print(json, { ok: true, done, changes, ...reply, ms }, `${plain(because)}${by ?? ''}\n`)
}
