import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { MoveRate, spreadPace } from '../../../src/connections/sender.js'

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }))
afterEach(() => void vi.useRealTimers())

/** A pace of a thousand in a second. */
const pace = (bounds: { most?: number; atOnce?: number } = {}) =>
  new MoveRate({ perSecond: 1_000, most: bounds.most ?? 10, atOnce: bounds.atOnce ?? 4 })
const waits = (of: MoveRate) => of.readyAt() - performance.now()

describe('a pace', () => {
  it('lets the first few go at once', () => {
    const some = pace()
    expect([waits(some), some.allowed]).toEqual([0, 10])
  })

  it('tells when it is worth a turn again', () => {
    const some = pace()
    some.allowed -= 10
    expect(waits(some)).toBe(4)
    vi.advanceTimersByTime(3)
    expect([waits(some), some.allowed]).toEqual([1, 3])
    vi.advanceTimersByTime(1)
    expect(waits(some)).toBe(0)
  })

  it('makes up for what did not go, but for no more than at first', () => {
    const some = pace()
    some.allowed -= 10
    vi.advanceTimersByTime(8)
    expect([waits(some), some.allowed]).toEqual([0, 8])
    vi.advanceTimersByTime(60_000)
    expect([waits(some), some.allowed]).toEqual([0, 10])
  })

  it('waits for one where more are not allowed at once', () => {
    const some = pace({ most: 1 })
    some.allowed -= 1
    expect(waits(some)).toBe(1)
  })

  it('never waits where nothing bounds it', () => {
    const most = Number.POSITIVE_INFINITY
    const some = new MoveRate({ perSecond: most, most, atOnce: 1 })
    some.allowed -= 1_000_000
    expect([waits(some), some.allowed]).toEqual([0, most])
  })
})

describe('those behind a first wave', () => {
  const time = (firstWaveMs: number, mostMs = 10_000) => {
    const connections = 1_000
    const begun = performance.now()
    const pace = spreadPace({ connections, firstWaveMs, mostMs, atOnce: 4 })
    for (let left = connections; left > 0; ) {
      vi.advanceTimersByTime(Math.ceil(pace.readyAt() - performance.now()))
      const some = Math.min(left, Math.floor(pace.allowed))
      pace.allowed -= some
      left -= some
    }
    return performance.now() - begun
  }

  it('come within three times its length, but for the 10 ms that may be late', () => {
    expect(time(100)).toBeGreaterThanOrEqual(280)
    expect(time(100)).toBeLessThanOrEqual(300)
  })

  it('come within 400 ms where that is long', () => {
    expect(time(60_000)).toBeGreaterThanOrEqual(380)
    expect(time(60_000)).toBeLessThanOrEqual(400)
  })

  it('come within the time that is left for it where that is short', () => {
    expect(time(60_000, 100)).toBeGreaterThanOrEqual(80)
    expect(time(60_000, 100)).toBeLessThanOrEqual(100)
  })

  it.each([
    [100, 4],
    [1_000, 20],
    [10_000, 48],
  ])('leave in slices: %i connections, %i at once', (connections, atOnce) => {
    const pace = spreadPace({ connections, firstWaveMs: 250, mostMs: 10_000, atOnce: 4 })
    expect(Math.round(pace.atOnce)).toBe(atOnce)
  })

  it.each([640, 10_000])('leave in larger slices when the answers are late: %i connections', connections => {
    const pace = spreadPace({ connections, firstWaveMs: 250, mostMs: 10_000, atOnce: 4 })
    const begun = performance.now()
    let slices = 0
    for (let left = connections; left > 0; slices++) {
      expect(pace.readyAt()).toBe(performance.now())
      const some = Math.min(left, pace.largest, Math.floor(pace.allowed))
      pace.allowed -= some
      left -= some
      // Twice to five times what is planned.
      vi.advanceTimersByTime(connections === 640 ? 20 : 4)
    }
    expect(performance.now() - begun).toBeLessThan(connections === 640 ? 800 : 900)
    expect(slices).toBeLessThan(connections === 640 ? 45 : 230)
  })

  it('come at once where they are not worth two turns', () => {
    const few = spreadPace({ connections: 4, firstWaveMs: 100, mostMs: 1000, atOnce: 4 })
    few.allowed -= 4
    expect([waits(few), few.allowed]).toEqual([0, Number.POSITIVE_INFINITY])
  })
})
