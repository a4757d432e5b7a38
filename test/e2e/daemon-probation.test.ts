import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { Agent } from 'node:http'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { serviceStatus, serviceWhere, startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'
import { Writes } from '../processes/writes.js'

/** Long enough to fail in it. */
const LONG = { probation: 60_000, heartbeat: 50, silence: 500, freeze: 300, quiesce: 1_000 }

const HOWS = ['is killed', 'is stopped', 'says that it is not healthy'] as const

async function open(
  upgrade: AppConfig['upgrade'] = LONG,
): Promise<{ scene: Scene; target: string; daemon: App }> {
  const port = await freePort()
  const scene = Scene.open({
    hosting: 'daemon',
    routes: 50,
    upgrade: LONG,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
  })
  const daemon = await startDaemon(scene, { upgrade })
  return { scene, target: `http://127.0.0.1:${port}`, daemon }
}

async function more(writes: Writes, count = 10): Promise<void> {
  const goal = writes.acknowledged.size + count
  await until(`${count} more changes are acknowledged`, () => writes.acknowledged.size >= goal)
}

async function expectAll(writes: Writes, serving: App): Promise<void> {
  await writes.stop()
  expect(writes.refused).toBe(0)
  const all: Record<string, { item: string }> = await serving.order('all')
  expect([...writes.acknowledged].filter(([key, value]) => all[key]?.item !== value)).toEqual([])
}

describe('a successor that fails in probation under the daemon', () => {
  for (const how of perLane<readonly (typeof HOWS)[number][]>(HOWS.slice(0, 1), HOWS)) {
    it(`${how}: the elder serves again, with what both of them have acknowledged`, async () => {
      const { scene, target } = await open()
      const elder = await scene.serve()
      const writes = new Writes(target)
      await more(writes)
      const sickFile = join(scene.folder, 'sick')
      const second = await scene.serve({ sickFile })
      await elder.says('retiring')
      await more(writes)
      if (how === 'is killed') await second.kill()
      else if (how === 'is stopped') second.signal('SIGSTOP')
      else writeFileSync(sickFile, '')
      await elder.says('reinstated')
      await more(writes)
      const status = await serviceWhere(
        scene,
        'the elder serves',
        ({ phase, pid }) => phase === 'idle' && pid === elder.pid,
      )
      expect(status.lastFailure).toMatchObject({
        phase: 'probation',
        code: how === 'is killed' ? expect.stringMatching(/^ERR_FDB_SUCCESSOR_/) : 'ERR_FDB_UNHEALTHY',
      })
      if (how === 'is stopped') {
        // The first may not have let go of anything: it is named, and the next one waits for it.
        expect(status.blockedBy).toEqual([second.pid])
        expect(await (await scene.start()).failure()).toMatchObject({ code: 'ERR_FDB_BUSY', retryable: true })
        second.signal('SIGCONT')
      }
      if (how !== 'is killed') expect(await second.says('ended')).toMatchObject({ why: 'lost' })
      await second.end()
      await expectAll(writes, elder)
      if (existsSync(sickFile)) rmSync(sickFile)
      await serviceWhere(scene, 'nobody blocks', ({ blockedBy }) => blockedBy.length === 0)
      const third = await scene.serve()
      expect(await third.order('all')).toEqual(await elder.order('all'))
    })
  }

  it('in its first moment, after the commit and before it serves: the elder never stopped accepting', async () => {
    const { scene, target } = await open({ ...LONG, commit: 500 })
    const elder = await scene.serve()
    const writes = new Writes(target)
    await more(writes)
    const second = await scene.start({ traps: { 'member serving': 'SIGSTOP' } })
    const status = await serviceWhere(
      scene,
      'the handoff failed',
      ({ lastFailure, phase }) => lastFailure !== null && phase === 'idle',
    )
    expect(status).toMatchObject({
      pid: elder.pid,
      lastFailure: { phase: 'committing', code: 'ERR_FDB_DEADLINE' },
    })
    await more(writes)
    expect(elder.story).not.toContain('retiring')
    second.signal('SIGCONT')
    await second.end()
    await expectAll(writes, elder)
  })
})

describe('a rollback that an operator asks the daemon for', () => {
  it('has the standby serve again, with all that was acknowledged; afterwards, and at first, there is none', async () => {
    const { scene, target } = await open()
    const elder = await scene.serve()
    expect(await scene.rollback('shop').catch(error => error.code)).toBe('ERR_FDB_NO_STANDBY')
    expect((await serviceStatus(scene)).incumbent).toBeNull()
    const writes = new Writes(target)
    await more(writes)
    const second = await scene.serve()
    await elder.says('retiring')
    await more(writes)
    expect((await serviceStatus(scene)).incumbent).toBe(elder.pid)
    expect(await scene.rollback('shop')).toEqual({ pid: second.pid, generation: 2 })
    await elder.says('reinstated')
    await second.end()
    expect(second.find('retired')).toMatchObject({ why: 'closed' })
    await more(writes)
    await serviceWhere(
      scene,
      'the elder serves',
      ({ phase, pid, role }) => phase === 'idle' && pid === elder.pid && role === 'serving',
    )
    expect(await scene.rollback('shop').catch(error => error.code)).toBe('ERR_FDB_NO_STANDBY')
    await expectAll(writes, elder)
    await scene.serve()
  })
})

describe('a daemon that is stopped in a probation', () => {
  it('has the elder accept beside the successor until it goes on, and no longer', async () => {
    const { scene, daemon } = await open()
    const elder = await scene.serve()
    const second = await scene.serve()
    await elder.says('retiring')
    daemon.signal('SIGSTOP')
    await until('the elder accepts', async () => (await elder.order('phase')) === 'orphan')
    daemon.signal('SIGCONT')
    await until('the elder stands by', async () => (await elder.order('phase')) === 'standby')
    expect(await serviceStatus(scene)).toMatchObject({ phase: 'probation', pid: second.pid })
    await second.kill()
    await elder.says('reinstated')
  })
})

describe.each([
  ['is killed and started again', false],
  ['is upgraded', true],
] as const)('a daemon that %s in a probation', (_how, upgraded) => {
  it.runIf(NIGHTLY || !upgraded)(
    'goes on with it: the elder stands by, and serves again with all changes and named descriptors when the successor dies',
    async () => {
      const { scene, target, daemon } = await open()
      const elder = await scene.serve()
      const writes = new Writes(target)
      await more(writes)
      const second = await scene.serve()
      await elder.says('retiring')
      await more(writes)
      const ledger = scene.write('ledger', 'ledger')
      await second.order('holdFile', { name: 'ledger', file: ledger })
      if (!upgraded) await daemon.kill()
      await startDaemon(scene, { upgrade: LONG, takeOver: upgraded })
      await serviceWhere(
        scene,
        'it is in probation',
        ({ phase, pid, role }) => phase === 'probation' && pid === second.pid && role === 'serving',
      )
      await until('the elder stands by', async () => (await elder.order('phase')) === 'standby')
      await more(writes)
      await second.kill()
      await serviceWhere(scene, 'the elder serves', ({ phase, pid }) => phase === 'idle' && pid === elder.pid)
      await more(writes)
      await expectAll(writes, elder)
      expect(await elder.order('heldFile', { name: 'ledger' })).toEqual(ledger)
      expect((await serviceStatus(scene)).held).toEqual(['ledger'])
    },
  )

  it.runIf(NIGHTLY || upgraded)(
    'ends it when its time is over: the elder leaves, and a next version can join',
    async () => {
      const soon = { ...LONG, probation: 500 }
      const { scene, daemon } = await open(soon)
      const elder = await scene.serve({ upgrade: soon })
      const second = await scene.serve({ upgrade: soon })
      await elder.says('retiring')
      if (!upgraded) await daemon.kill()
      await startDaemon(scene, { upgrade: soon, takeOver: upgraded })
      await elder.end()
      expect(elder.find('ended')).toMatchObject({ why: 'replaced' })
      const third = await scene.serve()
      expect((await serviceStatus(scene)).pid).toBe(third.pid)
      await until('the second stands by', async () => (await second.order('phase')) === 'standby')
    },
  )
})

describe('a process that was kept from listening', () => {
  const SILENCE_MS = 500

  for (const how of perLane(['by SIGSTOP'] as const, ['by itself', 'by SIGSTOP'] as const)) {
    it(`${how}, longer than the daemon may be silent, counts the daemon’s silence only from then on`, async () => {
      const slow = { ...LONG, silence: 60_000, freeze: 30_000, quiesce: 30_000 }
      const { scene, daemon } = await open(slow)
      const first = await scene.serve({ upgrade: { ...slow, silence: SILENCE_MS } })
      await scene.serve({ upgrade: slow })
      await first.says('retiring')
      if (how === 'by itself') await first.order('stall', { ms: 3 * SILENCE_MS })
      else first.signal('SIGSTOP')
      const held = performance.now()
      // The daemon says nothing after its heartbeats until here.
      daemon.signal('SIGSTOP')
      while (performance.now() - held < 2 * SILENCE_MS) await pause(20)
      let goesOn = Date.now()
      if (how === 'by itself') goesOn = (await first.says('stalled')).at
      else first.signal('SIGCONT')
      const { at } = await until('the process takes the daemon for silent', () =>
        first.said.find(({ at, phase }) => phase === 'orphan' && at > goesOn),
      )
      expect(at - goesOn).toBeGreaterThan(SILENCE_MS / 2)
      daemon.signal('SIGCONT')
      await until('the process stands by', async () => (await first.order('phase')) === 'standby')
    })
  }

  it.runIf(NIGHTLY)('a daemon that was stalled as a whole does not blame its members', async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: { ...LONG, silence: 300 } })
    const daemon = await startDaemon(scene, { upgrade: { ...LONG, silence: 300 } })
    const first = await scene.serve({ upgrade: { ...LONG, silence: 60_000 } })
    const second = await scene.serve()
    await first.says('retiring')
    for (let i = 0; i < 3; i++) {
      daemon.signal('SIGSTOP')
      await pause(500)
      daemon.signal('SIGCONT')
      expect(await serviceStatus(scene)).toMatchObject({
        phase: 'probation',
        pid: second.pid,
        lastFailure: null,
      })
    }
  })
})

describe('an owner that is stopped', () => {
  it.runIf(NIGHTLY)('ends with --kill-stuck, and its queue and its state are the next one’s', async () => {
    const { scene, target } = await open()
    const first = await scene.serve()
    using client = await OperatorClient.connect(scene.control)
    await first.order('put', { key: 'kept', value: { item: 'x' } })
    first.signal('SIGSTOP')
    const waiting = ask(`${target}/whoami`).answer
    await until('it is ended as silent', async () => {
      const error = await client.upgrade({ timeoutMs: 200, killStuck: true }).catch(error => error)
      return error.message.includes(`the serving process ${first.pid} did not respond and was killed`)
    })
    expect(first.ended).toBe(true)
    const next = await scene.serve()
    expect((await waiting).headers['x-pid']).toBe(String(next.pid))
    expect(await next.order('get', { key: 'kept' })).toEqual({ item: 'x' })
  })

  it.runIf(NIGHTLY)('survives --kill-stuck if the daemon was stopped for as long', async () => {
    const patient = { ...LONG, silence: 2_000 }
    const { scene, daemon } = await open(patient)
    const first = await scene.serve({ upgrade: patient })
    const client = await OperatorClient.connect(scene.control)
    await client.status()
    first.signal('SIGSTOP')
    daemon.signal('SIGSTOP')
    client.upgrade({ timeoutMs: 60_000, killStuck: true }).catch(() => {})
    await pause(3_000)
    daemon.signal('SIGCONT')
    // The daemon has read the order when it answers a question that came later.
    await serviceStatus(scene)
    expect(first.ended).toBe(false)
    client.close()
    first.signal('SIGCONT')
    expect(await first.order('phase')).toBe('serving')
  })

  it.runIf(NIGHTLY)(
    'has its name told to a process that joins while the service goes back, and ends with --kill-stuck',
    async () => {
      // The handoff waits for the first as long as that one asked for; a joiner hears much sooner how things stand.
      const { scene } = await open({ ...LONG, commit: 500 })
      const first = await scene.serve({ upgrade: { ...LONG, commit: 60_000 } })
      await first.order('put', { key: 'kept', value: { item: 'x' } })
      const second = await scene.serve()
      await first.says('retiring')
      first.signal('SIGSTOP')
      await second.kill()
      await serviceWhere(scene, 'the first is given the right again', ({ phase }) => phase === 'returning')
      expect(await (await scene.start()).failure()).toMatchObject({
        code: 'ERR_FDB_BUSY',
        message: expect.stringContaining(`(phase returning, process ${first.pid})`),
      })
      using client = await OperatorClient.connect(scene.control)
      await until('it is ended as silent', async () => {
        const error = await client.upgrade({ timeoutMs: 200, killStuck: true }).catch(error => error)
        return error.message.includes(`the serving process ${first.pid} did not respond and was killed`)
      })
      const next = await scene.serve()
      expect(await next.order('get', { key: 'kept' })).toEqual({ item: 'x' })
    },
  )

  it('loses its place by the seal; continued, it has its changes made by the new one, and leaves', async () => {
    const { scene, target } = await open()
    const first = await scene.serve({ drain: { move: 'off' }, upgrade: { ...LONG, probation: 100 } })
    const writes = new Writes(target)
    await more(writes)
    await writes.stop()
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    await ask(`${target}/whoami`, { agent }).answer
    first.signal('SIGSTOP')
    // On its way, on a connection of the stopped one.
    const late = ask(`${target}/r/late`, { method: 'PUT', body: 'of the stopped one', agent }).answer
    const second = await scene.serve()
    expect(await serviceWhere(scene, 'released', ({ phase }) => phase === 'idle')).toMatchObject({
      pid: second.pid,
      blockedBy: [first.pid],
    })
    await until('the new one answers', async () => {
      const { headers } = await ask(`${target}/whoami`, { headers: { connection: 'close' } }).answer
      return headers['x-pid'] === String(second.pid)
    })
    first.signal('SIGCONT')
    expect(await late).toMatchObject({ status: 200, headers: { 'x-pid': String(first.pid) } })
    // The drain is patient with a connection that might bring another request.
    agent.destroy()
    expect(await first.says('ended')).toMatchObject({ why: 'replaced' })
    await first.end()
    await expectAll(writes, second)
    expect(await second.order('get', { key: 'late' })).toEqual({ item: 'of the stopped one' })
    expect((await serviceWhere(scene, 'nobody blocks', ({ blockedBy }) => blockedBy.length === 0)).pid).toBe(
      second.pid,
    )
  })

  it.runIf(NIGHTLY)(
    'stands by when it is continued in probation, and serves again when the new one dies',
    async () => {
      const { scene, target } = await open()
      const first = await scene.serve()
      const writes = new Writes(target)
      await more(writes)
      await writes.stop()
      first.signal('SIGSTOP')
      const second = await scene.serve()
      await second.order('put', { key: 'second', value: { item: 'of the second' } })
      first.signal('SIGCONT')
      await first.says('retiring')
      await first.order('put', { key: 'x', value: { item: 'by the second' } })
      expect(await second.order('get', { key: 'x' })).toEqual({ item: 'by the second' })
      await second.kill()
      await first.says('reinstated')
      expect(await first.order('get', { key: 'x' })).toEqual({ item: 'by the second' })
      await expectAll(writes, first)
      expect(await first.order('get', { key: 'second' })).toEqual({ item: 'of the second' })
      expect((await serviceStatus(scene)).pid).toBe(first.pid)
    },
  )
})
