import type { EventType, ServiceEvent } from '../../events/events.js'
import { METRICS, observe } from '../../metrics/definitions.js'
import type { Numbers } from '../../metrics/totals.js'

/** The phases of a handoff, by the events that begin them. */
const PHASES: Partial<Record<EventType, string>> = {
  'handoff.offered': 'offering',
  'handoff.quiescing': 'quiescing',
  'handoff.freezing': 'freezing',
  'handoff.sealed': 'preparing',
  'handoff.committed': 'committing',
  'handoff.serving': 'probation',
  'rollback.started': 'returning',
}
/** The outcomes of handoffs, by the events that end them. */
const OUTCOMES: Partial<Record<EventType, string>> = {
  'handoff.kept': 'released',
  'handoff.failed': 'failed',
  'rollback.serving': 'reverted',
}

/** Counts the handoffs that have ended with an event of a number above `after`, and the time of their phases. */
export function countHandoffs(events: Iterable<ServiceEvent>, after: number, numbers: Numbers): void {
  /** The phases of the handoff that is under way, by the service: each worker has handoffs of its own. */
  const underWay = new Map<string, { readonly phase: string; readonly at: number }[]>()
  for (const { at, number, service, type } of events) {
    const phase = PHASES[type]
    const outcome = OUTCOMES[type]
    const phases = underWay.get(service) ?? []
    // The first version has no probation that ends; a daemon that was killed has not recorded all phases.
    if (type === 'handoff.offered' || type === 'daemon.restarted') phases.length = 0
    if (phase !== undefined) underWay.set(service, [...phases, { phase, at }])
    if (outcome === undefined) continue
    underWay.delete(service)
    const isReturn = phases.at(-1)?.phase === 'returning'
    // A daemon that was started again also lets the version that serves write again.
    if (number <= after || (type === 'rollback.serving' && !isReturn)) continue
    numbers('handoffs', outcome)[0]! += 1
    for (const [i, each] of phases.entries())
      observe(
        numbers('phases', each.phase),
        METRICS.phases.buckets!,
        ((phases[i + 1]?.at ?? at) - each.at) / 1_000,
      )
  }
}
