import type { FdbError } from '../errors.js'
import type { HolderEvent, HolderState } from '../handoff/holder-machine.js'
import { isBeforeCommit, isCommitted } from '../handoff/phases.js'
import type { Cancelled } from '../versions/attempt.js'
import type { Peer } from './peer.js'

/** Gives the joiner up for `reason`, unless its Commit has left. */
export function cancelHandoff(
  on: { state: HolderState; peer: Peer | undefined; dispatch(event: HolderEvent): void },
  reason: FdbError,
): Cancelled {
  const { state, peer, dispatch } = on
  if (isCommitted(state.phase) || state.phase === 'released') return 'late'
  if (!isBeforeCommit(state.phase)) return 'idle'
  if (peer !== undefined) peer.reason = reason
  dispatch({ type: 'cancel' })
  return 'cancelled'
}
