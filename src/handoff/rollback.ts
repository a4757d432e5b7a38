/**
 * The holder's steps after a failed handoff: they give the right to write to the process that can serve. A successor that fails before Commit was
 * never allowed to serve: {@link giveUp}. A successor that dies after Commit, or is silent or unhealthy in its probation: {@link rollBack}. After the
 * probation no process stands by, and nothing is rolled back.
 */

import {
  clearUnfit,
  type HolderEffect,
  type HolderState,
  type HolderStep,
  NOTHING,
  same,
} from './holder-state.js'
import { type Epoch, type Id, NO_EPOCH, NOBODY } from './messages.js'
import type { Rules } from './rules.js'

/** Ends a handoff that fails before Commit: seals the joiner's segment, and the owner continues. `given`: the joiner may hold descriptors. */
export function giveUp(state: HolderState, rules: Rules, given = true): HolderStep {
  const { joiner, owner, grant, wayBack } = state
  const effects: HolderEffect[] = [{ type: 'failed', id: joiner, phase: state.phase }]
  const idle: HolderState = {
    ...state,
    phase: 'idle',
    joiner: NOBODY,
    bound: given ? [...state.bound, joiner] : state.bound,
  }
  const abort: HolderEffect[] = state.down.includes(joiner)
    ? []
    : [{ type: 'tell', to: joiner, message: { kind: 'abort' } }]
  const spoil: HolderEffect[] = rules.thawSeal ? [{ type: 'seal', from: grant, below: grant + 1 }] : []
  if (owner === NOBODY || state.phase === 'offering' || state.phase === 'quiescing') {
    const again: HolderEffect[] =
      state.phase === 'quiescing' && rules.workAgain
        ? [{ type: 'tell', to: owner, message: { kind: 'unquiesce' } }]
        : []
    return {
      state: idle,
      effects: [
        ...effects,
        ...spoil,
        { type: 'seal', from: wayBack, below: wayBack + 1 },
        ...again,
        ...abort,
      ],
    }
  }
  // The owner was told to freeze, and its segment may be sealed, so it continues in the segment for a rollback.
  return {
    state: { ...clearUnfit(idle, owner), phase: 'returning', grant: wayBack },
    effects: [
      ...effects,
      { type: 'seal', from: 0, below: rules.thawSeal ? wayBack : grant },
      { type: 'tell', to: owner, message: { kind: 'reinstate', epoch: wayBack } },
      ...abort,
    ],
  }
}

/**
 * Gives the right back to the previous owner, if that one can serve, because the successor has failed after Commit: the previous owner first accepts
 * (Resume). Then the holder seals the successor's segment, and the previous owner reads it and writes in its own (Reinstate).
 */
export function rollBack(state: HolderState, rules: Rules, newcomerDead = false): HolderStep {
  const committing = state.phase === 'committing'
  const old = committing ? state.owner : state.standby
  const newcomer = committing ? state.joiner : state.owner
  const failed: HolderEffect = { type: 'failed', id: newcomer, phase: state.phase }
  // The previous owner has reported Unfit: keep the successor while it lives.
  if (!newcomerDead && state.unfit.includes(old) && !state.unfit.includes(newcomer)) return same(state)
  if (old !== NOBODY && (!state.down.includes(old) || !rules.needOther)) {
    const returning: HolderState = {
      ...clearUnfit(state, old),
      phase: 'returning',
      owner: old,
      joiner: newcomerDead ? NOBODY : newcomer,
      standby: NOBODY,
      epoch: state.wayBack,
      grant: state.wayBack,
      helperAccepts: false,
      standsByAgain: false,
    }
    const effects: HolderEffect[] = [failed]
    if (rules.acceptFirst) effects.push({ type: 'tell', to: old, message: { kind: 'resume' } })
    if (rules.sealDecides) effects.push({ type: 'seal', from: 0, below: state.wayBack })
    effects.push({ type: 'tell', to: old, message: { kind: 'reinstate', epoch: state.wayBack } })
    if (!rules.ackBack && !newcomerDead)
      effects.push({ type: 'tell', to: newcomer, message: { kind: 'fenced' } })
    return { state: returning, effects }
  }
  if (newcomerDead) {
    const effects: HolderEffect[] = [failed, { type: 'seal', from: 0, below: state.wayBack }]
    const none: HolderState = {
      ...state,
      joiner: NOBODY,
      standby: NOBODY,
      owner: old,
      epoch: state.wayBack,
      grant: state.wayBack,
      helperAccepts: false,
    }
    // The previous owner lives but has no channel: it gets the right again when it reconnects.
    return { state: { ...none, phase: old === NOBODY ? 'idle' : 'returning' }, effects }
  }
  // Only the successor can serve now: keep it until the previous owner reconnects or a process is proved dead.
  return same(state)
}

/** Gives the right to the rolled-back successor again, in a new segment, because the previous owner is dead, stuck or unfit. */
export function regrant(state: HolderState): HolderStep {
  const grant = state.top + 1
  const wayBack = state.top + 2
  return {
    state: {
      ...clearUnfit(state, state.joiner),
      phase: 'committing',
      grant,
      wayBack,
      top: wayBack,
      standsByAgain: false,
    },
    effects: [
      { type: 'make', epochs: [grant, wayBack] },
      { type: 'seal', from: 0, below: grant },
      { type: 'tell', to: state.joiner, message: { kind: 'reinstate', epoch: grant } },
    ],
  }
}

/** Gives the owner the right in a new segment. `standsByAgain`: a standby gets a segment too, in which it would write instead of the owner. */
export function reinstate(state: HolderState, standsByAgain = false): HolderStep {
  const grant = state.top + 1
  const wayBack = standsByAgain ? grant + 1 : grant
  return {
    state: {
      ...clearUnfit(state, state.owner),
      phase: 'returning',
      joiner: NOBODY,
      standsByAgain,
      grant,
      wayBack,
      top: wayBack,
    },
    effects: [
      { type: 'make', epochs: standsByAgain ? [grant, wayBack] : [grant] },
      { type: 'seal', from: 0, below: grant },
      { type: 'tell', to: state.owner, message: { kind: 'reinstate', epoch: grant } },
    ],
  }
}

/** Sends the grant again, because the first message may have been lost with the channel. */
export function grantAgain(state: HolderState, to: Id, epoch: Epoch): HolderStep {
  return { state, effects: [{ type: 'tell', to, message: { kind: 'reinstate', epoch } }] }
}

/** Waits for `owner`, which is stopped or slow, because no other process can serve: that one serves when it runs again, unless a joiner takes over first. */
export function waitForOwner(state: HolderState, owner: Id): HolderStep {
  return {
    state: { ...state, phase: 'idle', owner, joiner: NOBODY, epoch: state.grant },
    effects: NOTHING,
  }
}

/** Lets `owner` serve reads, because no process can write. A new version that joins can still read the whole state, and write. */
export function serveReadsOnly(state: HolderState, owner: Id, other: Id): HolderStep {
  const others = [...(other === NOBODY ? [] : [other]), ...state.bound]
  return {
    state: {
      ...state,
      phase: 'idle',
      owner,
      joiner: NOBODY,
      standby: NOBODY,
      epoch: state.top,
      grant: NO_EPOCH,
      bound: others,
      helperAccepts: false,
    },
    effects: [
      // The owner may have failed to accept: it must try again before the others leave.
      ...(state.down.includes(owner)
        ? []
        : [{ type: 'tell', to: owner, message: { kind: 'resume' } } as const]),
      { type: 'seal', from: 0, below: state.top + 1 },
      ...fencedEffects(state, others),
    ],
  }
}

/** Tells the `helper` (see `helperAccepts`) to accept although it cannot write, so that clients can connect. */
export function letAccept(state: HolderState, helper: Id): HolderStep {
  if (state.helperAccepts || state.down.includes(helper)) return same(state)
  return {
    state: { ...state, helperAccepts: true },
    effects: [{ type: 'tell', to: helper, message: { kind: 'resume' } }],
  }
}

export function fencedEffects(state: HolderState, ids: readonly Id[]): HolderEffect[] {
  return ids
    .filter(id => !state.down.includes(id))
    .map(id => ({ type: 'tell', to: id, message: { kind: 'fenced' } }))
}
