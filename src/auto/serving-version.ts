import { existsSync } from 'node:fs'
import { inheritedOutput, isAwaited } from '../base/successor-output.js'
import { FdbError } from '../index.js'
import { ANSWER_MS } from '../operator/requests.js'
import { OperatorClient } from '../operator.js'
import { startedAs } from '../os/command-line.js'
import { realPathOf } from '../os/release-link.js'
import type { Exclusion } from './exclusion.js'
import type { AutoSettings } from './settings.js'

/**
 * Whether this process is a child of the process that serves, or has served, and no next version that an upgrade has started. The upgrade may be over, if
 * another version has taken over meanwhile; the preload marks only its successor, and none if a tool has started the successor.
 */
export function isChildOf(pid: number, starters: ReadonlySet<number>): boolean {
  return starters.has(pid) && inheritedOutput() === null && !isAwaited(startedAs.env)
}

/**
 * Returns why this program is no version of the service that serves under its name; null if it is, or if none serves. `starters` are the processes
 * that have started this one.
 */
export async function exclusionFromService(
  { control, isNamed, program, service }: AutoSettings,
  starters: ReadonlySet<number>,
): Promise<Exclusion | null> {
  if (!existsSync(control)) return null
  try {
    using client = await OperatorClient.connect(control, { timeout: ANSWER_MS })
    if (isChildOf(client.peerPid, starters)) return { notice: null }
    if (isNamed) return null
    const answer = await client.status({ timeout: ANSWER_MS })
    const replaced = 'draining' in answer && !client.inOtherPidNamespace ? answer.draining : []
    if (replaced.some(({ pid = 0 }) => isChildOf(pid, starters))) return { notice: null }
    const { program: served, replaces } =
      'details' in answer ? answer.details : ({} as Record<string, unknown>)
    // `upgrade --kill-stuck` waits for the next version of a killed process.
    if (replaces !== undefined || (typeof served === 'string' && isSameFile(served, program))) return null
    const other = typeof served === 'string' ? served : `${control} (pid ${client.peerPid})`
    return {
      notice: `"${service}" is the service of another program, ${other}: this program runs without upgrades; set FD_BROKER_NAME (with fd-broker start: --name) to a name of its own (or to "${service}" to make it the next version of that program)`,
    }
  } catch (error) {
    // The control socket may be left from a process that has ended. join() handles that, and reports other errors.
    if (FdbError.is(error)) return null
    throw error
  }
}

/** Whether two paths name the same file: each may be a link to it, or lead through one (`current/`). */
function isSameFile(one: string, other: string): boolean {
  if (one === other) return true
  const real = realPathOf(one)
  return real !== null && real === realPathOf(other)
}
