import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type BindOptions, bindSocket, numbersOf, type OwnedFd } from '../../src/kernel/index.js'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** A socket of a unit: listens, and no process here accepts. */
function bound(options: BindOptions): OwnedFd {
  const fd = bindSocket({ backlog: 64, ...options }, 'socket unit')
  onTestFinished(() => fd.close())
  return fd
}

/** Starts `fd-broker …` as systemd does where sockets belong to the unit. */
function activate(
  sandbox: Sandbox,
  args: readonly string[],
  sockets: Readonly<Record<string, OwnedFd>>,
): number {
  const fds = Object.values(sockets)
  const script = 'LISTEN_PID=$$ exec "$@" >>"$FDB_TEST_LOG" 2>&1'
  const { pid } = spawn('/bin/sh', ['-c', script, 'sh', process.execPath, CLI, ...args], {
    env: {
      ...sandbox.env,
      FDB_TEST_LOG: sandbox.log,
      LISTEN_FDS: String(fds.length),
      LISTEN_FDNAMES: Object.keys(sockets).join(':'),
    },
    stdio: ['ignore', 'ignore', 'ignore', ...numbersOf(fds)],
  })
  return pid!
}

async function prepare(listeners: (edge: Edge) => object[]): Promise<Edge> {
  const app = await upstream()
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
  })
  edge.write({ listeners: listeners(edge) })
  return edge
}

async function pidOf(edge: Edge): Promise<number> {
  return Number((await ask(`${edge.url}/r/1`).answer).headers['x-pid'])
}

describe('sockets that a service manager has bound', () => {
  it('serve by their address: clients before the start, and between two, wait and are answered', async () => {
    const edge = await prepare(({ port }) => [{ name: 'http', address: `tcp://127.0.0.1:${port}` }])
    const socket = bound({ kind: 'tcp', host: '127.0.0.1', port: edge.port, reuseAddr: true })
    const early = pidOf(edge)
    const args = ['proxy', '--config', edge.file]
    const first = activate(edge.sandbox, args, { 'edge.socket': socket })
    await edge.serving(first)
    expect(await early).toBe(first)
    await edge.signal('SIGUSR2', first)
    await edge.ended(first)
    const second = await pidOf(edge)
    expect(second).not.toBe(first)
    await edge.signal('SIGTERM', second)
    await edge.ended(second)
    const between = pidOf(edge)
    const third = activate(edge.sandbox, args, { 'edge.socket': socket })
    expect(await between).toBe(third)
  })

  it('serve by their name, where it is the listener’s, and the log says that the address is another', async () => {
    const elsewhere = await freePort()
    const edge = await prepare(() => [{ name: 'http', address: `tcp://127.0.0.1:${elsewhere}` }])
    const socket = bound({ kind: 'tcp', host: '127.0.0.1', port: edge.port, reuseAddr: true })
    const pid = activate(edge.sandbox, ['proxy', '--config', edge.file], { http: socket })
    await edge.serving(pid)
    expect(await pidOf(edge)).toBe(pid)
    await edge.logged(
      'the service manager has bound this listener to another address than listen() asked for: the address of the service manager is used',
    )
    await edge.signal('SIGUSR2', pid)
    await edge.ended(pid)
    expect(await pidOf(edge)).toBe(await edge.pid)
  })

  it.runIf(NIGHTLY)('leave a Unix path to the manager: it is there when the service has ended', async () => {
    const edge = await prepare(({ sandbox }) => [
      { name: 'http', address: `unix:${sandbox.folder}/web.sock` },
    ])
    const path = join(edge.sandbox.folder, 'web.sock')
    const socket = bound({ kind: 'unix', host: path })
    const first = activate(edge.sandbox, ['proxy', '--config', edge.file], { 'edge.socket': socket })
    await edge.serving(first)
    await edge.signal('SIGUSR2', first)
    await edge.ended(first)
    await edge.signal('SIGTERM', await edge.pid)
    await until('nobody has the control path', () => !existsSync(edge.sandbox.control))
    expect(existsSync(path)).toBe(true)
  })

  it('do not count if they are for another process, or not open', async () => {
    const edge = await prepare(({ port }) => [{ name: 'http', address: `tcp://127.0.0.1:${port}` }])
    const env = ['env', 'LISTEN_PID=1', 'LISTEN_FDS=1', 'LISTEN_FDNAMES=http']
    const pid = await edge.sandbox.launch([...env, process.execPath, CLI, 'proxy', '--config', edge.file])
    await edge.serving(pid)
    const none = ['sh', '-c', 'LISTEN_PID=$$ LISTEN_FDS=3 exec "$@"', 'sh']
    const next = await edge.sandbox.launch([...none, process.execPath, CLI, 'proxy', '--config', edge.file])
    await edge.serving(next)
    expect(await pidOf(edge)).toBe(next)
  })

  it.runIf(NIGHTLY)('include the daemon’s control socket, by its path', async () => {
    const sandbox = Sandbox.open()
    const socket = bound({ kind: 'unix', host: sandbox.control, mode: 0o600 })
    const args = ['serve', '--control', sandbox.control]
    // A request before the start waits.
    const early = sandbox.run('status', '--control', sandbox.control, '--json', '--timeout', '20s')
    const first = activate(sandbox, args, { 'fd-broker.socket': socket })
    expect(JSON.parse((await early).stdout).pid).toBe(first)
    signalPid(first, 'SIGTERM')
    await until('it ends', () => hasEnded(first))
    expect(existsSync(sandbox.control)).toBe(true)
    const second = activate(sandbox, args, { 'fd-broker.socket': socket })
    await sandbox.statusWhere('the next one answers', ({ pid }) => pid === second)
  })
})
