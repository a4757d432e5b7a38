import { isDaemon, type ServiceStatus, type StatusAnswer } from '../operator/answer.js'
import type { SupervisorStatus } from '../run/status.js'
import { type ExitCode, plain } from './output.js'

/** Roles of a process that has not come to serve, or does not any more, while no other does. */
const SERVES_NOT: ReadonlySet<string | undefined> = new Set([
  'joining',
  'ready',
  'spawning',
  'starting',
  'waiting',
  'gone',
])

/** Why a service is not well, and the exit code of `fd-broker status` for it. */
export interface Ill {
  readonly code: ExitCode
  readonly why: string
}

/** Null: each service is served, and no program ends again and again. */
export function illnessOf(answer: StatusAnswer): Ill | null {
  const services: readonly ServiceStatus[] = isDaemon(answer) ? answer.services : [answer]
  const all = services.flatMap(service => illness(service) ?? [])
  return all.find(({ code }) => code === 3) ?? all[0] ?? null
}

function illness(report: ServiceStatus): Ill | null {
  const { pid, role, service } = report
  const { supervisor } = report as Partial<SupervisorStatus>
  const loops = supervisor?.loops ? `: its program ended or failed ${supervisor.failures} times in a row` : ''
  if (pid === null || SERVES_NOT.has(role)) {
    const state = role === undefined || pid === null ? '' : ` (it is ${plain(role)})`
    return { code: 3, why: `no process serves ${plain(service)}${state}${loops}` }
  }
  return loops === '' ? null : { code: 1, why: `${plain(service)} is in a loop of crashes${loops}` }
}

/** The same answer; a failure that is older than the version that serves says so. */
export function withAges(answer: StatusAnswer): StatusAnswer {
  if (isDaemon(answer)) return { ...answer, services: answer.services.map(withAge) }
  return withAge(answer)
}

function withAge(report: ServiceStatus): ServiceStatus {
  const { lastFailure } = report
  return lastFailure ? { ...report, lastFailure: { ...lastFailure, old: isOld(report) } } : report
}

/** A version has come to serve since the last failure. */
export function isOld(report: ServiceStatus): boolean {
  // An earlier version serves because of it.
  if (typeof (report as Partial<SupervisorStatus>).supervisor?.again === 'number') return false
  const { lastFailure, processStartedAt, handoffs } = report
  const at = lastFailure?.at ?? Number.NaN
  const served = handoffs?.some(
    ({ outcome, phases }) =>
      (outcome === 'serving' || outcome === 'released') && (phases.at(-1)?.at ?? 0) > at,
  )
  return served === true || Date.parse(processStartedAt ?? '') > at
}
