import { describe, expect, it } from 'vitest'
import { RULES, type Rules } from '../../src/handoff/rules.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { BOUNDS } from './bounds.js'
import { line } from './line.js'
import { boundsOf, KERNEL, NEEDED, POLICY } from './needed.js'
import { explore } from './search.js'
import { ALWAYS, LONG, worldOf } from './spaces.js'

const spaces = NIGHTLY ? [...ALWAYS, ...LONG] : ALWAYS
const limit = NIGHTLY ? 20_000_000 : 6_000_000
const seen = new Set<string>()

describe('every interleaving of messages, deadlines, cuts, kills and stops', () => {
  const visited = { 2: 0, 3: 0 }

  it.each(spaces)('$name: no violation', { timeout: NIGHTLY ? 900_000 : 120_000 }, space => {
    const world = worldOf(space, RULES)
    const report = explore(world, { states: limit, violations: 1, ends: space.parties === 2 || NIGHTLY })
    console.log(line(space.name, report))
    for (const what of world.visited()) seen.add(what)
    visited[space.parties] += report.states
    expect(report.violations).toEqual([])
    expect(report.exhausted).toBe(true)
  })

  it('visits at least 500,000 states of two parties and of three', () => {
    expect(visited[2]).toBeGreaterThanOrEqual(500_000)
    expect(visited[3]).toBeGreaterThanOrEqual(500_000)
  })

  it('visits every phase, sends every message and carries out every effect', () => {
    expect([...seen].sort()).toMatchInlineSnapshot(`
      [
        "effect accept",
        "effect becomeHolder",
        "effect carry",
        "effect closeListeners",
        "effect drain",
        "effect endWriting",
        "effect exit",
        "effect failed",
        "effect freeze",
        "effect judge",
        "effect make",
        "effect mark",
        "effect quiesce",
        "effect reconnect",
        "effect refuse",
        "effect seal",
        "effect send",
        "effect stopAccepting",
        "effect tell",
        "effect thaw",
        "effect unquiesce",
        "effect write",
        "holder committing",
        "holder freezing",
        "holder idle",
        "holder offering",
        "holder preparing",
        "holder probation",
        "holder quiescing",
        "holder rebuilding",
        "holder released",
        "holder returning",
        "member beginning",
        "member frozen",
        "member gone",
        "member joining",
        "member leaving",
        "member orphan",
        "member ready",
        "member serving",
        "member standby",
        "member unfit",
        "message abort",
        "message ack",
        "message back",
        "message commit",
        "message fenced",
        "message freeze",
        "message frozen",
        "message gone",
        "message moved",
        "message offer",
        "message prepare",
        "message prepared",
        "message quiesce",
        "message quiesced",
        "message ready",
        "message reinstate",
        "message released",
        "message resume",
        "message retire",
        "message sealed",
        "message serving",
        "message unfit",
        "message unquiesce",
      ]
    `)
  })
})

describe('each rule is needed', () => {
  const rules = (Object.keys(RULES) as (keyof Rules)[]).filter(rule => !KERNEL.includes(rule))

  const searched = rules.filter(rule => NEEDED[rule] !== undefined && (NIGHTLY || !NEEDED[rule].far))

  it('has a name as needed or as policy', () => {
    expect(rules.filter(rule => (NEEDED[rule] === undefined) === (POLICY[rule] === undefined))).toEqual([])
  })

  it.each(searched)('without %s there is harm', rule => {
    const need = NEEDED[rule]!
    for (const harm of [need.harm, ...(need.also === undefined ? [] : [need.also])]) {
      const world = worldOf({ parties: need.parties, bounds: boundsOf(need) }, { ...RULES, [rule]: false })
      const report = explore(world, { states: 2_000_000, violations: 1, wanted: harm })
      console.log(line(`without ${rule}`, report))
      expect(
        report.violations.find(({ what }) => harm.test(what)),
        `the harm named: ${harm}`,
      ).toBeDefined()
    }
  })

  it.each(Object.entries(POLICY))('without %s there is none: %s', rule => {
    const off = { ...RULES, [rule]: false }
    for (const parties of perLane<(2 | 3)[]>([2], [2, 3])) {
      const world = worldOf(
        { parties, bounds: { ...BOUNDS, segments: 5, crash: 2, stop: 0, atomic: true } },
        off,
      )
      const report = explore(world, { states: limit, violations: 1 })
      console.log(line(`without ${rule}, ${parties} parties`, report))
      expect(report.violations).toEqual([])
    }
  })
})
