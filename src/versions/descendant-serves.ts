import { statusAt } from '../operator/client.js'
import { isDaemon, STATUS_ANSWER_MS } from '../operator/status-report.js'
import { descendsFrom, endsWithUs } from '../os/main-process.js'
import type { HealthCheck } from '../probing/health-check.js'

/** Passes if the process that serves at the control socket is `pid` or a descendant of it. */
export function descendantServes(control: string, pid: number): HealthCheck {
  return {
    name: control,
    async run() {
      const server = await serverAt(control)
      if (server === null) return 'no process serves there'
      return descendsFrom(server, pid) ? null : `process ${server} serves there, which is not of this version`
    },
  }
}

/** Resolves with the pid of the process that serves at the control socket if it descends from this process, else null. Never rejects. */
export async function servingDescendant(control: string): Promise<number | null> {
  const pid = await serverAt(control).catch(() => null)
  return pid !== null && endsWithUs(pid) ? pid : null
}

async function serverAt(control: string): Promise<number | null> {
  const answer = await statusAt(control, STATUS_ANSWER_MS)
  return isDaemon(answer) || answer.role !== 'serving' ? null : (answer.pid ?? null)
}
