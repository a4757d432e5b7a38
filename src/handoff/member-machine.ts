/**
 * The member's side of a handoff, as a pure function: no I/O, no clock, no randomness. The driver (`src/member`) turns messages,
 * deadlines and deaths into events, and carries out the effects **in the order given**, one at a time. The outcome of effects is an event
 * (`begun`, `failed`). After a failed effect the driver skips the effects of the same step that need it.
 *
 * In embedded hosting a process is a holder and a member at once; `embedded.ts` connects the two by function calls instead of a channel
 * (`link: 'local'`).
 */
import { type Epoch, NO_EPOCH, type Role, type Scope, type ToHolder, type ToMember } from './messages.js'
import { accepts, type MemberPhase } from './phases.js'
import { RULES, type Rules } from './rules.js'

export interface MemberState {
  readonly scope: Scope
  readonly phase: MemberPhase
  /** The member has the listeners. */
  readonly holds: boolean
  readonly accepting: boolean
  /** The segment in which the member writes or will write. */
  readonly epoch: Epoch
  /** From the Offer: the incumbent's segment, and `wayBack`, in which the incumbent writes after a rollback. */
  readonly source: Epoch
  readonly wayBack: Epoch
  /** The highest epoch that the member knows to exist. */
  readonly top: Epoch
  /** The channel to the holder. `local`: the member is its own holder. `none`: the holder died before the application was ready. */
  readonly link: 'up' | 'down' | 'local' | 'none'
  /** The member's last try to accept, to read other processes' changes or to write has failed. */
  readonly unfit: boolean
  /** Embedded: the incumbent has sent Fenced. The member leaves if the incumbent is alive, and takes over if it is dead. */
  readonly fenced: boolean
  /** The member was in standby, and accepts only because its holder is silent. */
  readonly unheard: boolean
}

export type MemberEvent =
  /** `sealed`: whether the segment that the message names (commit, reinstate) is sealed; for other messages, the member's own. */
  | { readonly type: 'message'; readonly message: ToMember; readonly sealed: boolean }
  /** The application is ready, and all checks have passed. */
  | { readonly type: 'adopted' }
  /** The application or a check refuses to take over. */
  | { readonly type: 'refused' }
  | { readonly type: 'lost' }
  | { readonly type: 'deadline' }
  /** The answer to `judge`, or a death that the driver has noticed. `sealed`: whether the member's own segment is sealed. */
  | { readonly type: 'fate'; readonly fate: 'alive' | 'dead'; readonly sealed: boolean }
  /** The answer to `quiesce`. */
  | { readonly type: 'quiesced'; readonly epoch: Epoch }
  /** The driver has seen that the member's own segment is sealed. */
  | { readonly type: 'sealed' }
  /** `restarted`: the holder is a new process that knows no member. `sealed`: whether the member's own segment is sealed. */
  | { readonly type: 'reconnected'; readonly restarted: boolean; readonly sealed: boolean }
  /** The daemon has sent neither a message nor a heartbeat for too long: it is stopped or stuck. */
  | { readonly type: 'silent' }
  /** The daemon sends again, over the same channel. */
  | { readonly type: 'heard' }
  /** The holder has shared its segments up to this epoch, so that no epoch is used twice after the holder is lost. */
  | { readonly type: 'shared'; readonly top: Epoch }
  | { readonly type: 'drained' }
  /** All effects up to `write` of this epoch have succeeded. */
  | { readonly type: 'begun'; readonly epoch: Epoch }
  /** An effect failed; `epoch` is the one of carry or write. `follow`: a standby cannot read the owner's segment any more. */
  | { readonly type: 'failed'; readonly effect: Failing; readonly epoch?: Epoch }
  /** The application leaves, whether or not another process takes over. */
  | { readonly type: 'leave' }

type Failing = 'accept' | 'carry' | 'write' | 'back' | 'follow'

export type MemberEffect =
  | { readonly type: 'send'; readonly message: ToHolder }
  | { readonly type: 'accept' }
  /** Stop accepting; keep the listeners. */
  | { readonly type: 'stopAccepting' }
  | { readonly type: 'closeListeners' }
  /** End the once-only work of the application; `quiesced` follows. */
  | { readonly type: 'quiesce'; readonly epoch: Epoch }
  /** Start the once-only work again if it has ended, as `write` also does. */
  | { readonly type: 'unquiesce' }
  /** Hold back appends. */
  | { readonly type: 'freeze' }
  | { readonly type: 'thaw' }
  /** Read all acknowledged changes in the segments below this epoch. */
  | { readonly type: 'carry'; readonly below: Epoch }
  | { readonly type: 'seal'; readonly from: Epoch; readonly below: Epoch }
  /** Make a segment that no other process has, because no other process is left. */
  | { readonly type: 'make'; readonly epochs: readonly Epoch[] }
  | { readonly type: 'write'; readonly epoch: Epoch }
  /** Stop writing, because the member has lost the right. */
  | { readonly type: 'endWriting' }
  /** Take over the registry, the epoch and the control listener. */
  | { readonly type: 'becomeHolder' }
  /** Find out whether the holder is alive. The event `fate` follows: `dead` at once, `alive` only after 100 ms (rule `grace`). */
  | { readonly type: 'judge' }
  | { readonly type: 'reconnect' }
  | { readonly type: 'drain' }
  /** Release everything; the process may end. */
  | { readonly type: 'exit' }

export interface MemberStep {
  readonly state: MemberState
  readonly effects: readonly MemberEffect[]
}

export function initialMember(scope: Scope): MemberState {
  return {
    scope,
    phase: 'joining',
    holds: false,
    accepting: false,
    epoch: NO_EPOCH,
    source: NO_EPOCH,
    wayBack: NO_EPOCH,
    top: NO_EPOCH,
    link: 'up',
    unfit: false,
    fenced: false,
    unheard: false,
  }
}

const NOTHING: readonly MemberEffect[] = []

export function stepMember(state: MemberState, event: MemberEvent, rules: Rules = RULES): MemberStep {
  switch (event.type) {
    case 'message':
      return onMessage(state, event.message, event.sealed, rules)
    case 'adopted':
      return onAdopted(state, rules)
    case 'refused':
      return state.phase === 'joining' || state.phase === 'ready' ? giveUp(state) : same(state)
    case 'lost':
      return onLost(state, rules)
    case 'deadline':
      return onDeadline(state)
    case 'fate':
      return event.fate === 'dead'
        ? onHolderDead(state, event.sealed, rules)
        : onHolderAlive(state, event.sealed, rules)
    case 'sealed':
      return state.scope === 'holder' &&
        accepts(state.phase) &&
        !waitsForVerdict(state, rules) &&
        rules.sealDecides
        ? { state, effects: [{ type: 'judge' }] }
        : same(state)
    case 'begun':
      return onBegun(state, event.epoch)
    case 'failed':
      return onFailed(state, event, rules)
    case 'reconnected':
      return onReconnected(state, event.restarted, event.sealed, rules)
    case 'leave':
      if (state.phase === 'leaving' || state.phase === 'gone') return same(state)
      return state.phase === 'joining' || state.phase === 'ready' ? giveUp(state) : leave(state)
    case 'silent':
      return onSilent(state, rules)
    case 'heard':
      return onHeard(state)
    case 'quiesced':
      return state.phase === 'serving' || state.phase === 'unfit'
        ? { state, effects: [{ type: 'send', message: { kind: 'quiesced', epoch: event.epoch } }] }
        : same(state)
    case 'shared':
      return event.top > state.top ? { state: { ...state, top: event.top }, effects: NOTHING } : same(state)
    case 'drained':
      return state.phase === 'leaving'
        ? { state: { ...state, phase: 'gone' }, effects: [{ type: 'exit' }] }
        : same(state)
  }
}

function same(state: MemberState): MemberStep {
  return { state, effects: NOTHING }
}

/** Whether a member with a sealed segment waits for the holder's next message, which tells it to leave or to write in another segment. */
function waitsForVerdict({ link }: MemberState, rules: Rules): boolean {
  return link === 'local' || (link === 'up' && rules.awaitVerdict)
}

function onMessage(state: MemberState, message: ToMember, sealed: boolean, rules: Rules): MemberStep {
  const { phase, scope } = state
  switch (message.kind) {
    case 'offer':
      if (phase !== 'joining' || state.holds) return same(state)
      return {
        state: {
          ...state,
          holds: true,
          epoch: message.epoch,
          wayBack: message.wayBack,
          source: message.source,
          top: Math.max(state.top, message.wayBack),
        },
        effects: NOTHING,
      }
    case 'quiesce':
      return phase === 'serving' || phase === 'unfit'
        ? { state, effects: [{ type: 'quiesce', epoch: message.epoch }] }
        : same(state)
    case 'unquiesce':
      return phase === 'serving' ? { state, effects: [{ type: 'unquiesce' }] } : same(state)
    case 'freeze':
      // An unfit member does not write, so there is nothing to freeze.
      if (phase === 'unfit') return { state, effects: [{ type: 'send', message: { kind: 'frozen' } }] }
      if (phase !== 'serving') return same(state)
      return {
        state: { ...state, phase: 'frozen' },
        effects: [{ type: 'freeze' }, { type: 'send', message: { kind: 'frozen' } }],
      }
    case 'sealed':
      if (phase !== 'ready' && phase !== 'orphan') return same(state)
      return {
        state,
        effects: [
          { type: 'carry', below: state.epoch },
          { type: 'send', message: { kind: 'prepared' } },
        ],
      }
    case 'commit':
      if (phase !== 'ready' && phase !== 'orphan') return same(state)
      if (sealed && (rules.sealDecides || scope === 'member')) {
        // The holder has revoked the right already. `judge`: the member leaves if the incumbent is alive, and takes over if it is dead.
        return scope === 'holder' ? { state, effects: [{ type: 'judge' }] } : same(state)
      }
      return beginServing({ ...state, epoch: message.epoch }, rules)
    case 'retire':
      // The member accepted instead of a silent successor, which now serves again.
      if (phase === 'standby' && state.accepting)
        return { state: { ...state, accepting: false }, effects: [{ type: 'stopAccepting' }] }
      if (!accepts(phase) && phase !== 'frozen' && phase !== 'orphan') return same(state)
      return {
        state: { ...state, phase: 'standby', accepting: false, unheard: false },
        effects: [{ type: 'endWriting' }, { type: 'stopAccepting' }],
      }
    case 'resume':
      // The holder wants the member to accept, so the member must not stop when the silent holder is heard again (`heard`).
      if (phase === 'orphan' && state.unheard)
        return { state: { ...state, unheard: false }, effects: NOTHING }
      if ((phase !== 'standby' && phase !== 'unfit') || state.accepting) return same(state)
      return { state: { ...state, accepting: true }, effects: [{ type: 'accept' }] }
    case 'reinstate':
      if (sealed || !state.holds || phase === 'joining' || phase === 'leaving' || phase === 'gone')
        return same(state)
      return beginServing({ ...state, epoch: message.epoch }, rules)
    case 'released':
      if (phase === 'standby' || phase === 'orphan') return leave(state)
      if (accepts(phase) && scope === 'holder' && state.link !== 'local') {
        return { state: { ...state, link: 'local' }, effects: [{ type: 'becomeHolder' }] }
      }
      return same(state)
    case 'fenced':
    case 'abort':
      if (phase === 'joining' && !state.holds) return giveUp(state)
      // The incumbent may have died after it sent the message. If so, `judge` finds it dead, and the member takes over instead of leaving.
      if (
        scope === 'holder' &&
        state.link !== 'local' &&
        (phase === 'joining' || phase === 'ready' || accepts(phase))
      ) {
        return {
          state: message.kind === 'fenced' ? { ...state, fenced: true } : state,
          effects: [{ type: 'judge' }],
        }
      }
      if (phase === 'joining' || phase === 'ready') return giveUp(state)
      if (scope === 'member' && phase !== 'leaving' && phase !== 'gone') return leave(state)
      return same(state)
    default:
      // A newer release sent a message that this one does not know.
      return same(state)
  }
}

/** Accepts, then reads all acknowledged changes, then writes. The member sends Serving when all three have succeeded. */
function beginServing(state: MemberState, rules: Rules): MemberStep {
  const { epoch } = state
  const next: MemberState = {
    ...state,
    phase: 'beginning',
    accepting: true,
    unfit: false,
    fenced: false,
    unheard: false,
    top: Math.max(state.top, epoch),
  }
  const effects: MemberEffect[] = state.accepting ? [] : [{ type: 'accept' }]
  // Only in the exploration without this rule: the successor decides at once, although its incumbent can still take over again.
  if (!rules.release && state.phase === 'ready' && state.scope === 'holder')
    effects.unshift({ type: 'becomeHolder' })
  effects.push({ type: 'carry', below: epoch }, { type: 'write', epoch })
  if (rules.begun) return { state: next, effects }
  const confirmed = onBegun(next, epoch)
  return { state: confirmed.state, effects: [...effects, ...confirmed.effects] }
}

function onBegun(state: MemberState, epoch: Epoch): MemberStep {
  if (state.phase !== 'beginning' || state.epoch !== epoch) return same(state)
  return {
    state: { ...state, phase: 'serving' },
    effects: [{ type: 'send', message: { kind: 'serving', epoch } }],
  }
}

type Failed = Extract<MemberEvent, { type: 'failed' }>

function onFailed(state: MemberState, { effect, epoch }: Failed, rules: Rules): MemberStep {
  const { phase } = state
  switch (effect) {
    case 'back':
      return state.scope === 'member' && rules.backAgain ? onLost(state, rules) : same(state)
    case 'follow':
      return phase === 'standby' && !state.unfit ? reportUnfit(state, rules) : same(state)
    case 'accept':
      if (phase === 'beginning') return becomeUnfit({ ...state, accepting: false }, rules)
      if (phase === 'unfit') return { state: { ...state, accepting: false }, effects: NOTHING }
      // The member could not accept at Resume, so it stays in standby.
      if (phase !== 'standby' || !state.accepting) return same(state)
      return reportUnfit({ ...state, accepting: false }, rules, [{ type: 'stopAccepting' }])
    case 'carry':
    case 'write':
      if (epoch !== state.epoch) return same(state)
      if (phase === 'beginning') return becomeUnfit(state, rules)
      // The member could not read the sealed segment before Commit: it gives up if the incumbent is alive.
      if (phase !== 'ready') return same(state)
      if (state.scope === 'holder') return { state, effects: [{ type: 'judge' }] }
      return state.link === 'up' ? giveUp(state) : same(state)
  }
}

/** Serves reads only, and reports Unfit, because another process may be able to write. */
function becomeUnfit(state: MemberState, rules: Rules): MemberStep {
  const judge: MemberEffect[] =
    state.scope === 'holder' && state.link === 'down' && rules.unfit ? [{ type: 'judge' }] : []
  return reportUnfit({ ...state, phase: 'unfit' }, rules, [{ type: 'endWriting' }, ...judge])
}

function reportUnfit(state: MemberState, rules: Rules, before: readonly MemberEffect[] = []): MemberStep {
  const said: MemberEffect[] =
    rules.unfit && (state.link === 'up' || state.link === 'local')
      ? [{ type: 'send', message: { kind: 'unfit', epoch: state.epoch } }]
      : []
  return { state: { ...state, unfit: true }, effects: [...before, ...said] }
}

function onAdopted(state: MemberState, rules: Rules): MemberStep {
  if (state.phase !== 'joining' || !state.holds) return same(state)
  switch (state.link) {
    case 'none':
      // The incumbent is dead; `judge` finds out whether it sealed this member's segment before.
      return { state: { ...state, phase: 'ready', link: 'down' }, effects: [{ type: 'judge' }] }
    case 'down': {
      const ready: MemberState = { ...state, phase: 'ready' }
      const effects: MemberEffect[] = [{ type: 'judge' }]
      if (state.scope === 'member' && rules.retryReturn) effects.push({ type: 'reconnect' })
      return { state: ready, effects }
    }
    default:
      return { state: { ...state, phase: 'ready' }, effects: [{ type: 'send', message: { kind: 'ready' } }] }
  }
}

function onLost(state: MemberState, rules: Rules): MemberStep {
  if (state.link !== 'up') return same(state)
  const down: MemberState = { ...state, link: 'down' }
  switch (state.phase) {
    case 'joining':
      return state.holds ? { state: down, effects: [{ type: 'judge' }] } : exit(down)
    case 'leaving':
    case 'gone':
      return { state: down, effects: NOTHING }
    default:
      if (state.scope === 'holder') return { state: down, effects: [{ type: 'judge' }] }
      return { state: down, effects: rules.retryReturn ? [{ type: 'reconnect' }] : [{ type: 'judge' }] }
  }
}

function onDeadline(state: MemberState): MemberStep {
  switch (state.phase) {
    case 'joining':
      return state.holds ? { state, effects: [{ type: 'judge' }] } : giveUp(state)
    case 'ready':
      return { state, effects: [{ type: 'judge' }] }
    case 'frozen':
      return { state: { ...state, phase: 'serving' }, effects: [{ type: 'thaw' }] }
    default:
      return same(state)
  }
}

function onHolderAlive(state: MemberState, sealed: boolean, rules: Rules): MemberStep {
  if (state.link === 'local') return same(state)
  switch (state.phase) {
    case 'joining':
      return giveUp(state)
    case 'ready':
      // The incumbent is alive, so the member gives up. A daemon's member that has lost its channel reconnects instead.
      return state.scope === 'holder' || state.link === 'up' ? giveUp(state) : same(state)
    case 'beginning':
    case 'serving':
    case 'unfit':
      if (state.scope !== 'holder') return same(state)
      // Without a channel a successor keeps serving until its segment is sealed. If it is unfit it leaves, because the incumbent may wait
      // for its end.
      if (
        (state.phase === 'unfit' && state.link === 'down' && rules.unfit) ||
        (sealed && rules.sealDecides && (state.fenced || !waitsForVerdict(state, rules))) ||
        (state.link === 'down' && !rules.serveOnAfterEof)
      )
        return leave(state)
      return same(state)
    default:
      return same(state)
  }
}

function onHolderDead(state: MemberState, sealed: boolean, rules: Rules): MemberStep {
  if (state.link === 'local' || state.link === 'none') return same(state)
  const down: MemberState = { ...state, link: 'down' }
  if (state.scope === 'holder') {
    switch (state.phase) {
      case 'joining':
        // A member that has the Offer takes over as soon as its application is ready.
        return state.holds && rules.promote
          ? { state: { ...state, link: 'none' }, effects: NOTHING }
          : exit(down)
      case 'ready':
        return rules.promote ? takeOver(state, sealed, rules) : exit(down)
      case 'beginning':
      case 'serving':
      case 'unfit':
        return takeOver(state, sealed, rules)
      default:
        return { state: down, effects: NOTHING }
    }
  }
  // The daemon is dead. No other process can take over while this member's segment is not sealed, so the once-only work may run.
  if (state.phase === 'serving' && !sealed && rules.workAgain)
    return { state: state.link === 'down' ? state : down, effects: [{ type: 'unquiesce' }] }
  if (state.phase === 'ready' || state.phase === 'standby') {
    if (!rules.noSelfPromotion) return takeOver(down, true, rules)
    if (mayAccept(state, rules)) return becomeOrphan(down)
  }
  return state.link === 'down' ? same(state) : { state: down, effects: NOTHING }
}

/** Accepts although the holder is stopped or stuck, so that clients are served. */
function onSilent(state: MemberState, rules: Rules): MemberStep {
  if (state.scope !== 'member' || !mayAccept(state, rules)) return same(state)
  return becomeOrphan({ ...state, unheard: state.phase === 'standby' && !state.accepting })
}

/** Stands by again, because the holder sends again and decides which process serves. */
function onHeard(state: MemberState): MemberStep {
  if (state.phase !== 'orphan' || !state.unheard || state.link !== 'up') return same(state)
  return {
    state: { ...state, phase: 'standby', accepting: false, unheard: false },
    effects: [{ type: 'stopAccepting' }],
  }
}

function mayAccept({ phase }: MemberState, rules: Rules): boolean {
  return (phase === 'ready' && rules.joinerAccepts) || (phase === 'standby' && rules.orphanAccepts)
}

/** Starts to accept, and serves reads. */
function becomeOrphan(state: MemberState): MemberStep {
  return {
    state: { ...state, phase: 'orphan', accepting: true },
    effects: state.accepting ? NOTHING : [{ type: 'accept' }],
  }
}

/** Serves instead of the dead incumbent, with all acknowledged changes. */
function takeOver(state: MemberState, sealed: boolean, rules: Rules): MemberStep {
  const fresh = state.top + 1
  const epoch = sealed ? fresh : state.epoch
  const begins = sealed || (state.phase !== 'serving' && state.phase !== 'beginning')
  const next: MemberState = {
    ...state,
    phase: !begins ? state.phase : rules.begun ? 'beginning' : 'serving',
    accepting: true,
    epoch,
    wayBack: Math.max(state.wayBack, epoch),
    top: Math.max(state.top, epoch),
    link: state.scope === 'holder' ? 'local' : state.link,
    unfit: false,
    fenced: false,
  }
  const effects: MemberEffect[] = []
  // First, because this process decides from now on, even if the other effects fail.
  if (state.scope === 'holder') effects.push({ type: 'becomeHolder' })
  if (!state.accepting) effects.push({ type: 'accept' })
  if (sealed) effects.push({ type: 'seal', from: 0, below: fresh }, { type: 'make', epochs: [fresh] })
  if (begins) effects.push({ type: 'carry', below: epoch }, { type: 'write', epoch })
  return { state: next, effects }
}

type ReturningPhase = Exclude<MemberPhase, 'joining' | 'leaving' | 'gone'>

/** Whether a member that has reconnected in this phase sends Back. */
export function sendsBack(phase: MemberPhase): phase is ReturningPhase {
  return phase !== 'joining' && phase !== 'leaving' && phase !== 'gone'
}

function onReconnected(state: MemberState, restarted: boolean, sealed: boolean, rules: Rules): MemberStep {
  const { phase, epoch, top, unfit } = state
  if (!sendsBack(phase)) return same(state)
  const effects: MemberEffect[] = [
    {
      type: 'send',
      message: { kind: 'back', role: roleOf(phase), epoch, top, sealed, ...(unfit && { unfit }) },
    },
  ]
  let next: MemberState = { ...state, link: 'up', unheard: false }
  if (restarted && mayAccept(state, rules)) {
    // The restarted holder does not know yet which member serves. Until then every member accepts that can.
    next = { ...next, phase: 'orphan', accepting: true }
    if (!state.accepting) effects.unshift({ type: 'accept' })
  }
  return { state: next, effects }
}

/** A member in `beginning` or `unfit` accepts without writing. Back names it `orphan`, which means the same and which every release knows. */
function roleOf(phase: ReturningPhase): Role {
  return phase === 'beginning' || phase === 'unfit' ? 'orphan' : phase
}

/** Gives up before Commit: releases everything, then sends Abort if the channel is up. */
function giveUp(state: MemberState): MemberStep {
  return exit(state, state.link === 'up' ? [{ type: 'send', message: { kind: 'abort' } }] : [])
}

function exit(state: MemberState, farewell: readonly MemberEffect[] = []): MemberStep {
  const effects: MemberEffect[] = []
  if (state.holds) effects.push({ type: 'closeListeners' })
  effects.push(...farewell, { type: 'exit' })
  return { state: { ...state, phase: 'gone', holds: false, accepting: false }, effects }
}

/** Leaves after having served: closes the listeners, then drains the connections. */
function leave(state: MemberState): MemberStep {
  const effects: MemberEffect[] = []
  if (accepts(state.phase) || state.phase === 'frozen') effects.push({ type: 'endWriting' })
  // An unfit member may accept on some of its listeners only.
  if (state.accepting || state.phase === 'unfit') effects.push({ type: 'stopAccepting' })
  effects.push({ type: 'closeListeners' })
  if (state.link === 'up' || state.link === 'local') effects.push({ type: 'send', message: { kind: 'gone' } })
  effects.push({ type: 'drain' })
  return { state: { ...state, phase: 'leaving', holds: false, accepting: false }, effects }
}
