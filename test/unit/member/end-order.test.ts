import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { EndOrder } from '../../../src/member/lifecycle/end-order.js'
import { ChangeNotifier } from '../../../src/wire/pending.js'

function world() {
  vi.useFakeTimers()
  onTestFinished(() => void vi.useRealTimers())
  const order = new EndOrder()
  const changes = new ChangeNotifier()
  const give = (ms: number) => {
    if (order.give(ms)) changes.notify()
  }
  /** Returns the time at which it resolves, or null. */
  const timed = (waiting: Promise<void>) => {
    const from = performance.now()
    const result: { at: number | null } = { at: null }
    void waiting.then(() => {
      // Less a turn of the event loop, which a wait may take.
      result.at = Math.floor((performance.now() - from) / 10) * 10
    })
    return result
  }
  return { order, changes, give, timed }
}

describe('orders to end', () => {
  it('set the time of the earliest end: a later order shortens it, and never makes it longer', () => {
    const { order } = world()
    expect([order.isGiven, order.leftMs]).toEqual([false, Number.POSITIVE_INFINITY])
    expect(order.give(10_000)).toBe(true)
    expect(order.give(20_000)).toBe(false)
    expect([order.leftMs, order.leavingMs]).toEqual([10_000, 5_000])
    expect(order.give(3_000)).toBe(true)
    expect([order.leftMs, order.leavingMs]).toEqual([3_000, 1_500])
    vi.advanceTimersByTime(4_000)
    expect([order.isGiven, order.leftMs]).toEqual([true, 0])
  })

  it('keep half of the time, at most 5 s, for the last connections', async () => {
    for (const [ms, waits] of [
      [60_000, 55_000],
      [4_000, 2_000],
      [0, 500],
    ] as const) {
      const { order, changes, give, timed } = world()
      give(ms)
      const waited = timed(order.untilLeaving(changes, () => false, 100_000))
      await vi.advanceTimersByTimeAsync(100_000)
      expect(waited.at).toBe(waits)
    }
  })

  it('shorten a wait that is under way', async () => {
    const { order, changes, give, timed } = world()
    const unordered = timed(order.untilLeaving(changes, () => false, 30_000))
    await vi.advanceTimersByTimeAsync(1_000)
    give(60_000)
    await vi.advanceTimersByTimeAsync(1_000)
    give(2_000)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(unordered.at).toBe(3_000)
  })

  it('do not wait for work that has settled, and for other work half a second more than was ordered', async () => {
    const { order, changes, give, timed } = world()
    give(1_000)
    const settled = timed(order.untilEnd(changes, Promise.reject(new Error('a change that failed'))))
    const hung = timed(order.untilEnd(changes, new Promise(() => {})))
    await vi.advanceTimersByTimeAsync(10_000)
    expect([settled.at, hung.at]).toEqual([0, 1_500])
  })
})
