import { describe, expect, it } from 'vitest'
import { HANDOFF_TIMES, patience, phaseLimit, readTimes } from '../../../src/holder/times.js'

/** The longest that a timer of Node waits. */
const LONGEST_MS = 2 ** 31 - 1

const NAMES = Object.keys(HANDOFF_TIMES)

describe('the limits that a member tells', () => {
  it('count one by one, and are absent where it tells none', () => {
    const told = Object.fromEntries(NAMES.map((name, i) => [name, 1_000 + i]))
    expect(readTimes(told)).toEqual(told)
    expect(readTimes({ freeze: 7 })).toEqual({ freeze: 7 })
    for (const nothing of [null, undefined, {}]) expect(readTimes(nothing)).toEqual({})
  })

  it('may be 0 for the probation alone', () => {
    expect(readTimes(Object.fromEntries(NAMES.map(name => [name, 0])))).toEqual({ probation: 0 })
  })

  it('may not be longer than a timer waits', () => {
    expect(readTimes({ ready: LONGEST_MS, freeze: LONGEST_MS + 1 })).toEqual({ ready: LONGEST_MS })
  })
})

describe('how long a holder waits', () => {
  it('covers silence as long as it was said, but for three heartbeats', () => {
    expect([patience(1_000, 100), patience(250, 100), patience(1_000, 0)]).toEqual([1_000, 300, 1_000])
  })

  it('has its limit in each phase that ends by time', () => {
    const times = { ...HANDOFF_TIMES, ready: 1, quiesce: 2, freeze: 3, prepare: 4, commit: 5 }
    const phases = ['offering', 'quiescing', 'freezing', 'preparing', 'committing', 'returning'] as const
    expect(phases.map(phase => phaseLimit(phase, times))).toEqual([1, 2, 3, 4, 5, 5])
    for (const phase of ['idle', 'probation', 'released', 'rebuilding'] as const)
      expect(phaseLimit(phase, times)).toBeUndefined()
  })
  it('covers a heartbeat for the hooks and the freeze of an incumbent that hangs', () => {
    const silent = 2_000
    expect(phaseLimit('quiescing', HANDOFF_TIMES, silent)).toBe(HANDOFF_TIMES.heartbeat)
    expect(phaseLimit('quiescing', HANDOFF_TIMES, 1_000)).toBe(HANDOFF_TIMES.quiesce)
    expect(phaseLimit('freezing', HANDOFF_TIMES, silent)).toBe(HANDOFF_TIMES.heartbeat)
    expect(phaseLimit('freezing', HANDOFF_TIMES, 1_000)).toBe(HANDOFF_TIMES.freeze)
    expect(phaseLimit('preparing', HANDOFF_TIMES, silent)).toBe(HANDOFF_TIMES.prepare)
  })
})
