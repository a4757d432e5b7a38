import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  initialMember,
  type MemberEvent,
  type MemberState,
  type MemberStep,
  stepMember,
} from '../../../src/handoff/member-machine.js'
import type { MemberPhase } from '../../../src/handoff/phases.js'
import { seeded } from '../../fixtures/seeded.js'
import { fileOf } from '../../vectors/make.js'
import { comesOf, type MemberWalk, reachable, shapeOf } from '../../vectors/member.js'
import { eventsFor } from '../../vectors/member-events.js'

const WALKS: MemberWalk[] = JSON.parse(readFileSync(fileOf('member'), 'utf8'))
type Machine = (state: MemberState, event: MemberEvent) => MemberStep

/** An event by what a machine can tell it by, whatever numbers it has. */
function kindOf(state: MemberState, event: MemberEvent): string {
  const told = 'message' in event ? { ...event, message: event.message.kind } : event
  const old = 'epoch' in event && event.epoch !== undefined && event.epoch < state.epoch
  return JSON.stringify([{ ...told, epoch: 0, top: 0 }, event.type === 'quiesced' ? false : old])
}

const EXPECTED = WALKS.map(({ steps }) =>
  steps.map(({ event, ...told }) => ({ event, told: JSON.stringify(told) })),
)

/** The vectors hold of this machine. */
function passes(machine: Machine): boolean {
  return EXPECTED.every(steps => {
    let state = initialMember('member')
    return steps.every(({ event, told }) => {
      const step = machine(state, event)
      state = step.state
      const { phase, holds, accepting, link, epoch, top, unfit, unheard } = state
      const { effects } = step
      return JSON.stringify({ effects, phase, holds, accepting, link, epoch, top, unfit, unheard }) === told
    })
  })
}

/** The machine, but for what it does at this event in states such as this one. */
function mutant(cell: { state: MemberState; event: MemberEvent }, how: number): Machine {
  const kind = kindOf(cell.state, cell.event)
  const PHASES: readonly MemberPhase[] = ['ready', 'serving', 'standby', 'gone']
  return (state, event) => {
    const step = stepMember(state, event)
    if (shapeOf(state) !== shapeOf(cell.state) || kindOf(state, event) !== kind) return step
    const tells = comesOf(state, event)
    if (tells && how === 0) return { state, effects: [] }
    if (step.effects.length > 1 && how === 1) return { ...step, effects: step.effects.slice().reverse() }
    if (step.effects.length > 0 && how === 2) return { ...step, effects: step.effects.slice(0, -1) }
    if (how === 3) return { ...step, effects: [...step.effects, { type: 'judge' }] }
    const phase = PHASES.find(other => other !== step.state.phase)!
    return { ...step, state: { ...step.state, phase } }
  }
}

describe('the vectors of a member', () => {
  it('have every event in every phase', () => {
    const seen = new Set<string>()
    for (const { steps } of WALKS) {
      let state = initialMember('member')
      for (const { event } of steps) {
        seen.add(`${state.phase} ${kindOf(state, event)}`)
        state = stepMember(state, event).state
      }
    }
    const missing = [...reachable().values()].flatMap(({ state }) =>
      [...eventsFor(state)]
        .filter(([, event]) => !seen.has(`${state.phase} ${kindOf(state, event)}`))
        .map(([name]) => `${name} in ${state.phase}`),
    )
    expect(missing).toEqual([])
    const phases = new Set([...seen].map(cell => cell.split(' ')[0]))
    expect(phases.size).toBe(10)
  })

  it('hold of the machine', () => {
    expect(passes(stepMember)).toBe(true)
  })

  it('fail each of 250 machines that differ in one cell', () => {
    const random = seeded(33)
    const states = [...reachable().values()].map(({ state }) => state)
    const unseen: string[] = []
    for (let n = 0; n < 250; n++) {
      const state = states[random(states.length)]!
      const events = [...eventsFor(state)]
      const [name, event] = events[random(events.length)]!
      const machine = mutant({ state, event }, random(5))
      if (passes(machine)) unseen.push(`${name} in ${JSON.stringify(state)}`)
    }
    expect(unseen).toEqual([])
  })
})
