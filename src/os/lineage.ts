import { LAST_WORDS } from '../base/successor-output.js'
import { environmentOf, procText } from '../kernel/index.js'
import { ancestryOf, processStat } from './main-process.js'
import type { ProcessIdentity } from './process-identity.js'

/** How a process was started, as /proc showed it while the process lived. */
export interface Lineage {
  readonly pid: number
  /** Undefined if the process was not visible. */
  readonly session: number | undefined
  /** Pids of the process and of its ancestors. */
  readonly ancestors: ReadonlySet<number>
  /** The variable {@link LAST_WORDS}, which the successor of an upgrade gets: null if the process was started without it; undefined if that is unreadable. */
  readonly lastWords: string | null | undefined
  /** Whether the process knows other processes by the same pids as this one: it is not in a PID namespace below this process's. */
  readonly sharesPids: boolean
}

export function lineageOf({ pid, startTime }: ProcessIdentity): Lineage {
  if (startTime === undefined)
    return { pid, session: undefined, ancestors: new Set([pid]), lastWords: undefined, sharesPids: false }
  return {
    pid,
    session: processStat(pid)?.session,
    ancestors: new Set(ancestryOf(pid)),
    lastWords: lastWordsOf(pid),
    sharesPids: !/^NSpid:\t\d+\t\d/m.test(procText(`${pid}/status`)),
  }
}

/**
 * Whether the process surely does not come from a command that was started with the variable {@link LAST_WORDS}, or from this one, if `lastWords` is
 * given: it is in another session than the command `leader`, does not descend from it, and has not inherited the variable. A wrapper such as sudo starts
 * the program in a session, and with an environment, of its own.
 */
export function isOfAnother(
  { ancestors, lastWords: own, session }: Lineage,
  leader: number,
  lastWords?: string,
): boolean {
  if (session === undefined || session === leader || ancestors.has(leader)) return false
  return own === null || (own !== undefined && lastWords !== undefined && own !== lastWords)
}

function lastWordsOf(pid: number): string | null | undefined {
  const environment = environmentOf(pid)
  if (environment === null) return undefined
  const prefix = `${LAST_WORDS}=`
  const found = environment.variables.find(each => each.startsWith(prefix))
  return found?.slice(prefix.length) ?? (environment.isWhole ? null : undefined)
}
