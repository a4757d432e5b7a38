/**
 * The member's side of a handoff, as a pure function: no I/O, no clock, no randomness. The driver
 * (`src/member`) turns what happens into events and carries out the effects **in the order given**; an effect
 * that takes time (carry) is awaited before the next.
 *
 * In embedded hosting a process is a holder and a member at once; `embedded.ts` joins the two by a function call
 * in place of a channel (`link: 'local'`).
 */
import { type Epoch, NO_EPOCH, type Role, type Scope, type ToHolder, type ToMember } from './conversation.js'
import { RULES, type Rules } from './rules.js'

export type MemberPhase =
  /** Said Hello; waits for the Offer, or has it (`holds`) and is being made ready by the application. */
  | 'joining'
  /** Said Ready: could serve. */
  | 'ready'
  /** Accepts, and writes in `epoch`. */
  | 'serving'
  /** As serving, but appends wait: a handoff to another is about to commit. */
  | 'frozen'
  /** Another serves; the listeners are kept, so that this one can be reinstated without binding anything. */
  | 'standby'
  /** The holder is dead, or silent: accepts so that nobody is refused, reads only. */
  | 'orphan'
  /** Listeners closed; the last connections drain. */
  | 'leaving'
  | 'gone'

export interface MemberState {
  readonly scope: Scope
  readonly phase: MemberPhase
  /** Has the listeners. */
  readonly holds: boolean
  readonly accepting: boolean
  /** The segment it writes in, or is to write in. */
  readonly epoch: Epoch
  /** Named by the Offer: the elder's segment, and its way back. */
  readonly source: Epoch
  readonly wayBack: Epoch
  /** The highest epoch it knows to be made. */
  readonly top: Epoch
  /** To its holder. `local`: it is its own holder. `none`: never again (holder dead before the application was ready). */
  readonly link: 'up' | 'down' | 'local' | 'none'
}

export type MemberEvent =
  /** `sealed`: what the kernel says now of the segment that the message names (commit, reinstate), else of its own. */
  | { readonly type: 'message'; readonly message: ToMember; readonly sealed: boolean }
  /** The application is ready: everything verified, checks passed. */
  | { readonly type: 'adopted' }
  /** The application, or a check, refuses. */
  | { readonly type: 'refused' }
  | { readonly type: 'lost' }
  | { readonly type: 'deadline' }
  /** The answer to `judge`, or a death that was noticed unasked. `sealed`: this member's own segment, now. */
  | { readonly type: 'fate'; readonly fate: 'alive' | 'dead'; readonly sealed: boolean }
  /** This member's own segment was seen sealed. */
  | { readonly type: 'sealed' }
  /** `restarted`: the holder is a new process that knows nothing. `sealed`: own segment. */
  | { readonly type: 'reconnected'; readonly restarted: boolean; readonly sealed: boolean }
  /** Nothing, not even a heartbeat, came from a daemon for longer than it may be silent: it is stopped, or stuck. */
  | { readonly type: 'silent' }
  /** The holder has shared its segments up to this epoch, so that no number is given twice when the holder is lost. */
  | { readonly type: 'shared'; readonly top: Epoch }
  | { readonly type: 'drained' }
  /** The application wants to go, whether or not anybody takes over. */
  | { readonly type: 'leave' }

export type MemberEffect =
  | { readonly type: 'send'; readonly message: ToHolder }
  | { readonly type: 'accept' }
  /** Stop accepting; keep the listeners. */
  | { readonly type: 'stopAccepting' }
  | { readonly type: 'closeListeners' }
  /** Appends wait from now on. */
  | { readonly type: 'freeze' }
  | { readonly type: 'thaw' }
  /** Read everything that was acknowledged in the segments below this epoch. */
  | { readonly type: 'carry'; readonly below: Epoch }
  | { readonly type: 'seal'; readonly from: Epoch; readonly below: Epoch }
  /** Make a segment nobody else has: only for the sole heir. */
  | { readonly type: 'make'; readonly epochs: readonly Epoch[] }
  /** Append to this segment from now on. */
  | { readonly type: 'write'; readonly epoch: Epoch }
  /** No right to write any more. */
  | { readonly type: 'endWriting' }
  /** The registry, the epoch and the control listener are this process's own now. */
  | { readonly type: 'becomeHolder' }
  /** Find out whether the holder is alive: a fate follows, death only after the grace. */
  | { readonly type: 'judge' }
  | { readonly type: 'reconnect' }
  | { readonly type: 'drain' }
  /** Let go of everything; the process may end. */
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
  }
}

/** The first process of a service: nobody to take over from. */
export function firstMember(epoch: Epoch): MemberState {
  return {
    ...initialMember('holder'),
    phase: 'serving',
    holds: true,
    accepting: true,
    epoch,
    top: epoch,
    link: 'local',
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
      return state.scope === 'holder' && state.phase === 'serving' && state.link !== 'local' && rules.deed
        ? { state, effects: [{ type: 'judge' }] }
        : same(state)
    case 'reconnected':
      return onReconnected(state, event.restarted, event.sealed, rules)
    case 'leave':
      if (state.phase === 'leaving' || state.phase === 'gone') return same(state)
      return state.phase === 'joining' || state.phase === 'ready' ? giveUp(state) : leave(state)
    case 'silent':
      return onSilent(state, rules)
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
    case 'freeze':
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
      if (sealed && (rules.deed || scope === 'member')) {
        // Turned away before it began. Whether to leave or to inherit depends on whether the elder lives.
        return scope === 'holder' ? { state, effects: [{ type: 'judge' }] } : same(state)
      }
      return begin({ ...state, epoch: message.epoch }, rules)
    case 'retire':
      if (phase !== 'serving' && phase !== 'frozen' && phase !== 'orphan') return same(state)
      return {
        state: { ...state, phase: 'standby', accepting: false },
        effects: [{ type: 'endWriting' }, { type: 'stopAccepting' }],
      }
    case 'resume':
      if (phase !== 'standby' || state.accepting) return same(state)
      return { state: { ...state, accepting: true }, effects: [{ type: 'accept' }] }
    case 'reinstate':
      if (sealed || !state.holds || phase === 'joining' || phase === 'leaving' || phase === 'gone')
        return same(state)
      return begin({ ...state, epoch: message.epoch }, rules)
    case 'released':
      if (phase === 'standby' || phase === 'orphan') return leave(state)
      if (phase === 'serving' && scope === 'holder' && state.link !== 'local') {
        return { state: { ...state, link: 'local' }, effects: [{ type: 'becomeHolder' }] }
      }
      return same(state)
    case 'fenced':
    case 'abort':
      if (phase === 'joining' && !state.holds) return giveUp(state)
      // An Abort or a Fenced from an elder that has died since is no order: the heir stays. The fate tells.
      if (
        scope === 'holder' &&
        state.link !== 'local' &&
        (phase === 'joining' || phase === 'ready' || phase === 'serving')
      ) {
        return { state, effects: [{ type: 'judge' }] }
      }
      if (phase === 'joining' || phase === 'ready') return giveUp(state)
      if (scope === 'member' && phase !== 'leaving' && phase !== 'gone') return leave(state)
      return same(state)
    default:
      // Of a later version.
      return same(state)
  }
}

/** Accept first, then take over what others acknowledged, then write, then say so. */
function begin(state: MemberState, rules: Rules): MemberStep {
  return {
    state: { ...state, phase: 'serving', accepting: true, top: Math.max(state.top, state.epoch) },
    effects: [
      ...(state.accepting ? [] : [{ type: 'accept' } as const]),
      { type: 'carry', below: state.epoch },
      { type: 'write', epoch: state.epoch },
      // Without the rule a successor decides at once, though its elder may still come back.
      ...(rules.release || state.phase !== 'ready' || state.scope !== 'holder'
        ? []
        : [{ type: 'becomeHolder' } as const]),
      { type: 'send', message: { kind: 'serving', epoch: state.epoch } },
    ],
  }
}

function onAdopted(state: MemberState, rules: Rules): MemberStep {
  if (state.phase !== 'joining' || !state.holds) return same(state)
  switch (state.link) {
    case 'none':
      // The heir: the fate that follows tells whether its segment was sealed before the elder died.
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
      // Rule 5: elder alive: close, Gone, exit. A daemon's member with a channel to lose connects again instead.
      return state.scope === 'holder' || state.link === 'up' ? giveUp(state) : same(state)
    case 'serving':
      if (state.scope !== 'holder') return same(state)
      // Rule 6: end of file from a living elder is no abort; the seal is.
      if ((sealed && rules.deed) || (state.link === 'down' && !rules.serveOnAfterEof)) return leave(state)
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
        // It has everything but is not ready yet: it inherits as soon as it is.
        return state.holds && rules.promote
          ? { state: { ...state, link: 'none' }, effects: NOTHING }
          : exit(down)
      case 'ready':
        return rules.promote ? settle(state, sealed) : exit(down)
      case 'serving':
        return settle(state, sealed)
      default:
        return { state: down, effects: NOTHING }
    }
  }
  if (state.phase === 'ready' || state.phase === 'standby') {
    if (!rules.noSelfPromotion) return settle(down, true)
    if (mayAccept(state, rules)) return orphan(down)
  }
  return state.link === 'down' ? same(state) : { state: down, effects: NOTHING }
}

/** A holder that is stopped is as good as dead to those who connect: somebody has to accept. */
function onSilent(state: MemberState, rules: Rules): MemberStep {
  return state.scope === 'member' && mayAccept(state, rules) ? orphan(state) : same(state)
}

function mayAccept({ phase }: MemberState, rules: Rules): boolean {
  return (phase === 'ready' && rules.joinerAccepts) || (phase === 'standby' && rules.orphanAccepts)
}

/** Accepts, reads only. */
function orphan(state: MemberState): MemberStep {
  return {
    state: { ...state, phase: 'orphan', accepting: true },
    effects: state.accepting ? NOTHING : [{ type: 'accept' }],
  }
}

/** The elder is dead: serve with everything that was acknowledged anywhere. */
function settle(state: MemberState, sealed: boolean): MemberStep {
  const fresh = state.top + 1
  const epoch = sealed ? fresh : state.epoch
  const wasServing = state.phase === 'serving'
  const heir: MemberState = {
    ...state,
    phase: 'serving',
    accepting: true,
    epoch,
    wayBack: Math.max(state.wayBack, epoch),
    top: Math.max(state.top, epoch),
    link: state.scope === 'holder' ? 'local' : state.link,
  }
  const effects: MemberEffect[] = []
  if (!state.accepting) effects.push({ type: 'accept' })
  if (sealed) effects.push({ type: 'seal', from: 0, below: fresh }, { type: 'make', epochs: [fresh] })
  if (sealed || !wasServing) effects.push({ type: 'carry', below: epoch }, { type: 'write', epoch })
  if (state.scope === 'holder') effects.push({ type: 'becomeHolder' })
  return { state: heir, effects }
}

function onReconnected(state: MemberState, restarted: boolean, sealed: boolean, rules: Rules): MemberStep {
  const { phase } = state
  if (phase === 'joining' || phase === 'leaving' || phase === 'gone') return same(state)
  const effects: MemberEffect[] = [
    {
      type: 'send',
      message: { kind: 'back', role: phase as Role, epoch: state.epoch, top: state.top, sealed },
    },
  ]
  let next: MemberState = { ...state, link: 'up' }
  if (restarted && mayAccept(state, rules)) {
    // The new holder does not know yet who serves: until it does, everybody who can, accepts.
    next = { ...next, phase: 'orphan', accepting: true }
    if (!state.accepting) effects.unshift({ type: 'accept' })
  }
  return { state: next, effects }
}

/** Before Commit: leave nothing behind, and say that it is so if there is anybody to hear it. */
function giveUp(state: MemberState): MemberStep {
  return exit(state, state.link === 'up' ? [{ type: 'send', message: { kind: 'abort' } }] : [])
}

function exit(state: MemberState, farewell: readonly MemberEffect[] = []): MemberStep {
  const effects: MemberEffect[] = []
  if (state.holds) effects.push({ type: 'closeListeners' })
  effects.push(...farewell, { type: 'exit' })
  return { state: { ...state, phase: 'gone', holds: false, accepting: false }, effects }
}

/** After having served: close the listeners, drain, then end. */
function leave(state: MemberState): MemberStep {
  const effects: MemberEffect[] = []
  if (state.phase === 'serving' || state.phase === 'frozen') effects.push({ type: 'endWriting' })
  if (state.accepting) effects.push({ type: 'stopAccepting' })
  effects.push({ type: 'closeListeners' })
  if (state.link === 'up' || state.link === 'local') effects.push({ type: 'send', message: { kind: 'gone' } })
  effects.push({ type: 'drain' })
  return { state: { ...state, phase: 'leaving', holds: false, accepting: false }, effects }
}
