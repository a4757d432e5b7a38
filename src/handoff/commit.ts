/**
 * The Commit: the holder's steps that give a joiner the right to serve, one for each answer. {@link onPrepared} decides: until then the owner serves,
 * and each failure ends in `giveUp()`; from then on the joiner serves, and each failure ends in `rollBack()` (`rollback.ts`).
 */

import {
  clearUnfit,
  type HolderEffect,
  type HolderState,
  type HolderStep,
  NOTHING,
  same,
} from './holder-state.js'
import { type Epoch, type Id, NOBODY } from './messages.js'
import { fencedEffects } from './rollback.js'
import type { Rules } from './rules.js'

/** The joiner is ready: asks the owner to end its once-only work, or goes on to {@link freeze} if the owner has no channel. */
export function onReady(state: HolderState, from: Id, rules: Rules): HolderStep {
  const { phase, owner, joiner, down, grant } = state
  if (phase !== 'offering' || from !== joiner) return same(state)
  if (owner === NOBODY) return prepare(state, rules)
  if (!rules.quiesceFirst || down.includes(owner)) return freeze(state)
  return {
    state: { ...state, phase: 'quiescing' },
    effects: [{ type: 'tell', to: owner, message: { kind: 'quiesce', epoch: grant } }],
  }
}

/** The owner has ended its once-only work. */
export function onQuiesced(state: HolderState, from: Id, epoch: Epoch): HolderStep {
  return state.phase === 'quiescing' && from === state.owner && epoch === state.grant
    ? freeze(state)
    : same(state)
}

export function freeze(state: HolderState): HolderStep {
  return {
    state: { ...state, phase: 'freezing' },
    effects: [{ type: 'tell', to: state.owner, message: { kind: 'freeze' } }],
  }
}

/** The owner appends no more. */
export function onFrozen(state: HolderState, from: Id, rules: Rules): HolderStep {
  return state.phase === 'freezing' && from === state.owner ? prepare(state, rules) : same(state)
}

/** Seals the owner's segment, which ends its right to write before {@link onPrepared} commits. */
export function prepare(state: HolderState, rules: Rules): HolderStep {
  return {
    state: { ...state, phase: 'preparing' },
    effects: [
      ...(rules.sealFirst ? [{ type: 'seal', from: 0, below: state.grant } as const] : []),
      { type: 'tell', to: state.joiner, message: { kind: 'sealed' } },
    ],
  }
}

/** The joiner has read the sealed log. Decides the Commit, and sends it: the joiner serves as soon as it receives the message. */
export function onPrepared(state: HolderState, from: Id): HolderStep {
  if (state.phase !== 'preparing' || from !== state.joiner) return same(state)
  return {
    state: { ...state, phase: 'committing' },
    effects: [{ type: 'tell', to: state.joiner, message: { kind: 'commit', epoch: state.grant } }],
  }
}

/** The joiner serves, and its probation begins; or the owner serves again. */
export function onServing(before: HolderState, from: Id, epoch: Epoch, rules: Rules): HolderStep {
  if (epoch !== before.grant) return same(before)
  const state = clearUnfit(before, from)
  if (state.phase === 'committing' && from === state.joiner) {
    const late: HolderEffect[] = rules.sealFirst ? [] : [{ type: 'seal', from: 0, below: state.grant }]
    const next: HolderState = { ...state, owner: from, joiner: NOBODY, epoch, helperAccepts: false }
    if (state.owner === NOBODY) return { state: { ...next, phase: 'idle' }, effects: late }
    const probation: HolderState = { ...next, phase: 'probation', standby: state.owner }
    const retire: HolderEffect = { type: 'tell', to: state.owner, message: { kind: 'retire' } }
    // Without seals the standby cannot take over from a living successor, so probation ends at once.
    const last = rules.arbiter ? same(probation) : onHealthy(probation)
    return { state: last.state, effects: [...late, retire, ...last.effects] }
  }
  if (state.phase === 'returning' && from === state.owner) {
    if (state.standsByAgain && state.joiner !== NOBODY) return standByAgain(state, epoch)
    const others = [...(state.joiner === NOBODY ? [] : [state.joiner]), ...state.bound]
    return {
      state: { ...state, phase: 'idle', joiner: NOBODY, standsByAgain: false, epoch, bound: others },
      effects: rules.ackBack ? fencedEffects(state, others) : NOTHING,
    }
  }
  return same(before)
}

/** The owner serves under a restarted daemon: its probation, which the restart has interrupted, begins again. */
function standByAgain(state: HolderState, epoch: Epoch): HolderStep {
  const { bound, down, joiner: standby } = state
  const retire: HolderEffect[] = down.includes(standby)
    ? []
    : [{ type: 'tell', to: standby, message: { kind: 'retire' } }]
  return {
    state: { ...state, phase: 'probation', joiner: NOBODY, standby, standsByAgain: false, epoch },
    effects: [...retire, ...fencedEffects(state, bound)],
  }
}

/** The probation has ended well: the owner before is released, and can take over no more. */
export function onHealthy(state: HolderState): HolderStep {
  if (state.phase !== 'probation') return same(state)
  if (state.scope === 'holder') {
    return {
      state: { ...state, phase: 'released' },
      // The standby, this process, closes its listeners before the owner hears: the owner closes last what it has dropped.
      effects: [
        { type: 'mark', epoch: state.epoch },
        { type: 'tell', to: state.standby, message: { kind: 'released' } },
        { type: 'tell', to: state.owner, message: { kind: 'released' } },
      ],
    }
  }
  return {
    state: {
      ...state,
      phase: 'idle',
      standby: NOBODY,
      bound: [...state.bound, state.standby],
      helperAccepts: false,
    },
    effects: [{ type: 'tell', to: state.standby, message: { kind: 'released' } }],
  }
}
