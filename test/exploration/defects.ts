/**
 * Defects that the exploration must find: each is one small change of a source that the worlds run. We chose them before we
 * knew which of them the exploration finds, and by which rule.
 */
import { EffectQueue, type Outcome } from '../../src/handoff/effect-queue.js'
import { needs } from '../../src/handoff/embedded.js'
import { type HolderEvent, stepHolder } from '../../src/handoff/holder-machine.js'
import { type MemberEvent, stepMember } from '../../src/handoff/member-machine.js'
import type { ToMember } from '../../src/handoff/messages.js'
import { NO_SLICE, stepMoveIn, stepMoveOut } from '../../src/handoff/move-machine.js'
import { RULES } from '../../src/handoff/rules.js'
import type { Bounds } from './bounds.js'
import type { Parts } from './parts.js'

export interface Defect {
  readonly what: string
  readonly parts: Partial<Parts>
  readonly parties: 2 | 3
  readonly bounds: Partial<Bounds>
  readonly harm?: RegExp
  /** Why it is not found: what the change does is sound. */
  readonly unseen?: string
}

type QueueParts<Effect> = ConstructorParameters<typeof EffectQueue<Effect>>[0]
type StepMember = ReturnType<typeof stepMember>
type StepHolder = ReturnType<typeof stepHolder>

/** The member's machine, but for what `change` makes of one step (null: nothing). */
function member(
  change: (...step: [...Required<Parameters<typeof stepMember>>, StepMember]) => StepMember | null,
): Partial<Parts> {
  return {
    member: (state, event, rules = RULES) => {
      const step = stepMember(state, event, rules)
      return change(state, event, rules, step) ?? step
    },
  }
}

/** As {@link member}, of the holder's machine. */
function holder(
  change: (...step: [...Required<Parameters<typeof stepHolder>>, StepHolder]) => StepHolder | null,
): Partial<Parts> {
  return {
    holder: (state, event, rules = RULES) => {
      const step = stepHolder(state, event, rules)
      return change(state, event, rules, step) ?? step
    },
  }
}

/** A queue that loses what is pushed while an effect that takes time is under way. */
class LosesPushed<Effect> extends EffectQueue<Effect> {
  #under: { one: boolean }

  constructor(parts: QueueParts<Effect>) {
    const under = { one: false }
    super({
      ...parts,
      perform: effect => {
        const turn = parts.perform(effect)
        under.one = turn !== undefined
        return turn
      },
      outcome: (effect, outcome) => {
        under.one = false
        parts.outcome(effect, outcome)
      },
    })
    this.#under = under
  }
  override push(effects: readonly Effect[]): void {
    if (!this.#under.one) super.push(effects)
  }
}

/** A queue that leaves out all that waits when an effect has failed, whatever step it is of. */
class LosesLaterSteps<Effect> extends EffectQueue<Effect> {
  readonly #waiting: Set<Effect>

  constructor(parts: QueueParts<Effect>) {
    const waiting = new Set<Effect>()
    const lost = new Set<Effect>()
    super({
      ...parts,
      perform: effect => {
        waiting.delete(effect)
        return lost.has(effect) ? undefined : parts.perform(effect)
      },
      outcome: (effect, outcome) => {
        if (lost.has(effect)) return
        if (!outcome.done) for (const later of waiting) lost.add(later)
        parts.outcome(effect, outcome)
      },
    })
    this.#waiting = waiting
  }
  override push(effects: readonly Effect[]): void {
    for (const effect of effects) this.#waiting.add(effect)
    super.push(effects)
  }
}

/** A queue that does not wait for an effect that takes time. */
class BeginsEarly<Effect> extends EffectQueue<Effect> {
  constructor(parts: QueueParts<Effect>) {
    super({ ...parts, perform: effect => void parts.perform(effect) })
  }
}

/** A queue that tells of what has failed as of what is done. */
class TellsDone<Effect> extends EffectQueue<Effect> {
  constructor(parts: QueueParts<Effect>) {
    const done: Outcome = { done: true }
    super({ ...parts, outcome: effect => parts.outcome(effect, done) })
  }
}

const CONNECTION: Partial<Bounds> = { connection: true, stop: 0, cut: 0 }
const FAILING: Partial<Bounds> = { fail: 1, crash: 0, stop: 0, cut: 0 }
const CALM: Partial<Bounds> = { crash: 0, stop: 0, cut: 0 }

export const DEFECTS: readonly Defect[] = [
  {
    what: 'adopts what a dead giver took back',
    parts: {
      moveIn: (state, event, rules) =>
        event.type === 'log' && event.sender === 'dead'
          ? stepMoveIn(state, { ...event, record: 'moved' }, rules)
          : stepMoveIn(state, event, rules),
    },
    parties: 2,
    bounds: CONNECTION,
    harm: /^bytes are lost/,
  },
  {
    what: 'takes a slice back without a record of it',
    parts: {
      moveOut: (state, event, rules) =>
        event.type === 'deadline' && state.pending !== NO_SLICE
          ? { state: { ...state, pending: NO_SLICE }, effects: [{ type: 'takeBack', slice: state.pending }] }
          : stepMoveOut(state, event, rules),
    },
    parties: 2,
    bounds: CONNECTION,
    harm: /^bytes are lost/,
  },
  {
    what: 'accepts beside its successor for ever',
    parts: member((_state, event, _rules, { state, effects }) =>
      isMessage(event, 'retire') && state.phase === 'standby'
        ? { state: { ...state, accepting: true }, effects: effects.filter(e => e.type !== 'stopAccepting') }
        : null,
    ),
    parties: 2,
    bounds: CALM,
    harm: /^two accept: P0 while it stands by/,
  },
  {
    what: 'accepts as soon as it is ready',
    parts: member((before, event, _rules, { state, effects }) =>
      event.type === 'adopted' && before.phase === 'joining' && state.phase === 'ready'
        ? { state: { ...state, accepting: true }, effects: [{ type: 'accept' }, ...effects] }
        : null,
    ),
    parties: 2,
    bounds: CALM,
    harm: /^two accept: P1 before its commit/,
  },
  {
    what: 'the queue loses what is pushed while an effect is under way',
    parts: { queue: LosesPushed },
    parties: 2,
    bounds: { ...FAILING, lag: true },
    harm: /^stuck generation/,
  },
  {
    what: 'the queue leaves out later steps too when an effect has failed',
    parts: { queue: LosesLaterSteps },
    parties: 2,
    bounds: { ...FAILING, lag: true },
    harm: /^P1 is not what it believes to be/,
  },
  {
    what: 'the queue does not wait for an effect',
    parts: { queue: BeginsEarly },
    parties: 2,
    bounds: CALM,
    harm: /^an effect begins before another is over/,
  },
  {
    what: 'the queue tells that a failed effect is done',
    parts: { queue: TellsDone },
    parties: 2,
    bounds: FAILING,
    harm: /^P1 is not what it believes to be/,
  },
  {
    what: 'the release is not marked in the segment',
    parts: holder((_state, event, _rules, { state, effects }) =>
      event.type === 'healthy' ? { state, effects: effects.filter(e => e.type !== 'mark') } : null,
    ),
    parties: 2,
    bounds: { crash: 0, stop: 0, lasting: true },
    harm: /^not exactly one owner at rest/,
  },
  {
    what: 'the way back of an offer that is over is not sealed',
    parts: holder((before, _event, _rules, { state, effects }) =>
      before.phase === 'offering' && state.phase === 'idle'
        ? { state, effects: effects.filter(e => e.type !== 'seal' || e.from !== before.wayBack) }
        : null,
    ),
    parties: 2,
    bounds: {},
    unseen: 'no process is ever told to write there: the seal tells readers that the segment is over',
  },
  {
    what: 'an owner whose freeze is over does not thaw',
    parts: member((_state, event, _rules, { state, effects }) =>
      event.type === 'deadline' ? { state, effects: effects.filter(e => e.type !== 'thaw') } : null,
    ),
    parties: 3,
    bounds: { stop: 0, cut: 0, atomic: true, segments: 5 },
    harm: /^M0 serves, and its changes wait/,
  },
  {
    what: 'no effect needs another',
    parts: { needs: () => false },
    parties: 2,
    bounds: FAILING,
    harm: /^an acknowledged change is lost/,
  },
  {
    what: 'nothing needs that the listeners accept',
    parts: { needs: (failed, later) => failed.effect.type !== 'accept' && needs(failed, later) },
    parties: 2,
    bounds: FAILING,
    harm: /^P1 writes, and does not accept/,
  },
  {
    what: 'what the holder asks for needs what its own member asked for',
    parts: { needs: (failed, later) => needs(failed, later.by === failed.by ? later : failed) },
    parties: 2,
    bounds: FAILING,
    unseen: 'what is left out is an Abort or a seal, which a deadline or the next grant makes up for',
  },
  {
    what: 'an upgrade is cancelled behind its commit',
    parts: {
      holder: (state, event, rules) =>
        event.type === 'cancel' && state.phase === 'committing'
          ? stepHolder({ ...state, phase: 'preparing' }, event, rules)
          : stepHolder(state, event, rules),
    },
    parties: 2,
    bounds: CALM,
    unseen: 'the version before is given its way back, as by a rollback',
  },
  {
    what: 'an upgrade is cancelled in its probation',
    parts: {
      holder: (state, event, rules) =>
        event.type === 'cancel' && state.phase === 'probation'
          ? stepHolder({ ...state, phase: 'preparing' }, event, rules)
          : stepHolder(state, event, rules),
    },
    parties: 2,
    bounds: CALM,
    harm: /^stuck generation/,
  },
  {
    what: 'a successor is taken while another is on its way',
    parts: {
      holder: (state, event, rules) =>
        event.type === 'join' && state.phase === 'probation'
          ? stepHolder({ ...state, phase: 'idle' }, event, rules)
          : stepHolder(state, event, rules),
    },
    parties: 2,
    bounds: { ...CALM, processes: 3 },
    harm: /^stuck generation/,
  },
  {
    what: 'the segment is renewed during an upgrade',
    parts: {
      holder: (state, event, rules) =>
        event.type === 'renew' && state.phase === 'offering'
          ? stepHolder({ ...state, phase: 'idle' }, event, rules)
          : stepHolder(state, event, rules),
    },
    parties: 2,
    bounds: { ...CALM, crash: 1, renewals: 1 },
    harm: /^an acknowledged change is lost/,
  },
  {
    what: 'Serving counts for whatever grant it names',
    parts: {
      holder: (state, event, rules) =>
        isServing(event)
          ? stepHolder(state, { ...event, message: { kind: 'serving', epoch: state.grant } }, rules)
          : stepHolder(state, event, rules),
    },
    parties: 2,
    bounds: { ...FAILING, cut: 1 },
    harm: /^refused: P1/,
  },
  {
    what: 'Quiesced counts for whatever handoff it names',
    parts: {
      holder: (state, event, rules) =>
        isQuiesced(event)
          ? stepHolder(state, { ...event, message: { kind: 'quiesced', epoch: state.grant } }, rules)
          : stepHolder(state, event, rules),
    },
    parties: 3,
    bounds: { ...CALM, writes: 0, back: 0, work: true, processes: 3, segments: 6, atomic: true },
    harm: /^two work at once/,
  },
  {
    what: 'a stopped process that is given its right back is waited for',
    parts: holder((before, event) =>
      event.type === 'deadline' && before.phase === 'returning' && before.joiner < 0
        ? { state: before, effects: [] }
        : null,
    ),
    parties: 3,
    bounds: { ...CALM, stop: 1, segments: 5, atomic: true },
    harm: /^a stopped process blocks every joiner: returning/,
  },
  {
    what: 'a member that stood by accepts on when it hears its daemon again',
    parts: member((before, event) => (event.type === 'heard' ? { state: before, effects: [] } : null)),
    parties: 3,
    bounds: { ...CALM, silent: 1, lasting: true, segments: 5, atomic: true },
    harm: /^not exactly one accepts in a probation: 2/,
  },
  {
    what: 'a member that is told to accept stops when it hears its daemon again',
    parts: member((before, event) =>
      isMessage(event, 'resume') && before.phase === 'orphan' ? { state: before, effects: [] } : null,
    ),
    parties: 3,
    bounds: {
      ...CALM,
      writes: 0,
      back: 0,
      silent: 1,
      fail: 1,
      stop: 1,
      lasting: true,
      segments: 4,
      atomic: true,
    },
    harm: /^black hole/,
  },
  {
    what: 'an owner that could not come back waits for one without a channel',
    parts: holder((before, event) =>
      event.type === 'renew' && before.phase === 'returning' ? { state: before, effects: [] } : null,
    ),
    parties: 2,
    bounds: { fail: 1, lasting: true, crash: 0, stop: 0 },
    harm: /^(stuck generation|not exactly one owner at rest)/,
  },
  {
    what: 'the word that gave the right back is not said again',
    parts: holder((before, event, _rules, { state, effects }) =>
      event.type === 'message' && event.message.kind === 'back' && before.phase === 'idle'
        ? { state, effects: effects.filter(e => e.type !== 'tell' || e.message.kind !== 'reinstate') }
        : null,
    ),
    parties: 3,
    bounds: { ...CALM, cut: 1, segments: 5, atomic: true },
    harm: /^(not exactly one writer at rest|stuck generation)/,
  },
  {
    what: 'a change is refused though the one that writes is only busy',
    parts: { impatient: true },
    parties: 2,
    bounds: { ...CALM, forward: true, writes: 0, busy: 1 },
    harm: /^a forwarded change is refused: the one that writes is only busy/,
  },
]

type Heard = Extract<HolderEvent, { type: 'message' }>

function isMessage(event: MemberEvent, kind: ToMember['kind']): boolean {
  return event.type === 'message' && event.message.kind === kind
}
function isServing(event: HolderEvent): event is Heard {
  return event.type === 'message' && event.message.kind === 'serving'
}
function isQuiesced(event: HolderEvent): event is Heard {
  return event.type === 'message' && event.message.kind === 'quiesced'
}
