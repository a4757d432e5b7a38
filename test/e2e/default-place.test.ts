import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { ancestorsOf, hasEnded, signalPid } from '../processes/launch.js'
import { WITH_EMPTY_RUN } from '../processes/namespace.js'
import { until } from '../processes/until.js'
import { type Ran, Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const MEMBER = fileURLToPath(new URL('../fixtures/default-member.mjs', import.meta.url))
const PROXY = { routes: [{ host: '*', respond: { body: 'one' } }], upgrade: { probation: '30s' } }

/** Processes that are started from here find their folder in the environment, as in a unit of systemd. */
function unitOf(sandbox: Sandbox) {
  const runtime = join(sandbox.folder, 'runtime')
  mkdirSync(runtime, { mode: 0o700 })
  const env = ['env', `RUNTIME_DIRECTORY=${runtime}`, 'XDG_RUNTIME_DIR=']
  const words = [...WITH_EMPTY_RUN, ...env, process.execPath]
  return {
    runtime,
    launch: (...args: string[]) => sandbox.launch([...words, ...args]),
    run: (...args: string[]) => sandbox.runCommand([...words, CLI, ...args]),
  }
}

/** Waits until `status`, asked so, knows that this process serves. */
async function serves(pid: number, status: () => Promise<Ran>, sandbox: Sandbox): Promise<void> {
  let last: Ran | undefined
  await until(
    `process ${pid} serves`,
    async () => {
      last = await status()
      if (last.code !== 0) return false
      const answer = JSON.parse(last.stdout)
      const { pid: now, role } = answer.services?.[0] ?? answer
      return now === pid && (role === undefined || role === 'serving')
    },
    20_000,
    () => `${sandbox.output}\n${JSON.stringify(last)}`,
  )
}

describe('a service that was given no control path', () => {
  it.runIf(NIGHTLY)('a proxy: every command finds it by its name, and so does its next version', async () => {
    const edge = await Edge.prepare({ ...PROXY, control: undefined })
    const { launch, run, runtime } = unitOf(edge.sandbox)
    const first = await launch(CLI, 'proxy', '--config', edge.file)
    const status = () => run('status', '--service', 'edge', '--json')
    await serves(first, status, edge.sandbox)
    expect(existsSync(join(runtime, 'edge.sock'))).toBe(true)
    expect(JSON.parse((await status()).stdout).control).toBe(join(runtime, 'edge.sock'))

    const { pid: second } = JSON.parse((await run('upgrade', '--service', 'edge', '--json')).stdout)
    expect(await run('rollback', '--service', 'edge')).toMatchObject({ code: 0 })
    await edge.ended(second)
    edge.write({ routes: [{ host: '*', respond: { body: 'two' } }] })
    expect(await run('reload', '--service', 'edge')).toMatchObject({ code: 0 })
    expect((await ask(edge.url).answer).body).toBe('two')
    // A new start takes over.
    const third = await launch(CLI, 'proxy', '--config', edge.file)
    await serves(third, status, edge.sandbox)
    expect(await run('stop', '--service', 'edge')).toMatchObject({ code: 0 })
    expect(hasEnded(third)).toBe(true)
    await edge.ended(first)
    expect(existsSync(join(runtime, 'edge.sock'))).toBe(false)
  })

  it.runIf(NIGHTLY)('a server of one’s own, alone and with a daemon', async () => {
    const sandbox = Sandbox.open()
    const { launch, run, runtime } = unitOf(sandbox)
    const shop = await launch(MEMBER, 'shop')
    await serves(shop, () => run('status', '--service', 'shop', '--json'), sandbox)
    const next = await launch(MEMBER, 'shop')
    // The only one there: it need not be named.
    await serves(next, () => run('status', '--json'), sandbox)

    const daemon = await launch(CLI, 'serve', '--drop')
    await until('the daemon listens', () => existsSync(join(runtime, 'daemon.sock')))
    const kiosk = await launch(MEMBER, 'kiosk', 'daemon')
    await serves(kiosk, () => run('status', '--service', 'kiosk', '--json'), sandbox)
    expect(await run('status', '--service', 'a/b', '--timeout', '5s')).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/^ERR_FDB_SERVICE: .*"a\/b".*kiosk/),
    })
    for (const name of ['a', 'kiosk/a', 'shop/a'])
      expect(await run('fd', 'put', '--service', 'kiosk', name)).toMatchObject({ code: 0 })
    const held = await run('fd', 'list', '--service', 'kiosk', '--json')
    expect(JSON.parse(held.stdout)).toMatchObject([{ name: 'kiosk/a' }])
    signalPid(daemon, 'SIGTERM')
    await until('the daemon has ended', () => hasEnded(daemon))
    expect(await run('status', '--service', 'a/b')).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/^ERR_FDB_NO_HOLDER: .*"a\/b"/),
    })
  })

  it.runIf(NIGHTLY)('a program under run, named as it or its package: every command finds it', async () => {
    const sandbox = Sandbox.open()
    const { launch, run, runtime } = unitOf(sandbox)
    writeFileSync(join(sandbox.folder, 'package.json'), '{ "name": "@us/kiosk" }')
    const script = join(sandbox.folder, 'server.js')
    writeFileSync(script, 'setInterval(() => {}, 1000)')
    const ready = ['--ready', 'delay:50ms']
    const kiosk = await launch(CLI, 'run', ...ready, '--', process.execPath, '--no-warnings', script)
    const logged = (text: string) =>
      until(
        text,
        () => sandbox.output.includes(text),
        20_000,
        () => sandbox.output,
      )
    await logged('by --service kiosk')
    await logged('a version serves')
    // The only one there.
    expect(JSON.parse((await run('status', '--json')).stdout)).toMatchObject({
      service: 'kiosk',
      control: join(runtime, 'kiosk.run.sock'),
      supervisor: { pid: kiosk },
    })
    expect(await run('upgrade', '--service', 'kiosk')).toMatchObject({ code: 0 })
    expect(await run('rollback', '--service', 'kiosk')).toMatchObject({ code: 0 })
    const second = await launch(CLI, 'run', ...ready, '--name', 'kiosk', '--', 'sleep', '1000')
    await logged('give --control or --name')
    expect(JSON.parse((await run('status', '--service', 'kiosk', '--json')).stdout).supervisor.pid).toBe(
      kiosk,
    )
    expect(await run('stop', '--service', 'kiosk')).toMatchObject({ code: 0 })
    expect([kiosk, second].map(hasEnded)).toEqual([true, false])
    expect(readdirSync(runtime).toSorted()).toEqual(['kiosk.run.sock.events', 'kiosk.run.sock.lock'])
  })

  it.runIf(NIGHTLY)(
    'a program under run that is a service of that name itself: commands find the service',
    async () => {
      const sandbox = Sandbox.open()
      const { launch, run } = unitOf(sandbox)
      const command = [process.execPath, MEMBER, 'shop']
      const supervisor = await launch(CLI, 'run', '--name', 'shop', '--ready', 'delay:50ms', '--', ...command)
      await until('the program serves', async () =>
        (await run('status', '--json')).stdout.includes('"embedded"'),
      )
      const { pid, supervisor: none } = JSON.parse(
        (await run('status', '--service', 'shop', '--json')).stdout,
      )
      expect([ancestorsOf(pid)[0], none]).toEqual([supervisor, undefined])
      signalPid(supervisor, 'SIGTERM')
      await until('run has ended', () => hasEnded(supervisor))
      // A killed service leaves its socket behind.
      const killed = await launch(MEMBER, 'shop')
      await serves(killed, () => run('status', '--service', 'shop', '--json'), sandbox)
      signalPid(killed, 'SIGKILL')
      const plain = await launch(CLI, 'run', '--name', 'shop', '--ready', 'delay:50ms', '--', 'sleep', '1000')
      await until('run is found', async () => {
        const { stdout } = await run('status', '--service', 'shop', '--json')
        return JSON.parse(stdout || '{}').supervisor?.pid === plain
      })
      await run('stop', '--service', 'shop')
      expect(hasEnded(plain)).toBe(true)
    },
  )

  it.runIf(NIGHTLY)('answers as the only one beside sockets of services that were killed', async () => {
    const sandbox = Sandbox.open()
    const { launch, run, runtime } = unitOf(sandbox)
    const status = (service: string) => () => run('status', '--service', service, '--json')
    const shop = await launch(MEMBER, 'shop')
    const kiosk = await launch(MEMBER, 'kiosk')
    await serves(shop, status('shop'), sandbox)
    await serves(kiosk, status('kiosk'), sandbox)
    const kioskSocket = join(runtime, 'kiosk.sock')
    expect(await run('status')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('which service? kiosk, shop run: give --service NAME'),
    })
    expect(await run('status', '--service', 'shpo')).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(
        /^ERR_FDB_NO_HOLDER: no service "shpo" runs: .*; running: kiosk, shop \(did you mean "shop"\?\): start it/,
      ),
    })
    signalPid(kiosk, 'SIGKILL')
    await until('it has ended', () => hasEnded(kiosk))
    expect(existsSync(kioskSocket)).toBe(true)
    expect(JSON.parse((await run('status', '--json')).stdout)).toMatchObject({ pid: shop })
    signalPid(shop, 'SIGKILL')
    await until('it has ended', () => hasEnded(shop))
    expect(await run('status')).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/^ERR_FDB_NO_HOLDER: no service was found/),
    })
  })

  it.runIf(NIGHTLY)('of workers: each is asked alone by its name, and all of them by theirs', async () => {
    const edge = await Edge.prepare({
      ...PROXY,
      control: undefined,
      workers: 2,
      upgrade: { probation: '0s' },
    })
    const { launch, run } = unitOf(edge.sandbox)
    const main = await launch(CLI, 'proxy', '--config', edge.file)
    const status = async (name: string) => {
      const { stdout } = await run('status', '--service', name, '--json')
      return JSON.parse(stdout || '{}') as { pid?: number; services?: { pid: number }[] }
    }
    const workers = async () => (await status('edge')).services?.map(({ pid }) => pid)
    await edge.logged('the workers serve')
    const before = (await workers()) ?? []
    expect(before).toHaveLength(2)
    expect((await status('edge.1')).services?.map(({ pid }) => pid)).toEqual([before[1]])
    expect(await run('upgrade', '--service', 'edge.1')).toMatchObject({ code: 0 })
    expect(await status('edge')).toMatchObject({ pid: main, services: [{ pid: before[0] }, {}] })
    expect(await workers()).not.toContain(before[1])
    expect(await run('upgrade', '--service', 'edge')).toMatchObject({ code: 0 })
    expect((await status('edge')).pid).not.toBe(main)
    expect(await workers()).not.toContain(before[0])
    expect(await run('stop', '--service', 'edge')).toMatchObject({ code: 0 })
  })

  it.runIf(NIGHTLY)(
    'as root: in /run/fd-broker, which is made for nobody else; a name with a slash has no place',
    async () => {
      const edge = await Edge.prepare({ ...PROXY, control: undefined })
      const { sandbox } = edge
      const bare = ['env', '-u', 'RUNTIME_DIRECTORY', '-u', 'XDG_RUNTIME_DIR', process.execPath, CLI]
      const first = await sandbox.launch([...WITH_EMPTY_RUN, ...bare, 'proxy', '--config', edge.file])
      await edge.serving(first)
      const beside = [
        'nsenter',
        '--target',
        String(first),
        ...(process.getuid?.() === 0 ? [] : ['--user', '--preserve-credentials']),
      ]
      const run = (...args: string[]) => sandbox.runCommand([...beside, '--mount', ...bare, ...args])
      const { mode, uid } = statSync(`/proc/${first}/root/run/fd-broker`)
      expect([mode & 0o7777, uid]).toEqual([0o700, process.getuid?.()])
      expect(await run('upgrade')).toMatchObject({ code: 0, stderr: '' })
      expect(await run('rollback', '--service', 'edge')).toMatchObject({ code: 0 })
      edge.write({ service: 'a/b' })
      const nowhere = await run('proxy', '--config', edge.file)
      expect(nowhere).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^ERR_FDB_CONFIG: .*has a slash/),
      })
    },
  )
})
