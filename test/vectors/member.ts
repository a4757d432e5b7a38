import {
  initialMember,
  type MemberEffect,
  type MemberEvent,
  type MemberState,
  stepMember,
} from '../../src/handoff/member-machine.js'
import { eventsFor } from './member-events.js'

/** Events of a member of a daemon, one after the other from the beginning, and its effects at each. */
export interface MemberWalk {
  readonly steps: readonly Told[]
}

interface Told extends Pick<MemberState, (typeof TOLD)[number]> {
  readonly event: MemberEvent
  readonly effects: readonly MemberEffect[]
}

/** The fields of the state after a step that a walk tells. */
const TOLD = ['phase', 'holds', 'accepting', 'link', 'epoch', 'top', 'unfit', 'unheard'] as const

/** States that differ in numbers alone are the same, and what has ended does nothing any more. */
export function shapeOf({ phase, holds, accepting, link, unfit, unheard }: MemberState): string {
  if (phase === 'gone') return phase
  return phase === 'leaving'
    ? `${phase} ${link}`
    : JSON.stringify([phase, holds, accepting, link, unfit, unheard])
}

export function comesOf(state: MemberState, event: MemberEvent): boolean {
  const step = stepMember(state, event)
  return step.state !== state || step.effects.length > 0
}

/** Where a member of a daemon begins. */
const FIRST = initialMember('member')

/** One state of each shape, those first that are soonest reached, by their shapes; and the events that lead there. */
export function reachable(): Map<string, { readonly state: MemberState; readonly path: readonly string[] }> {
  const reached = new Map([[shapeOf(FIRST), { state: FIRST, path: [] as readonly string[] }]])
  for (const { state, path } of reached.values()) {
    for (const [name, event] of eventsFor(state)) {
      const after = stepMember(state, event).state
      const shape = shapeOf(after)
      if (!reached.has(shape)) reached.set(shape, { state: after, path: [...path, name] })
    }
  }
  return reached
}

/**
 * Every event in every state that there is. A walk goes on as long as something is left that has not happened where it is: first all
 * that changes nothing there, then what leads on.
 */
export function memberVectors(): MemberWalk[] {
  const left = new Map<string, Set<string>>()
  const ways = reachable()
  for (const [shape, { state }] of ways) left.set(shape, new Set(eventsFor(state).keys()))
  const walks: MemberWalk[] = []
  for (const [shape, { path }] of ways) {
    while (left.get(shape)!.size > 0) walks.push(walk(path, left))
  }
  return walks
}

function walk(path: readonly string[], left: ReadonlyMap<string, Set<string>>): MemberWalk {
  const steps: Told[] = []
  let state = FIRST
  const take = (name: string) => {
    const event = eventsFor(state).get(name)!
    left.get(shapeOf(state))!.delete(name)
    const { state: after, effects } = stepMember(state, event)
    state = after
    const told = Object.fromEntries(TOLD.map(fact => [fact, state[fact]])) as Pick<
      MemberState,
      (typeof TOLD)[number]
    >
    steps.push({ event, effects, ...told })
  }
  path.forEach(take)
  for (let name = following(state, left); name !== undefined; name = following(state, left)) take(name)
  // Whether it would stand by again is seen in nothing else.
  if (state.phase === 'orphan') take('heard')
  return { steps }
}

/** The next event that has not happened in this state: first one that changes nothing, then one that leads where most is left. */
function following(state: MemberState, left: ReadonlyMap<string, Set<string>>): string | undefined {
  const events = eventsFor(state)
  const rest = [...left.get(shapeOf(state))!].map(name => ({ name, event: events.get(name)! }))
  const idle = rest.find(({ event }) => !comesOf(state, event))
  if (idle !== undefined) return idle.name
  const leftAfter = (event: MemberEvent) => left.get(shapeOf(stepMember(state, event).state))!.size
  return rest.sort((a, b) => leftAfter(b.event) - leftAfter(a.event))[0]?.name
}
