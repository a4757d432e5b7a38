import { expect, it, onTestFinished } from 'vitest'
import { openScene } from '../../bench/connections/scene.mjs'
import { spawnClients } from '../../bench/referee/remote.mjs'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded } from '../processes/launch.js'
import { until } from '../processes/until.js'

/**
 * A moment is a connection that is moved at whatever byte it is: half a head, between pipelined requests, within a body,
 * stalled, half closed. FDB_MOMENTS=2000 for the whole bar, FDB_SEED for another run of the clients.
 */
const MOMENTS = Number(process.env.FDB_MOMENTS ?? perLane(8, 150))
const SEED = Number(process.env.FDB_SEED ?? 1)
const CLIENTS = perLane(24, 100)
const UPGRADE_MS = 20_000

it.runIf(NIGHTLY)(
  `answers every request rightly through ${MOMENTS} moves at random moments (seed ${SEED})`,
  async () => {
    const scene = await openScene()
    onTestFinished(() => scene.end())
    const clients = spawnClients('hostile', { port: scene.port, count: CLIENTS, run: SEED })
    onTestFinished(() => void clients.kill())
    await clients.ready(10_000)
    let moved = 0
    let upgrades = 0
    while (moved < MOMENTS) {
      const old = scene.app.pid
      const ms = await scene.app.replace(() => scene.lines().some(isServing(scene.app.pid)))
      expect(ms, scene.app.output.slice(-4_000)).not.toBeNull()
      await until(
        'the old process ends',
        () => hasEnded(old),
        UPGRADE_MS,
        () => scene.app.output.slice(-4_000),
      )
      const left = scene
        .lines()
        .find(({ pid, msg }) => pid === old && msg === 'no connection is left in this process')
      moved += left?.moved ?? 0
      upgrades++
    }
    const { counts, incidents } = await clients.stop()
    expect(incidents, scene.app.output.slice(-4_000)).toEqual([])
    expect(counts).toMatchObject({ closed: 0, failed: 0, wrong: 0 })
    expect(await scene.backend.report()).toMatchObject({ twice: 0, wrong: 0 })
    console.log(
      `seed ${SEED}: ${moved} moves in ${upgrades} upgrades, ${counts.opened} connections, ${counts.answered} answers`,
    )
  },
  MOMENTS * 300 + 120_000,
)

function isServing(pid: number): (line: { pid: number; msg: string }) => boolean {
  return line => line.pid === pid && line.msg === 'the proxy serves'
}
