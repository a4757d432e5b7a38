import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { bindListener, parseListenerSpec } from '../../src/listeners/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { freePort } from '../processes/scene.js'
import { PROGRAMS } from '../processes/supervised.js'
import { gunicorn, has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** An executable file that is no program: without `#!` only a shell would read it. */
const NO_PROGRAM = join(PROGRAMS, 'no-program')
/** Losses of a request inside a program that is killed; no other may be lost. */
const INSIDE = ['reset', 'truncated', 'raced'] as const

/** A daemon as users start it, and a free port. */
async function daemon() {
  const sandbox = Sandbox.open()
  mkdirSync(join(sandbox.folder, 'run'), { mode: 0o700 })
  const control = join(sandbox.folder, 'run', 'broker.sock')
  const pid = await sandbox.serve('--control', control)
  const asking = ['--control', control]
  const client = await until(
    'the daemon listens',
    () => OperatorClient.connect(control).catch(() => null),
    20_000,
    () => sandbox.output,
  )
  onTestFinished(() => client.close())
  const port = await freePort()
  const exec = [process.execPath, CLI, 'exec', ...asking, '--service', 'shop']
  return { sandbox, control, pid, port, exec, client, held: client.descriptors }
}

/** Until it ends, with what it has said. */
async function ran(command: readonly string[]) {
  const child = spawn(command[0]!, command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '', NOTIFY_SOCKET: '/run/none', LISTEN_FDS: '9' },
  })
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  return { pid: child.pid!, code, lines: stdout.trim().split('\n'), stderr }
}

/** Kills the program again and again while clients come, and starts it again: clients that connect meanwhile wait. */
async function killedUnderLoad(
  { sandbox, held, port }: Awaited<ReturnType<typeof daemon>>,
  command: (start: number) => readonly string[],
  by: (pid: number, start: number) => number = pid => pid,
  { rate = 100, kills = 1 } = {},
) {
  let pid = await sandbox.launch(command(0))
  // nginx writes its title over its environment, by which the sandbox would know it.
  onTestFinished(() => void (hasEnded(pid) || process.kill(-pid, 'SIGKILL')))
  await until('the listener is held', async () => (await held.list()).length > 0, 20_000)
  const options = { rate, freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0, deadlineMs: 30_000 }
  const load = await loadOn(`http://127.0.0.1:${port}`, options)
  for (let start = 1; start <= kills; start++) {
    await load.answeredBy(by(pid, start - 1), 10)
    // With all that it has started.
    process.kill(-pid, 'SIGKILL')
    await until('it has ended', () => hasEnded(pid))
    await load.mark(`start ${start}`)
    pid = await sandbox.launch(command(start))
  }
  await load.answeredBy(by(pid, kills), 10)
  await load.stop(INSIDE)
}

describe('fd-broker exec', () => {
  it('becomes the program: the same process, with what it claimed from 3 on and nothing else', async () => {
    const { sandbox, exec, held, port } = await daemon()
    const path = join(sandbox.folder, 'a.sock')
    const show = [
      'echo $$ $LISTEN_PID $LISTEN_FDS $LISTEN_FDNAMES',
      'echo $SERVER_STARTER_PORT $NGINX $NOTIFY_SOCKET',
      'ls -m /proc/$$/fd',
      'for fd in 0 1 2 3 4; do grep flags /proc/$$/fdinfo/$fd; done',
      'exit 7',
    ].join('\n')
    const listeners = [`web=tcp://127.0.0.1:${port}`, `path=unix:${path}`]
    const first = await ran([...exec, ...listeners, '--', 'sh', '-c', show])
    expect(first).toMatchObject({ code: 7, stderr: '' })
    const [own, ports, open, ...flags] = first.lines
    expect(own).toBe(`${first.pid} ${first.pid} 2 web:path`)
    // The program is the main process of its unit, if it was.
    expect(ports).toBe(`127.0.0.1:${port}=3;${path}=4 /run/none`)
    expect(open).toBe('0, 1, 2, 3, 4')
    const nonBlocking = (lines: readonly string[]) =>
      lines.map(line => (Number.parseInt(line.split(/\s/)[1]!, 8) & 0o4000) !== 0)
    expect(nonBlocking(flags)).toEqual([false, false, false, false, false])
    expect((await held.list()).map(({ name, address }) => `${name} ${address}`)).toEqual([
      `shop/path unix:${path}`,
      `shop/web tcp://127.0.0.1:${port}`,
    ])
    // Held descriptors need no address, and come in the order in which they are asked for.
    const second = await ran([...exec, '--nginx', 'path', 'web', '--', 'sh', '-c', show])
    expect(second.lines.slice(0, 2)).toEqual([
      `${second.pid} ${second.pid} 2 path:web`,
      `${path}=3;127.0.0.1:${port}=4 3;4; /run/none`,
    ])
    expect(nonBlocking(second.lines.slice(3))).toEqual([false, false, false, true, true])
  })

  it.runIf(NIGHTLY)(
    'claims for as long as the program lives, and is told of in status, list and log',
    async () => {
      const { sandbox, exec, held, client, port } = await daemon()
      const web = `web=tcp://127.0.0.1:${port}`
      const users = async () => (await held.list()).map(each => each.users.map(({ pid }) => pid))
      const pids = await Promise.all([1, 2].map(() => sandbox.launch([...exec, web, '--', 'sleep', '600'])))
      await until('both have it: bound once', async () => (await users())[0]?.length === 2)
      expect((await client.status()) as object).toMatchObject({
        programs: expect.arrayContaining(
          pids.map(pid => expect.objectContaining({ pid, names: ['shop/web'] })),
        ),
      })
      const alone = [...exec, '--exclusive', 'web', '--']
      const claimed = (how: string) =>
        expect.stringMatching(
          `^ERR_FDB_FD_CLAIMED: process \\d+ has claimed the descriptor "shop/web" ${how}`,
        )
      expect(await ran([...alone, 'true'])).toMatchObject({ code: 4, stderr: claimed('too') })
      for (const pid of pids) signalPid(pid, 'SIGKILL')
      await until('both have ended', () => pids.every(hasEnded))
      // No process waits until the daemon has heard of it.
      const pid = await sandbox.launch([...alone, 'sleep', '600'])
      await until('it is claimed', async () => (await held.list())[0]?.claimedBy === pid)
      expect(await ran([...exec, 'web', '--', 'true'])).toMatchObject({
        code: 4,
        stderr: claimed('for itself'),
      })
      await expect(held.claim('shop/web', { shared: true })).rejects.toMatchObject({
        code: 'ERR_FDB_FD_CLAIMED',
        retryable: true,
      })
      expect((await sandbox.run('status', '--control', exec[4]!)).stdout).toMatch(
        new RegExp(`programs\\n +PID .*\\n +${pid} .* shop/web`),
      )
      await held.release('shop/web', { pid })
      expect(await users()).toEqual([[]])
      const lines = sandbox.output
        .split('\n')
        .filter(line => line.includes('"audit"'))
        .map(line => JSON.parse(line) as Record<string, unknown>)
      const uid = process.getuid!()
      for (const line of [
        { msg: 'a descriptor was put', uid },
        { msg: 'a descriptor was claimed', uid, pid, claimant: pid, shared: false },
        { msg: 'a claim has ended with its process', pid: pids[0] },
        { msg: 'a request for a descriptor was refused', uid, code: 'ERR_FDB_FD_CLAIMED' },
        { msg: 'a descriptor was released', claimant: pid },
      ])
        expect(lines).toContainEqual(expect.objectContaining({ descriptor: 'shop/web', ...line }))
    },
  )

  it.runIf(NIGHTLY)('says what is wrong, with nothing claimed', async () => {
    const { exec, held, port } = await daemon()
    const web = `web=tcp://127.0.0.1:${port}`
    const refused = async (...args: string[]) => {
      const { code, stderr } = await ran([...exec, ...args])
      return `${code} ${stderr}`
    }
    const server = createServer().listen(port, '127.0.0.1')
    await once(server, 'listening')
    const said = await Promise.all([
      refused('web', '--', 'true'),
      refused('web'),
      refused('--', 'true'),
      refused(web, web, '--', 'true'),
      refused(web, '--', PROGRAMS),
      refused(web, '--', 'true'),
    ])
    server.close()
    expect(said).toEqual([
      expect.stringMatching(/^1 ERR_FDB_FD_UNKNOWN: .*"shop\/web".*NAME=tcp/),
      expect.stringMatching(/^2 error: /),
      expect.stringMatching(/^2 error: /),
      expect.stringMatching(/^2 ERR_FDB_OPTION: /),
      expect.stringMatching(/^1 ERR_FDB_NO_BINARY: /),
      expect.stringMatching(/^1 ERR_FDB_ADDRESS_IN_USE: /),
    ])
    expect(await held.list()).toEqual([])
    using other = bindListener(parseListenerSpec('tcp://127.0.0.1:0'))
    await held.put('shop/web', other)
    expect(await refused(web, '--', 'true')).toMatch(/^1 ERR_FDB_FD_TAKEN: .*something else/)
    expect(await refused('web', '--', NO_PROGRAM)).toMatch(
      /^1 ERR_FDB_SPAWN: .*no-program cannot be executed/,
    )
  })
})

describe('a program that is killed under load, and started again by fd-broker exec, refuses nobody:', () => {
  it.runIf(NIGHTLY)('a plain Python server', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const scene = await daemon()
    const web = `web=tcp://127.0.0.1:${scene.port}`
    const server = ['--', 'python3', join(PROGRAMS, 'server.py')]
    const command = (start: number) => [...scene.exec, start === 0 ? web : 'web', ...server]
    await killedUnderLoad(scene, command, pid => pid, { kills: perLane(1, 2) })
  })

  it.runIf(NIGHTLY)('gunicorn', async ({ skip }) => {
    const folder = await gunicorn()
    if (folder === null) skip('gunicorn cannot be installed here')
    const scene = await daemon()
    const env = ['env', `PYTHONPATH=${folder}:${PROGRAMS}`, 'PYTHONDONTWRITEBYTECODE=1']
    const options = ['--workers', '2', '--log-level', 'warning']
    await killedUnderLoad(scene, () => [
      ...[...env, ...scene.exec, `web=tcp://127.0.0.1:${scene.port}`],
      ...['--', 'python3', '-m', 'gunicorn', ...options, 'app:app'],
    ])
  })

  it('nginx', async ({ skip }) => {
    if (!has('nginx')) skip('there is no nginx')
    const scene = await daemon()
    const config = (start: number) => {
      const file = join(scene.sandbox.folder, `nginx-${start}.conf`)
      writeFileSync(file, nginxConfig(scene.sandbox.folder, scene.port, start))
      return file
    }
    await killedUnderLoad(
      scene,
      start => [
        ...[...scene.exec, '--nginx', `web=tcp://127.0.0.1:${scene.port}`],
        ...['--', 'nginx', '-p', scene.sandbox.folder, '-c', config(start)],
      ],
      (_pid, start) => 1_000 + start,
      { rate: 300 },
    )
  })
})

function nginxConfig(folder: string, port: number, start: number): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  return `${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 2;
pid ${folder}/nginx.pid;
error_log stderr warn;
events { worker_connections 1000; }
http {
  access_log off;
  ${temporary.map(name => `${name}_temp_path ${folder}/${name};`).join('\n  ')}
  server {
    listen 127.0.0.1:${port};
    location ~ ^/r/(?<route>\\d+)$ {
      add_header X-Pid ${1_000 + start};
      return 200 "$route item-$route\\n";
    }
  }
}
`
}
