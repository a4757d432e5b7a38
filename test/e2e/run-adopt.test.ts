import { readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { type Orders, PROGRAMS, SERVER, Supervised } from '../processes/supervised.js'
import { has } from '../processes/toolchains.js'
import { TRACES_OWN } from '../processes/tracing.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** Each request on a connection of its own: a program that ends closes those that are open. */
const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }

/** A server that knows nothing of fd-broker, on the port of `run`, under load. */
async function serving(run: Supervised, command: readonly string[], rate = 200) {
  const pid = await run.sandbox.launch(command)
  await until('it listens', () =>
    fetch(`${run.url}/r/1`).then(
      () => true,
      () => false,
    ),
  )
  const load = await loadOn(run.url, { ...FRESH, rate })
  await load.answeredBy(pid, 20)
  return { pid, load }
}

function node(run: Supervised, orders: Orders = {}): string[] {
  const own = { listen: { host: '127.0.0.1', port: run.port }, ...orders }
  return ['env', `FDB_SUPERVISED=${run.orders(own)}`, SERVER]
}

/** Takes it over, and waits until a version serves alone. */
async function takenOver(run: Supervised, pid: number, ...args: string[]): Promise<number> {
  await run.launch(['--adopt', String(pid), '--ready', 'http:/health', ...args])
  const child = await run.serving()
  await run.ended(pid)
  await run.logged('the process that was taken over has ended')
  return child
}

/** The answer at the path of a Unix socket: `generation,pid`. */
function whoAt(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: path, path: '/whoami', agent: false }, async response => {
      let text = ''
      for await (const chunk of response.setEncoding('utf8')) text += chunk
      resolve(text)
    })
    asked.on('error', reject).end()
  })
}

/** The inode of the socket that listens on the port. */
function inodeOf(port: number): string {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  const line = readFileSync('/proc/net/tcp', 'latin1')
    .split('\n')
    .find(text => text.includes(`:${hex} 00000000:0000 0A`))
  return line?.trim().split(/\s+/)[9] ?? ''
}

describe.runIf(TRACES_OWN)('fd-broker run --adopt', () => {
  it.runIf(NIGHTLY)(
    'takes over a Node server under load, without a refused connect, and upgrades as ever',
    async () => {
      const run = await Supervised.prepare()
      const { pid, load } = await serving(run, node(run))
      const inode = inodeOf(run.port)
      const child = await takenOver(run, pid, '--healthy-for', '300ms')
      await load.answeredBy(child, 50)
      expect(readFileSync(run.said, 'utf8')).toContain(`${pid} TERM`)
      expect(await run.status()).toMatchObject({
        pid: child,
        role: 'serving',
        draining: [],
        listeners: [{ name: 'web' }],
      })
      await run.upgraded()
      await load.answeredBy(await run.serving(2), 50)
      await load.stop()
      expect(inodeOf(run.port)).toBe(inode)
    },
  )

  it.runIf(NIGHTLY)('takes over a Python server under load', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const run = await Supervised.prepare()
    const { pid, load } = await serving(run, ['python3', join(PROGRAMS, 'server.py'), String(run.port)])
    const child = await takenOver(run, pid)
    await load.answeredBy(child, 50)
    await load.stop()
  })

  it.runIf(NIGHTLY)('leaves it as it was when the first version is not brought to serve', async () => {
    const run = await Supervised.prepare()
    const { pid, load } = await serving(run, node(run))
    await run.launch(['--adopt', String(pid)], [SERVER], { FDB_SUPERVISED: run.orders({ crash: 9 }) })
    await run.ended()
    await load.mark('afterwards')
    await load.answeredBy(pid, 50)
    await load.stop()
    expect(readFileSync(run.said, 'utf8')).not.toContain('TERM')
  })

  it.runIf(NIGHTLY)(
    'leaves it to serve if the first version has ended while the supervisor was stopped',
    async () => {
      const run = await Supervised.prepare()
      const { pid, load } = await serving(run, node(run))
      await run.launch(['--adopt', String(pid), '--ready', 'http:/health', '--healthy-for', '1s'])
      const child = await run.serving()
      run.signal('SIGSTOP')
      run.signal('SIGKILL', child)
      const since = performance.now()
      await until('the time is over', () => performance.now() > since + 1_000)
      run.signal('SIGCONT')
      await run.ended()
      expect(readFileSync(run.said, 'utf8')).not.toContain(`${pid} TERM`)
      await load.mark('afterwards')
      await load.answeredBy(pid, 50)
      await load.stop()
    },
  )

  it.runIf(NIGHTLY)(
    'leaves it to serve while the first version, which has crashed, is started again',
    async () => {
      const run = await Supervised.prepare()
      const { pid, load } = await serving(run, node(run))
      const args = ['--adopt', String(pid), '--ready', 'http:/health', '--healthy-for', '1s']
      await run.launch([...args, '--restart', 'always', '--restart-delay', '2s'])
      run.signal('SIGKILL', await run.serving())
      await run.serving(2)
      await run.ended(pid)
      const messages = run.lines.map(({ msg, version }) => `${msg} ${version ?? ''}`)
      expect(messages.indexOf('the process that was taken over is told to end ')).toBeGreaterThan(
        messages.indexOf('a version serves 2'),
      )
      await load.stop()
    },
  )

  it('refuses a version of another fd-broker run, and names the control socket of that', async () => {
    const run = await Supervised.prepare()
    await run.launch(['--ready', 'http:/health'])
    const pid = await run.serving()
    const place = `web=tcp://127.0.0.1:${run.port}`
    const { code, stderr } = await run.sandbox.run(
      'run',
      '--adopt',
      `${pid}`,
      '--listen',
      place,
      '--',
      'true',
    )
    expect(code).toBe(1)
    expect(stderr).toMatch(/^ERR_FDB_ADOPT: .* is a version or worker of process \d+: .*run\.sock$/m)
    expect(await run.whoami()).toEqual({ generation: 1, pid })
  })

  it.runIf(NIGHTLY)('kills what does not end, or leaves it alone where that is wanted', async () => {
    const run = await Supervised.prepare()
    const { pid: left, load: first } = await serving(run, node(run, { deaf: true }))
    await first.stop()
    await run.launch(['--adopt', String(left), '--adopt-signal', 'none', '--ready', 'fd'])
    await run.serving()
    expect((await run.status()).draining).toEqual([{ generation: 0, pid: left, phase: 'serving' }])
    run.signal('SIGTERM')
    await run.ended()
    expect(hasEnded(left)).toBe(false)
    await run.launch(['--adopt', String(left), '--stop-timeout', '200ms', '--ready', 'fd'])
    await run.logged('the process that was taken over did not end in time and is killed')
    await run.ended(left)
  })

  it.runIf(NIGHTLY)(
    'has a proxy take the place of a plain server, which hands over to its next version',
    async () => {
      const run = await Supervised.prepare()
      const control = join(run.sandbox.folder, 'run', 'edge.sock')
      const config = join(run.sandbox.folder, 'edge.yaml')
      const respond = { status: 200, body: 'proxy\n' }
      const edge = {
        service: 'edge',
        control,
        listeners: [{ name: 'http', address: `tcp://127.0.0.1:${run.port}` }],
        upstreams: {},
        routes: [{ host: '*', path: '/', respond }],
      }
      writeFileSync(config, JSON.stringify(edge))
      const { pid, load } = await serving(run, node(run))
      await load.stop()
      const inode = inodeOf(run.port)
      await run.launch(
        ['--adopt', String(pid), '--ready', `handoff:${control}`],
        [process.execPath, CLI, 'proxy', '--config', config],
      )
      await run.logged('the process that was taken over has ended')
      expect(await (await fetch(run.url)).text()).toBe('proxy\n')
      await run.upgraded()
      expect(await (await fetch(run.url)).text()).toBe('proxy\n')
      expect(inodeOf(run.port)).toBe(inode)
    },
  )

  it('puts the path of a Unix socket back that the old server removes', async () => {
    const run = await Supervised.prepare()
    const path = join(run.sandbox.folder, 'run', 'web.sock')
    const whoami = () => whoAt(path)
    const pid = await run.sandbox.launch(node(run, { listen: path }))
    await until('it listens', () => whoami().catch(() => null))
    // A version that is not brought to serve does not take the path with it.
    await run.launch(['--adopt', String(pid), '--listen', `local=unix:${path}`], [SERVER], {
      FDB_SUPERVISED: run.orders({ crash: 9 }),
    })
    await run.ended()
    expect(await whoami()).toBe(`NaN,${pid}`)
    await run.launch(['--adopt', String(pid), '--listen', `local=unix:${path}`, '--ready', 'fd'])
    await run.logged('the process that was taken over has ended')
    const first = await run.serving()
    await until('the path is back', async () => (await whoami().catch(() => null)) === `1,${first}`)
    await run.upgraded()
    const second = await run.serving(2)
    // Both accept until the first has heard that it is to end. Node's close() then destroys a connection whose request it has not read yet.
    await until(
      'the second answers',
      async () => (await whoami().catch(error => (error as { code: string }).code)) === `2,${second}`,
    )
  })

  it.each([
    [
      'that listens elsewhere',
      (run: Supervised) => run.port + 1,
      /ERR_FDB_ADOPT: process \d+ .* does not listen at tcp:.*: it listens at tcp:/,
    ],
    ['that has ended', null, /ERR_FDB_ADOPT: there is no process 4194305/],
  ])('refuses a process %s, and starts nothing', async (_what, portOf, message) => {
    const run = await Supervised.prepare()
    let pid = 4_194_305
    if (portOf !== null) {
      pid = await run.sandbox.launch(node(run, { listen: { host: '127.0.0.1', port: 0 } }))
      await run.says('listens')
    }
    const own = run.commandLine(['--adopt', String(pid)], [SERVER])
    const { code, stderr } = await run.sandbox.runCommand(own)
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(message) })
  })
})
