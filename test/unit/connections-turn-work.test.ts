import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { TurnWork } from '../../src/connections/turn-work.js'

function busy(ms: number): void {
  const cpu = () => process.cpuUsage().user + process.cpuUsage().system
  for (const until = cpu() + ms * 1000; cpu() < until; );
}

describe('the work for moves in one turn', () => {
  it('counts what is done in one turn together, and what one does within another once', async () => {
    const work = new TurnWork()
    work.run(() => work.run(() => busy(4)))
    work.run(() => busy(4))
    expect(work.longestMs).toBeGreaterThanOrEqual(8)
    expect(work.longestMs).toBeLessThan(16)
    await nextTurn()
  })

  it('is the longest of many turns, not their sum', async () => {
    const work = new TurnWork()
    for (let turn = 0; turn < 10; turn++) {
      work.run(() => busy(4))
      await nextTurn()
    }
    expect(work.longestMs).toBeGreaterThanOrEqual(4)
    expect(work.longestMs).toBeLessThan(20)
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
