import { FdbError } from '../errors.js'
import { DAEMON_ITSELF, refuseOther } from '../operator/asked-service.js'
import { isDaemon, type ServiceStatus, type StatusAnswer } from '../operator/status-report.js'

/** A control socket, and which service behind it; empty: the only one. */
export interface Place {
  readonly control: string
  readonly service: string
}

/** The status of a service, from a daemon with several. */
export function serviceOf(answer: StatusAnswer, name: string): ServiceStatus | undefined {
  if (!isDaemon(answer)) return answer
  const { generation, pid, services } = answer
  if (name === DAEMON_ITSELF)
    return { service: DAEMON_ITSELF, role: 'serving', ...(pid && { pid }), ...(generation && { generation }) }
  if (name === '' && services.length === 1) return services[0]
  // Workers are asked by the first.
  const asked = name || answer.workers?.all?.[0]?.service
  return services.find(({ service }) => service === asked)
}

/** Tells the process that serves from those before or after: in different PID namespaces both may be number 1. Null: no process serves. */
export function whoServes(answer: StatusAnswer, name: string): string | null {
  const service = serviceOf(answer, name)
  return service?.pid ? `${service.generation} ${service.pid}` : null
}

/** The same answer, of one service; of workers the plain name is that of all. Throws ERR_FDB_SERVICE. */
export function answerOf(answer: StatusAnswer, { control, service: name }: Place): StatusAnswer {
  if (name === '') return answer
  if (!isDaemon(answer)) {
    refuseOther(name, { service: answer.service ?? name, control })
    return answer
  }
  const { services, workers } = answer
  if (workers !== undefined && name === workers.all?.[0]?.service) return answer
  const found = services.filter(({ service }) => service === name)
  if (found.length === 0 && name !== DAEMON_ITSELF) {
    const held = services.map(({ service }) => service).join(', ') || 'none'
    throw new FdbError('ERR_FDB_SERVICE', `there is no service "${name}" (this daemon holds: ${held})`)
  }
  const all = workers?.all?.filter(({ service }) => service === name)
  return { ...answer, services: found, ...(all && { workers: { ...workers, all } }) }
}
