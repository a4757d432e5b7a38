import { FdbError } from '../errors.js'
import { statusAt } from '../operator/client.js'
import { DAEMON_ITSELF, refuseOtherService } from '../operator/service-name.js'
import { servingIn } from '../operator/serving.js'
import { isDaemon, type ServiceStatus, type StatusAnswer } from '../operator/status-report.js'

/** A control socket, and the name of a service there. An empty name means the only service. */
export interface ServiceAddress {
  readonly control: string
  readonly service: string
}

/** Returns the status of one service from an answer that may list several. */
export function serviceOf(answer: StatusAnswer, name: string): ServiceStatus | undefined {
  if (!isDaemon(answer)) return answer
  const { services } = answer
  if (name === '' && services.length === 1) return services[0]
  // Without a name the first worker stands for all workers.
  const wanted = name || answer.workers?.all?.[0]?.service
  return wanted === undefined ? undefined : servingIn(answer, wanted)
}

/** Asks for the status of one service. Resolves with undefined if no process answers, or if the answer does not have the service. Never rejects. */
export async function askStatus(
  { control, service = '' }: Pick<ServiceAddress, 'control'> & Partial<ServiceAddress>,
  timeout: number,
): Promise<ServiceStatus | undefined> {
  const answer = await statusAt(control, timeout).catch(() => null)
  return answer === null ? undefined : serviceOf(answer, service)
}

/**
 * Identifies the serving process by generation and pid: in different PID namespaces two versions may both be pid 1. Returns null if no
 * process serves.
 */
export function servingKey(service: ServiceStatus | undefined): string | null {
  return service?.pid ? `${service.generation} ${service.pid}` : null
}

/** Reduces an answer to one service. The common name of workers keeps all workers. Throws ERR_FDB_SERVICE. */
export function narrowAnswer(answer: StatusAnswer, { control, service: name }: ServiceAddress): StatusAnswer {
  if (name === '') return answer
  if (!isDaemon(answer)) {
    refuseOtherService(name, { service: answer.service ?? name, control })
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
