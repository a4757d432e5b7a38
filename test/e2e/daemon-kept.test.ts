import { readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { memoryFile, numbersOf, type OwnedFd } from '../../src/kernel/index.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { daemonStatus, requestUpgrade, serviceStatus, serviceWhere } from '../processes/daemon.js'
import { startWithKept } from '../processes/fd-store.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** The ends of the daemon, one after the other; behind an upgrade it is killed. */
const ENDS = perLane<readonly ('SIGKILL' | 'SIGTERM' | 'upgrade')[]>(
  ['SIGTERM', 'upgrade'],
  ['SIGKILL', 'SIGTERM', 'upgrade', 'SIGKILL'],
)
const UPGRADE = { probation: 200, heartbeat: 50, silence: 1_000, freeze: 500 }

function isSegment(fd: OwnedFd): boolean {
  return numbersOf([fd]).some(number => readlinkSync(`/proc/self/fd/${number}`).includes('fdb-state'))
}

/** A daemon of a unit with `FileDescriptorStoreMax=`. */
async function unit() {
  const port = await freePort()
  const scene = Scene.open({
    hosting: 'daemon',
    routes: 20,
    upgrade: UPGRADE,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
  })
  const manager = NotifyRecorder.open(scene.folder)
  const env = { ...process.env, ...scene.marked, NODE_OPTIONS: '' }
  const command = [process.execPath, CLI, 'serve', '--control', scene.control]
  const start = async (): Promise<number> => {
    const pid = startWithKept(manager, command, { env, log: join(scene.folder, 'daemon.log') })
    await until('the daemon answers', async () => {
      const status = await daemonStatus(scene.control).catch(() => null)
      return status?.pid === pid
    })
    return pid
  }
  /** The manager has all messages of the daemon: only the test would miss messages that this process has not read yet. */
  const heard = () =>
    until('the manager has heard it', async () => {
      const before = manager.notes.length
      await daemonStatus(scene.control).catch(() => null)
      await daemonStatus(scene.control).catch(() => null)
      return manager.notes.length === before
    })
  const end = async (pid: number, signal: NodeJS.Signals) => {
    await heard()
    signalPid(pid, signal)
    await until('it has ended', () => hasEnded(pid))
  }
  return { scene, manager, start, end, url: `http://127.0.0.1:${port}` }
}

describe('holdings of a daemon that the service manager keeps', () => {
  it.runIf(NIGHTLY)(`continue where no member lives (${ENDS.join(', ')}); clients wait`, async () => {
    const { scene, manager, start, end, url } = await unit()
    let daemon = await start()
    const mail = { service: 'mail', listeners: [] }
    const other = await scene.serve(mail)
    let app = await scene.serve()
    const kept: Record<string, { item: string }> = {}
    let waiting: Promise<unknown> | null = null
    for (const how of ENDS) {
      kept[how] = { item: how }
      await app.order('put', { key: how, value: kept[how] })
      if (how === 'upgrade') {
        const { pid } = await requestUpgrade(scene.control, { service: 'fd-broker.daemon' })
        await until('it has ended', () => hasEnded(daemon))
        daemon = pid!
        await serviceWhere(
          scene,
          'the member is back',
          ({ phase, pid }) => phase === 'idle' && pid === app.pid,
        )
      }
      await app.kill()
      if (how === 'SIGTERM') await serviceWhere(scene, 'nobody serves', ({ pid }) => pid === null)
      waiting ??= ask(`${url}/r/7`).answer
      await end(daemon, how === 'upgrade' ? 'SIGKILL' : how)
      daemon = await start()
      // A member that lives serves on, and comes back as ever.
      await serviceWhere(
        scene,
        'the other is back',
        ({ pid, phase }) => phase === 'idle' && pid === other.pid,
        {
          service: 'mail',
        },
      )
      const before = await serviceStatus(scene)
      expect(before).toMatchObject({ pid: null, phase: 'idle' })
      app = await scene.serve()
      expect(app.find('joined')).toMatchObject({ generation: before.generation + 1, first: false })
      expect(await waiting).toMatchObject({ status: 200 })
      waiting = null
      expect(await app.order('all')).toMatchObject(kept)
    }
    // A descriptor without a user is let go of.
    await app.order('put', { key: 'x', value: { item: 'x' } })
    expect([...manager.kept.values()].flat().length).toBeLessThan(40)
  })

  it.runIf(NIGHTLY)(
    'continue where a part of the state cannot be read: the listeners stay, the log names the losses',
    async () => {
      const { scene, manager, start, end, url } = await unit()
      const daemon = await start()
      const app = await scene.serve()
      await app.order('put', { key: 'a', value: { item: 'a' } })
      await app.kill()
      await end(daemon, 'SIGKILL')
      // The daemon's own entry lists all others: without it a daemon does not start.
      for (const [name, fds] of manager.kept)
        if (!name.includes('.epoch-') && fds.some(isSegment))
          manager.kept.set(name, [memoryFile('damaged', 'in place of a segment')])
      await start()
      const next = await scene.serve()
      expect(next.find('joined')).toMatchObject({ first: false })
      expect(await ask(`${url}/r/7`).answer).toMatchObject({ status: 404 })
      expect(readFileSync(join(scene.folder, 'daemon.log'), 'utf8')).toMatch(
        /"service":"shop","lost":"segment epoch-1".*cannot be used/,
      )
      expect(await next.order('all')).toEqual({})
    },
  )

  it.runIf(NIGHTLY)(
    'continue where the members live and have more, and not after a stop of the unit',
    async () => {
      const { scene, manager, start, end } = await unit()
      const daemon = await start()
      const app = await scene.serve()
      await end(daemon, 'SIGKILL')
      await app.order('put', { key: 'meanwhile', value: { item: 'y' } })
      const second = await start()
      await serviceWhere(scene, 'the member is back', ({ phase, pid }) => phase === 'idle' && pid === app.pid)
      await app.kill()
      const next = await scene.serve()
      expect(await next.order('get', { key: 'meanwhile' })).toEqual({ item: 'y' })
      await next.kill()
      await end(second, 'SIGKILL')
      manager.forget(() => true)
      await start()
      expect((await daemonStatus(scene.control)).services).toEqual([])
      expect((await scene.serve()).find('joined')).toMatchObject({ generation: 1, first: true })
    },
  )
})
