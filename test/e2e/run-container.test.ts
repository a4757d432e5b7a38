import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { PidNamespace } from '../processes/namespace.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }
const UPGRADES = perLane(2, 20)
/** Leaves a process behind that ends as an orphan. */
const LEAVES_ORPHANS = ['sh', '-c', '(sleep 0.2 &); exec "$0"', SERVER]

describe('fd-broker run as PID 1 of a container', () => {
  it(`upgrades ${UPGRADES} times under load, and itself meanwhile, reaps what is left behind, and ends all in order at TERM`, async () => {
    const run = await Supervised.prepare()
    const env = { ...run.sandbox.env, FDB_SUPERVISED: run.orders({}) }
    const command = run.commandLine(['--ready', 'fd'], LEAVES_ORPHANS)
    const container = await PidNamespace.start(command, { env, log: run.sandbox.log })
    await run.serving()
    const load = await loadOn(run.url, { ...FRESH, rate: 300 })
    for (let generation = 2; generation <= 1 + UPGRADES; generation++) {
      container.signal('SIGHUP')
      await run.serving(generation)
      // PID 1 goes on as another image of itself, and has what it has adopted still.
      if (generation % 10 === 5) expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    }
    await load.stop()
    await until(
      'PID 1 and the last version are all there is',
      () => container.processes.size === 2,
      5_000,
      () => [...container.processes],
    )
    expect(await run.whoami()).toMatchObject({ generation: 1 + UPGRADES })
    expect([...container.processes.values()].some(hasEnded)).toBe(false)
    container.signal('SIGTERM')
    expect(await container.exit).toBe(0)
    expect(run.lines.at(-1)).toMatchObject({ msg: 'a version has ended', version: 1 + UPGRADES, code: 0 })
  })
})
