import {
  initialMember,
  type MemberEffect,
  type MemberEvent,
  type MemberState,
  stepMember,
} from '../../src/protocol/member-machine.js'
import type { ToMember } from '../../src/protocol/messages.js'

/** What happens to a member of a daemon, one event after the other from the beginning, and what it does at each. */
export interface MemberWalk {
  readonly steps: readonly {
    readonly event: MemberEvent
    readonly effects: readonly MemberEffect[]
    readonly phase: MemberState['phase']
    readonly accepting: boolean
    readonly link: MemberState['link']
    readonly epoch: number
  }[]
}

const WALKS = 80
const STEPS = 14
/** How walks begin in turn: the usual way, so far. */
const USUAL = ['offer', 'adopted', 'commit', 'begun'] as const
/** Of ten events, so many are one that something comes of, if there is such a one. */
const FRUITFUL = 9

/** The same numbers each time (mulberry32). */
function numbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

function eventsFor({ epoch, wayBack, top }: MemberState): MemberEvent[] {
  const said = (message: ToMember, sealed = false): MemberEvent => ({ type: 'message', message, sealed })
  const plain = ['unquiesce', 'freeze', 'sealed', 'retire', 'resume', 'released', 'fenced', 'abort'] as const
  const next = Math.max(wayBack, top) + 1
  return [
    said({ kind: 'offer', epoch: next, wayBack: next + 1, source: next - 1 }),
    ...plain.map(kind => said({ kind })),
    said({ kind: 'quiesce', epoch: next }),
    ...[false, true].flatMap(sealed => [
      said({ kind: 'commit', epoch }, sealed),
      said({ kind: 'reinstate', epoch: next }, sealed),
      { type: 'fate', fate: 'alive', sealed } as const,
      { type: 'fate', fate: 'dead', sealed } as const,
      { type: 'reconnected', restarted: true, sealed } as const,
      { type: 'reconnected', restarted: false, sealed } as const,
    ]),
    ...(['adopted', 'refused', 'lost', 'deadline', 'sealed', 'silent', 'leave', 'drained'] as const).map(
      type => ({ type }),
    ),
    { type: 'quiesced', epoch: next },
    { type: 'shared', top: next },
    { type: 'begun', epoch },
    { type: 'begun', epoch: epoch - 1 },
    { type: 'failed', effect: 'carry', epoch },
    { type: 'failed', effect: 'write', epoch },
    { type: 'failed', effect: 'write', epoch: epoch - 1 },
    ...(['accept', 'back', 'follow'] as const).map(effect => ({ type: 'failed', effect }) as const),
  ]
}

export function memberVectors(): MemberWalk[] {
  const random = numbers(20_261_121)
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  return Array.from({ length: WALKS }, (_, walk) => {
    const usual: readonly string[] = USUAL.slice(0, walk % (USUAL.length + 1))
    const steps = []
    let state = initialMember('member')
    for (let n = 0; n < STEPS && state.phase !== 'gone'; n++) {
      const events = eventsFor(state)
      const fruitful = events.filter(event => fruit(state, event))
      const some = fruitful.length > 0 && random() * 10 < FRUITFUL ? likely(fruitful, pick) : events
      const name = usual[n] ?? pick([...new Set(some.map(nameOf))])
      const event = pick(
        events.filter(one => nameOf(one) === name && (usual[n] === undefined || fruit(state, one))),
      )
      const { state: after, effects } = stepMember(state, event)
      state = after
      const { phase, accepting, link, epoch } = state
      steps.push({ event, effects, phase, accepting, link, epoch })
    }
    return { steps }
  })
}

function nameOf(event: MemberEvent): string {
  return event.type === 'message' ? event.message.kind : event.type
}

/** What ends a walk comes seldom. */
function likely(events: readonly MemberEvent[], pick: <T>(list: readonly T[]) => T): readonly MemberEvent[] {
  const on = events.filter(event => !endsIt(event))
  return on.length > 0 && pick([true, true, true, true, false]) ? on : events
}

function endsIt(event: MemberEvent): boolean {
  if (event.type === 'message') return ['released', 'fenced', 'abort'].includes(event.message.kind)
  return ['leave', 'refused'].includes(event.type) || (event.type === 'fate' && event.fate === 'alive')
}

function fruit(state: MemberState, event: MemberEvent): boolean {
  const step = stepMember(state, event)
  return step.state !== state || step.effects.length > 0
}
