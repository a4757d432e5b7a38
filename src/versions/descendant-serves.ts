import { FdbError } from '../errors.js'
import { askServing, servingPid } from '../operator/serving.js'
import { descendsFrom, endsWithUs } from '../os/main-process.js'
import type { HealthCheck } from '../probing/health-check.js'

/** Passes if the process that serves at the control socket is `pid` or a descendant of it. */
export function descendantServes(control: string, pid: number): HealthCheck {
  return {
    name: control,
    async run() {
      const serving = await askServing(control)
      if (FdbError.is(serving)) throw serving
      if (serving === null) return 'no process serves there'
      const { pid: server, role } = serving
      if (server === null || !descendsFrom(server, pid))
        return `process ${server ?? 'of another container'} serves there, which is not of this version`
      return role === 'serving' ? null : `process ${server} does not serve yet`
    },
  }
}

/** Resolves with the pid of the process that serves at the control socket if it descends from this process, else null. Never rejects. */
export async function servingDescendant(control: string): Promise<number | null> {
  const pid = await servingPid(control)
  return pid !== null && endsWithUs(pid) ? pid : null
}
