import { describe, expect, it } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { drainListeners } from '../../src/member/own-drain.js'

describe('the wait for the last connection', () => {
  it('goes on, and lets others have their turn, where a keeper says that it is empty and has connections', async () => {
    let connections = 2
    const keeper = {
      get connections() {
        return connections
      },
      finish() {},
      endIdle() {},
      emptied: () => Promise.resolve(),
      cut() {
        const busy = connections
        connections = 0
        return { idle: 0, busy }
      },
    }
    const cuts: number[] = []
    await drainListeners(
      [keeper],
      { plain: 30, tls: 60 },
      SILENT,
      { settled: () => Promise.resolve() },
      ({ busy }) => cuts.push(busy),
    )
    expect(connections).toBe(0)
    expect(cuts).toEqual([2])
  })
})
