import { existsSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { OperatorClient, statusAt } from '../operator/client.js'
import { linkTargets, type Release } from '../os/release-link.js'
import type { SupervisorStatus } from '../run/status.js'
import { type ServiceAddress, serviceOf, servingKey } from './status-answer.js'

/** Installs a release at the path that the server is started from, and reverts that if the upgrade fails. */
export interface ReleaseChange {
  apply(): void
  revert(): void
  commit?(): void
  readonly path: string
}

const ANSWER_MS = 5_000

/** Upgrades to the release `to`. A supervisor switches the link itself, and back after a failure. For other servers this command does so. */
export async function upgradeTo<T>(
  address: ServiceAddress,
  to: string,
  change: ReleaseChange,
  upgrade: (release?: Release) => Promise<T>,
): Promise<T> {
  if (existsSync(to) && linkTargets(change.path) !== null && (await switchesLinks(address))) {
    try {
      return await upgrade({ at: change.path, to })
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_RELEASE_LINK') throw error
      process.stderr.write(`${error.message}: this command switches the link instead\n`)
    }
  }
  return await withRelease(address, change, () => upgrade())
}

/**
 * Runs an upgrade to another release, and restores the previous release if the upgrade fails. If it is unknown which process serves, keeps the
 * new release at the path, and prints a message.
 */
async function withRelease<T>(
  address: ServiceAddress,
  change: ReleaseChange,
  upgrade: () => Promise<T>,
): Promise<T> {
  const before = await serving(address)
  change.apply()
  try {
    const upgraded = await upgrade()
    change.commit?.()
    return upgraded
  } catch (error) {
    if (before !== null && (await serving(address)) === before) {
      change.revert()
      throw error
    }
    change.commit?.()
    process.stderr.write(`it is unknown which version serves: ${change.path} keeps the new release\n`)
    throw error
  }
}

/** Whether a supervisor switches the link. A supervisor in another container may see another file at the same path. */
async function switchesLinks({ control, service }: ServiceAddress): Promise<boolean> {
  try {
    using client = await OperatorClient.connect(control, { timeout: ANSWER_MS })
    const answer = await client.status({ timeout: ANSWER_MS })
    const { supervisor } = (serviceOf(answer, service) ?? {}) as Partial<SupervisorStatus>
    return supervisor?.leadsLinks === true && !client.inOtherPidNamespace
  } catch {
    return false
  }
}

async function serving({ control, service }: ServiceAddress): Promise<string | null> {
  const answer = await statusAt(control, ANSWER_MS).catch(() => null)
  return answer && servingKey(answer, service)
}
