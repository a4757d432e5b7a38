import { OperatorClient } from '../../operator/client.js'
import { DAEMON_ITSELF } from '../../operator/service-name.js'
import { isDaemon, STATUS_ANSWER_MS, type StatusAnswer } from '../../operator/status-report.js'

/** A process that serves. */
export interface ServingProcess {
  readonly pid: number
  /** In another PID namespace. */
  readonly elsewhere: boolean
}

/** Asks at the control path which process serves; null if there is none. */
export async function findServing(control: string | null, service: string): Promise<ServingProcess | null> {
  if (control === null) return null
  try {
    using client = await OperatorClient.connect(control, { timeout: STATUS_ANSWER_MS })
    const pid = serverOf(await client.status({ timeout: STATUS_ANSWER_MS }), service)
    return pid === null ? null : { pid, elsewhere: client.inOtherPidNamespace }
  } catch {
    return null
  }
}

/** As {@link findServing}, but only in this PID namespace. */
export async function servingPid(control: string | null, service: string): Promise<number | null> {
  const server = await findServing(control, service)
  return server === null || server.elsewhere ? null : server.pid
}

function serverOf(answer: StatusAnswer, service: string): number | null {
  if (!isDaemon(answer)) return answer.pid ?? null
  const { pid, services } = answer
  return (service === DAEMON_ITSELF ? pid : services.find(one => one.service === service)?.pid) ?? null
}
