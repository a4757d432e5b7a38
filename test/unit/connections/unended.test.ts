import { expect, it } from 'vitest'
import { PendingSet } from '../../../src/connections/adapters/http-responses.js'
import fc from '../../lanes/generated.js'
import { collectGarbage } from '../../processes/garbage.js'
import { until } from '../../processes/until.js'

interface Entry {
  ended: boolean
}

it('all() has those that have not ended, in the order in which they came', () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.constant('add'), fc.nat(200)), { maxLength: 300 }), steps => {
      const list = new PendingSet<Entry>(({ ended }) => ended)
      const came: Entry[] = []
      for (const step of steps) {
        if (step === 'add') {
          const entry = { ended: false }
          came.push(entry)
          list.add(entry)
        } else if (came.length > 0) came[Number(step) % came.length]!.ended = true
      }
      expect(list.all()).toEqual(came.filter(({ ended }) => !ended))
      list.clear()
    }),
  )
})

it('an entry that has ended is dropped soon, also if no other comes', async () => {
  const list = new PendingSet<Entry>(({ ended }) => ended)
  const kept = (() => {
    const entry = { ended: false }
    list.add(entry)
    entry.ended = true
    return new WeakRef(entry)
  })()
  await until('it is collected', () => {
    collectGarbage()
    return kept.deref() === undefined || null
  })
  expect(list.all()).toEqual([])
})
