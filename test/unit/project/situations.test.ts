import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { KINDS, SITUATIONS } from '../../situations/list.js'
import { situationsPage } from '../../situations/page.js'
import { testsOf } from '../../situations/titles.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const LEAST = 40
/** The least number that runs in the gate. */
const LEAST_IN_GATE = 30
const LEAST_OF_A_KIND = 3

describe('the situations from public reports', () => {
  it(`number at least ${LEAST}, ${LEAST_IN_GATE} of them in the gate, and ${LEAST_OF_A_KIND} of each kind`, () => {
    expect(SITUATIONS.length).toBeGreaterThanOrEqual(LEAST)
    const inGate = SITUATIONS.filter(({ test }) => !test.nightly)
    expect(inGate.length).toBeGreaterThanOrEqual(LEAST_IN_GATE)
    for (const kind of Object.keys(KINDS))
      expect(SITUATIONS.filter(each => each.kind === kind).length, kind).toBeGreaterThanOrEqual(
        LEAST_OF_A_KIND,
      )
  })

  it('have an address each, and a complaint of one sentence', () => {
    const reports = SITUATIONS.map(({ report }) => report)
    expect(reports.filter((report, n) => reports.indexOf(report) !== n)).toEqual([])
    expect(reports.filter(report => !/^[\w.-]+\/[\w.-]+\/(?:issues|pull)\/\d+$/.test(report))).toEqual([])
    expect(SITUATIONS.filter(({ complaint }) => !/^[^.]+(?:\.\w[^.]*)*\.$/.test(complaint))).toEqual([])
  })

  it.each(SITUATIONS)('$report is played by one test, which its lane runs', ({ test }) => {
    const tests = testsOf(readFileSync(join(root, test.file), 'utf8'))
    const named = tests.filter(({ title }) => title.startsWith(test.title))
    expect(named).toHaveLength(1)
    // A condition that holds in the gate at least for one case: `NIGHTLY || hosting === 'daemon'`.
    const conditions = named[0]!.conditions.filter(each => !each.startsWith('NIGHTLY || '))
    expect(conditions).toEqual(test.nightly && conditions.length > 0 ? ['NIGHTLY'] : [])
    if (test.nightly) expect(test.file.startsWith('test/frameworks/') || conditions.length > 0).toBe(true)
    else expect(test.file).toMatch(/^test\/(?:e2e|unit)\/(?!.*\.long\.)/)
  })

  it('match docs/situations.md (npm run situation-docs makes it)', () => {
    expect(readFileSync(join(root, 'docs/situations.md'), 'utf8')).toBe(situationsPage())
  })
})

describe('the titles of tests', () => {
  it('read with the conditions of the suites around them', () => {
    const source = `describe.runIf(NIGHTLY)('many', () => {
  it.each(perLane([['a (b', ')']], []))(
    'reads as: %s',
    () => {},
  )
})
describe('others', () => {
  it('stays', () => it)
  it.skip('has gone', () => {})
  for (const kind of [1])
    it.skipIf(why !== null)(\`it's one\`, { timeout: 1 }, () => {})
})
`
    expect(testsOf(source)).toEqual([
      { title: 'reads as: %s', conditions: ['NIGHTLY'] },
      { title: 'stays', conditions: [] },
      { title: 'has gone', conditions: ['always'] },
      { title: "it's one", conditions: ['why !== null'] },
    ])
  })
})
