import { existsSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { OperatorClient, statusAt } from '../operator/client.js'
import { linkTargets, type Release } from '../os/release-link.js'
import type { SupervisorStatus } from '../run/status.js'
import { type Place, serviceOf, whoServes } from './who-serves.js'

/** Changes what the server is started from, and back when the upgrade to it has failed. */
export interface ReleaseChange {
  put(): void
  back(): void
  settle?(): void
  readonly path: string
}

const ANSWER_MS = 5_000

/** Upgrades to the release `to`. A supervisor leads the link itself, and back after a failure; for all others this tool changes it. */
export async function upgradeTo<T>(
  place: Place,
  to: string,
  change: ReleaseChange,
  upgrade: (release?: Release) => Promise<T>,
): Promise<T> {
  if (existsSync(to) && linkTargets(change.path) !== null && (await leadsLinks(place))) {
    try {
      return await upgrade({ at: change.path, to })
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_RELEASE_LINK') throw error
      process.stderr.write(`${error.message}: meanwhile this tool does it\n`)
    }
  }
  return await withRelease(place, change, () => upgrade())
}

/** Runs an upgrade to another release. If the failure of an upgrade is uncertain, the release is left as it is, with a message. */
async function withRelease<T>(place: Place, change: ReleaseChange, upgrade: () => Promise<T>): Promise<T> {
  const before = await serving(place)
  change.put()
  try {
    const upgraded = await upgrade()
    change.settle?.()
    return upgraded
  } catch (error) {
    if (before !== null && (await serving(place)) === before) {
      change.back()
      throw error
    }
    change.settle?.()
    process.stderr.write(`it is not known who serves: ${change.path} is left as it is\n`)
    throw error
  }
}

/** The paths of a process in another container may be other files. */
async function leadsLinks({ control, service }: Place): Promise<boolean> {
  try {
    using client = await OperatorClient.connect(control, { timeout: ANSWER_MS })
    const answer = await client.status({ timeout: ANSWER_MS })
    const { supervisor } = (serviceOf(answer, service) ?? {}) as Partial<SupervisorStatus>
    return supervisor?.leadsLinks === true && !client.elsewhere
  } catch {
    return false
  }
}

async function serving({ control, service }: Place): Promise<string | null> {
  const answer = await statusAt(control, ANSWER_MS).catch(() => null)
  return answer && whoServes(answer, service)
}
