import { describe, expect, it } from 'vitest'
import { afterCheck, UNCHECKED, type Verdict } from '../../src/proxy/server-checks/verdict.js'
import fc from '../lanes/generated.js'

const limits = fc.record({ rise: fc.integer({ min: 1, max: 4 }), fall: fc.integer({ min: 1, max: 4 }) })
const results = fc.array(fc.boolean(), { maxLength: 40 })

/** Reports whether the last `count` results are all `passed`. */
const ends = (results: readonly boolean[], count: number, passed: boolean) =>
  results.length >= count && results.slice(-count).every(each => each === passed)

describe('the verdict on a server', () => {
  it('changes exactly when so many results in a row contradict it', () => {
    fc.assert(
      fc.property(limits, results, ({ rise, fall }, results) => {
        let verdict: Verdict = UNCHECKED
        let up = true
        let since: boolean[] = []
        for (const [now, passed] of results.entries()) {
          since.push(passed)
          verdict = afterCheck(verdict, passed ? null : `no ${now}`, { rise, fall }, now)
          if (ends(since, up ? fall : rise, !up)) {
            up = !up
            since = []
            expect(verdict).toEqual({ up, count: 0, since: now, reason: up ? '' : `no ${now}` })
          }
          expect(verdict.up).toBe(up)
        }
      }),
    )
  })

  it('stays the same object as long as nothing changes', () => {
    fc.assert(
      fc.property(limits, results, (limits, results) => {
        let verdict: Verdict = UNCHECKED
        for (const [now, passed] of results.entries()) {
          const next = afterCheck(verdict, passed ? null : 'no', limits, now)
          if (next !== verdict) expect(next).not.toEqual(verdict)
          verdict = next
        }
      }),
    )
  })
})
