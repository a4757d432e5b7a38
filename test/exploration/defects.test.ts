import { describe, expect, it } from 'vitest'
import { RULES } from '../../src/handoff/rules.js'
import { NIGHTLY } from '../lanes/lane.js'
import { BOUNDS } from './bounds.js'
import { DEFECTS } from './defects.js'
import { line } from './line.js'
import { PARTS } from './parts.js'
import { explore } from './search.js'
import { worldOf } from './spaces.js'

describe('a defect of what the worlds run is found', () => {
  it('of seven at least six', () => {
    expect(DEFECTS.length).toBeGreaterThanOrEqual(14)
    const found = DEFECTS.filter(({ harm }) => harm !== undefined)
    expect(found.length / DEFECTS.length).toBeGreaterThanOrEqual(6 / 7)
  })

  it.each(DEFECTS.filter(({ harm }) => harm !== undefined))(
    '$what',
    ({ what, parties, bounds, parts, harm }) => {
      const world = worldOf({ parties, bounds: { ...BOUNDS, ...bounds } }, RULES, { ...PARTS, ...parts })
      const report = explore(world, { states: 1_000_000, violations: 1, wanted: harm! })
      console.log(line(what, report))
      expect(
        report.violations.find(violation => harm!.test(violation.what)),
        `the harm named: ${harm}`,
      ).toBeDefined()
    },
  )

  // Else the harm would be of the world, and not of the defect.
  const worlds = new Map(
    DEFECTS.map(({ parties, bounds }) => [JSON.stringify({ parties, bounds }), { parties, bounds }]),
  )
  it.runIf(NIGHTLY).each([...worlds])('there is none without it: %s', (name, { parties, bounds }) => {
    const world = worldOf({ parties, bounds: { ...BOUNDS, ...bounds } }, RULES)
    const report = explore(world, { states: 1_000_000, violations: 1 })
    console.log(line(name, report))
    expect(report.violations).toEqual([])
  })
})
