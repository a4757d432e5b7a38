import {
  type MemberEffect,
  type MemberEvent,
  type MemberState,
  stepMember,
} from '../../src/handoff/member-machine.js'
import { reachable } from './member.js'
import { eventsFor } from './member-events.js'

/** Facts besides the phase on which the outcome of an event may depend, and their words. */
const FACTS = {
  link: ({ link }: MemberState) => `link ${link}`,
  holds: ({ holds }: MemberState) => (holds ? 'holds listeners' : 'holds none'),
  accepting: ({ accepting }: MemberState) => (accepting ? 'accepts' : 'does not accept'),
  unfit: ({ unfit }: MemberState) => (unfit ? 'has said unfit' : 'has not said unfit'),
  unheard: ({ unheard }: MemberState) => (unheard ? 'stood by before the silence' : 'did not'),
}
type Fact = keyof typeof FACTS
const NOTHING = ''

/** The table of member.md: what comes of each event in each phase. Where a phase is not named nothing does. */
export function memberTable(): string {
  const states = [...reachable().values()].map(({ state }) => state)
  const rows = new Map<string, string[]>()
  for (const name of eventsFor(states[0]!).keys()) {
    const outcomes = outcomesOf(states, state => eventsFor(state).get(name)!)
    const text = [...outcomes].map(([what, where]) => `${where.join(', ')} | ${what}`)
    const key = text.length === 0 ? 'any | nothing' : text.join('\n')
    rows.set(key, [...(rows.get(key) ?? []), name])
  }
  const lines = [...rows].flatMap(([text, names]) =>
    text
      .split('\n')
      .map((line, n) => `| ${n === 0 ? names.map(name => `\`${name}\``).join(', ') : ''} | ${line} |`),
  )
  return ['| event | phase | effects, and the phase after them |', '| --- | --- | --- |', ...lines].join('\n')
}

/** By what is done: where. */
function outcomesOf(
  states: readonly MemberState[],
  eventIn: (state: MemberState) => MemberEvent,
): Map<string, string[]> {
  const outcomes = new Map<string, string[]>()
  for (const phase of new Set(states.map(state => state.phase))) {
    const those = states.filter(state => state.phase === phase)
    const outcome = (state: MemberState) => readResult(state, eventIn(state))
    for (const [condition, what] of told(those, outcome)) {
      if (what === NOTHING) continue
      const where = condition === '' ? phase : `${phase} (${condition})`
      outcomes.set(what, [...(outcomes.get(what) ?? []), where])
    }
  }
  return outcomes
}

/** The outcome by the fewest facts that decide it. */
function told(states: readonly MemberState[], outcome: (state: MemberState) => string): Map<string, string> {
  for (const facts of choices()) {
    const by = new Map<string, string>()
    const decided = states.every(state => {
      const condition = facts.map(fact => FACTS[fact](state)).join(', ')
      const what = outcome(state)
      const known = by.get(condition) ?? what
      by.set(condition, known)
      return known === what
    })
    if (decided) return by
  }
  throw new Error('the outcome depends on something that the table does not know')
}

/** Sets of facts, small ones first. */
function choices(): Fact[][] {
  const all = Object.keys(FACTS) as Fact[]
  const sets = Array.from({ length: 1 << all.length }, (_, bits) => all.filter((_, n) => (bits >> n) & 1))
  return sets.sort((a, b) => a.length - b.length)
}

function readResult(state: MemberState, event: MemberEvent): string {
  const linked: MemberState = { ...state, link: 'up' }
  const unsaid = stepMember({ ...state, link: 'down' }, event)
  const said = stepMember(linked, event)
  // A member speaks where it has a channel; all else is the same.
  const sameUnsaid =
    said.state.phase === unsaid.state.phase &&
    said.effects.some(isSent) &&
    !unsaid.effects.some(isSent) &&
    textOf(said.effects.filter(effect => !isSent(effect))) === textOf(unsaid.effects)
  const [before, { state: after, effects }] = sameUnsaid ? [linked, said] : [state, stepMember(state, event)]
  const done = effects.length === 0 ? [] : [textOf(effects, sameUnsaid ? '*' : '')]
  const phase = after.phase === before.phase ? [] : [`→ ${after.phase}`]
  const epoch = after.epoch === before.epoch ? [] : ['takes the epochs']
  const top = after.top === before.top || epoch.length > 0 ? [] : ['raises `top`']
  const quiet = done.length === 0 && phase.length === 0
  const stays = quiet && after.unheard !== before.unheard ? ['accepts on when it hears its holder'] : []
  const failed = quiet && after.accepting !== before.accepting ? ['does not accept any more'] : []
  return [...done, ...epoch, ...top, ...stays, ...failed, ...phase].join(', ')
}

function isSent({ type }: MemberEffect): boolean {
  return type === 'send'
}

function textOf(effects: readonly MemberEffect[], mark = ''): string {
  return effects
    .map(effect => (effect.type === 'send' ? `\`send ${effect.message.kind}\`${mark}` : `\`${effect.type}\``))
    .join(', ')
}
