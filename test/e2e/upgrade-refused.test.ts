import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { hasFdsAgain, settledFds } from '../processes/descriptors.js'
import { Scene } from '../processes/scene.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 5_000 }

/** Starts one that must be refused, and sees that the incumbent has lost nothing by it. */
async function refused(scene: Scene, first: App, config: AppConfig) {
  const before = await first.status()
  const fds = await settledFds(first.pid)
  const other = await scene.start(config)
  const failure = await other.failure()
  await other.end()
  const after = await scene.statusWhere(
    'nobody is waited for',
    ({ pid, role, phase, blockedBy }) =>
      pid === first.pid && role === 'serving' && phase === 'idle' && blockedBy.length === 0,
  )
  await hasFdsAgain(first.pid, fds)
  expect(after.state.sequence).toBe(before.state.sequence)
  await first.order('put', { key: 'still', value: { item: 'writes' } })
  return { failure, lastFailure: after.lastFailure }
}

/** A server of another protocol. */
function foreignServer(greeting: string): Server {
  return createServer(socket => {
    socket.on('error', () => {})
    if (greeting !== '') socket.write(greeting)
  })
}

/** A good version can take over afterwards. */
async function expectReplaceable(scene: Scene, first: App, config: AppConfig = {}): Promise<void> {
  const next = await scene.serve(config)
  await first.end()
  expect(await next.order('get', { key: 'still' })).toEqual({ item: 'writes' })
}

describe('a version that cannot take over is told why, and the incumbent serves on', () => {
  it('a hard RLIMIT_NOFILE too low for what it is handed', async () => {
    const listeners = Array.from({ length: 60 }, (_, i) => ({
      name: `l${i}`,
      spec: 'tcp://127.0.0.1:0',
      server: 'none' as const,
    }))
    const scene = Scene.open({ upgrade: TIMES, listeners })
    const first = await scene.serve()
    const { failure, lastFailure } = await refused(scene, first, { descriptors: 64 })
    // By what the kernel leaves out of the Offer, or by the descriptors that it has seen the incumbent have, whichever it sees first.
    expect(failure).toMatchObject({
      code: expect.stringMatching(/^ERR_FDB_(?:FDS_TRUNCATED|NO_DESCRIPTORS)$/),
      message: expect.stringContaining('64'),
    })
    expect(lastFailure).toMatchObject({ phase: 'offering' })
    expect(['ERR_FDB_SUCCESSOR_LOST', failure.code]).toContain(lastFailure?.code)
    await expectReplaceable(scene, first)
  })

  it('a protocol version out of range', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve()
    const { failure } = await refused(scene, first, { versions: { min: 7, max: 9 } })
    expect(failure).toMatchObject({ code: 'ERR_FDB_VERSION', retryable: false })
    expect(failure.message).toMatch(/speaks 1, .*speaks 7 to 9/)
    await expectReplaceable(scene, first)
  })

  it('a section that it cannot read: too old a reader, or another codec', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve({ schema: { version: 3, minReader: 2 } })
    const old = await refused(scene, first, { schema: { version: 1 } })
    expect(old.failure).toMatchObject({
      code: 'ERR_FDB_SCHEMA',
      message: expect.stringContaining('"routes"'),
    })
    expect(old.lastFailure).toMatchObject({ phase: 'offering', code: 'ERR_FDB_SCHEMA' })
    const other = await refused(scene, first, { schema: { version: 3, codec: 'msgpack' } })
    expect(other.failure).toMatchObject({
      code: 'ERR_FDB_SCHEMA',
      message: expect.stringContaining('msgpack'),
    })
    await expectReplaceable(scene, first, { schema: { version: 2 } })
  })

  it('a check of its own that fails', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve()
    const thrown = await refused(scene, first, { check: 'throw' })
    expect(thrown.failure).toMatchObject({ code: 'ERR_FDB_CHECK' })
    expect(thrown.failure.message).toContain('the warehouse is closed')
    expect(thrown.lastFailure).toMatchObject({ phase: 'offering', code: 'ERR_FDB_CHECK' })
    const answered = await refused(scene, first, { check: 'false' })
    expect(answered.failure.message).toContain('check "warehouse" returned false')
    await expectReplaceable(scene, first)
  })

  it('another service', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve()
    const { failure } = await refused(scene, first, { service: 'bakery' })
    expect(failure).toMatchObject({ code: 'ERR_FDB_SERVICE', retryable: false })
    expect(failure.message).toMatch(/"shop", not "bakery"/)
    await expectReplaceable(scene, first)
  })

  it('its own exit before it is ready', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve()
    const doomed = await scene.start({ exitBeforeReady: true })
    await doomed.end()
    const { lastFailure } = await scene.statusWhere('it is noticed', status => status.lastFailure !== null)
    expect(lastFailure).toMatchObject({
      phase: 'offering',
      code: expect.stringMatching(/^ERR_FDB_SUCCESSOR_/),
    })
    await first.order('put', { key: 'still', value: { item: 'writes' } })
    await expectReplaceable(scene, first)
  })

  it('a new listener whose address is taken: named with the process that has it, before the handoff', async () => {
    const holder = createServer()
    await once(holder.listen(0, '127.0.0.1'), 'listening')
    onTestFinished(() => void holder.close())
    const { port } = holder.address() as { port: number }
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve()
    const { failure } = await refused(scene, first, {
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    expect(failure).toMatchObject({ code: 'ERR_FDB_ADDRESS_IN_USE', details: { pid: process.pid } })
    expect(failure.message).toContain(`process ${process.pid} (`)
    await expectReplaceable(scene, first)
  })
})

describe('a control path', () => {
  it('has its length named if it is too long', async () => {
    const scene = Scene.open()
    const fits = `${scene.folder}/`.padEnd(106, 'x')
    await scene.serve({ control: fits })
    const next = await scene.serve({ control: fits })
    expect(next.find('joined')).toMatchObject({ generation: 2 })
    for (const control of [`${fits}y`, `${fits}yz`].slice(0, perLane(1, 2))) {
      const refused = await scene.start({ control })
      expect(await refused.failure()).toMatchObject({
        code: 'ERR_FDB_PATH_TOO_LONG',
        message: expect.stringContaining(`${control.length} bytes`),
      })
    }
  })

  it('on which another program listens: refused, and that program is left alone', async () => {
    const scene = Scene.open({ timeout: 2_000 })
    const foreign = foreignServer('220 mail.example\r\n')
    await once(foreign.listen(scene.control), 'listening')
    onTestFinished(() => void foreign.close())
    const refused = await scene.start()
    expect(await refused.failure()).toMatchObject({ code: 'ERR_FDB_FOREIGN', details: { pid: process.pid } })
    await refused.end()
  })

  it('refuses a joiner if its holder does not speak the protocol, or says nothing', async () => {
    const scene = Scene.open({ timeout: 800 })
    for (const greeting of ['220 mail.example\r\n', '']) {
      using lock = OwnedFd.own(native.openLockFile(`${scene.control}.lock`, 0o600), 'lock')
      expect(native.tryLock(lock.raw)).toBe(true)
      const foreign = foreignServer(greeting)
      await once(foreign.listen(scene.control), 'listening')
      const refused = await scene.start()
      expect(await refused.failure()).toMatchObject({
        code: greeting ? 'ERR_FDB_NOT_FD_BROKER' : 'ERR_FDB_DEADLINE',
      })
      await refused.end()
      foreign.close()
    }
  })

  it('left behind by a killed process, socket and lock, is no obstacle', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const killed = await scene.serve()
    await killed.kill()
    const next = await scene.serve()
    const joined = next.find('joined')!
    expect(joined).toMatchObject({ first: true, generation: 1 })
    expect(joined.ms).toBeLessThan(2_000)
    expect(await scene.status()).toMatchObject({ pid: next.pid })
  })

  it('stays if it is a file', async () => {
    const scene = Scene.open()
    writeFileSync(scene.control, 'precious')
    const refused = await scene.start()
    const { code } = await refused.failure()
    expect(code).toMatch(/^ERR_FDB_(CONTROL_PATH|FOREIGN)$/)
    await refused.end()
  })
})

describe('wrong options are named', () => {
  const wrong: [option: string, config: AppConfig][] = [
    ['service', { service: '' }],
    ['hosting', { options: { hosting: 'cloud' } }],
    ['upgrade.probation', { options: { upgrade: { probation: -1 } } }],
    ['service', { options: { service: 7 } }],
    ['control', { options: { control: 7 } }],
    ['control', { options: { control: false, hosting: 'daemon' } }],
    ['timeout', { options: { timeout: 0 } }],
    ['upgrade.ready', { options: { upgrade: { ready: Number.NaN } } }],
    ['drain.timeout', { options: { drain: { timeout: 'soon' } } }],
  ] as [string, AppConfig][]
  it.each(wrong.slice(0, perLane(3, wrong.length)))('%s in %j', async (option, config) => {
    const scene = Scene.open()
    const refused = await scene.start(config)
    const failure = await refused.failure()
    expect(failure).toMatchObject({ code: 'ERR_FDB_OPTION', details: { option } })
    await refused.end()
  })
})
