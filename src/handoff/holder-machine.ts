/**
 * The holder's side of a handoff, as a pure function. The holder decides who may serve, by sealing segments: to grant epoch n is to seal
 * every segment below n. It lives in the serving process (embedded) or alone (daemon); both run this machine. Effects are carried out **in
 * the order given**. Making an Offer can fail and is then an event (`unmade`, `undelivered`). Sealing, marking and making segments for a
 * grant are repeated until they succeed; later effects wait.
 */
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
import { type HolderPhase, isBeforeCommit } from './phases.js'
import { RULES, type Rules } from './rules.js'

export interface HolderState {
  readonly scope: Scope
  readonly phase: HolderPhase
  /** The process that has the right to write, or had it last. */
  readonly owner: Id
  /** Being brought to serve; in `returning`: turned away from. */
  readonly joiner: Id
  /** Stands by (probation). */
  readonly standby: Id
  /** The owner's segment. */
  readonly epoch: Epoch
  /** The segment that is to be confirmed by Serving (or was, in probation). */
  readonly grant: Epoch
  /** The owner's (in probation: the standby's) way back. */
  readonly wayBack: Epoch
  /** The highest epoch ever made. */
  readonly top: Epoch
  /** Given descriptors once, without a right, and neither gone nor proved dead: no new Offer meanwhile (rule `gone`). */
  readonly bound: readonly Id[]
  /** Those without a channel at present. */
  readonly down: readonly Id[]
  /** Those that said that they cannot take over what others wrote, and have not served since. */
  readonly unfit: readonly Id[]
  /** The successor is silent and the standby unfit: the standby was told to accept, so that clients are served. */
  readonly helped: boolean
  /** Rebuilding: who has come back, with role and epoch. */
  readonly backs: readonly { readonly id: Id; readonly role: Role; readonly epoch: Epoch }[]
}

export type HolderEvent =
  | { readonly type: 'join'; readonly id: Id }
  | { readonly type: 'message'; readonly from: Id; readonly message: ToHolder }
  /** The channel ended. */
  | { readonly type: 'lost'; readonly id: Id }
  /** Proved dead (never by end of file alone). */
  | { readonly type: 'dead'; readonly id: Id }
  /** The deadline of the present phase. */
  | { readonly type: 'deadline' }
  /** The upgrade is not wanted any more: before Commit the joiner is given up. */
  | { readonly type: 'cancel' }
  /** The segments of an Offer could not be made. */
  | { readonly type: 'unmade' }
  /** The Offer did not get through. `taken`: the kernel took descriptors for the joiner. */
  | { readonly type: 'undelivered'; readonly id: Id; readonly taken: boolean }
  /** Probation: it says so, or an operator wants the standby back. */
  | { readonly type: 'unhealthy' }
  /** Probation: heartbeats are missing. */
  | { readonly type: 'silent' }
  /** Probation: its time is over and there is fresh evidence of health. */
  | { readonly type: 'healthy' }
  /** The owner goes on in a new segment: its own has grown and can be compacted, or it was unfit and tries again (`returning`: as given). */
  | { readonly type: 'renew' }
  /** Rebuilding: every rights-holder is back or proved dead. */
  | { readonly type: 'rebuilt' }

export type HolderEffect =
  | { readonly type: 'tell'; readonly to: Id; readonly message: ToMember }
  /** Seal every segment with from <= epoch < below. */
  | { readonly type: 'seal'; readonly from: Epoch; readonly below: Epoch }
  /** Make these segments and share them before anybody writes there. `offer`: for a joiner, refused if it fails; else repeated until done. */
  | { readonly type: 'make'; readonly epochs: readonly Epoch[]; readonly offer?: true }
  /** F_SEAL_SHRINK: the standby may not come back, visible to a successor without a channel. */
  | { readonly type: 'mark'; readonly epoch: Epoch }
  /** Answer to a join that cannot be now. */
  | { readonly type: 'refuse'; readonly id: Id; readonly because: 'busy' | 'bound' }
  /** A handoff has failed in this phase; another process goes on serving. */
  | { readonly type: 'failed'; readonly id: Id; readonly phase: HolderPhase }

export interface HolderStep {
  readonly state: HolderState
  readonly effects: readonly HolderEffect[]
}

/** A holder whose owner serves (embedded: itself), or that has none yet (daemon). */
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
    helped: false,
    backs: [],
  }
}

/** A daemon that was started again and knows nothing. `top`: at or above every epoch that may exist. */
export function restartedHolder(): HolderState {
  return { ...initialHolder('member', NOBODY, NO_EPOCH), phase: 'rebuilding' }
}

const NOTHING: readonly HolderEffect[] = []

export function stepHolder(state: HolderState, event: HolderEvent, rules: Rules = RULES): HolderStep {
  if (state.phase === 'released') {
    return event.type === 'join'
      ? { state, effects: [{ type: 'refuse', id: event.id, because: 'busy' }] }
      : same(state)
  }
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
      return state.phase === 'probation' ? turnAway(state, rules) : same(state)
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

function same(state: HolderState): HolderStep {
  return { state, effects: NOTHING }
}

function onJoin(state: HolderState, id: Id, rules: Rules): HolderStep {
  // Without its channel the owner would miss the segments that others are to write in.
  if (state.phase !== 'idle' || state.down.includes(state.owner))
    return { state, effects: [{ type: 'refuse', id, because: 'busy' }] }
  if (state.bound.length > 0 && rules.gone)
    return { state, effects: [{ type: 'refuse', id, because: 'bound' }] }
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

function onMessage(state: HolderState, from: Id, message: ToHolder, rules: Rules): HolderStep {
  switch (message.kind) {
    case 'ready':
      if (state.phase !== 'offering' || from !== state.joiner) return same(state)
      return quiesce(state, rules)
    case 'quiesced':
      return state.phase === 'quiescing' && from === state.owner && message.epoch === state.grant
        ? freeze(state)
        : same(state)
    case 'frozen':
      return state.phase === 'freezing' && from === state.owner ? prepare(state, rules) : same(state)
    case 'prepared':
      return state.phase === 'preparing' && from === state.joiner ? commit(state) : same(state)
    case 'serving':
      return onServing(state, from, message.epoch, rules)
    case 'abort':
      if (from !== state.joiner) return unbind(state, from)
      // A joiner sends Abort after it has released everything: its end need not be awaited.
      if (isBeforeCommit(state.phase)) {
        const step = giveUp(state, rules)
        return { state: forget(step.state, from), effects: step.effects }
      }
      return state.phase === 'committing' ? turnAway(state, rules, true) : same(state)
    case 'gone':
      return onGone(state, from, rules)
    case 'unfit':
      return onUnfit(state, from, message.epoch, rules)
    case 'back':
      return onBack(state, from, message, rules)
    default:
      // A message of a later version.
      return same(state)
  }
}

/** The joiner is ready. One without a channel does not hear that it is to quiesce: its time is the Freeze's. */
function quiesce(state: HolderState, rules: Rules): HolderStep {
  const { owner, down, grant } = state
  if (owner === NOBODY) return prepare(state, rules)
  if (!rules.quiesceFirst || down.includes(owner)) return freeze(state)
  return {
    state: { ...state, phase: 'quiescing' },
    effects: [{ type: 'tell', to: owner, message: { kind: 'quiesce', epoch: grant } }],
  }
}

function freeze(state: HolderState): HolderStep {
  return {
    state: { ...state, phase: 'freezing' },
    effects: [{ type: 'tell', to: state.owner, message: { kind: 'freeze' } }],
  }
}

/** The seal ends the owner's right to write, before {@link commit}. */
function prepare(state: HolderState, rules: Rules): HolderStep {
  return {
    state: { ...state, phase: 'preparing' },
    effects: [
      ...(rules.sealFirst ? [{ type: 'seal', from: 0, below: state.grant } as const] : []),
      { type: 'tell', to: state.joiner, message: { kind: 'sealed' } },
    ],
  }
}

/** The joiner serves from its receipt of Commit on. Until Commit is sent the joiner can be given up, and the owner goes on in another segment. */
function commit(state: HolderState): HolderStep {
  return {
    state: { ...state, phase: 'committing' },
    effects: [{ type: 'tell', to: state.joiner, message: { kind: 'commit', epoch: state.grant } }],
  }
}

function onServing(before: HolderState, from: Id, epoch: Epoch, rules: Rules): HolderStep {
  if (epoch !== before.grant) return same(before)
  const state = fit(before, from)
  if (state.phase === 'committing' && from === state.joiner) {
    const late: HolderEffect[] = rules.sealFirst ? [] : [{ type: 'seal', from: 0, below: state.grant }]
    const next: HolderState = { ...state, owner: from, joiner: NOBODY, epoch, helped: false }
    if (state.owner === NOBODY) return { state: { ...next, phase: 'idle' }, effects: late }
    const probation: HolderState = { ...next, phase: 'probation', standby: state.owner }
    const retire: HolderEffect = { type: 'tell', to: state.owner, message: { kind: 'retire' } }
    // Without seals no process can come back while the other lives: there is nothing to stand by for.
    const last = rules.arbiter ? same(probation) : onHealthy(probation)
    return { state: last.state, effects: [...late, retire, ...last.effects] }
  }
  if (state.phase === 'returning' && from === state.owner) {
    const others = [...(state.joiner === NOBODY ? [] : [state.joiner]), ...state.bound]
    return {
      state: { ...state, phase: 'idle', joiner: NOBODY, epoch, bound: others },
      effects: rules.ackBack ? fence(state, others) : NOTHING,
    }
  }
  return same(before)
}

/** Whether `id` can take over is found anew. */
function fit(state: HolderState, id: Id): HolderState {
  return state.unfit.includes(id) ? { ...state, unfit: state.unfit.filter(u => u !== id) } : state
}

function fence(state: HolderState, ids: readonly Id[]): HolderEffect[] {
  return ids
    .filter(id => !state.down.includes(id))
    .map(id => ({ type: 'tell', to: id, message: { kind: 'fenced' } }))
}

/** The owner ended its once-only work for a handoff that is off and did not hear of that: it starts the work again. */
function workAgain(state: HolderState, rules: Rules): HolderStep {
  if (!rules.workAgain) return same(state)
  return { state, effects: [{ type: 'tell', to: state.owner, message: { kind: 'unquiesce' } }] }
}

/** Any failure before Commit: the joiner's segment is sealed, the owner goes on (rule 2). `given`: it may hold descriptors. */
function giveUp(state: HolderState, rules: Rules, given = true): HolderStep {
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
  // The owner was told to freeze, and its segment may be sealed: it goes on in its way back.
  return {
    state: { ...fit(idle, owner), phase: 'returning', grant: wayBack },
    effects: [
      ...effects,
      { type: 'seal', from: 0, below: rules.thawSeal ? wayBack : grant },
      { type: 'tell', to: owner, message: { kind: 'reinstate', epoch: wayBack } },
      ...abort,
    ],
  }
}

/** The successor fails after Commit: back to who served before (rules 3 and 4), if that one can. */
function turnAway(state: HolderState, rules: Rules, newcomerDead = false): HolderStep {
  const committing = state.phase === 'committing'
  const old = committing ? state.owner : state.standby
  const newcomer = committing ? state.joiner : state.owner
  const failed: HolderEffect = { type: 'failed', id: newcomer, phase: state.phase }
  // The standby could not come back, and has said so: the successor is kept while it lives.
  if (!newcomerDead && state.unfit.includes(old) && !state.unfit.includes(newcomer)) return same(state)
  if (old !== NOBODY && (!state.down.includes(old) || !rules.needOther)) {
    const returning: HolderState = {
      ...fit(state, old),
      phase: 'returning',
      owner: old,
      joiner: newcomerDead ? NOBODY : newcomer,
      standby: NOBODY,
      epoch: state.wayBack,
      grant: state.wayBack,
      helped: false,
    }
    const effects: HolderEffect[] = [failed]
    if (rules.acceptFirst) effects.push({ type: 'tell', to: old, message: { kind: 'resume' } })
    if (rules.deed) effects.push({ type: 'seal', from: 0, below: state.wayBack })
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
      helped: false,
    }
    // The old one lives but has no channel: when it is back it is given the right again.
    return { state: { ...none, phase: old === NOBODY ? 'idle' : 'returning' }, effects }
  }
  // No other process can serve at present: keep this one until another is back or one is proved dead.
  return same(state)
}

/** The one that was to come back does not: give the right to who was turned away from, in a new segment. */
function regrant(state: HolderState): HolderStep {
  const grant = state.top + 1
  const wayBack = state.top + 2
  return {
    state: { ...fit(state, state.joiner), phase: 'committing', grant, wayBack, top: wayBack },
    effects: [
      { type: 'make', epochs: [grant, wayBack] },
      { type: 'seal', from: 0, below: grant },
      { type: 'tell', to: state.joiner, message: { kind: 'reinstate', epoch: grant } },
    ],
  }
}

/** The Offer did not reach the joiner. One that the kernel took no descriptor for holds nothing. */
function onUndelivered(state: HolderState, id: Id, taken: boolean, rules: Rules): HolderStep {
  const given = taken || !rules.untaken
  if (state.phase === 'offering' && id === state.joiner) return giveUp(state, rules, given)
  return given ? same(state) : unbind(state, id)
}

/** A successor that is stopped or stuck; the standby takes over, or accepts in its place if it can do no more. */
function onSilent(state: HolderState, rules: Rules): HolderStep {
  if (state.phase !== 'probation') return same(state)
  if (!state.unfit.includes(state.standby) || state.unfit.includes(state.owner)) return turnAway(state, rules)
  return help(state, state.standby)
}

/** The standby can at least accept. */
function help(state: HolderState, standby: Id): HolderStep {
  if (state.helped || state.down.includes(standby)) return same(state)
  return {
    state: { ...state, helped: true },
    effects: [{ type: 'tell', to: standby, message: { kind: 'resume' } }],
  }
}

/** The member has closed its listeners, and gives up every right that it had. */
function onGone(state: HolderState, from: Id, rules: Rules): HolderStep {
  if (state.bound.includes(from)) return unbind(state, from)
  // A daemon outlives its members: as if it had died.
  if (state.scope === 'member') return onDead(state, from, rules)
  // A standby need not wait for silence, as no process accepts any more.
  const serves =
    state.phase === 'probation' ? state.owner : state.phase === 'committing' ? state.joiner : NOBODY
  return from === serves ? turnAway(state, rules, true) : same(state)
}

/** `from` was given the right to write, or stands by for it, and cannot take it. */
function onUnfit(before: HolderState, from: Id, epoch: Epoch, rules: Rules): HolderStep {
  if (!rules.unfit || !knows(before, from)) return same(before)
  const tries =
    (before.phase === 'returning' && from === before.owner) ||
    (before.phase === 'committing' && from === before.joiner)
  // An answer to an earlier try: how this one goes is told as well.
  if (tries && epoch !== before.grant) return same(before)
  const state: HolderState = before.unfit.includes(from)
    ? before
    : { ...before, unfit: [...before.unfit, from].sort((a, b) => a - b) }
  const { phase, owner, joiner } = state
  if (phase === 'returning' && from === owner) {
    if (joiner === NOBODY || state.unfit.includes(joiner)) return readOnly(state, owner, joiner)
    return state.down.includes(joiner) ? { state, effects: NOTHING } : regrant(state)
  }
  if (phase === 'committing' && from === joiner) {
    if (owner === NOBODY) return readOnly(state, joiner, NOBODY)
    return state.unfit.includes(owner) ? readOnly(state, owner, joiner) : turnAway(state, rules)
  }
  // One that was told to accept in place of a silent one could not: at the next silence it is told again.
  const helper = phase === 'probation' ? state.standby : owner
  return { state: { ...state, helped: state.helped && from !== helper }, effects: NOTHING }
}

/** No process is left that can write: `owner` answers from what it has, and the next version starts with the whole state. */
function readOnly(state: HolderState, owner: Id, other: Id): HolderStep {
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
      helped: false,
    },
    effects: [
      // The owner may have failed to accept: it is told to once more, before the others are told to leave.
      ...(state.down.includes(owner)
        ? []
        : [{ type: 'tell', to: owner, message: { kind: 'resume' } } as const]),
      { type: 'seal', from: 0, below: state.top + 1 },
      ...fence(state, others),
    ],
  }
}

function onLost(before: HolderState, id: Id, rules: Rules): HolderStep {
  if (before.down.includes(id) || !knows(before, id)) return same(before)
  const state: HolderState = { ...before, down: [...before.down, id].sort((a, b) => a - b) }
  if (id === state.joiner) {
    if (isBeforeCommit(state.phase)) return giveUp(state, rules)
    // Without seals a living joiner may write: its death tells, or its Serving over a new channel.
    return state.phase === 'committing' && rules.arbiter ? turnAway(state, rules) : same(state)
  }
  if (id === state.owner && state.phase === 'quiescing') return freeze(state)
  // An owner that is to come back and has lost its channel connects again at once, or is proved dead; else the
  // deadline gives the right to the other.
  return id === state.owner && state.phase === 'probation' ? turnAway(state, rules) : same(state)
}

/** The processes that the machine waits for, or has to reckon with. */
export function concerned({ owner, joiner, standby, bound, backs }: HolderState): Id[] {
  return [owner, joiner, standby, ...bound, ...backs.map(back => back.id)]
}

function knows(state: HolderState, id: Id): boolean {
  return concerned(state).includes(id)
}

function unbind(state: HolderState, id: Id): HolderStep {
  if (!state.bound.includes(id)) return same(state)
  return { state: { ...state, bound: state.bound.filter(b => b !== id) }, effects: NOTHING }
}

function onDead(before: HolderState, id: Id, rules: Rules): HolderStep {
  if (!knows(before, id)) return same(before)
  const state: HolderState = {
    ...before,
    bound: before.bound.filter(b => b !== id),
    down: before.down.filter(d => d !== id),
    backs: before.backs.filter(b => b.id !== id),
    unfit: before.unfit.filter(u => u !== id),
  }
  if (id === state.joiner) {
    if (isBeforeCommit(state.phase)) {
      const step = giveUp({ ...state, down: [...state.down, id] }, rules)
      return { state: forget(step.state, id), effects: step.effects }
    }
    if (state.phase === 'committing') return turnAway(state, rules, true)
    // In `returning`: who was turned away from, for one that may have found that it cannot come back.
    return state.unfit.includes(state.owner)
      ? readOnly(state, state.owner, NOBODY)
      : { state: { ...state, joiner: NOBODY }, effects: NOTHING }
  }
  if (id === state.standby)
    return { state: { ...state, phase: 'idle', standby: NOBODY, helped: false }, effects: NOTHING }
  if (id === state.owner) return onOwnerDead(state, rules)
  return { state, effects: NOTHING }
}

function forget(state: HolderState, id: Id): HolderState {
  return {
    ...state,
    bound: state.bound.filter(b => b !== id),
    down: state.down.filter(d => d !== id),
    unfit: state.unfit.filter(u => u !== id),
  }
}

function onOwnerDead(state: HolderState, rules: Rules): HolderStep {
  const orphaned: HolderState = { ...state, owner: NOBODY }
  switch (state.phase) {
    case 'probation':
      return turnAway(state, rules, true)
    case 'returning':
      return state.joiner === NOBODY
        ? { state: { ...orphaned, phase: 'idle' }, effects: NOTHING }
        : regrant(orphaned)
    case 'quiescing':
    case 'freezing':
      return prepare(orphaned, rules)
    case 'idle':
    case 'offering':
      return { state: orphaned, effects: [{ type: 'seal', from: 0, below: state.epoch + 1 }] }
    default:
      // Committing to one that cannot begin: there was another, now there is not.
      return state.unfit.includes(state.joiner)
        ? readOnly(orphaned, state.joiner, NOBODY)
        : { state: orphaned, effects: NOTHING }
  }
}

function onDeadline(state: HolderState, rules: Rules): HolderStep {
  switch (state.phase) {
    case 'quiescing':
      // However long its work takes: the upgrade is wanted.
      return freeze(state)
    case 'freezing':
      // Freeze has a deadline of its own, and it is the holder's: seal whether Frozen came or not.
      return rules.forceSeal && rules.arbiter ? prepare(state, rules) : giveUp(state, rules)
    case 'offering':
    case 'preparing':
      return giveUp(state, rules)
    case 'committing':
      if (!rules.arbiter) return same(state)
      if (state.owner === NOBODY) return takeLater(state, state.joiner)
      return state.unfit.includes(state.owner) && !state.unfit.includes(state.joiner)
        ? help(state, state.owner)
        : turnAway(state, rules)
    case 'returning':
      // The owner does not come back (stopped), but the process that was turned away is there. A holder hears for certain how its own
      // member fared.
      if (state.scope === 'holder' || !rules.arbiter) return same(state)
      if (state.joiner === NOBODY) return takeLater(state, state.owner)
      return state.down.includes(state.joiner) ? same(state) : regrant(state)
    default:
      return same(state)
  }
}

/** `owner` is stopped or slow, and the only one that can serve: it takes the right when it goes on. A joiner may come, and fence it. */
function takeLater(state: HolderState, owner: Id): HolderStep {
  return {
    state: { ...state, phase: 'idle', owner, joiner: NOBODY, epoch: state.grant },
    effects: NOTHING,
  }
}

function onHealthy(state: HolderState): HolderStep {
  if (state.phase !== 'probation') return same(state)
  if (state.scope === 'holder') {
    return {
      state: { ...state, phase: 'released' },
      effects: [
        { type: 'mark', epoch: state.epoch },
        { type: 'tell', to: state.owner, message: { kind: 'released' } },
        { type: 'tell', to: state.standby, message: { kind: 'released' } },
      ],
    }
  }
  return {
    state: {
      ...state,
      phase: 'idle',
      standby: NOBODY,
      bound: [...state.bound, state.standby],
      helped: false,
    },
    effects: [{ type: 'tell', to: state.standby, message: { kind: 'released' } }],
  }
}

type Back = Extract<ToHolder, { kind: 'back' }>

function onBack(before: HolderState, id: Id, back: Back, rules: Rules): HolderStep {
  const { role, epoch, sealed } = back
  const others = before.unfit.filter(u => u !== id)
  const state: HolderState = {
    ...before,
    down: before.down.filter(d => d !== id),
    unfit: back.unfit && rules.unfit ? [...others, id].sort((a, b) => a - b) : others,
    // A restarted daemon learns which numbers were given; who does not say knows of a successor and a way back.
    top: Math.max(before.top, back.top ?? (before.phase === 'rebuilding' ? epoch + 2 : NO_EPOCH)),
  }
  switch (state.phase) {
    case 'rebuilding': {
      const backs = [...state.backs.filter(b => b.id !== id), { id, role, epoch }].sort((a, b) => a.id - b.id)
      const known: HolderState = { ...state, backs }
      return rules.rebuildWaits ? { state: known, effects: NOTHING } : onRebuilt(known, rules)
    }
    case 'idle':
    case 'offering':
      if (id === state.owner) {
        // The segment of an owner that was unfit may have been sealed behind its Back: there is none that it could write in.
        if (sealed || before.unfit.includes(id))
          return state.phase === 'idle' ? reinstate(state) : giveUpThen(state, rules)
        return took(back, state.epoch) ? workAgain(state, rules) : grantAgain(state, id, state.epoch)
      }
      break
    case 'quiescing':
    case 'freezing':
    case 'preparing':
      if (id === state.owner)
        return sealed || took(back, state.epoch) ? same(state) : grantAgain(state, id, state.epoch)
      break
    case 'committing':
      if (id === state.owner) {
        if (state.unfit.includes(state.joiner)) return turnAway(state, rules)
        const effects: HolderEffect[] = state.helped
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
        if (took(back, state.grant)) return onServing(state, id, epoch, rules)
        return grantAgain(state, id, state.grant)
      }
      break
    case 'probation':
      if (id === state.standby) {
        if (state.down.includes(state.owner)) return turnAway(state, rules)
        const retire: HolderEffect = { type: 'tell', to: id, message: { kind: 'retire' } }
        if (!state.helped) return { state, effects: [retire] }
        // A standby that had not heard of Retire would not obey Released.
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

function begun(role: Role): boolean {
  return role === 'serving' || role === 'frozen'
}

/** The member writes in the segment that it was given the right to write in. */
function took({ role, epoch }: Back, given: Epoch): boolean {
  return begun(role) && epoch === given
}

/** The word that gave the right may have been lost with the channel. */
function grantAgain(state: HolderState, to: Id, epoch: Epoch): HolderStep {
  return { state, effects: [{ type: 'tell', to, message: { kind: 'reinstate', epoch } }] }
}

function bind(state: HolderState, id: Id): HolderState {
  return state.bound.includes(id) ? state : { ...state, bound: [...state.bound, id] }
}

/** Give the owner a new segment in place of the one that it has. */
function reinstate(state: HolderState): HolderStep {
  const grant = state.top + 1
  return {
    state: {
      ...fit(state, state.owner),
      phase: 'returning',
      joiner: NOBODY,
      grant,
      wayBack: grant,
      top: grant,
    },
    effects: [
      { type: 'make', epochs: [grant] },
      { type: 'seal', from: 0, below: grant },
      { type: 'tell', to: state.owner, message: { kind: 'reinstate', epoch: grant } },
    ],
  }
}

function giveUpThen(state: HolderState, rules: Rules): HolderStep {
  const first = giveUp(state, rules)
  const second = reinstate(first.state)
  return { state: second.state, effects: [...first.effects, ...second.effects] }
}

/** The owner gets a new segment only while no other process could come to serve: a bound one would lack the segment. */
function onRenew(state: HolderState): HolderStep {
  const { phase, owner, joiner, down, bound, unfit } = state
  // The one that was turned away from cannot be given the right, as it has no channel. It has the owner's segment from the Offer on.
  if (phase === 'returning' && unfit.includes(owner) && down.includes(joiner) && !down.includes(owner))
    return grantAgain(fit(state, owner), owner, state.grant)
  const alone = phase === 'idle' && owner !== NOBODY && !down.includes(owner) && bound.length === 0
  return alone ? reinstate(state) : same(state)
}

function onRebuilt(state: HolderState, rules: Rules): HolderStep {
  if (state.phase !== 'rebuilding') return same(state)
  const serves = (role: Role): number => (begun(role) ? 1 : 0)
  const unfit = (id: Id): number => (state.unfit.includes(id) ? 1 : 0)
  const best = [...state.backs].sort(
    (a, b) => unfit(a.id) - unfit(b.id) || serves(b.role) - serves(a.role) || b.epoch - a.epoch,
  )[0]
  if (best === undefined) return { state: { ...state, phase: 'idle', backs: [] }, effects: NOTHING }
  const others = state.backs.filter(b => b.id !== best.id).map(b => b.id)
  const step = reinstate({ ...state, owner: best.id, backs: [] })
  const effects = rules.sealRest ? step.effects : step.effects.filter(e => e.type !== 'seal')
  return {
    state: { ...step.state, joiner: others[0] ?? NOBODY, bound: others.slice(1) },
    effects,
  }
}
