import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { DeferredWork, runInSlices, Slice } from '../../../src/state/time-slices.js'

const STEP_MS = 0.5

afterEach(() => vi.restoreAllMocks())

/** A clock that only work moves, and how far it moves in each turn of the event loop until `done`. */
function clock() {
  // A whole number: what is added is exact then.
  let now = Math.ceil(performance.now())
  vi.spyOn(performance, 'now').mockImplementation(() => now)
  const work = (ms: number) => void (now += ms)
  const turnsUntil = async (done: Promise<unknown>) => {
    const turns: number[] = []
    let going = true
    const ended = done.finally(() => (going = false))
    while (going) {
      const before = now
      await nextTurn()
      turns.push(now - before)
    }
    await ended
    return turns
  }
  return { work, turnsUntil }
}

describe('work in slices', () => {
  function* steps(count: number, work: (ms: number) => void): Generator<undefined, number> {
    for (let i = 0; i < count; i++) {
      work(STEP_MS)
      yield
    }
    return count
  }

  it('has 1 ms of a turn when nobody else works', async () => {
    const { work, turnsUntil } = clock()
    const turns = await turnsUntil(runInSlices(steps(100, work)))
    expect(Math.max(...turns)).toBe(1)
    expect(turns.filter(ms => ms > 0).length).toBeLessThanOrEqual(52)
  })

  it('shares a turn with others that work in slices', async () => {
    const { work, turnsUntil } = clock()
    const done = Promise.all([1, 2, 3, 4].map(() => runInSlices(steps(100, work), { sliceMs: 2 })))
    const turns = await turnsUntil(done)
    expect(await done).toEqual([100, 100, 100, 100])
    // 2 for the first, 1 for each of the others; not four times 2.
    expect(Math.max(...turns)).toBeLessThanOrEqual(5 + STEP_MS)
  })

  it('shares it with what is no generator too', async () => {
    const { work, turnsUntil } = clock()
    const loop = async () => {
      const slice = new Slice(2)
      for (let i = 0; i < 100; i++) {
        work(STEP_MS)
        if (slice.over) await slice.next()
      }
    }
    const turns = await turnsUntil(Promise.all([loop(), loop(), runInSlices(steps(100, work))]))
    expect(Math.max(...turns)).toBeLessThanOrEqual(4 + STEP_MS)
  })

  it('goes on whoever else works', async () => {
    const { work, turnsUntil } = clock()
    const ended: string[] = []
    const run = (name: string, count: number) =>
      runInSlices(steps(count, work)).then(() => void ended.push(name))
    await turnsUntil(Promise.all([run('long', 1000), run('long too', 1000), run('last', 20)]))
    expect(ended[0]).toBe('last')
  })
})

describe('deferred work of changes', () => {
  it('runs at once where it is little and nothing waits, else in its order', async () => {
    const done: string[] = []
    let paused = 0
    const left = new DeferredWork(
      3,
      new AbortController().signal,
      () => paused++,
      () => {},
    )
    const work = function* (name: string): Generator<undefined, void> {
      yield
      done.push(name)
    }
    left.add(work('little'), 256)
    expect([done, left.pending]).toEqual([['little'], false])
    left.add(work('much'), 257)
    expect([done, left.pending]).toEqual([['little'], true])
    left.add(work('little, later'), 1)
    expect(done).toEqual(['little'])
    await left.done()
    expect([done, left.pending]).toEqual([['little', 'much', 'little, later'], false])
    await nextTurn()
    expect(paused).toBe(1)
  })
  it('delays a waiter as far as it is known: later work of each turn does not', async () => {
    const left = new DeferredWork(
      1,
      new AbortController().signal,
      () => {},
      () => {},
    )
    const { work } = clock()
    let steps = 0
    const long = function* (): Generator<undefined, void> {
      for (let i = 0; i < 10; i++, steps++) {
        work(STEP_MS)
        yield
      }
    }
    left.add(long(), 1000)
    let over = false
    const done = left.done().then(() => {
      over = true
    })
    let turns = 0
    for (; !over && turns < 1000; turns++) {
      left.add(long(), 1000)
      await nextTurn()
    }
    expect({ steps, pending: left.pending, turns }).toSatisfy(
      seen => seen.pending && seen.steps >= 10 && seen.turns < 20,
    )
    await done
  })

  it('delays no waiter any more when it is given up', async () => {
    const closing = new AbortController()
    const left = new DeferredWork(
      1,
      closing.signal,
      () => {},
      () => {},
    )
    const forever = function* (): Generator<undefined, void> {
      for (;;) yield
    }
    left.add(forever(), 1000)
    const done = left.done()
    closing.abort()
    await done
    await left.done()
  })

  it('goes on after work that fails, which is reported, but not if the log is closed', async () => {
    const done: string[] = []
    const failures: unknown[] = []
    const closing = new AbortController()
    const left = new DeferredWork(
      3,
      closing.signal,
      () => {},
      error => failures.push(error),
    )
    const work = function* (name: string, fails = false): Generator<undefined, void> {
      yield
      if (fails) throw new Error(name)
      done.push(name)
    }
    left.add(work('wrong', true), 257)
    left.add(work('right'), 1)
    await left.done()
    expect([done, failures]).toEqual([['right'], [new Error('wrong')]])
    left.add(work('late'), 257)
    closing.abort()
    await left.done().catch(() => {})
    expect(failures.length).toBe(1)
  })
})
