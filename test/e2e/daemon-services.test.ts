import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import {
  daemonStatus,
  launchDaemon,
  type ServiceStatus,
  servedBy,
  serviceStatus,
  serviceWhere,
  startDaemon,
} from '../processes/daemon.js'
import { hasFdsAgain, openFds, settledFds } from '../processes/descriptors.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 200, heartbeat: 50 }
const HOLD = { probation: 60_000, heartbeat: 50 }

async function whoami(port: number): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${port}/whoami`, { headers: { connection: 'close' } })
  return Number((await response.text()).split(',')[1])
}

function connects(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    const done = (connected: boolean) => {
      socket.destroy()
      resolve(connected)
    }
    socket.on('connect', () => done(true)).on('error', () => done(false))
  })
}

const web = (port: number, name = 'web') => ({ name, spec: `tcp://127.0.0.1:${port}` })

/** Without what time alone changes. */
function lasting({
  service,
  pid,
  generation,
  listeners,
  held,
  segments,
  sections,
  blockedBy,
}: ServiceStatus) {
  return { service, pid, generation, listeners, held, segments, sections, blockedBy }
}

describe('a daemon', () => {
  it('holds several services, each with its own listeners, state and upgrades', async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE })
    await startDaemon(scene, { upgrade: UPGRADE })
    const [shopPort, shoePort] = [await freePort(), await freePort()]
    const shop = await scene.serve({ service: 'shop', listeners: [web(shopPort)] })
    const shoe = await scene.serve({ service: 'shoe', routes: 7, listeners: [web(shoePort)] })
    expect((await daemonStatus(scene.control)).services.map(({ service }) => service).sort()).toEqual([
      'shoe',
      'shop',
    ])
    await shop.order('put', { key: 'only', value: { item: 'in the shop' } })
    const [nextShop] = await Promise.all([
      scene.serve({ service: 'shop', listeners: [web(shopPort)] }),
      shoe.kill(),
    ])
    const nextShoe = await scene.serve({ service: 'shoe', listeners: [web(shoePort)] })
    expect(await whoami(shopPort)).toBe(nextShop.pid)
    expect(await whoami(shoePort)).toBe(nextShoe.pid)
    expect(await nextShop.order('get', { key: 'only' })).toEqual({ item: 'in the shop' })
    expect(await nextShoe.order('get', { key: 'only' })).toBeNull()
    expect((await serviceStatus(scene, 'shoe')).state.entries).toBe(7)
  })

  it('refuses a second one on its path, and a member that wants another kind of holder', async () => {
    const scene = Scene.open({ upgrade: UPGRADE })
    const daemon = await startDaemon(scene)
    const second = await launchDaemon(scene)
    expect(await second.failure()).toMatchObject({ code: 'ERR_FDB_CONTROL_TAKEN' })
    await second.end()
    expect(daemon.ended).toBe(false)
    const served = await scene.serve({ hosting: 'daemon' })
    const alone = await scene.start({ hosting: 'embedded' })
    expect(await alone.failure()).toMatchObject({
      code: 'ERR_FDB_CONTROL_TAKEN',
      message: expect.stringContaining(`process ${daemon.pid} is a daemon`),
    })
    expect(await serviceStatus(scene)).toMatchObject({ pid: served.pid, generation: 1 })
    const embedded = Scene.open()
    const app = await embedded.serve()
    const foreign = await embedded.start({ hosting: 'daemon' })
    expect(await foreign.failure()).toMatchObject({ code: 'ERR_FDB_NOT_A_DAEMON' })
    expect(await embedded.status()).toMatchObject({ pid: app.pid, generation: 1 })
  })

  it('serves a member that started before it', async () => {
    const scene = Scene.open({ hosting: 'daemon' })
    const app = await scene.start()
    await until('it has loaded the library', () =>
      readFileSync(`/proc/${app.pid}/maps`, 'latin1').includes('fd_broker'),
    )
    expect(app.said).toEqual([])
    await startDaemon(scene)
    await app.serving()
    const late = Scene.open({ hosting: 'daemon', timeout: 300 })
    expect(await (await late.start()).failure()).toMatchObject({ code: 'ERR_FDB_NO_HOLDER' })
  })

  it.runIf(NIGHTLY)('keeps nothing of a name that nobody came to serve under', async () => {
    const scene = Scene.open({ hosting: 'daemon' })
    const daemon = await startDaemon(scene)
    await scene.serve()
    const before = await settledFds(daemon.pid)
    const typo = await scene.start({
      service: 'shpo',
      listeners: [web(await freePort())],
      exitBeforeReady: true,
    })
    await typo.end()
    await until(
      'the name is forgotten',
      async () => (await daemonStatus(scene.control)).services.length === 1,
    )
    await hasFdsAgain(daemon.pid, before)
  })

  it.runIf(NIGHTLY)(
    'lets the next first member begin anew when the one before died half way in its first start',
    async () => {
      const scene = Scene.open({ hosting: 'daemon', routes: 50 })
      await startDaemon(scene)
      const dead = await scene.start({ exitBeforeReady: true })
      await dead.end()
      expect(dead.find('joined')).toMatchObject({ first: true })
      const first = await scene.serve({ routes: 20 })
      expect(first.find('joined')).toMatchObject({ first: true, generation: 1 })
      const second = await scene.serve()
      expect(second.find('joined')).toMatchObject({ first: false, generation: 2 })
      expect(Object.keys(await second.order('all'))).toHaveLength(20)
    },
  )

  it('keeps what the first member brought when that dies as soon as it accepts', async () => {
    const port = await freePort()
    const scene = Scene.open({ hosting: 'daemon', routes: 50, listeners: [web(port)], hold: ['memfd'] })
    await startDaemon(scene)
    const first = await scene.start({ traps: { 'member serving': 'SIGKILL' } })
    await first.end()
    expect(await connects(port)).toBe(true)
    const second = await scene.serve()
    expect(second.find('joined')).toMatchObject({ first: false })
    expect(second.find('listener')).toMatchObject({ adopted: true })
    expect(second.find('held')).toMatchObject({ ino: first.find('held')!.ino })
    expect(Object.keys(await second.order('all'))).toHaveLength(50)
  })

  it('closes what a joiner brought that died before its commit, and shows the same status as before', async () => {
    const [port, extra, moved] = [await freePort(), await freePort(), await freePort()]
    const scene = Scene.open({ hosting: 'daemon', listeners: [web(port)], hold: ['memfd'] })
    const daemon = await startDaemon(scene)
    const app = await scene.serve()
    const [before, fds] = [lasting(await servedBy(scene, app)), await settledFds(daemon.pid)]
    for (const how of [
      ...perLane([], [{ exitBeforeReady: true }]),
      { check: 'throw' as const },
      { traps: { 'member ready': 'SIGKILL' as const } },
    ]) {
      const joiner = await scene.start({ listeners: [web(moved), web(extra, 'extra')], ...how })
      await joiner.end()
      await serviceWhere(
        scene,
        'the handoff is over',
        ({ phase, blockedBy }) => phase === 'idle' && blockedBy.length === 0,
      )
      expect(lasting(await serviceStatus(scene))).toEqual({ ...before, segments: expect.any(Number) })
      expect([await connects(extra), await connects(moved), await connects(port)]).toEqual([
        false,
        false,
        true,
      ])
    }
    await until(
      'descriptors as before',
      () => openFds(daemon.pid).length <= fds.length,
      5_000,
      () => ({ fds, now: openFds(daemon.pid) }),
    )
    expect(await whoami(port)).toBe(app.pid)
  })

  it('closes a listener that the new version dropped only after the release', async () => {
    const [port, extra] = [await freePort(), await freePort()]
    const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE, listeners: [web(port)] })
    await startDaemon(scene, { upgrade: { ...UPGRADE, probation: 3_000 } })
    await scene.serve({ listeners: [web(port), web(extra, 'extra')] })
    const second = await scene.serve()
    const probation = await serviceWhere(scene, 'it is known to serve', ({ phase }) => phase === 'probation')
    expect(probation.pid).toBe(second.pid)
    expect(await connects(extra)).toBe(true)
    expect((await serviceStatus(scene)).listeners.map(({ name }) => name)).toEqual(['web', 'extra'])
    const after = await serviceWhere(scene, 'released', ({ phase }) => phase === 'idle')
    expect(after.listeners.map(({ name }) => name)).toEqual(['web'])
    await until('the port is closed', async () => !(await connects(extra)))
    expect(await connects(port)).toBe(true)
  })

  it.runIf(NIGHTLY)(
    'keeps a name that moved to another port where it was until nobody can come back',
    async () => {
      const [port, moved] = [await freePort(), await freePort()]
      const scene = Scene.open({ hosting: 'daemon', upgrade: HOLD, listeners: [web(port)] })
      await startDaemon(scene, { upgrade: HOLD })
      const first = await scene.serve()
      const second = await scene.serve({ listeners: [web(moved)] })
      expect(await whoami(moved)).toBe(second.pid)
      await first.says('retiring')
      expect((await serviceStatus(scene)).listeners).toMatchObject([
        { name: 'web', address: `tcp://127.0.0.1:${moved}` },
      ])
      await second.kill()
      await first.says('reinstated')
      expect((await serviceStatus(scene)).listeners).toMatchObject([
        { name: 'web', address: `tcp://127.0.0.1:${port}` },
      ])
      expect(await whoami(port)).toBe(first.pid)
      expect(await connects(moved)).toBe(false)
      // The next one gets the port that serves, and now it moves for good: the elder dies.
      const third = await scene.serve({ listeners: [web(moved)] })
      await first.kill()
      await serviceWhere(scene, 'nobody can come back', ({ phase }) => phase === 'idle')
      await third.kill()
      const fourth = await scene.serve({ listeners: [web(moved)] })
      expect(fourth.find('listener')).toMatchObject({ name: 'web', adopted: true })
      expect(await whoami(moved)).toBe(fourth.pid)
      expect(await connects(port)).toBe(false)
    },
  )

  it('keeps listeners and state for the next one when a member closes, though its process lives on', async () => {
    const port = await freePort()
    const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE, listeners: [web(port)] })
    await startDaemon(scene, { upgrade: UPGRADE })
    const resident = await scene.serve({ staysAlive: true })
    await resident.says('ready')
    expect(await resident.order('phase')).toBe('serving')
    resident.signal('SIGTERM')
    expect(await resident.says('ended')).toMatchObject({ why: 'closed' })
    // No process accepts: a client waits for the next one.
    const answered = whoami(port)
    answered.catch(() => {})
    const app = await scene.serve()
    expect(app.find('joined')).toMatchObject({ generation: 2, first: false })
    expect(await answered).toBe(app.pid)
    await serviceWhere(
      scene,
      'it blocks nobody',
      ({ phase, blockedBy }) => phase === 'idle' && blockedBy.length === 0,
    )
    expect(resident.ended).toBe(false)
    await scene.serve()
  })

  it.runIf(NIGHTLY)('keeps named descriptors and what is in them when the member is killed', async () => {
    const scene = Scene.open({ hosting: 'daemon', hold: ['file', 'pipe', 'memfd'] })
    await startDaemon(scene)
    let app = await scene.serve()
    const identities = () =>
      app.said.filter(({ say }) => say === 'held').map(({ kind, ino, dev }) => ({ kind, ino, dev }))
    const held = identities()
    expect(held).toHaveLength(3)
    for (let kill = 0; kill < perLane(1, 2); kill++) {
      await app.kill()
      app = await scene.serve()
      expect(identities()).toEqual(held)
    }
    expect([...(await servedBy(scene, app)).held].sort()).toEqual(['file', 'memfd', 'pipe'])
  })
})
