import { expect, it } from 'vitest'
import type { HookName } from '../../src/checks/hooks.js'
import { HookGroup } from '../../src/holder/hook-group.js'
import fc from '../lanes/generated.js'

type Step =
  | { readonly what: 'order' | 'handoff' }
  /** One of the orders and handoffs that are under way ends. */
  | { readonly what: 'ends' | 'fails'; readonly which: number }
  | { readonly what: 'outcome'; readonly of: HookName }

const STEP: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ what: fc.constantFrom('order' as const, 'handoff' as const) }),
  fc.record({ what: fc.constantFrom('ends' as const, 'fails' as const), which: fc.nat(3) }),
  fc.record({ what: fc.constant('outcome' as const), of: fc.constantFrom('success', 'failure', 'rollback') }),
)

it('the workers have one hook for all outcomes of their orders and handoffs, when the last one has ended, also by a failure', async () => {
  const property = fc.asyncProperty(fc.array(STEP, { maxLength: 20 }), async steps => {
    const group = new HookGroup('shop')
    const event = { type: 'handoff.kept', service: 'shop-1' } as unknown as Parameters<HookGroup['add']>[1]
    const underWay: ((hasFailed: boolean) => void)[] = []
    const outcomes: HookName[] = []
    const started: { counts: unknown; underWay: number }[] = []
    const order = () => {
      const done = new Promise<void>((resolve, reject) =>
        underWay.push(hasFailed => (hasFailed ? reject(new Error('the order fails')) : resolve())),
      )
      group.during(() => done).catch(() => {})
    }
    const ends = async (which: number, hasFailed: boolean) => {
      const before = started.length
      underWay.splice(which % underWay.length, 1)[0]!(hasFailed)
      await new Promise(setImmediate)
      expect(started.length - before).toBeLessThanOrEqual(1)
    }
    for (const step of steps) {
      if (step.what === 'order') order()
      else if (step.what === 'handoff') {
        group.begin()
        underWay.push(() => group.end())
      } else if (step.what === 'outcome') {
        outcomes.push(step.of)
        group.add(step.of, event, (_, { counts }) => started.push({ counts, underWay: underWay.length }))
      } else if (underWay.length > 0 && 'which' in step) await ends(step.which, step.what === 'fails')
    }
    while (underWay.length > 0) await ends(0, true)
    expect(started.filter(each => each.underWay > 0)).toEqual([])
    const counted = started.flatMap(({ counts }) => Object.values(counts as Record<string, number>))
    expect(counted.reduce((sum, count) => sum + count, 0)).toBe(outcomes.length)
  })
  await fc.assert(property, { numRuns: 200 })
})
