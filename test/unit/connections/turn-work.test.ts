import { once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { BUSY_TURN_MS, TURN_MS, TurnWork } from '../../../src/connections/counts.js'
import { runInTurns } from '../../../src/connections/move-slice.js'
import { native } from '../../../src/kernel/native.js'
import { leastOf } from '../../processes/worked.js'

/** By the clock and by the processor: the work of a turn is the smaller of both, as others may have the processor meanwhile. */
function busy(ms: number): void {
  const until = performance.now() + ms
  const cpu = native.threadCpuMs()
  while (performance.now() < until || native.threadCpuMs() - cpu < ms);
}

describe('the work for moves in one turn', () => {
  it('counts what is done in one turn together, and what one does within another once', async () => {
    const work = new TurnWork()
    work.run(() => work.run(() => busy(4)))
    work.run(() => busy(4))
    expect(work.longestMs).toBeGreaterThanOrEqual(8)
    await nextTurn()
  })

  it('equals the longest of many turns, not their sum', async () => {
    const [longest] = await leastOf(40, async () => {
      const work = new TurnWork()
      for (let turn = 0; turn < 10; turn++) {
        work.run(() => busy(4))
        await nextTurn()
      }
      // As it was told: what is compared below is of the part of the machine that was left.
      expect(work.longestMs).toBeGreaterThanOrEqual(4)
      return [work.longestMs]
    })
    expect(longest).toBeLessThan(40)
  })

  it('equals the longest one also when shorter ones came behind it', async () => {
    const work = new TurnWork()
    work.run(() => busy(12))
    await nextTurn()
    work.run(() => busy(1))
    expect(work.longestMs).toBeGreaterThanOrEqual(12)
  })

  it('leaves out the work of other threads, such as those in which V8 compiles', async () => {
    const spinning = new Worker('for (;;);', { eval: true })
    await once(spinning, 'online')
    const work = new TurnWork()
    const waitMs = 100
    work.run(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, waitMs))
    await spinning.terminate()
    expect(work.longestMs).toBeLessThan(waitMs / 10)
  })

  it('hands results and errors on', () => {
    const work = new TurnWork()
    expect(work.run(() => 7)).toBe(7)
    expect(() =>
      work.run(() => {
        throw new Error('no')
      }),
    ).toThrow('no')
    expect(work.run(() => 8)).toBe(8)
  })
})

/** How long a turn may work whose event loop has worked for `othersMs` in each turn before, in milliseconds of processor time. */
async function limitAmid(othersMs: number): Promise<number> {
  const work = new TurnWork()
  for (let turn = 0; turn < 5; turn++) {
    work.run(() => {})
    busy(othersMs)
    await nextTurn()
  }
  return work.run(() => {
    const isUsedUp = work.budget()
    const begun = native.threadCpuMs()
    while (!isUsedUp()) busy(0.1)
    return native.threadCpuMs() - begun
  })
}

describe('the limit of work for moves in one turn', () => {
  it('rises on a busy event loop, up to a bound', async () => {
    expect(await limitAmid(12)).toBeGreaterThan(TURN_MS + 1)
    const [longest] = await leastOf(BUSY_TURN_MS + 4, async () => [await limitAmid(40)])
    expect(longest).toBeLessThan(BUSY_TURN_MS + 4)
  })

  it('leaves out the time in which the event loop waits', async () => {
    const [longest] = await leastOf(TURN_MS + 1, async () => {
      const work = new TurnWork()
      work.run(() => {})
      await new Promise(resolve => setTimeout(resolve, 40))
      const isUsedUp = work.budget()
      const begun = native.threadCpuMs()
      while (!isUsedUp()) busy(0.1)
      return [native.threadCpuMs() - begun]
    })
    expect(longest).toBeLessThan(TURN_MS + 1)
  })
})

describe('work in slices', () => {
  it('shares one turn with all other work for moves', async () => {
    // Each goes on by one at least: else none would when the turn is used up.
    const bound = TURN_MS + 8
    const [longest] = await leastOf(bound, async () => {
      const work = new TurnWork()
      const one = runInTurns(Array.from({ length: 20 }), work, () => busy(1))
      const other = runInTurns(Array.from({ length: 20 }), work, () => busy(1))
      work.run(() => busy(1))
      await Promise.all([one, other])
      return [work.longestMs]
    })
    expect(longest).toBeLessThan(bound)
  })

  it('does at least one in each turn', async () => {
    const work = new TurnWork()
    const done: number[] = []
    work.run(() => busy(TURN_MS + 1))
    const all = runInTurns([1, 2], work, each => void done.push(each))
    expect(done).toEqual([1])
    await all
    expect(done).toEqual([1, 2])
  })
})
