import { writeFileSync } from 'node:fs'
import { join as joinPath } from 'node:path'
import { describe, expect, it } from 'vitest'
import { join } from '../../src/member/joining/join.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import {
  daemonStatus,
  type ServiceStatus,
  servedBy,
  serviceStatus,
  serviceWhere,
  startDaemon,
} from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { Writes } from '../processes/writes.js'

const UPGRADE = { probation: 200, heartbeat: 50, silence: 1_000, freeze: 500 }

async function open(config: AppConfig = {}): Promise<{ scene: Scene; target: string }> {
  const port = await freePort()
  const scene = Scene.open({
    hosting: 'daemon',
    routes: 50,
    upgrade: UPGRADE,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    ...config,
  })
  return { scene, target: `http://127.0.0.1:${port}` }
}

/** Waits until so many more changes are acknowledged. */
async function more(writes: Writes, count = 20): Promise<void> {
  const goal = writes.acknowledged.size + count
  await until(
    `${count} more changes are acknowledged`,
    () => writes.acknowledged.size >= goal,
    10_000,
    () => ({ acknowledged: writes.acknowledged.size, lastFailure: writes.lastFailure }),
  )
}

/** One of `apps` serves and writes, the others leave; it has everything that was acknowledged. */
async function settled(scene: Scene, apps: readonly App[], writes: Writes): Promise<App> {
  const { pid } = await serviceWhere(
    scene,
    'one serves',
    ({ phase, pid, role }) => phase === 'idle' && pid !== null && role === 'serving',
  )
  await more(writes, 5)
  await writes.stop()
  expect(writes.refused).toBe(0)
  const serving = apps.find(app => app.pid === pid)!
  // Later acknowledged changes of the others would be missed here, and none of the others stays.
  for (const app of apps) if (app !== serving) await app.end()
  const all: Record<string, { item: string }> = await serving.order('all')
  const lost = [...writes.acknowledged].filter(([key, value]) => all[key]?.item !== value)
  expect(lost).toEqual([])
  expect(Object.keys(all).filter(key => /^\d+$/.test(key))).toHaveLength(50)
  return serving
}

const PHASES = ['offering', 'freezing', 'preparing', 'committing', 'probation', 'returning']

describe('a daemon that is killed and started again', () => {
  it('has a durable change made, and the state flushed, that waited in the next version, whose previous one was killed too', async () => {
    const { scene } = await open({ upgrade: { ...UPGRADE, quiesce: 30_000 } })
    const options = { stateFile: scene.file('state') }
    const daemon = await startDaemon(scene, { upgrade: { ...UPGRADE, quiesce: 30_000 } })
    const first = await scene.serve({ options, workFile: scene.file('none') })
    const next = await scene.start({ options })
    await first.says('ends its work')
    await daemon.kill()
    await first.kill()
    await until('the next version accepts', async () => (await next.order('phase')) === 'orphan')
    const put = next.order('put', { key: 'a', value: { item: 1 }, durable: true })
    const flush = next.order('flush')
    // The answer to this question comes after the orders are read.
    for (const order of [put, flush]) order.catch(() => {})
    await next.order('phase')
    await startDaemon(scene, { upgrade: UPGRADE })
    await Promise.all([put, flush])
    const { state } = await next.status()
    expect(state.file?.syncedSequence).toBe(state.sequence)
  })

  it.runIf(NIGHTLY)('finds its members serving as before, again and again', async () => {
    const { scene, target } = await open()
    let daemon = await startDaemon(scene, { upgrade: UPGRADE })
    const app = await scene.serve()
    const { serviceStartedAt } = await servedBy(scene, app)
    const writes = new Writes(target)
    for (let restart = 0; restart < perLane(2, 4); restart++) {
      await more(writes)
      await daemon.kill()
      // The service has no holder now, and it serves and takes changes as before.
      await more(writes)
      daemon = await startDaemon(scene, { upgrade: UPGRADE })
      expect(await serviceWhere(scene, 'it is back', ({ phase }) => phase === 'idle')).toMatchObject({
        pid: app.pid,
        generation: 1,
        serviceStartedAt,
        listeners: [{ name: 'web', address: target.replace('http', 'tcp') }],
      })
    }
    expect(await settled(scene, [app], writes)).toBe(app)
    expect(app.story.filter(word => word === 'retiring')).toEqual([])
    const second = await scene.serve()
    expect(second.find('joined')).toMatchObject({ generation: 2, first: false })
    await app.end()
    await second.kill()
    const third = await scene.serve()
    expect(Object.keys(await third.order('all')).length).toBeGreaterThan(50)
    await serviceWhere(scene, 'the state is compacted', ({ segments }) => segments <= 3)
  })

  it.runIf(NIGHTLY)(
    'keeps what a member brought that ends before another one is back, which then ends too',
    async () => {
      const { scene, target } = await open({ upgrade: { ...UPGRADE, probation: 60_000 } })
      const daemon = await startDaemon(scene, { upgrade: UPGRADE })
      const standby = await scene.serve()
      const app = await scene.serve()
      await servedBy(scene, app)
      await until('the first one stands by', async () => (await standby.order('phase')) === 'standby')
      await app.order('put', { key: 'last', value: { item: 'change' } })
      standby.signal('SIGSTOP')
      await daemon.kill()
      await startDaemon(scene, { upgrade: UPGRADE })
      const isBack = ({ phase, blockedBy }: ServiceStatus) =>
        phase === 'rebuilding' && blockedBy.length === 1 && blockedBy[0] === standby.pid
      await serviceWhere(scene, 'the other one is back', isBack)
      await app.kill()
      await standby.kill()
      await serviceWhere(scene, 'it is unserved', ({ phase }) => phase === 'idle')
      const waiting = fetch(target)
      const next = await scene.serve()
      expect(next.find('joined')).toMatchObject({ generation: 3, first: false })
      expect(await next.order('get', { key: 'last' })).toEqual({ item: 'change' })
      expect((await waiting).status).toBe(404)
    },
  )

  it.runIf(NIGHTLY)(
    'keeps the incumbent when a joiner was not ready yet, and refuses others until both are back',
    async () => {
      const { scene, target } = await open()
      const first = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve()
      const writes = new Writes(target)
      const readyFile = joinPath(scene.folder, 'ready')
      const joiner = await scene.start({ readyFile })
      await joiner.says('joined')
      await first.kill()
      await startDaemon(scene, { upgrade: UPGRADE })
      const waiting = await serviceWhere(
        scene,
        'the incumbent is back',
        ({ phase, blockedBy }) => phase === 'rebuilding' && blockedBy.length === 1,
      )
      expect(waiting.blockedBy).toEqual([joiner.pid])
      const fresh = await scene.start()
      expect(await fresh.failure()).toMatchObject({ code: 'ERR_FDB_BUSY', retryable: true })
      await more(writes)
      writeFileSync(readyFile, '')
      expect((await joiner.failure()).code).toBe('ERR_FDB_FENCED')
      expect(await settled(scene, [app, joiner], writes)).toBe(app)
      await scene.serve()
      await app.end()
    },
  )

  for (const phase of perLane(['committing'], PHASES)) {
    it(`loses nothing and has one writer when it died on entering "${phase}"`, async () => {
      const { scene, target } = await open()
      const first = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve()
      const writes = new Writes(target)
      await more(writes)
      await first.kill()
      // The members come back to the second, which dies at the next handoff (or, returning, of taking them back).
      const second = await startDaemon(scene, {
        upgrade: UPGRADE,
        traps: { [`holder ${phase}`]: 'SIGKILL' },
      })
      if (phase !== 'returning') await serviceWhere(scene, 'it is back', status => status.phase === 'idle')
      const joiner = phase === 'returning' ? null : await scene.start()
      await second.end()
      expect(second.find('trapped')).toMatchObject({ phase: `holder ${phase}` })
      // The process with the right to write, or the last one that had it, answers as far as it can meanwhile.
      const reads = await fetch(`${target}/r/7`, { headers: { connection: 'close' } })
      expect(await reads.text()).toBe('7 item-7\n')
      await startDaemon(scene, { upgrade: UPGRADE })
      const serving = await settled(scene, joiner === null ? [app] : [app, joiner], writes)
      const next = await scene.serve()
      await serving.end()
      expect((await serviceStatus(scene)).pid).toBe(next.pid)
    })
  }

  it.runIf(NIGHTLY)('gives the right to a joiner that was ready when its owner died meanwhile', async () => {
    const { scene, target } = await open()
    const first = await startDaemon(scene, { upgrade: UPGRADE })
    const app = await scene.serve()
    const writes = new Writes(target)
    await more(writes)
    await first.kill()
    const second = await startDaemon(scene, { upgrade: UPGRADE, traps: { 'holder freezing': 'SIGKILL' } })
    await serviceWhere(scene, 'it is back', ({ phase }) => phase === 'idle')
    const joiner = await scene.start()
    await second.end()
    await until('the joiner accepts', () => joiner.said.some(({ phase }) => phase === 'orphan'))
    await app.kill()
    // The process accepts and reads, but takes no right by itself.
    const reads = await fetch(`${target}/r/7`, { headers: { connection: 'close' } })
    expect(reads.headers.get('x-pid')).toBe(String(joiner.pid))
    await startDaemon(scene, { upgrade: UPGRADE })
    expect(await settled(scene, [app, joiner], writes)).toBe(joiner)
  })

  it.runIf(NIGHTLY)(
    'waits for a stopped rights-holder, also when it is killed again, and says so',
    async () => {
      const { scene, target } = await open()
      const first = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve()
      const writes = new Writes(target)
      await more(writes)
      app.signal('SIGSTOP')
      await first.kill()
      for (let restart = 0; restart < 2; restart++) {
        const daemon = await startDaemon(scene, { upgrade: UPGRADE })
        expect(await serviceStatus(scene)).toMatchObject({ phase: 'rebuilding', blockedBy: [app.pid] })
        const fresh = await scene.start()
        expect(await fresh.failure()).toMatchObject({ code: 'ERR_FDB_BUSY', retryable: true })
        if (restart === 0) await daemon.kill()
      }
      app.signal('SIGCONT')
      expect(await settled(scene, [app], writes)).toBe(app)
    },
  )

  it.runIf(NIGHTLY)('lets a process join that was joining when it died, and joins again', async () => {
    const { scene } = await open()
    const first = await startDaemon(scene, { upgrade: UPGRADE })
    const app = await scene.serve()
    await first.kill()
    const second = await startDaemon(scene, { upgrade: UPGRADE, traps: { 'holder offering': 'SIGKILL' } })
    await servedBy(scene, app)
    const { control } = scene
    const joined = join({ service: 'shop', control, hosting: 'daemon', upgrade: UPGRADE, timeout: 60_000 })
    await second.end()
    await startDaemon(scene, { upgrade: UPGRADE })
    await using member = await joined
    expect(member).toMatchObject({ generation: 2 })
    expect((await serviceStatus(scene)).pid).toBe(app.pid)
  })

  it.runIf(NIGHTLY)('begins anew without waiting when all members are dead', async () => {
    const { scene } = await open()
    const first = await startDaemon(scene, { upgrade: UPGRADE })
    const app = await scene.serve()
    await first.kill()
    await app.kill()
    const second = await startDaemon(scene, { upgrade: UPGRADE })
    expect((await daemonStatus(scene.control)).services).toEqual([])
    const again = await scene.serve()
    expect(again.find('joined')).toMatchObject({ generation: 1, first: true })
    await second.kill()
    // Alive when the next one begins, dead before it is back.
    again.signal('SIGSTOP')
    await startDaemon(scene, { upgrade: UPGRADE })
    expect(await serviceStatus(scene)).toMatchObject({ phase: 'rebuilding' })
    await again.kill()
    await until(
      'the name is forgotten',
      async () => (await daemonStatus(scene.control)).services.length === 0,
    )
    expect((await scene.serve()).find('joined')).toMatchObject({ generation: 1, first: true })
  })
})
