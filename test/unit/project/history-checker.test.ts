import { describe, expect, it } from 'vitest'
import { checkHistory, type Operation, type Reading, TOTAL } from '../../processes/history.js'

function operation(kind: Operation['kind'], id: string, more: Partial<Operation> = {}): Operation {
  return { kind, id, amount: 5, invoked: 0, returned: 10, result: null, outcome: 'acknowledged', ...more }
}

const GOOD: Operation[] = [
  operation('append', 'a', { invoked: 0, returned: 1, result: ['a'] }),
  operation('append', 'b', { invoked: 2, returned: 3, result: ['a', 'b'] }),
  operation('append', 'c', { outcome: 'unknown', returned: Number.POSITIVE_INFINITY }),
  operation('count', 'd', { invoked: 0, returned: 1, result: 1 }),
  operation('count', 'e', { invoked: 2, returned: 3, result: 2 }),
  operation('transfer', 'f'),
]
const LAST: Reading = { count: 2, list: ['a', 'b'], accounts: [TOTAL - 5, 5], transfers: { f: 5 } }

const check = (operations: Operation[], last: Partial<Reading> = {}, readings: Partial<Reading>[] = []) =>
  checkHistory(
    operations,
    readings.map(reading => ({ ...LAST, ...reading })),
    { ...LAST, ...last },
  )

describe('the checker of histories', () => {
  it('takes one that is linearizable, whatever became of the change that has no answer', () => {
    check(GOOD)
    check(GOOD, { list: ['a', 'b', 'c'] }, [{ list: ['a'] }, { list: [] }])
  })

  it.each<[string, Operation[], Partial<Reading>, Partial<Reading>[]]>([
    ['an appended element that is lost', GOOD, { list: ['a'] }, []],
    ['one that is there twice', GOOD, { list: ['a', 'b', 'a'] }, []],
    ['two in the wrong order', GOOD, { list: ['b', 'a'] }, []],
    ['a list that was read and is no beginning of the last one', GOOD, {}, [{ list: ['b'] }]],
    [
      'an append that was refused, and made',
      [...GOOD, operation('append', 'x', { outcome: 'refused' })],
      { list: ['a', 'b', 'x'] },
      [],
    ],
    ['a count that is lost', GOOD, { count: 1 }, []],
    ['a count that was made twice', GOOD, { count: 3 }, []],
    ['a number that was given twice', [...GOOD, operation('count', 'x', { result: 2 })], { count: 3 }, []],
    [
      'a number that is lower than one that was given before',
      [...GOOD, operation('count', 'x', { invoked: 5, returned: 6, result: 0 })],
      { count: 3 },
      [],
    ],
    ['a transfer that is lost', GOOD, { accounts: [TOTAL, 0], transfers: {} }, []],
    ['half a transfer', GOOD, { accounts: [TOTAL - 5, 0] }, []],
    ['a transfer that was seen half', GOOD, {}, [{ accounts: [TOTAL - 5, 0], transfers: {} }]],
    [
      'a transfer that was refused, and made',
      [...GOOD, operation('transfer', 'x', { outcome: 'refused' })],
      { accounts: [TOTAL - 10, 10], transfers: { f: 5, x: 5 } },
      [],
    ],
  ])('finds %s', (_, operations, last, readings) => {
    expect(() => check(operations, last, readings)).toThrow()
  })
})
