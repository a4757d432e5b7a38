/** The state of a holder's state machine, its events and its effects. */
import {
  type Epoch,
  type Id,
  NO_EPOCH,
  NOBODY,
  type Role,
  type Scope,
  type ToHolder,
  type ToMember,
} from './messages.js'
import type { HolderPhase } from './phases.js'

export interface HolderState {
  readonly scope: Scope
  readonly phase: HolderPhase
  /** The process that has the right to write, or had it last. */
  readonly owner: Id
  /** The successor of a handoff; in `returning`, the successor that was rolled back. */
  readonly joiner: Id
  /** The previous owner, during probation. */
  readonly standby: Id
  /** The owner's segment. */
  readonly epoch: Epoch
  /** The segment that the holder has offered or granted last. The message Serving counts only if it names this epoch. */
  readonly grant: Epoch
  /** The segment in which the owner (in probation, the standby) writes if the handoff is given up or rolled back. */
  readonly wayBack: Epoch
  /** The highest epoch ever made. */
  readonly top: Epoch
  /** Processes that got descriptors, have no right to write, and have neither left nor died: new Offers wait for them (rule `gone`). */
  readonly bound: readonly Id[]
  /** Processes without a channel. */
  readonly down: readonly Id[]
  /** Processes that reported Unfit, and have not served since. */
  readonly unfit: readonly Id[]
  /** The process that should serve is silent, so the holder has told the helper to accept: the other process, which is unfit to write. */
  readonly helperAccepts: boolean
  /** In `returning` after a daemon's restart: the joiner is the owner's predecessor, which stands by again when the owner serves. */
  readonly standsByAgain: boolean
  /** The members that have reconnected in `rebuilding`. */
  readonly returned: readonly Returned[]
}

/** The facts in a member’s Back. */
export interface Returned {
  readonly id: Id
  readonly role: Role
  readonly epoch: Epoch
  readonly top: Epoch | null
}

export type HolderEvent =
  | { readonly type: 'join'; readonly id: Id }
  | { readonly type: 'message'; readonly from: Id; readonly message: ToHolder }
  | { readonly type: 'lost'; readonly id: Id }
  /** Proved dead (never by end of file alone). */
  | { readonly type: 'dead'; readonly id: Id }
  | { readonly type: 'deadline' }
  /** The operator cancels the upgrade; ignored after Commit. */
  | { readonly type: 'cancel' }
  /** Making the segments of an Offer failed. */
  | { readonly type: 'unmade' }
  /** Sending an Offer failed. `taken`: the kernel has accepted descriptors, which the joiner can receive. */
  | { readonly type: 'undelivered'; readonly id: Id; readonly taken: boolean }
  /** Probation: the successor reports that it is unhealthy, or an operator rolls back. */
  | { readonly type: 'unhealthy' }
  /** Probation: heartbeats are missing. */
  | { readonly type: 'silent' }
  /** Probation: the time is over, and a recent heartbeat reported health. */
  | { readonly type: 'healthy' }
  /** The owner must continue in a new segment, because its own has grown, or because an unfit owner tries again. */
  | { readonly type: 'renew' }
  /** Rebuilding: every process that may have the right to write has reconnected or is proved dead. */
  | { readonly type: 'rebuilt' }

/** Why a joiner is refused. The state may be another one when the joiner hears it. */
export type Refusal =
  /** Another handoff, or a rollback, is under way. */
  | { readonly is: 'busy'; readonly phase: HolderPhase; readonly awaited: Id }
  /** The owner has lost its channel. */
  | { readonly is: 'untold'; readonly owner: Id }
  | { readonly is: 'bound'; readonly ids: readonly Id[] }

export type HolderEffect =
  | { readonly type: 'tell'; readonly to: Id; readonly message: ToMember }
  /** Seal every segment with from <= epoch < below. */
  | { readonly type: 'seal'; readonly from: Epoch; readonly below: Epoch }
  /** Make these segments, and share them before a process writes there. `offer`: they are for a joiner, so a failure ends the handoff; without it the driver retries. */
  | { readonly type: 'make'; readonly epochs: readonly Epoch[]; readonly offer?: true }
  /** Set F_SEAL_SHRINK, which tells a successor without a channel that the standby cannot take over any more. */
  | { readonly type: 'mark'; readonly epoch: Epoch }
  | { readonly type: 'refuse'; readonly id: Id; readonly because: Refusal }
  /** A handoff has failed in this phase; another process continues to serve. */
  | { readonly type: 'failed'; readonly id: Id; readonly phase: HolderPhase }

export interface HolderStep {
  readonly state: HolderState
  readonly effects: readonly HolderEffect[]
}

/** A holder with an owner that serves (embedded: its own process), or with no owner yet (daemon). */
export function initialHolder(scope: Scope, owner: Id, epoch: Epoch, top: Epoch = epoch): HolderState {
  return {
    scope,
    phase: 'idle',
    owner,
    joiner: NOBODY,
    standby: NOBODY,
    epoch,
    grant: NO_EPOCH,
    wayBack: NO_EPOCH,
    top,
    bound: [],
    down: [],
    unfit: [],
    helperAccepts: false,
    standsByAgain: false,
    returned: [],
  }
}

/** The holder of a restarted daemon, which knows no member yet. */
export function restartedHolder(): HolderState {
  return { ...initialHolder('member', NOBODY, NO_EPOCH), phase: 'rebuilding' }
}

export const NOTHING: readonly HolderEffect[] = []

export function same(state: HolderState): HolderStep {
  return { state, effects: NOTHING }
}

/** Returns the processes whose death or reconnection changes the state. */
export function concernedIds({ owner, joiner, standby, bound, returned: backs }: HolderState): Id[] {
  return [owner, joiner, standby, ...bound, ...backs.map(back => back.id)]
}

export function isConcerned(state: HolderState, id: Id): boolean {
  return concernedIds(state).includes(id)
}

/** Forgets that `id` was unfit, because it tries again. */
export function clearUnfit(state: HolderState, id: Id): HolderState {
  return state.unfit.includes(id) ? { ...state, unfit: state.unfit.filter(u => u !== id) } : state
}

export function bind(state: HolderState, id: Id): HolderState {
  return state.bound.includes(id) ? state : { ...state, bound: [...state.bound, id] }
}

export function unbind(state: HolderState, id: Id): HolderStep {
  if (!state.bound.includes(id)) return same(state)
  return { state: { ...state, bound: state.bound.filter(b => b !== id) }, effects: NOTHING }
}

export function forget(state: HolderState, id: Id): HolderState {
  return {
    ...state,
    bound: state.bound.filter(b => b !== id),
    down: state.down.filter(d => d !== id),
    unfit: state.unfit.filter(u => u !== id),
  }
}
