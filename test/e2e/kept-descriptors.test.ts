import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { startWithKept } from '../processes/fd-store.js'
import { hasEnded } from '../processes/launch.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const BEFORE_6_16 = fileURLToPath(new URL('../fixtures/addon-before-6.16.cjs', import.meta.url))

/** A proxy of a unit with `FileDescriptorStoreMax=`: its manager keeps what it is given, and gives it to the next process. */
async function unit(env: NodeJS.ProcessEnv = {}) {
  const edge = await Edge.prepare({
    routes: [{ host: '*', respond: { body: 'file' } }],
    upgrade: { probation: '0s' },
  })
  const manager = NotifyRecorder.open(edge.sandbox.folder)
  const launch = (): number => {
    const command = [process.execPath, CLI, 'proxy', '--config', edge.file]
    return startWithKept(manager, command, { env: { ...edge.sandbox.env, ...env }, log: edge.sandbox.log })
  }
  const start = async (): Promise<number> => {
    const pid = launch()
    await edge.serving(pid)
    return pid
  }
  const add = async (host: string) => {
    const file = join(edge.sandbox.folder, `${host}.json`)
    writeFileSync(file, JSON.stringify([{ host, respond: { body: 'kept' } }]))
    expect(await edge.routes('add', '--file', file)).toMatchObject({ code: 0 })
  }
  const kill = async (pid: number) => {
    await edge.signal('SIGKILL', pid)
    await until('it has ended', () => hasEnded(pid))
  }
  return { edge, manager, launch, start, add, kill }
}

const body = async (edge: Edge, host: string) => (await ask(edge.url, { headers: { host } }).answer).body

describe('descriptors that the service manager keeps', () => {
  it('continue when the process was killed: clients wait, and every acknowledged change is there', async () => {
    const { add, edge, kill, start } = await unit()
    const first = await start()
    await add('one.test')
    await kill(first)
    const waiting = body(edge, 'one.test')
    const second = await start()
    expect(await waiting).toBe('kept')
    expect(await edge.status()).toMatchObject({ pid: second, generation: 2 })
    await add('two.test')
    await edge.signal('SIGUSR2', second)
    await edge.ended(second)
    await add('three.test')
    await kill(await edge.pid)
    await start()
    for (const host of ['one.test', 'two.test', 'three.test']) expect(await body(edge, host)).toBe('kept')
    expect(await edge.status()).toMatchObject({ generation: 4 })
  })

  it.runIf(NIGHTLY)(
    'continue where the kernel has no pidfd of the listening process, which was reaped',
    async () => {
      const { add, edge, kill, start } = await unit({ FD_BROKER_ADDON: BEFORE_6_16 })
      const first = await start()
      await add('one.test')
      await kill(first)
      const second = await start()
      expect(await body(edge, 'one.test')).toBe('kept')
      expect(await edge.status()).toMatchObject({ pid: second, generation: 2 })
    },
  )

  it.runIf(NIGHTLY).each([
    ['has a pidfd', []],
    ['has none', [`FD_BROKER_ADDON=${BEFORE_6_16}`]],
  ])(
    'do not look like a server that hangs, where the kernel %s of the listening process, which was reaped',
    async (_, env) => {
      const { edge, kill, start } = await unit()
      const pid = await start()
      await kill(pid)
      const args = ['upgrade', '--control', edge.sandbox.control, '--kill-stuck', '--timeout', '500ms']
      expect(await edge.sandbox.runCommand(['env', ...env, process.execPath, CLI, ...args])).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(new RegExp(`^ERR_FDB_STUCK: process ${pid}, .* has ended`)),
      })
    },
  )

  it('continue in a process that waits for the Welcome of one that is killed meanwhile', async () => {
    const { add, edge, kill, launch, start } = await unit()
    const first = await start()
    await add('one.test')
    // A socket for the listener, and one for each connection to it.
    const sockets = () =>
      readFileSync('/proc/net/unix', 'utf8')
        .split('\n')
        .filter(line => line.includes(` ${edge.sandbox.control}`)).length
    const before = sockets()
    await edge.signal('SIGSTOP', first)
    const second = launch()
    await until('the next process has connected', () => sockets() > before)
    await kill(first)
    await edge.serving(second)
    expect(await body(edge, 'one.test')).toBe('kept')
    expect(await edge.status()).toMatchObject({ pid: second, generation: 2 })
  })

  it.runIf(NIGHTLY)('continue when the unit is restarted; the control path comes back', async () => {
    const { add, edge, start } = await unit()
    const first = await start()
    await add('one.test')
    await edge.signal('SIGTERM', first)
    await edge.ended(first)
    const waiting = body(edge, 'one.test')
    const second = await start()
    expect(await waiting).toBe('kept')
    await until('it can be asked', () => edge.pid.then(pid => pid === second).catch(() => false))
  })

  it.runIf(NIGHTLY)('continue where there is a state file too, which the next one writes', async () => {
    const { add, edge, kill, manager, start } = await unit()
    edge.write({ stateFile: join(edge.sandbox.folder, 'state') })
    await kill(await start())
    const second = await start()
    await add('two.test')
    await edge.signal('SIGTERM', second)
    await edge.ended(second)
    // As a stop of the unit does.
    manager.forget(() => true)
    await start()
    expect(await edge.status()).toMatchObject({ generation: 1 })
    expect(await body(edge, 'two.test')).toBe('kept')
  })

  it.runIf(NIGHTLY)(
    'does not grow: after each start the manager has the descriptors of this start and the first epoch alone',
    async () => {
      const { kill, manager, start } = await unit()
      let pid = await start()
      for (let generation = 2; generation <= 5; generation++) {
        await kill(pid)
        pid = await start()
        const names = [
          'control',
          'entry',
          'epoch-1',
          `epoch-${generation}`,
          'lock',
          `note-${generation}`,
          'reservation',
        ]
        const kept = () =>
          [...manager.kept.keys()].map(name => name.replace(/^fdb\.edge\./, '').replace(/^entry-.*/, 'entry'))
        // A server stores the new descriptors before it removes the old ones: for a moment the manager has both.
        await until(
          `it has ${names.join(', ')}`,
          () => kept().sort().join() === names.join(),
          undefined,
          kept,
        )
      }
    },
  )

  it('have a listener that an upgrade adds only when the previous version cannot serve again, which could not remove it', async () => {
    const { edge, manager, start } = await unit()
    const port = await freePort()
    const address = (each: number) => `tcp://127.0.0.1:${each}`
    const listeners = [{ name: 'http', address: address(edge.port) }]
    edge.write({ listeners, upgrade: { probation: '1m' } })
    const first = await start()
    const listening = () => [...manager.kept.keys()].filter(name => name.includes('.entry-')).length
    await until('the listener is kept', () => listening() === 1)
    const added = [...listeners, { name: 'admin', address: address(port) }]
    edge.write({ listeners: added })
    await edge.signal('SIGUSR2', first)
    await until('the next one serves', async () => (await edge.status()).generation === 2)
    const second = await edge.pid
    expect(await ask(`http://127.0.0.1:${port}`).answer).toMatchObject({ body: 'file' })
    await edge.signal('SIGKILL', second)
    await until('the first one serves again', async () => (await edge.pid.catch(() => 0)) === first)
    expect(listening()).toBe(1)
    await expect(ask(`http://127.0.0.1:${port}`).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await edge.signal('SIGUSR2', first)
    await until('another one serves', async () => (await edge.pid.catch(() => first)) !== first)
    await edge.signal('SIGKILL', first)
    await until('both are kept', () => listening() === 2)
  })

  it.runIf(NIGHTLY)('do not continue where a segment is missing, nor where a process serves', async () => {
    const { add, edge, kill, manager, start } = await unit()
    const first = await start()
    await add('one.test')
    const beside = await start()
    await edge.ended(first)
    expect(await edge.status()).toMatchObject({ pid: beside, generation: 2 })
    expect(await body(edge, 'one.test')).toBe('kept')
    await kill(beside)
    manager.forget(name => name.includes('.epoch-') || name.includes('.snapshot-'))
    await start()
    await edge.logged(
      'the FD store of the service manager lacks a part of the state: the other parts are removed, and this process starts without the stored state',
    )
    expect(await body(edge, 'one.test')).toBe('file')
  })
})
