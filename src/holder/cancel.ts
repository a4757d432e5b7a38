import type { FdbError } from '../errors.js'
import type { HolderEvent, HolderState } from '../handoff/holder-machine.js'
import { isBeforeCommit, isCommitted } from '../handoff/phases.js'
import type { Peer } from './peer.js'

/** Whether an upgrade that is not wanted any more has come so far that its successor decides. */
export type Cancelled =
  /** The joiner was given up; the incumbent serves on. */
  | 'cancelled'
  /** Commit has left: who serves is decided without us. */
  | 'late'
  /** No process was joining. */
  | 'idle'

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
