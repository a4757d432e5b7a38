import type { FdbError } from '../errors.js'
import { beforeCommit, type HolderEvent, type HolderState } from '../protocol/holder-machine.js'
import type { Peer } from './peer.js'

/** Whether an upgrade that is not wanted any more has come so far that its successor decides. */
export type Cancelled =
  /** The joiner was given up; the incumbent serves on. */
  | 'cancelled'
  /** Commit has left: who serves is decided without us. */
  | 'late'
  /** Nobody was joining. */
  | 'idle'

/** Gives the joiner up for `reason`, unless its Commit has left. */
export function cancelHandoff(
  on: { state: HolderState; peer: Peer | undefined; dispatch(event: HolderEvent): void },
  reason: FdbError,
): Cancelled {
  const { state, peer, dispatch } = on
  if (state.phase === 'committing' || state.phase === 'probation' || state.phase === 'released') return 'late'
  if (!beforeCommit(state)) return 'idle'
  if (peer !== undefined) peer.reason = reason
  dispatch({ type: 'cancel' })
  return 'cancelled'
}
