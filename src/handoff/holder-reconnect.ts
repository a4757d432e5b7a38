/** The holder's steps when a member reconnects, and when all members of a restarted daemon have reconnected. */

import { onServing } from './commit.js'
import {
  bind,
  type HolderEffect,
  type HolderState,
  type HolderStep,
  NOTHING,
  type Returned,
  same,
} from './holder-state.js'
import { type Epoch, type Id, NO_EPOCH, NOBODY, type Role, type ToHolder } from './messages.js'
import { giveUp, grantAgain, regrant, reinstate, rollBack } from './rollback.js'
import type { Rules } from './rules.js'

type Back = Extract<ToHolder, { kind: 'back' }>

export function onBack(before: HolderState, id: Id, back: Back, rules: Rules): HolderStep {
  const { role, epoch, sealed } = back
  const others = before.unfit.filter(u => u !== id)
  const state: HolderState = {
    ...before,
    down: before.down.filter(d => d !== id),
    unfit: back.unfit && rules.unfit ? [...others, id].sort((a, b) => a - b) : others,
    // A restarted daemon learns from its members' Back messages which epochs exist. If Back has no `top`, at most two epochs exist above the
    // member's own: the successor's, and the one for a rollback.
    top: Math.max(before.top, back.top ?? (before.phase === 'rebuilding' ? epoch + 2 : NO_EPOCH)),
  }
  switch (state.phase) {
    case 'rebuilding': {
      const backs = [
        ...state.returned.filter(b => b.id !== id),
        { id, role, epoch, top: back.top ?? null },
      ].sort((a, b) => a.id - b.id)
      const known: HolderState = { ...state, returned: backs }
      return rules.rebuildWaits ? { state: known, effects: NOTHING } : onRebuilt(known, rules)
    }
    case 'idle':
    case 'offering':
      if (id === state.owner) {
        // The holder may have sealed the segment of an unfit owner after the owner sent Back.
        if (sealed || before.unfit.includes(id))
          return state.phase === 'idle' ? reinstate(state) : giveUpAndReinstate(state, rules)
        return writesIn(back, state.epoch) ? restartWork(state, rules) : grantAgain(state, id, state.epoch)
      }
      break
    case 'quiescing':
    case 'freezing':
    case 'preparing':
      if (id === state.owner)
        return sealed || writesIn(back, state.epoch) ? same(state) : grantAgain(state, id, state.epoch)
      break
    case 'committing':
      if (id === state.owner) {
        if (state.unfit.includes(state.joiner)) return rollBack(state, rules)
        const effects: HolderEffect[] = state.helperAccepts
          ? [{ type: 'tell', to: id, message: { kind: 'resume' } }]
          : []
        return { state, effects }
      }
      if (id === state.joiner) {
        if (role === 'ready') {
          return {
            state,
            effects: [{ type: 'tell', to: id, message: { kind: 'commit', epoch: state.grant } }],
          }
        }
        if (writesIn(back, state.grant)) return onServing(state, id, epoch, rules)
        return grantAgain(state, id, state.grant)
      }
      break
    case 'probation':
      if (id === state.standby) {
        if (state.down.includes(state.owner)) return rollBack(state, rules)
        const retire: HolderEffect = { type: 'tell', to: id, message: { kind: 'retire' } }
        if (!state.helperAccepts) return { state, effects: [retire] }
        // If the standby has missed Retire, send it again: without it the standby would ignore Released later.
        const resume: HolderEffect = { type: 'tell', to: id, message: { kind: 'resume' } }
        return { state, effects: role === 'standby' ? [resume] : [retire, resume] }
      }
      if (id === state.owner) return same(state)
      break
    case 'returning':
      if (id === state.owner) return grantAgain(state, id, state.grant)
      if (id === state.joiner)
        return state.unfit.includes(state.owner) ? regrant(state) : { state, effects: NOTHING }
      break
    case 'released':
      return same(state)
  }
  return { state: bind(state, id), effects: [{ type: 'tell', to: id, message: { kind: 'fenced' } }] }
}

/** Whether a member with this role had the right to write. */
export function isServing(role: Role): boolean {
  return role === 'serving' || role === 'frozen'
}

/** Whether the member writes in segment `given`. */
function writesIn({ role, epoch }: Back, given: Epoch): boolean {
  return isServing(role) && epoch === given
}

/** Tells the owner to start its once-only work again, which it may have ended for a handoff that failed while the owner had no channel. */
function restartWork(state: HolderState, rules: Rules): HolderStep {
  if (!rules.workAgain) return same(state)
  return { state, effects: [{ type: 'tell', to: state.owner, message: { kind: 'unquiesce' } }] }
}

function giveUpAndReinstate(state: HolderState, rules: Rules): HolderStep {
  const first = giveUp(state, rules)
  const second = reinstate(first.state)
  return { state: second.state, effects: [...first.effects, ...second.effects] }
}

/** Orders members that have returned to a restarted daemon: first the one that served last. */
export function byRight(a: Returned, b: Returned): number {
  const serves = ({ role }: Returned): number => (isServing(role) ? 1 : 0)
  return serves(b) - serves(a) || b.epoch - a.epoch
}

export function onRebuilt(state: HolderState, rules: Rules): HolderStep {
  if (state.phase !== 'rebuilding') return same(state)
  const unfit = (id: Id): number => (state.unfit.includes(id) ? 1 : 0)
  const best = [...state.returned].sort((a, b) => unfit(a.id) - unfit(b.id) || byRight(a, b))[0]
  if (best === undefined) return { state: { ...state, phase: 'idle', returned: [] }, effects: NOTHING }
  const others = state.returned.filter(b => b.id !== best.id)
  const elder = standbyOf(best, others)
  const [joiner = NOBODY, ...bound] = [
    ...(elder === undefined ? [] : [elder.id]),
    ...others.filter(b => b !== elder).map(b => b.id),
  ]
  const step = reinstate({ ...state, owner: best.id, returned: [] }, elder !== undefined && rules.arbiter)
  const effects = rules.sealRest ? step.effects : step.effects.filter(e => e.type !== 'seal')
  return { state: { ...step.state, joiner, bound }, effects }
}

/**
 * Returns the member that stood by for `owner`, or was about to, when the daemon was lost. Both know the same epochs, because after a probation the
 * owner alone gets new ones.
 */
function standbyOf(owner: Returned, others: readonly Returned[]): Returned | undefined {
  if (!isServing(owner.role) || owner.top === null) return undefined
  return others
    .filter(({ role, epoch, top }) => role !== 'ready' && epoch < owner.epoch && top === owner.top)
    .sort((a, b) => b.epoch - a.epoch)[0]
}
