import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { spawnLoad } from '../../bench/referee/remote.mjs'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import {
  launchDaemon,
  requestUpgrade,
  serviceStatus,
  serviceWhere,
  startDaemon,
} from '../processes/daemon.js'
import { answersBy } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'
import { socketsAt } from '../processes/sockets.js'
import { until } from '../processes/until.js'

const NO_LOSS = { refused: 0, reset: 0, dropped: 0, raced: 0, truncated: 0, wrong: 0 }
/** Requests a second. */
const RATE = perLane(150, 600)
const UPGRADE = { probation: 300, heartbeat: 50 }
const SLOW = { ...UPGRADE, probation: 1_500 }

async function open(config: object = {}): Promise<{ scene: Scene; port: number }> {
  const port = await freePort()
  const scene = Scene.open({
    hosting: 'daemon',
    upgrade: UPGRADE,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    ...config,
  })
  return { scene, port }
}

describe('upgrades of a member through the daemon', () => {
  it('lose no request under load, and list the old one while it drains', async () => {
    const { scene, port } = await open({ routes: 1_000, upgrade: SLOW })
    await startDaemon(scene, { upgrade: SLOW })
    let old = await scene.serve()
    const { serviceStartedAt } = await serviceStatus(scene)
    const load = spawnLoad({ target: `http://127.0.0.1:${port}`, rate: RATE, routes: 1_000, every: 50 })
    try {
      await until('the load is answered', () => (load.snapshot()?.answered ?? 0) > RATE / 3)
      for (let upgrade = 1; upgrade <= 2; upgrade++) {
        await load.mark(`upgrade ${upgrade}`)
        const next = await scene.serve()
        // The old version stands by at first, and may end as soon as the probation is over.
        const during = await serviceWhere(scene, 'the old one drains', ({ draining }) => draining.length > 0)
        await until('clients are answered by the new one', () => answersBy(load, next.pid) >= RATE / 3)
        expect(during).toMatchObject({
          pid: next.pid,
          generation: upgrade + 1,
          draining: [{ pid: old.pid, generation: upgrade }],
        })
        await old.end(20_000)
        expect(old.find('ended')).toMatchObject({ why: 'replaced' })
        old = next
      }
      const { total, incidents } = await load.stop()
      expect({ counts: total.counts, incidents }).toMatchObject({ counts: NO_LOSS })
    } finally {
      load.kill()
    }
    const after = await serviceWhere(
      scene,
      'nobody drains',
      ({ draining, phase }) => draining.length === 0 && phase === 'idle',
    )
    expect(after).toMatchObject({
      generation: 3,
      pid: old.pid,
      serviceStartedAt,
      lastFailure: null,
      blockedBy: [],
    })
  })

  it('run in the member itself when an operator asks the daemon', async () => {
    const { scene } = await open()
    await startDaemon(scene, { upgrade: UPGRADE })
    const first = await scene.serve()
    await serviceWhere(scene, 'the daemon has heard of it', ({ phase }) => phase === 'idle')
    const answer = await requestUpgrade(scene.control)
    expect(answer).toMatchObject({ ok: true, generation: 2 })
    expect(answer.steps).toContain('started')
    expect(await serviceStatus(scene)).toMatchObject({ pid: answer.pid, generation: 2 })
    await first.end()
    expect(await requestUpgrade(scene.control, { service: 'shop' })).toMatchObject({
      ok: true,
      generation: 3,
    })
  })

  it.runIf(NIGHTLY)('keep the next daemon waiting, also while their successor still loads', async () => {
    const { scene } = await open()
    await startDaemon(scene, { upgrade: UPGRADE })
    const first = await scene.serve()
    await serviceWhere(scene, 'the daemon has heard of it', ({ phase }) => phase === 'idle')
    const command = readFileSync(`/proc/${first.pid}/cmdline`, 'utf8').split('\0').slice(0, -1)
    const wait = `while [ ! -e "${scene.file('gate')}" ]; do sleep 0.05; done; exec "$0" "$@"`
    const order = requestUpgrade(scene.control, { argv: ['sh', '-c', wait, ...command] })
    await serviceWhere(scene, 'its successor loads', ({ upgrade }) => upgrade != null)
    // The control socket, the member and the order.
    await until('no other operator is connected', () => socketsAt(scene.control) === 3)
    const next = await launchDaemon(scene, { takeOver: true, upgrade: UPGRADE })
    await until('the next daemon has connected', () => socketsAt(scene.control) === 4)
    scene.write('gate', '')
    const answer = await order
    expect(answer).toMatchObject({ ok: true, generation: 2 })
    await next.says('listening')
    await serviceWhere(scene, 'the member is back', ({ pid }) => pid === answer.pid)
  })

  it('say why they failed, at once, and can be tried again', async () => {
    const { scene } = await open()
    await startDaemon(scene, { upgrade: { ...UPGRADE, ready: 1_000 } })
    const first = await scene.serve()
    await serviceWhere(scene, 'the daemon has heard of it', ({ phase }) => phase === 'idle')
    const stuck = [process.execPath, '-e', STUCK.replace('CONTROL', scene.control)]
    const answer = await requestUpgrade(scene.control, { argv: stuck })
    expect(answer).toMatchObject({ ok: false, code: 'ERR_FDB_DEADLINE' })
    const status = await serviceStatus(scene)
    expect(status).toMatchObject({
      pid: first.pid,
      lastFailure: { code: 'ERR_FDB_DEADLINE', phase: 'offering' },
    })
    // The process that has started it ends it.
    await serviceWhere(scene, 'the stuck one is gone', ({ blockedBy }) => blockedBy.length === 0)
    expect(await requestUpgrade(scene.control)).toMatchObject({ ok: true, generation: 2 })
    expect(await requestUpgrade(scene.control, { service: 'shoe' })).toMatchObject({
      ok: false,
      code: 'ERR_FDB_SERVICE',
    })
  })

  it.runIf(NIGHTLY)(
    'report no busy service behind a failure that was told: a client that tries again at once waits for it',
    async () => {
      const { scene } = await open()
      await startDaemon(scene, { upgrade: { ...UPGRADE, ready: 1_000 } })
      await scene.serve()
      const stuck = [process.execPath, '-e', STUCK.replace('CONTROL', scene.control)]
      expect(await requestUpgrade(scene.control, { argv: stuck })).toMatchObject({ code: 'ERR_FDB_DEADLINE' })
      const again = await requestUpgrade(scene.control)
      expect(again, JSON.stringify(again)).toMatchObject({ ok: true, generation: 2 })
    },
  )
})

/** Joins, then stops for good. */
const STUCK = `import('fd-broker').then(async ({ join }) => {
  await join({ service: 'shop', control: 'CONTROL', hosting: 'daemon' })
  process.kill(process.pid, 'SIGSTOP')
})`
