import { isDaemon, type ServiceStatus, type StatusAnswer } from '../operator/answer.js'
import { DAEMON_ITSELF } from '../operator/daemon-service.js'

/** A control socket, and which service behind it; empty: the only one. */
export interface Place {
  readonly control: string
  readonly service: string
}

/** Of a daemon that holds several. */
export function serviceOf(answer: StatusAnswer, name: string): ServiceStatus | undefined {
  if (!isDaemon(answer)) return answer
  const { generation, pid, services } = answer
  if (name === DAEMON_ITSELF)
    return { service: DAEMON_ITSELF, role: 'serving', ...(pid && { pid }), ...(generation && { generation }) }
  if (name === '' && services.length === 1) return services[0]
  // Of workers the first.
  const asked = name || answer.workers?.all?.[0]?.service
  return services.find(({ service }) => service === asked)
}

/** Tells it from whoever serves before or after: in different PID namespaces both may be number 1. Null: nobody serves. */
export function whoServes(answer: StatusAnswer, name: string): string | null {
  const service = serviceOf(answer, name)
  return service?.pid ? `${service.generation} ${service.pid}` : null
}
