import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { signalPid } from '../processes/launch.js'
import { PROGRAMS } from '../processes/supervised.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'
import { Desk } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const PROGRAM = ['python3', join(PROGRAMS, 'fd-store.py')]

/** A daemon with a notify socket. */
async function daemon(...more: string[]) {
  const desk = Desk.open()
  mkdirSync(join(desk.folder, 'run'), { mode: 0o700 })
  const control = join(desk.folder, 'run', 'broker.sock')
  const notify = join(desk.folder, 'run', 'notify')
  const args = ['--control', control, '--notify-socket', notify, ...more]
  const pid = await desk.serve(...args)
  const connect = () => OperatorClient.connect(control).catch(() => null)
  const client = await until('the daemon listens', connect, 20_000, () => desk.output)
  onTestFinished(() => client.close())
  // Answered by who serves.
  await client.status()
  const exec = (service: string) => [
    ...[process.execPath, CLI, 'exec', '--control', control],
    ...['--service', service, '--fdstore'],
  ]
  /** Names of what is held, by those who ask. */
  const held = async () => {
    using operator = await OperatorClient.connect(control)
    return (await operator.descriptors.list()).map(({ name }) => name)
  }
  return { desk, control, notify, args, pid, exec, held }
}

/** The program that is executed; answers each order when the daemon has done it. */
async function program(command: readonly string[], who: { uid?: number; gid?: number } = {}) {
  const child = spawn(command[0]!, command.slice(1), {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '' },
    ...who,
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  const given = ((await lines.next()).value ?? '').replace(/^given /, '')
  const tell = async (order: string) => {
    child.stdin.write(`${order}\n`)
    expect((await lines.next()).value).toBe('done')
  }
  const killed = async () => {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  return { pid: child.pid!, given, tell, killed }
}

/** The pid of the daemon that answers; null: none does. */
async function servingAt(control: string): Promise<number | null> {
  try {
    using operator = await OperatorClient.connect(control)
    return (await operator.status()).pid ?? null
  } catch {
    return null
  }
}

describe('the notify socket of a daemon keeps what programs give away', () => {
  it('for the next program of the service, with names as systemd has them', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const { exec, held, notify } = await daemon()
    expect(statSync(notify).mode & 0o777).toBe(0o600)
    const first = await program([...exec('shop'), 'web=tcp://127.0.0.1:0', '--', ...PROGRAM])
    expect(first.given).toBe('web=socket 128')
    await first.tell('store cache one two')
    await first.tell('twice once three')
    await first.tell('child worker')
    await first.tell('store gone four')
    await first.tell('remove gone')
    expect(await held()).toEqual(['shop/cache', 'shop/cache#2', 'shop/once', 'shop/web', 'shop/worker'])
    await first.killed()
    const second = await program([...exec('shop'), 'web', '--', ...PROGRAM])
    expect(second.given).toBe('web=socket cache=one cache=two once=three worker=of-a-child 128')
    await second.tell('remove cache')
    await second.tell('store web five')
    expect(await held()).toEqual(['shop/once', 'shop/web', 'shop/web#2', 'shop/worker'])
    // Another service has its own.
    const other = await program([...exec('other'), '--', ...PROGRAM])
    expect(other.given).toBe('128')
    await other.tell('store once six')
    expect(await held()).toContain('other/once')
  })

  it('until their other side has gone, where that is to be known', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const { exec, held } = await daemon('--fdstore-max', '3')
    const { tell } = await program([...exec('shop'), '--', ...PROGRAM])
    await tell('pipe polled')
    await tell('pipe kept unpolled')
    await tell('store file one')
    await tell('store more two')
    // No more than three.
    expect(await held()).toEqual(['shop/file', 'shop/kept', 'shop/polled'])
    await tell('close kept')
    await tell('close polled')
    await until('it has gone', async () => (await held()).length === 2)
    expect(await held()).toEqual(['shop/file', 'shop/kept'])
    await tell('store more two')
    expect(await held()).toEqual(['shop/file', 'shop/kept', 'shop/more'])
  })

  it('over an upgrade of the daemon, and of whoever was started by nobody here', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const { args, desk, exec, held, notify, pid } = await daemon()
    const shop = await program([...exec('shop'), 'web=tcp://127.0.0.1:0', '--', ...PROGRAM])
    await shop.tell('store cache one')
    await desk.serve(...args)
    await until(
      'the next daemon serves',
      async () => ![null, pid].includes(await servingAt(args[1]!)),
      20_000,
    )
    expect(await held()).toEqual(['shop/cache', 'shop/web'])
    // It goes on at the same socket, and is known.
    await shop.tell('store later two')
    expect(await held()).toEqual(['shop/cache', 'shop/later', 'shop/web'])
    const env = ['env', `NOTIFY_SOCKET=${notify}`, 'LISTEN_FDNAMES=']
    const stranger = await program([...env, 'sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh', ...PROGRAM])
    await stranger.tell('store free three')
    expect(await held()).toContain('free')
    const next = await program([...exec('shop'), '--', ...PROGRAM])
    expect(next.given).toBe('cache=one later=two 128')
  })

  it('of systemd’s own tool too', async ({ skip }) => {
    if (!has('systemd-notify')) skip('there is no systemd-notify')
    const { desk, held, notify } = await daemon()
    const { code, stderr } = await desk.runCommand([
      ...['env', `NOTIFY_SOCKET=${notify}`, 'sh', '-c'],
      'exec systemd-notify --fd=5 --fdname=tool FDSTORE=1 5</dev/null',
    ])
    if (stderr.includes('unrecognized option')) skip('this systemd-notify has no --fd')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    await until('it is held', async () => (await held()).includes('tool'))
  })

  it.runIf(process.getuid?.() === 0)(
    'not of another user, whose barrier is let through',
    async ({ skip }) => {
      const python = '/usr/bin/python3'
      if (!existsSync(python)) skip('there is no python3 that every user has')
      const { desk, held, notify } = await daemon()
      chmodSync(desk.folder, 0o711)
      chmodSync(join(desk.folder, 'run'), 0o711)
      chmodSync(notify, 0o666)
      const script = readFileSync(join(PROGRAMS, 'fd-store.py'), 'utf8')
      const env = ['env', '-C', '/', `NOTIFY_SOCKET=${notify}`, 'LISTEN_FDNAMES=']
      const shell = ['sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh']
      const nobody = await program([...env, ...shell, python, '-c', script], { uid: 65_534, gid: 65_534 })
      await nobody.tell('store stolen one')
      await nobody.tell('remove stolen')
      expect(await held()).toEqual([])
      expect(desk.output).toMatch(/"pid":\d+,.*"uid":65534,"code":"ERR_FDB_DENIED"/)
    },
  )

  it('is not there, or not to be had, and that is said', async () => {
    const { control, desk, notify, pid } = await daemon()
    const taken = await desk.run('serve', '--control', `${control}2`, '--notify-socket', notify)
    expect(taken).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/ERR_FDB_ADDRESS_IN_USE: .*notify/),
    })
    // What one that was killed has left is no obstacle.
    signalPid(pid, 'SIGKILL')
    const next = await desk.serve('--control', control, '--notify-socket', notify)
    await until('the next one serves', async () => (await servingAt(control)) === next, 20_000)
    signalPid(next, 'SIGTERM')
    await until('it has removed its path', () => !existsSync(notify))
    await desk.serve('--control', control)
    const without = async () => desk.run('exec', '--control', control, '--fdstore', '--', 'true')
    const said = await until('the next one answers', async () => {
      const { code, stderr } = await without()
      return code === 3 || stderr.startsWith('ERR_FDB_CHANNEL_CLOSED') ? null : stderr
    })
    expect(said).toMatch(/^ERR_FDB_NO_FD_STORE: .*--notify-socket/)
  })
})
