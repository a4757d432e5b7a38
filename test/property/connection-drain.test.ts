import { afterEach, expect, it, vi } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { ConnectionDrain } from '../../src/member/drain/connection-drain.js'
import { EndOrder } from '../../src/member/lifecycle/end-order.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

afterEach(() => void vi.useRealTimers())

/** An order to end within `ms`, which comes `afterMs` after the one before. */
interface Order {
  readonly afterMs: number
  readonly ms: number
}

interface Drain {
  readonly plainMs: number
  readonly tlsMs: number
  readonly hasTls: boolean
  readonly orders: readonly Order[]
}

/** Times of timers are whole milliseconds. */
const ROUNDED_MS = 1.5
const MS = { min: 1, max: 20_000 }
const DRAIN: fc.Arbitrary<Drain> = fc.record({
  plainMs: fc.integer(MS),
  tlsMs: fc.integer(MS),
  hasTls: fc.boolean(),
  orders: fc.array(fc.record({ afterMs: fc.nat(8_000), ms: fc.integer(MS) }), { maxLength: 4 }),
})

/** Drains connections that never end. Returns the times of the last call, and of each cut. */
async function drained({ plainMs, tlsMs, hasTls, orders }: Drain) {
  const seen: { calls: number[]; plain: number[]; tls: number[] } = { calls: [], plain: [], tls: [] }
  const begun = performance.now()
  const order = new EndOrder()
  const cut = (tls: boolean) => {
    seen[tls ? 'tls' : 'plain'].push(performance.now() - begun)
    return { idle: 0, busy: 0 }
  }
  const never = new Promise<void>(() => {})
  const listener = {
    connections: 1,
    hasTlsConnections: hasTls,
    finish: () => {},
    endIdle: () => never,
    emptied: () => never,
    cut,
    cutReturned: () => ({ idle: 0, busy: 0 }),
  }
  const drain = new ConnectionDrain({
    settings: { drainTimeout: plainMs, drainTlsTimeout: tlsMs, logger: SILENT },
    shutdown: { isRetired: true, order },
    listeners: () => [listener as never],
    moves: { leave: () => {}, limit: () => {}, settled: () => Promise.resolve(), whenArrived: act => act() },
    onCut: () => {},
    onEnded: () => {},
  })
  drain.onLastCall = () => seen.calls.push(performance.now() - begun)
  void drain.run(true)
  for (const { afterMs, ms } of orders) {
    await vi.advanceTimersByTimeAsync(afterMs)
    if (order.give(ms)) drain.shorten()
  }
  await vi.advanceTimersByTimeAsync(2 * MS.max)
  return seen
}

it('connections are closed at the earliest end that was given, after one last call, whichever orders come', async () => {
  const property = fc.asyncProperty(DRAIN, async drain => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const { calls, plain, tls } = await drained(drain)
    vi.useRealTimers()
    const { plainMs, tlsMs, hasTls, orders } = drain
    let at = 0
    const ordered = orders.map(({ afterMs, ms }) => (at += afterMs) + ms)
    const ends = { plain: Math.min(plainMs, ...ordered), tls: Math.min(Math.max(plainMs, tlsMs), ...ordered) }
    expect([plain, tls, calls].map(({ length }) => length)).toEqual([1, 1, 1])
    expect(Math.abs(plain[0]! - ends.plain)).toBeLessThan(ROUNDED_MS)
    expect(Math.abs(tls[0]! - ends.tls)).toBeLessThan(ROUNDED_MS)
    expect(calls[0]).toBeLessThan((hasTls ? ends.tls : ends.plain) + ROUNDED_MS)
  })
  await fc.assert(property, { numRuns: perLane(100, 5_000) })
})
