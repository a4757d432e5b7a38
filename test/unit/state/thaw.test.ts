import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { Segment, type StateLog } from '../../fixtures/state.js'
import { longestTurn, type Route, routeSchema, writingLog } from '../../fixtures/state-logs.js'
import { perLane } from '../../lanes/lane.js'
import { leastOf } from '../../processes/worked.js'

/** As many as may wait. */
const MOST = perLane(16_384, 65_536)
/** A slice is 1 ms; one collection of garbage among so many promises may take several times as long. All at once took 400. */
const MOST_MS = 60

async function waiting(log: StateLog): Promise<Promise<void>[]> {
  const routes = log.section('routes', routeSchema)
  const value: Route = { to: 'x'.repeat(400) }
  const puts: Promise<void>[] = []
  for (let i = 0; i < MOST; i++) {
    puts.push(routes.put(`k${i}`, value))
    if (i % 1000 === 0) await nextTurn()
  }
  return puts
}

describe('65,536 changes that waited', () => {
  it('append in order and in slices when writing goes on', async () => {
    const [longest] = await leastOf(MOST_MS, async () => {
      const { log } = writingLog()
      log.pauseWriting()
      const all = Promise.all(await waiting(log))
      const longest = await longestTurn(async () => {
        await nextTurn()
        log.resumeWriting()
        await all
      })
      expect([log.sequence, log.section('routes').size]).toEqual([MOST, MOST])
      log.close()
      return [longest]
    })
    expect(longest).toBeLessThan(MOST_MS)
  })

  it('append in slices when another segment is given', async () => {
    const [longest] = await leastOf(MOST_MS, async () => {
      const { log } = writingLog()
      log.pauseWriting()
      const all = Promise.all(await waiting(log))
      log.segments[0]!.seal()
      const longest = await longestTurn(async () => {
        await nextTurn()
        log.startWriting(Segment.create(2))
        await all
      })
      expect(log.position).toMatchObject({ epoch: 2, sequence: MOST })
      log.close()
      return [longest]
    })
    expect(longest).toBeLessThan(MOST_MS)
  })

  it('wait on where they are interrupted by the next handoff, and none is lost or made twice', async () => {
    const { log } = writingLog()
    log.pauseWriting()
    const puts = await waiting(log)
    log.resumeWriting()
    await puts[0]
    const { sequence } = log.pauseWriting()
    expect(sequence).toBeGreaterThan(0)
    expect(sequence).toBeLessThan(MOST)
    const [done, left] = [puts.slice(0, sequence), puts.slice(sequence)]
    await Promise.all(done)
    await nextTurn()
    expect([log.sequence, log.stats().waiting]).toEqual([sequence, left.length])
    log.resumeWriting()
    await Promise.all(left)
    expect(log.sequence).toBe(MOST)
    log.close()
  })

  it('get fewer though the application goes on to make thousands in each turn', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    const made: Promise<void>[] = []
    const change = (turn: number) => {
      for (let i = 0; i < 3000; i++) made.push(routes.put(`k${i}`, { to: `turn ${turn}` }))
    }
    log.pauseWriting()
    for (let turn = 0; turn < 3; turn++) change(turn)
    expect(log.stats().waiting).toBe(9000)
    log.resumeWriting()
    let turns = 0
    for (; turns < 12 && log.stats().waiting > 3000; turns++) {
      change(turns)
      await nextTurn()
    }
    expect(log.stats().waiting).toBeLessThanOrEqual(3000)
    await Promise.all(made)
    expect(log.sequence).toBe(made.length)
    log.close()
  })

  it('reject in slices when the right to write ends', async () => {
    const [longest] = await leastOf(MOST_MS, async () => {
      const { log } = writingLog()
      log.pauseWriting()
      const settled = Promise.allSettled(await waiting(log))
      const longest = await longestTurn(async () => {
        await nextTurn()
        log.endWriting(new FdbError('ERR_FDB_FENCED', 'another serves'))
        await settled
      })
      expect((await settled).every(({ status }) => status === 'rejected')).toBe(true)
      log.close()
      return [longest]
    })
    expect(longest).toBeLessThan(MOST_MS)
  })
})
