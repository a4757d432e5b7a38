import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { memoryFile } from '../../src/kernel/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import {
  daemonStatus,
  launchDaemon,
  requestUpgrade,
  serveByCommand,
  serviceStatus,
  serviceWhere,
  startDaemon,
} from '../processes/daemon.js'
import { openFds } from '../processes/descriptors.js'
import { Knocking } from '../processes/knocking.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'
import { Writes } from '../processes/writes.js'

const UPGRADE = { probation: 200, heartbeat: 50, silence: 1_000, freeze: 500 }
/** The name by which operators mean the daemon itself. */
const DAEMON = 'fd-broker.daemon'

interface Open {
  readonly scene: Scene
  readonly port: number
  readonly target: string
}

async function open(config: AppConfig = {}): Promise<Open> {
  const port = await freePort()
  const scene = Scene.open({
    hosting: 'daemon',
    routes: 50,
    upgrade: UPGRADE,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    ...config,
  })
  return { scene, port, target: `http://127.0.0.1:${port}` }
}

function isBack(scene: Scene, app: App) {
  return serviceWhere(
    scene,
    'the member is back',
    ({ phase, pid, role }) => phase === 'idle' && pid === app.pid && role === 'serving',
  )
}

/** This daemon answers. */
function answers(scene: Scene, pid: number) {
  return until(`process ${pid} is the daemon`, async () => {
    const status = await daemonStatus(scene.control).catch(() => null)
    return status?.pid === pid ? status : null
  })
}

async function more(writes: Writes): Promise<void> {
  const goal = writes.acknowledged.size + 20
  await until(
    'changes are acknowledged',
    () => writes.acknowledged.size >= goal,
    20_000,
    () => writes.lastFailure,
  )
}

async function nothingLost(app: App, writes: Writes): Promise<void> {
  await writes.stop()
  expect(writes.refused).toBe(0)
  const all: Record<string, { item: string }> = await app.order('all')
  expect([...writes.acknowledged].filter(([key, value]) => all[key]?.item !== value)).toEqual([])
}

describe('a daemon that is started where one runs', () => {
  it('takes over, with members connected, traffic, and what nobody else has: no connect is refused', async () => {
    const { scene, target } = await open()
    const mailPort = await freePort()
    const mail = { service: 'mail', listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${mailPort}` }] }
    let daemon = await serveByCommand(scene)
    const client = await OperatorClient.connect(scene.control)
    await client.descriptors.put('note', memoryFile('note', 'a memory file'), { lease: { pid: process.pid } })
    const put = await client.descriptors.list()
    client.close()
    const app = await scene.serve()
    const first = await scene.serve({ ...mail, hold: ['pipe'] })
    await first.order('put', { key: 'only', value: { item: 'in the daemon' } })
    await first.kill()
    const waits = connect(mailPort, '127.0.0.1')
    const answer = new Promise<string>(resolve => {
      waits.on('data', data => resolve(String(data))).on('error', error => resolve(error.message))
    })
    waits.write('GET /whoami HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n')
    const [load, writes, knocking] = [
      await loadOn(target, { routes: 50, rate: perLane(100, 300) }),
      new Writes(target),
      new Knocking(scene.control),
    ]
    let fds: readonly string[] = []
    for (let takeover = 1; takeover <= perLane(2, 4); takeover++) {
      await more(writes)
      const before = daemon
      daemon = await serveByCommand(scene)
      expect((await answers(scene, daemon.pid)).generation).toBe(takeover + 1)
      await before.end()
      await isBack(scene, app)
      await load.answeredBy(app.pid, 50)
      expect(await serviceStatus(scene, 'mail')).toMatchObject({ pid: null, generation: 1, phase: 'idle' })
      if (takeover === 1) fds = openFds(daemon.pid)
    }
    await until(
      'as many descriptors as after the first',
      () => openFds(daemon.pid).length <= fds.length,
      20_000,
      () => ({
        before: fds,
        now: openFds(daemon.pid),
      }),
    )
    using last = await OperatorClient.connect(scene.control)
    expect(await last.descriptors.list()).toEqual(put)
    await knocking.stop()
    expect(knocking.failures).toEqual([])
    expect(knocking.connected).toBeGreaterThan(20)
    await load.stop()
    await nothingLost(app, writes)
    const second = await scene.serve({ ...mail, hold: ['pipe'] })
    expect(second.find('joined')).toMatchObject({ generation: 2, first: false })
    expect(await second.order('get', { key: 'only' })).toEqual({ item: 'in the daemon' })
    expect(await answer).toContain('200 OK')
    expect((await serviceStatus(scene, 'mail')).held).toHaveLength(1)
    // The next version of a member comes as ever.
    const next = await scene.serve()
    await app.end()
    expect((await serviceStatus(scene)).pid).toBe(next.pid)
  })

  it('starts the next one at USR2, or at an order of an operator', async () => {
    const { scene, target } = await open()
    const daemon = await serveByCommand(scene)
    const app = await scene.serve()
    const writes = new Writes(target)
    await more(writes)
    signalPid(daemon.pid, 'SIGUSR2')
    await daemon.end()
    const { pid } = await until('the next one answers', async () => {
      const status = await daemonStatus(scene.control).catch(() => null)
      return status?.generation === 2 ? status : null
    })
    await isBack(scene, app)
    // The service is meant where no other is named.
    const answered = await requestUpgrade(scene.control, { service: DAEMON })
    expect(answered).toMatchObject({ ok: true, generation: 3 })
    await until('it has ended', () => hasEnded(pid))
    expect((await answers(scene, answered.pid!)).generation).toBe(3)
    await isBack(scene, app)
    await nothingLost(app, writes)
  })

  it.runIf(NIGHTLY)(
    'fails, and the one before goes on: a command that ends, one that dies with everything in its hands',
    async () => {
      const { scene, target } = await open()
      const daemon = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve()
      const writes = new Writes(target)
      const fails = [process.execPath, '-e', 'process.exit(3)']
      expect(await requestUpgrade(scene.control, { service: DAEMON, argv: fails })).toMatchObject({
        ok: false,
        code: 'ERR_FDB_SUCCESSOR_EXITED',
      })
      for (const phase of ['member ready', 'member beginning']) {
        const dies = await launchDaemon(scene, { takeOver: true, traps: { [phase]: 'SIGKILL' } })
        await dies.end()
        expect(dies.find('trapped')).toMatchObject({ phase })
        await more(writes)
        expect(await answers(scene, daemon.pid)).toMatchObject({ generation: 1 })
      }
      // Clients that came meanwhile have waited, and members join as ever.
      const next = await scene.serve()
      await app.end()
      expect((await serviceStatus(scene)).pid).toBe(next.pid)
      await nothingLost(next, writes)
      const last = await startDaemon(scene, { takeOver: true })
      await daemon.end()
      expect((await answers(scene, last.pid)).generation).toBe(2)
      await isBack(scene, next)
    },
  )

  it.runIf(NIGHTLY)(
    'waits for the members although another program has removed the list of them',
    async () => {
      const { scene, target } = await open()
      const daemon = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve()
      const writes = new Writes(target)
      await more(writes)
      rmSync(`${scene.control}.members`)
      const next = await startDaemon(scene, { takeOver: true })
      await daemon.end()
      expect((await answers(scene, next.pid)).generation).toBe(2)
      await isBack(scene, app)
      await more(writes)
      await nothingLost(app, writes)
    },
  )

  it.runIf(NIGHTLY)(
    'fails when the list of the members cannot be written, and the one before goes on',
    async () => {
      const { scene, target } = await open()
      const daemon = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve()
      const writes = new Writes(target)
      await more(writes)
      const list = `${scene.control}.members`
      rmSync(list)
      mkdirSync(`${list}/in-the-way`, { recursive: true })
      const refused = await launchDaemon(scene, { takeOver: true })
      expect(await refused.failure()).toMatchObject({
        code: 'ERR_FDB_SIDE_FILE',
        message: expect.stringContaining(list),
      })
      expect(await answers(scene, daemon.pid)).toMatchObject({ generation: 1 })
      expect((await serviceStatus(scene)).pid).toBe(app.pid)
      await more(writes)
      rmSync(list, { recursive: true })
      const next = await startDaemon(scene, { takeOver: true })
      await daemon.end()
      expect((await answers(scene, next.pid)).generation).toBe(2)
      await isBack(scene, app)
      await nothingLost(app, writes)
    },
  )

  it('waits for an upgrade of a member that is under way, and goes on with its probation', async () => {
    const long = { ...UPGRADE, probation: 60_000 }
    const { scene, target } = await open({ upgrade: long })
    const daemon = await startDaemon(scene, { upgrade: long })
    const app = await scene.serve()
    const writes = new Writes(target)
    const readyFile = join(scene.folder, 'ready')
    const joiner = await scene.start({ readyFile })
    await joiner.says('joined')
    const next = await launchDaemon(scene, { takeOver: true, upgrade: long })
    writeFileSync(readyFile, '')
    await joiner.serving()
    await next.says('listening')
    await daemon.end()
    await serviceWhere(
      scene,
      'it is in probation',
      ({ phase, pid }) => phase === 'probation' && pid === joiner.pid,
    )
    expect(await app.order('phase')).toBe('standby')
    expect((await serviceStatus(scene)).generation).toBe(2)
    await more(writes)
    await nothingLost(joiner, writes)
  })

  it.runIf(NIGHTLY)(
    'ends an upgrade of a member that lasts longer than the limit of the daemon, whatever limit the member has',
    async () => {
      const { scene } = await open({ upgrade: { ...UPGRADE, ready: 600_000 } })
      const first = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve()
      // Not the first daemon: the limit counts for the first member, too, which may need longer on a busy machine.
      const daemon = await launchDaemon(scene, { takeOver: true, upgrade: { ...UPGRADE, ready: 100 } })
      await daemon.says('listening')
      await first.end()
      await isBack(scene, app)
      const readyFile = scene.file('ready')
      const joiner = await scene.start({ readyFile })
      await joiner.says('joined')
      await pause(200)
      const next = await launchDaemon(scene, { takeOver: true, upgrade: UPGRADE })
      await joiner.says('retired')
      writeFileSync(readyFile, '')
      expect(await joiner.failure()).toMatchObject({
        code: 'ERR_FDB_BUSY',
        message: expect.stringContaining('the daemon hands over to its next version'),
      })
      await next.says('listening')
      await daemon.end()
      await isBack(scene, app)
    },
  )

  it.runIf(NIGHTLY)('refuses while an upgrade of a member is under way, and names it', async () => {
    const { scene } = await open()
    const daemon = await startDaemon(scene, { upgrade: UPGRADE })
    await scene.serve()
    const joiner = await scene.start({ readyFile: scene.file('never') })
    await joiner.says('joined')
    const next = await launchDaemon(scene, { takeOver: true, upgrade: UPGRADE })
    expect(await next.failure()).toMatchObject({
      code: 'ERR_FDB_BUSY',
      message: expect.stringContaining(`service "shop" (process ${joiner.pid}, phase offering)`),
    })
    expect((await daemonStatus(scene.control)).pid).toBe(daemon.pid)
  })
})
