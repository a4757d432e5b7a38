import type { SimulatedProcess } from '../process.js'
import { RETURN_MS } from './daemon.js'
import type { Version } from './program.js'

/** The process that writes the file may have ended before it answered: then the disk is not to blame. */
const UNANSWERED = new Set<string | undefined>(['ERR_FDB_DEADLINE', 'ERR_FDB_FENCED'])

/** Returns the changes that were refused without a reason, in a run in which nothing was short and the disk was good. `daemons`: all of the run. */
export function refusals(versions: readonly Version[], daemons: readonly SimulatedProcess[]): string[] {
  const wrong: string[] = []
  for (const { p, refused, cutsFrom } of versions)
    for (const { begun, at, error } of refused) {
      // The timeout of close() is over: the process ends.
      if (begun >= cutsFrom) continue
      // While a process was stopped, another one may have replaced the file that a change waits for.
      if (p.stoppedUntil >= begun) continue
      const { code, cause } = error as { code?: string; cause?: { code?: string } }
      const what = `${p.name} refused a change of ${begun.toFixed(3)} at ${at.toFixed(3)} with ${code}`
      if (code === 'ERR_FDB_STATE_FILE' && !UNANSWERED.has(cause?.code))
        wrong.push(`${what}, as if the disk were bad`)
      // A new service takes no changes of an earlier one.
      const server = versions.find(
        version => servedFrom(version, begun, at) && (!version.first || version.firstAt <= p.startedAt),
      )
      const isOutOfReach = daemons.some(
        daemon => (daemon.diedAt >= begun - RETURN_MS && daemon.diedAt <= at) || daemon.stoppedUntil >= begun,
      )
      if (server !== undefined && !isOutOfReach) wrong.push(`${what}, while ${server.p.name} served`)
    }
  return wrong.slice(0, 3)
}

function servedFrom({ p, served }: Version, begun: number, at: number): boolean {
  return p.diedAt > at && p.stoppedUntil < begun && served.some(({ from, to }) => from <= begun && to >= at)
}
