import type { HolderEvent, HolderState } from '../../handoff/holder-machine.js'
import { isGranted } from '../../handoff/phases.js'

/** Whether the member that serves does so for good from this step on: nobody can come back in its place. */
export function settles(
  before: HolderState,
  { phase, owner, epoch }: HolderState,
  event: HolderEvent,
): boolean {
  if (phase !== 'idle') return false
  // The right is there for a stopped member to take, and it has not: it takes it late, or another member does.
  if (before.phase === 'returning' && event.type === 'deadline') return false
  if (before.phase !== 'idle') return isGranted(before.phase)
  const said = event.type === 'message' && event.from === owner ? event.message : null
  return said?.kind === 'serving' && said.epoch === epoch
}
