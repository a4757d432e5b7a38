import { describe, expect, it } from 'vitest'
import type { StatusReport } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { serveByCommand, serviceStatus, serviceWhere } from '../processes/daemon.js'
import { Follower } from '../processes/event-follower.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 0, heartbeat: 50 }
/** So often 1000 changes are made, and after each `EVERY` of them a new segment is waited for. */
const [ROUNDS, EVERY] = perLane([9, 3], [40, 10])

describe('a service that changes the same entries again and again', () => {
  it('goes on in new segments and compacts the old ones, without an upgrade; nothing is lost', async () => {
    const scene = Scene.open({ upgrade: TIMES, options: { stateLimits: { renewBytes: 100_000 } } })
    const path = scene.file('state')
    const stateFile = { options: { stateLimits: { renewBytes: 100_000 }, stateFile: path } }
    const first = await scene.serve({ routes: 0, ...stateFile })
    const follower = new Follower(scene.control)
    await follower.has('the first event', events => events.length > 0)
    let most = 0
    let written = 0
    for (let round = 0; round < ROUNDS; round++) {
      await first.order('many', { count: 1000 })
      const { state } = await scene.status()
      most = Math.max(most, state.bytes)
      written = state.sequence
      // As a service that runs for long: it is looked once a second how much was written.
      if (round % EVERY === EVERY - 1) {
        const { epoch } = await scene.status()
        await until('it goes on in the next segment', async () => {
          // So much that it is more than the limit, where a new one has just begun.
          await first.order('many', { count: 1000 })
          return (await scene.status()).epoch > epoch
        })
      }
    }
    expect(written).toBeGreaterThanOrEqual(ROUNDS * 1000)
    const { state, epoch, generation } = await scene.statusWhere(
      'it is compacted',
      ({ state }) => state.bytes < 1_000_000,
    )
    expect(generation).toBe(1)
    expect(epoch).toBeGreaterThan(3)
    expect(most).toBeLessThan(2_500_000)
    expect(state.entries).toBe(1000)
    expect(Object.keys(await first.order<object>('all'))).toHaveLength(1000)
    expect(first.story).not.toContain('reinstated')
    expect(follower.types).toEqual(['service.started'])
    const { digest } = state
    await scene.statusWhere('it is saved', ({ state }) => state.file?.sequence === state.sequence)
    const second = await scene.serve({ ...stateFile })
    await first.end()
    expect((await scene.status()).state).toMatchObject({ digest, entries: 1000 })
    await second.kill()
    await scene.serve({ routes: 0, ...stateFile })
    expect((await scene.status()).state).toMatchObject({ digest, entries: 1000 })
  })

  it.each(perLane<('embedded' | 'daemon')[]>(['embedded'], ['embedded', 'daemon']))(
    'hears of the limit of its log when it meets it, and has room again when it is compacted (%s)',
    async hosting => {
      const scene = Scene.open({ hosting, upgrade: TIMES, options: { stateLimits: { logBytes: 300_000 } } })
      if (hosting === 'daemon') await serveByCommand(scene)
      const app = await scene.serve({ routes: 100 })
      let refused = 0
      for (let round = 0; round < perLane(200, 400); round++) {
        const put = { key: 'same', value: { item: 'x'.repeat(5000) }, request: `r${round}` }
        await until('there is room', async () => {
          try {
            await app.order('put', put)
            return true
          } catch (error) {
            expect(error).toMatchObject({ code: 'ERR_FDB_STATE_LIMIT', retryable: true })
            refused++
            return false
          }
        })
      }
      expect(refused).toBeGreaterThan(2)
      const asked = hosting === 'daemon' ? await serviceStatus(scene) : await scene.status()
      const { state } = asked as StatusReport
      expect(state).toMatchObject({ entries: 101, sequence: expect.any(Number) })
      expect(state.bytes).toBeLessThan(310_000)
    },
  )

  it('goes on in new segments as its own limit says, under a daemon that knows another', async () => {
    const scene = Scene.open({
      hosting: 'daemon',
      upgrade: TIMES,
      options: { stateLimits: { renewBytes: 100_000 } },
    })
    await serveByCommand(scene)
    const app = await scene.serve({ routes: 0 })
    const { epoch: before } = await serviceStatus(scene)
    await app.order('many', { count: 1000 })
    await app.order('many', { count: 1000 })
    await serviceWhere(scene, 'a new segment', ({ epoch }) => (epoch ?? 0) > (before ?? 0))
    const { state } = (await serviceWhere(
      scene,
      'it is compacted',
      status => status.phase === 'idle' && ((status as { logBytes?: number }).logBytes ?? 1e9) < 200_000,
    )) as StatusReport
    expect(state.entries).toBe(1000)
    expect(app.story).not.toContain('reinstated')
    const { handoffs } = (await serviceStatus(scene)) as StatusReport
    expect(handoffs?.map(({ phases }) => phases.map(({ phase }) => phase))).toEqual([
      ['offering', 'preparing', 'committing', 'idle'],
    ])
  })
})

it.runIf(NIGHTLY)(
  'an upgrade right after a renewal, and a kill, lose nothing: with a daemon as well',
  async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES })
    await serveByCommand(scene)
    const first = await scene.serve({ routes: 0 })
    // More than a daemon lets one segment have.
    for (let round = 0; round < 14; round++)
      await first.order('put', { key: `k${round % 2}`, value: { item: 'x'.repeat(5_000_000) } })
    const before = (await serviceWhere(
      scene,
      'a new segment',
      ({ epoch }) => (epoch ?? 0) > 2,
    )) as StatusReport
    const compacted = (await serviceWhere(
      scene,
      'it is compacted',
      status => ((status as { logBytes?: number }).logBytes ?? 1e9) < 30_000_000,
    )) as StatusReport
    expect(compacted.state.digest).toBe(before.state.digest)
    await first.order('put', { key: 'last', value: { item: '1' } })
    const { digest } = (
      (await serviceWhere(scene, 'it serves', ({ phase }) => phase === 'idle')) as StatusReport
    ).state
    await first.kill()
    await scene.serve({ routes: 0 })
    const after = (await serviceWhere(
      scene,
      'the next one serves',
      ({ phase }) => phase === 'idle',
    )) as StatusReport
    expect(after.state.digest).toBe(digest)
  },
)
