import { FdbError } from '../errors.js'
import {
  CHANGES,
  type Changes,
  RELOAD,
  type Reloaded,
  readChanges,
  readReloaded,
  readTold,
  type Told,
} from '../operator/service-commands.js'
import { AGAIN, AGAIN_HARMLESS, type AskFlags, commanded } from './ask-service.js'

export interface Plan {
  readonly done: 'upgrade' | 'reload' | 'nothing'
  /** Text for the operator. */
  readonly because: string
  readonly changes: Changes
}

/** Asks the serving process what has changed. Rejects with ERR_FDB_COMMAND_UNKNOWN if it cannot tell. */
export async function planFor(flags: AskFlags): Promise<Plan> {
  const reply = await commanded(flags, AGAIN_HARMLESS, CHANGES).catch(error => {
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_COMMAND_UNKNOWN') throw error
    const why = 'this service does not know what it has loaded (fd-broker proxy does): leave --smart out'
    throw new FdbError(error.code, why, { cause: error })
  })
  const changes = readChanges(reply)
  const { code, next, configuration } = changes
  if (code.length > 0) return { done: 'upgrade', because: `the code has changed (${named(code)})`, changes }
  if (next.length > 0) {
    const because = `the configuration has changed in what only the next process takes over (${named(next)})`
    return { done: 'upgrade', because, changes }
  }
  if (configuration.length > 0) {
    return { done: 'reload', because: `the configuration has changed (${named(configuration)})`, changes }
  }
  return { done: 'nothing', because: 'nothing has changed', changes }
}

export async function reload(flags: AskFlags): Promise<Told | Reloaded> {
  const reply = await commanded(flags, AGAIN, RELOAD)
  return readReloaded(reply) ?? readTold(reply)
}

const NAMED = 3

function named(names: readonly string[]): string {
  const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : ''
  return names.slice(0, NAMED).join(', ') + more
}
