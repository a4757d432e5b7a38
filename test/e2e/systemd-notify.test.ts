import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { ROLLBACK } from '../../src/operator/service-commands.js'
import { NIGHTLY } from '../lanes/lane.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { type Note, NotifyRecorder } from '../processes/notify-socket.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** As systemd starts a unit's main process: with its own number, which successors inherit and is not theirs. */
const UNIT = ['sh', '-c', 'SYSTEMD_EXEC_PID=$$ INVOCATION_ID=0123456789abcdef exec "$@"', 'sh']

function world(upgrade: object = { probation: 200, heartbeat: 50 }) {
  const scene = Scene.open({
    upgrade: { ...upgrade },
    listeners: [{ name: 'web', spec: 'tcp://127.0.0.1:0' }],
    options: { systemd: 'auto' },
  })
  const manager = NotifyRecorder.open(scene.folder)
  const pidFile = scene.file('shop.pid')
  return {
    scene,
    manager,
    pidFile,
    first: (config: object = {}) =>
      scene.serve(
        { options: { systemd: 'auto', pidFile }, ...config },
        { wrap: UNIT, env: { ...manager.env } },
      ),
    named: () => Number(readFileSync(pidFile, 'utf8')),
  }
}

describe('a service manager is told', () => {
  it('of an upgrade of the main process: who it is then, when the previous one leaves', async () => {
    const { first, manager, named } = world()
    const one = await first()
    await manager.tells('READY')
    expect(manager.status).toBe('generation 1 serves')
    expect(named()).toBe(one.pid)
    const { pid } = await one.order<{ pid: number }>('upgrade')
    await one.end()
    await until('its own word has come', () => manager.count('READY') === 3)
    const [, reloading, ...all] = manager.story
    expect(reloading).toBe('RELOADING')
    expect(all).toEqual(['READY', 'READY', `MAINPID=${pid}`])
    expect(Number(noteOf(manager, 'RELOADING').MONOTONIC_USEC)).toBeGreaterThan(0)
    await manager.says(/^generation 2 serves$/)
    expect(named()).toBe(pid)
    signalPid(pid, 'SIGTERM')
    await until('it was told to stop', () => manager.count('STOPPING') === 1)
    expect(manager.story.at(-1)).toBe('STOPPING')
    await until('it ends', () => hasEnded(pid))
    expect(() => named()).toThrow('ENOENT')
  })

  it('of each of three upgrades in a row, by whoever is the main process then', async () => {
    const { first, manager, scene } = world()
    await first()
    let before = 0
    for (let upgrades = 1; upgrades <= 3; upgrades++) {
      const { pid: serving } = await scene.status()
      if (upgrades === 1) await scene.apps[0]!.order('upgrade')
      else await scene.start({ options: { systemd: 'auto' } }, { env: { ...manager.env } })
      const { pid } = await scene.statusWhere('another serves', status => status.pid !== serving)
      await until('it was told', () => manager.story.includes(`MAINPID=${pid}`))
      expect(pid).not.toBe(before)
      before = serving
      await until('the one before has ended', () => hasEnded(serving))
    }
    expect(manager.count('MAINPID')).toBe(3)
  })

  it('of a successor that fails before it is ready: ready as before, and why', async () => {
    const { first, manager, named, scene } = world()
    const one = await first()
    const other = await scene.start(
      { check: 'throw', options: { systemd: 'auto' } },
      { env: { ...manager.env } },
    )
    await other.failure()
    await manager.tells('READY', 'RELOADING', 'READY')
    await manager.says(/^generation 1 serves; the last upgrade failed: ERR_FDB_CHECK: .*warehouse is closed/)
    expect(named()).toBe(one.pid)
  })

  it.runIf(NIGHTLY)(
    'of a successor that dies after the commit, before it serves: ready as before',
    async () => {
      const { first, manager, named, scene } = world()
      const one = await first()
      await scene.start(
        { traps: { 'member beginning': 'SIGKILL' }, options: { systemd: 'auto' } },
        { env: { ...manager.env } },
      )
      await manager.tells('READY', 'RELOADING', 'READY')
      await manager.says(/the last upgrade failed/)
      expect(await scene.status()).toMatchObject({ pid: one.pid, role: 'serving' })
      expect(named()).toBe(one.pid)
    },
  )

  it('of a rollback: the one that stood by is the main process still', async () => {
    const { first, manager, named, scene } = world({ probation: 30_000, heartbeat: 50 })
    const one = await first()
    const two = await scene.serve(
      { options: { systemd: 'auto', pidFile: scene.file('shop.pid') } },
      { env: { ...manager.env } },
    )
    await until('the file was told who serves', () => named() === two.pid)
    await until('the successor has said so itself', () => manager.count('READY') === 3)
    expect(manager.count('MAINPID')).toBe(0)
    await one.says('retiring')
    await two.kill()
    await one.says('reinstated')
    await until('it was told who serves again', () => manager.count('MAINPID') === 1)
    expect(manager.notes.findLast(note => 'MAINPID' in note)).toMatchObject({
      MAINPID: String(one.pid),
      READY: '1',
    })
    await manager.says(/^generation 1 serves; the last upgrade failed: /)
    expect(named()).toBe(one.pid)
    expect(manager.count('STOPPING')).toBe(0)
  })

  it('of a rollback by an operator: that the upgrade was rolled back, not that it failed', async () => {
    const { first, manager, scene } = world({ probation: 30_000, heartbeat: 50 })
    const one = await first()
    await scene.serve({ options: { systemd: 'auto' } }, { env: { ...manager.env } })
    await one.says('retiring')
    using client = await OperatorClient.connect(scene.control)
    await client.command(ROLLBACK, '')
    await one.says('reinstated')
    await manager.says(/^generation 1 serves; the last upgrade was rolled back: process \d+ was told to end/)
  })

  it('of its life, by the serving process, while it is healthy', async () => {
    const { manager, scene } = world({ probation: 0, heartbeat: 50 })
    const sickFile = scene.file('sick')
    const env = { ...manager.env, WATCHDOG_USEC: '100000', WATCHDOG_PID: '1' }
    const one = await scene.serve({ sickFile, options: { systemd: 'auto' } }, { wrap: UNIT, env })
    await until('it lives', () => manager.count('WATCHDOG') >= 3)
    await one.order('upgrade')
    await one.end()
    const before = manager.count('WATCHDOG')
    await until('its successor lives', () => manager.count('WATCHDOG') >= before + 3)
    scene.write('sick', '')
    await until('it is not said any more', async () => {
      const now = manager.count('WATCHDOG')
      await new Promise(resolve => setTimeout(resolve, 300))
      return manager.count('WATCHDOG') === now
    })
  })

  it.runIf(NIGHTLY)('under an abstract name too; and nothing where `systemd` is off', async () => {
    const { scene } = world()
    const manager = NotifyRecorder.open(`@fdb-notify-${process.pid}`)
    const silent = await scene.serve({ options: {} }, { env: { ...manager.env } })
    expect(manager.notes).toEqual([])
    await silent.kill()
    await scene.serve({}, { env: { ...manager.env } })
    await manager.tells('READY')
  })

  it.runIf(NIGHTLY)(
    'in vain where its socket has gone: the service does not mind, and says so once',
    async () => {
      const { scene } = world()
      const one = await scene.serve({}, { env: { NOTIFY_SOCKET: scene.file('none') } })
      await scene.serve({}, { env: { NOTIFY_SOCKET: scene.file('none') } })
      await one.end()
      const told = one.said.filter(({ message }) => String(message).includes('NOTIFY_SOCKET'))
      expect(told.length).toBe(1)
    },
  )
})

describe('fd-broker proxy under a service manager', () => {
  async function start() {
    const app = await upstream()
    const edge = await Edge.prepare({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
      upgrade: { probation: '0s' },
    })
    const manager = NotifyRecorder.open(edge.sandbox.folder)
    const pidFile = `${edge.sandbox.folder}/edge.pid`
    const { NOTIFY_SOCKET } = manager.env
    const pid = await edge.sandbox.launch([
      ...UNIT,
      'env',
      `NOTIFY_SOCKET=${NOTIFY_SOCKET}`,
      process.execPath,
      CLI,
      'proxy',
      '--config',
      edge.file,
      '--pid-file',
      pidFile,
    ])
    await edge.serving(pid)
    return { edge, manager, pid, named: () => Number(readFileSync(pidFile, 'utf8')) }
  }

  it('upgrades by USR2, reads its configuration by HUP, and says that a drain takes time', async () => {
    const { edge, manager, named, pid } = await start()
    await manager.tells('READY')
    await edge.reload({ accessLog: true })
    await manager.tells('READY', 'RELOADING', 'READY')
    await edge.reload({ listeners: [{ name: 'http', address: 'nonsense' }] })
    await manager.says(/the last reload failed: /)
    edge.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}` }] })
    await edge.signal('SIGUSR2', pid)
    // The main process ends: another is known.
    await edge.ended(pid)
    const successor = await edge.pid
    await until('it was told', () => manager.story.includes(`MAINPID=${successor}`))
    expect(named()).toBe(successor)
    const stream = (await edge.raw()).send('GET /stream?lines=1000 HTTP/1.1\r\nHost: a\r\n\r\n')
    await stream.until(text => text.includes('line 3'))
    const before = manager.count('EXTEND_TIMEOUT_USEC')
    await edge.signal('SIGTERM', successor)
    await until('it has said so', () => manager.count('EXTEND_TIMEOUT_USEC') > before)
    expect(noteOf(manager, 'EXTEND_TIMEOUT_USEC')).toEqual({ EXTEND_TIMEOUT_USEC: '30000000' })
    await until('it was told to stop', () => manager.count('STOPPING') === 1)
    await edge.signal('SIGINT', successor)
    await edge.ended(successor)
  })
})

describe('fd-broker serve under a service manager', () => {
  it('says when it listens and when it ends, and has a pid file meanwhile', async () => {
    const sandbox = Sandbox.open()
    const manager = NotifyRecorder.open(sandbox.folder)
    const pidFile = `${sandbox.folder}/daemon.pid`
    const pid = await sandbox.launch([
      'env',
      `NOTIFY_SOCKET=${manager.env.NOTIFY_SOCKET}`,
      process.execPath,
      CLI,
      'serve',
      '--control',
      sandbox.control,
      '--pid-file',
      pidFile,
    ])
    await manager.tells('READY')
    await manager.says(/^holds 0 services at /)
    expect(readFileSync(pidFile, 'utf8')).toBe(`${pid}\n`)
    signalPid(pid, 'SIGTERM')
    await manager.tells('READY', 'STOPPING')
    await until('it ends', () => hasEnded(pid))
    expect(() => readFileSync(pidFile)).toThrow('ENOENT')
  })
})

function noteOf(manager: NotifyRecorder, name: string): Note {
  return manager.notes.find(note => name in note) ?? {}
}
