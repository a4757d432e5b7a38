import { type HolderPhase, isCommitted } from '../handoff/phases.js'
import type { EventType } from './events.js'

const PHASE_EVENTS: Partial<Record<HolderPhase, EventType>> = {
  offering: 'handoff.offered',
  quiescing: 'handoff.quiescing',
  freezing: 'handoff.freezing',
  preparing: 'handoff.sealed',
  committing: 'handoff.committed',
  probation: 'handoff.serving',
  released: 'handoff.kept',
}

/**
 * Returns the event of a holder that gets from one phase to another; null if that is no event, or if the failure of the handoff is. `earlier`: the
 * phase before `before`.
 */
export function eventOf(
  before: HolderPhase,
  after: HolderPhase,
  earlier: HolderPhase = before,
): EventType | null {
  if (before === 'rebuilding') return 'daemon.restarted'
  if (after !== 'idle') return PHASE_EVENTS[after] ?? null
  if (before === 'probation') return 'handoff.kept'
  // From other phases the process that serves goes on in a new segment, for example because its own one is large.
  if (before === 'returning')
    return isCommitted(earlier) || earlier === 'rebuilding' ? 'rollback.serving' : null
  // No process served before.
  return before === 'committing' ? 'handoff.serving' : null
}
