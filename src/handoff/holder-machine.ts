/**
 * The holder's side of a handoff, as a pure function. The holder decides which process may serve, by sealing segments: to grant epoch n,
 * the holder seals every segment below n. The holder lives in the serving process (embedded) or in a process of its own (daemon); both run
 * this machine. The driver carries out the effects **in the order given**. A failed Offer is an event (`unmade`, `undelivered`). The driver
 * repeats sealing, marking and making segments for a grant until they succeed; later effects wait.
 */
import { freeze, onFrozen, onHealthy, onPrepared, onQuiesced, onReady, onServing, prepare } from './commit.js'
import { onBack, onRebuilt } from './holder-reconnect.js'
import {
  clearUnfit,
  forget,
  type HolderEvent,
  type HolderState,
  type HolderStep,
  isConcerned,
  NOTHING,
  type Refusal,
  same,
  unbind,
} from './holder-state.js'
import { type Epoch, type Id, NOBODY, type ToHolder } from './messages.js'
import { isBeforeCommit } from './phases.js'
import {
  giveUp,
  grantAgain,
  letAccept,
  regrant,
  reinstate,
  rollBack,
  serveReadsOnly,
  waitForOwner,
} from './rollback.js'
import { RULES, type Rules } from './rules.js'

export {
  concernedIds,
  type HolderEffect,
  type HolderEvent,
  type HolderState,
  type HolderStep,
  initialHolder,
  type Refusal,
  restartedHolder,
} from './holder-state.js'

export function stepHolder(state: HolderState, event: HolderEvent, rules: Rules = RULES): HolderStep {
  if (state.phase === 'released')
    return event.type === 'join' ? refuse(state, event.id, busy(state)) : same(state)
  switch (event.type) {
    case 'join':
      return onJoin(state, event.id, rules)
    case 'message':
      return onMessage(state, event.from, event.message, rules)
    case 'lost':
      return onLost(state, event.id, rules)
    case 'dead':
      return onDead(state, event.id, rules)
    case 'deadline':
      return onDeadline(state, rules)
    case 'cancel':
      return isBeforeCommit(state.phase) ? giveUp(state, rules) : same(state)
    case 'unmade':
      return state.phase === 'offering' ? giveUp(state, rules, false) : same(state)
    case 'undelivered':
      return onUndelivered(state, event.id, event.taken, rules)
    case 'unhealthy':
      return state.phase === 'probation' ? rollBack(state, rules) : same(state)
    case 'silent':
      return onSilent(state, rules)
    case 'healthy':
      return onHealthy(state)
    case 'renew':
      return onRenew(state)
    case 'rebuilt':
      return onRebuilt(state, rules)
  }
}

function onJoin(state: HolderState, id: Id, rules: Rules): HolderStep {
  const { bound, down, owner, phase } = state
  if (phase !== 'idle') return refuse(state, id, busy(state))
  // An owner without a channel would not get the new segments.
  if (down.includes(owner)) return refuse(state, id, { is: 'untold', owner })
  if (bound.length > 0 && rules.gone) return refuse(state, id, { is: 'bound', ids: bound })
  const grant = state.top + 1
  const wayBack = state.top + 2
  return {
    state: { ...state, phase: 'offering', joiner: id, grant, wayBack, top: wayBack },
    effects: [
      { type: 'make', epochs: [grant, wayBack], offer: true },
      { type: 'tell', to: id, message: { kind: 'offer', epoch: grant, wayBack, source: state.epoch } },
    ],
  }
}

function busy({ joiner, owner, phase }: HolderState): Refusal {
  return { is: 'busy', phase, awaited: phase === 'returning' ? owner : joiner }
}

function refuse(state: HolderState, id: Id, because: Refusal): HolderStep {
  return { state, effects: [{ type: 'refuse', id, because }] }
}

function onMessage(state: HolderState, from: Id, message: ToHolder, rules: Rules): HolderStep {
  switch (message.kind) {
    case 'ready':
      return onReady(state, from, rules)
    case 'quiesced':
      return onQuiesced(state, from, message.epoch)
    case 'frozen':
      return onFrozen(state, from, rules)
    case 'prepared':
      return onPrepared(state, from)
    case 'serving':
      return onServing(state, from, message.epoch, rules)
    case 'abort':
      if (from !== state.joiner) return unbind(state, from)
      // A joiner sends Abort after it has released everything: the next Offer need not wait for its death.
      if (isBeforeCommit(state.phase)) {
        const step = giveUp(state, rules)
        return { state: forget(step.state, from), effects: step.effects }
      }
      return state.phase === 'committing' ? rollBack(state, rules, true) : same(state)
    case 'gone':
      return onGone(state, from, rules)
    case 'unfit':
      return onUnfit(state, from, message.epoch, rules)
    case 'back':
      return onBack(state, from, message, rules)
    default:
      // A newer release sent a message that this one does not know.
      return same(state)
  }
}

function onLost(before: HolderState, id: Id, rules: Rules): HolderStep {
  if (before.down.includes(id) || !isConcerned(before, id)) return same(before)
  const state: HolderState = { ...before, down: [...before.down, id].sort((a, b) => a - b) }
  if (id === state.joiner) {
    if (isBeforeCommit(state.phase)) return giveUp(state, rules)
    // Without seals a living joiner may write: wait for its death, or for Serving over a new channel.
    return state.phase === 'committing' && rules.arbiter ? rollBack(state, rules) : same(state)
  }
  if (id === state.owner && state.phase === 'quiescing') return freeze(state)
  // An owner that loses its channel in `returning` reconnects or is proved dead; otherwise the deadline gives the right to the joiner.
  return id === state.owner && state.phase === 'probation' ? rollBack(state, rules) : same(state)
}

function onDead(before: HolderState, id: Id, rules: Rules): HolderStep {
  if (!isConcerned(before, id)) return same(before)
  const state = { ...forget(before, id), returned: before.returned.filter(b => b.id !== id) }
  if (id === state.joiner) {
    if (isBeforeCommit(state.phase)) {
      const step = giveUp({ ...state, down: [...state.down, id] }, rules)
      return { state: forget(step.state, id), effects: step.effects }
    }
    if (state.phase === 'committing') return rollBack(state, rules, true)
    // In `returning` the joiner is the successor that was rolled back. If the owner is unfit, no process is left that can write.
    return state.unfit.includes(state.owner)
      ? serveReadsOnly(state, state.owner, NOBODY)
      : { state: { ...state, joiner: NOBODY }, effects: NOTHING }
  }
  if (id === state.standby)
    return { state: { ...state, phase: 'idle', standby: NOBODY, helperAccepts: false }, effects: NOTHING }
  if (id === state.owner) return onOwnerDead(state, rules)
  return { state, effects: NOTHING }
}

function onOwnerDead(state: HolderState, rules: Rules): HolderStep {
  const orphaned: HolderState = { ...state, owner: NOBODY }
  switch (state.phase) {
    case 'probation':
      return rollBack(state, rules, true)
    case 'returning':
      if (state.joiner !== NOBODY) return regrant(orphaned)
      // The next version reads the segments up to this epoch. After a restart of the daemon no other epoch was served yet.
      return {
        state: { ...orphaned, phase: 'idle', epoch: state.grant },
        effects: [{ type: 'seal', from: 0, below: state.grant + 1 }],
      }
    case 'quiescing':
    case 'freezing':
      return prepare(orphaned, rules)
    case 'idle':
    case 'offering':
      return { state: orphaned, effects: [{ type: 'seal', from: 0, below: state.epoch + 1 }] }
    default:
      // In `committing` the dead owner was the only alternative to an unfit joiner.
      return state.unfit.includes(state.joiner)
        ? serveReadsOnly(orphaned, state.joiner, NOBODY)
        : { state: orphaned, effects: NOTHING }
  }
}

function onDeadline(state: HolderState, rules: Rules): HolderStep {
  switch (state.phase) {
    case 'quiescing':
      // The once-only work is still running: the upgrade does not wait for it any longer.
      return freeze(state)
    case 'freezing':
      // The holder seals the owner's segment whether Frozen came or not.
      return rules.forceSeal && rules.arbiter ? prepare(state, rules) : giveUp(state, rules)
    case 'offering':
    case 'preparing':
      return giveUp(state, rules)
    case 'committing':
      if (!rules.arbiter) return same(state)
      if (state.owner === NOBODY) return waitForOwner(state, state.joiner)
      return state.unfit.includes(state.owner) && !state.unfit.includes(state.joiner)
        ? letAccept(state, state.owner)
        : rollBack(state, rules)
    case 'returning':
      // The owner is stopped or stuck: the successor that was rolled back gets the right again. An embedded holder waits instead: its owner
      // is a member of the same process, which always sends Serving or Unfit.
      if (state.scope === 'holder' || !rules.arbiter) return same(state)
      if (state.joiner === NOBODY) return waitForOwner(state, state.owner)
      return state.down.includes(state.joiner) ? same(state) : regrant(state)
    default:
      return same(state)
  }
}

/** Sending the Offer failed. If the kernel accepted no descriptor, the joiner has none and cannot block the next Offer. */
function onUndelivered(state: HolderState, id: Id, taken: boolean, rules: Rules): HolderStep {
  const given = taken || !rules.untaken
  if (state.phase === 'offering' && id === state.joiner) return giveUp(state, rules, given)
  return given ? same(state) : unbind(state, id)
}

/** The successor is stopped or stuck: the standby takes over, or only accepts if it is unfit to write. */
function onSilent(state: HolderState, rules: Rules): HolderStep {
  if (state.phase !== 'probation') return same(state)
  if (!state.unfit.includes(state.standby) || state.unfit.includes(state.owner)) return rollBack(state, rules)
  return letAccept(state, state.standby)
}

/** The member has closed its listeners and given up its right to write. */
function onGone(state: HolderState, from: Id, rules: Rules): HolderStep {
  if (state.bound.includes(from)) return unbind(state, from)
  // The holder is a daemon: treat the member as dead.
  if (state.scope === 'member') return onDead(state, from, rules)
  // The process that serves has left: roll back now, without waiting for missing heartbeats.
  const serves =
    state.phase === 'probation' ? state.owner : state.phase === 'committing' ? state.joiner : NOBODY
  return from === serves ? rollBack(state, rules, true) : same(state)
}

/** The member `from` has the right to write or stands by, and reports that it cannot write. */
function onUnfit(before: HolderState, from: Id, epoch: Epoch, rules: Rules): HolderStep {
  if (!rules.unfit || !isConcerned(before, from)) return same(before)
  const tries =
    (before.phase === 'returning' && from === before.owner) ||
    (before.phase === 'committing' && from === before.joiner)
  // Ignore the answer to an earlier grant: the answer to the present one follows.
  if (tries && epoch !== before.grant) return same(before)
  const state: HolderState = before.unfit.includes(from)
    ? before
    : { ...before, unfit: [...before.unfit, from].sort((a, b) => a - b) }
  const { phase, owner, joiner } = state
  if (phase === 'returning' && from === owner) {
    if (joiner === NOBODY || state.unfit.includes(joiner)) return serveReadsOnly(state, owner, joiner)
    return state.down.includes(joiner) ? { state, effects: NOTHING } : regrant(state)
  }
  if (phase === 'committing' && from === joiner) {
    if (owner === NOBODY) return serveReadsOnly(state, joiner, NOBODY)
    return state.unfit.includes(owner) ? serveReadsOnly(state, owner, joiner) : rollBack(state, rules)
  }
  // The helper (see `helperAccepts`) could not accept. The holder tells it again when the next heartbeat of the silent process does not arrive.
  const helper = phase === 'probation' ? state.standby : owner
  return { state: { ...state, helperAccepts: state.helperAccepts && from !== helper }, effects: NOTHING }
}

/** Gives the owner a new segment, but only while no other process can start to serve, because that process would lack the segment. */
function onRenew(state: HolderState): HolderStep {
  const { phase, owner, joiner, down, bound, unfit } = state
  // The rolled-back successor has no channel, so the owner tries again, in the segment that the successor already has from the Offer.
  if (phase === 'returning' && unfit.includes(owner) && down.includes(joiner) && !down.includes(owner))
    return grantAgain(clearUnfit(state, owner), owner, state.grant)
  const alone = phase === 'idle' && owner !== NOBODY && !down.includes(owner) && bound.length === 0
  return alone ? reinstate(state) : same(state)
}
