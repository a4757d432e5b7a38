import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { Agent } from 'node:http'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OperatorClient } from '../../src/operator.js'
import { configFrom, type ProxyDocument, startProxy } from '../../src/proxy/index.js'
import { DRAIN_COMMAND } from '../../src/proxy/leaving.js'
import { NIGHTLY } from '../lanes/lane.js'
import { pageText } from '../pages/blocks.js'
import { ask } from '../processes/client.js'
import { CountingClients } from '../processes/counting-clients.js'
import { Edge, upstream } from '../processes/edge.js'
import { signalPid } from '../processes/launch.js'
import { afterBoot } from '../processes/namespace.js'
import { present } from '../processes/release.js'
import { until } from '../processes/until.js'

const listenersOf = ({ port }: Edge) => ({
  listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}` }],
})

/** A machine's proxy, which answers the checks of a balancer. */
async function machine(app: string): Promise<Edge> {
  const edge = await Edge.prepare({
    upgrade: { probation: '500ms', heartbeat: '50ms' },
    upstreams: { app: { servers: [app] } },
    routes: [
      { host: '*', upstream: 'app' },
      { host: '*', path: '/gone', respond: { status: 410 } },
    ],
    ready: '/healthz',
  })
  await edge.next()
  return edge
}

/** The text of the first block of a shell on the page that has `part`. */
function blockWith(part: string): string {
  return (
    [...pageText('docs/fleet.md').matchAll(/```sh\n(.*?)```/gs)].find(([, text]) =>
      text?.includes(part),
    )?.[1] ?? ''
  )
}

/** Returns a function that takes the steps of `fd-broker drain`. */
async function steps({ sandbox }: Edge): Promise<(step: string) => Promise<void>> {
  const operator = await OperatorClient.connect(sandbox.control)
  onTestFinished(() => operator.close())
  return async step => {
    const reply = await operator.command(DRAIN_COMMAND, Buffer.from(step))
    expect(JSON.parse(Buffer.from(reply).toString())).toMatchObject({ step })
  }
}

/** A client of one connection, which sends its next request without looking whether the connection has ended. */
class KeptClient {
  readonly #socket: net.Socket
  #text = ''
  ended = false

  static async connect(port: number): Promise<KeptClient> {
    const socket = net.connect(port, '127.0.0.1')
    await once(socket, 'connect')
    onTestFinished(() => void socket.destroy())
    return new KeptClient(socket)
  }

  constructor(socket: net.Socket) {
    this.#socket = socket
    socket.on('data', data => {
      this.#text += String(data)
    })
    socket.on('end', () => {
      this.ended = true
    })
    socket.on('error', () => {})
  }

  /** Resolves with the whole answer. */
  async get(): Promise<string> {
    this.#text = ''
    this.#socket.write('GET /r/1 HTTP/1.1\r\nHost: a\r\n\r\n')
    await until('the request is answered', () => !!this.#text.split('\r\n\r\n')[1])
    return this.#text
  }
}

/** Stands for ssh: the machine is a variable with the path of a control socket. */
const SSH = `ssh() {
  local name=\${1//-/_} i; shift 2; local words=("$@")
  for i in "\${!words[@]}"; do
    if [ "\${words[i]}" = --service ]; then words[i]=--control; words[i+1]=\${!name}; fi
  done
  "${process.execPath}" "${present.cli.at(-1)}" "\${words[@]}"
}
sleep() { command sleep 2; }
`

describe('a version for all machines, as docs/fleet.md says', () => {
  it.runIf(NIGHTLY)('stops at the first machine whose next version fails', async () => {
    const app = await upstream()
    const machines = [await machine(app.url), await machine(app.url), await machine(app.url)]
    const clients = machines.map(({ url }) => new CountingClients(url))
    machines[1]!.write({ listeners: 'none' })
    const controls = machines.map(({ sandbox }, n) => `edge_${n + 1}=${sandbox.control}`)
    const generations = () => Promise.all(machines.map(async edge => (await edge.status()).generation))
    const roll = () =>
      machines[0]!.sandbox.runCommand([
        'bash',
        '-c',
        `${controls.join('; ')}\n${SSH}${blockWith('for machine')}`,
      ])
    expect((await roll()).stderr).toContain('listeners')
    expect(await generations()).toEqual([2, 1, 1])
    machines[1]!.write(listenersOf(machines[1]!))
    await roll()
    expect(await generations()).toEqual([3, 2, 2])
    for (const each of clients) await each.stop()
  })
})

describe('a machine that leaves before a reboot, as docs/fleet.md says', () => {
  it('gets no requests when the balancer’s checks fail, and no client notices', async () => {
    const app = await upstream()
    const machines = [await machine(app.url), await machine(app.url)]
    const first = machines[0]!
    const check = { http: '/healthz', interval: '50ms', rise: 2, fall: 2 }
    const balancer = await Edge.start({
      upstreams: { machines: { servers: machines.map(({ url }) => url), check } },
      routes: [{ host: '*', upstream: 'machines' }],
    })
    const out = async () => ((await balancer.status()).details?.serversOut as { server: string }[]) ?? []
    const drain = (...more: string[]) =>
      first.sandbox.run('drain', '--control', first.sandbox.control, ...more)
    const healthz = async () => (await ask(`${first.url}/healthz`).answer).status
    const clients = new CountingClients(balancer.url)
    const more = async () => {
      const before = clients.answers
      await until('clients are answered', () => clients.answers > before + 50, 20_000)
    }
    await more()
    const { socket, says } = await first.talking()
    const closed = once(socket, 'close')
    const waiting = await first.sandbox.launch([
      ...present.cli,
      'drain',
      ...['--control', first.sandbox.control, '--wait', '1h'],
    ])
    await until('the balancer has noticed', async () => (await out())[0]?.server === first.url, 20_000)
    expect(await healthz()).toBe(503)
    const agent = new Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    const served = await ask(`${first.url}/r/1`, { agent }).answer
    expect(served.headers.connection).toBe(undefined)
    await says('still here')
    signalPid(waiting, 'SIGTERM')
    const drained = await drain('--wait', '1ms', '--drain', '300ms')
    expect(drained).toMatchObject({ code: 0, stdout: expect.stringContaining('can be rebooted') })
    expect((await closed)[0]).toBe(1001)
    const late = await ask(`${first.url}/r/1`, { agent }).answer
    expect([late.status, late.headers.connection]).toEqual([200, 'close'])
    await first.next()
    expect(await healthz()).toBe(503)
    expect((await ask(`${first.url}/r/1`).answer).headers.connection).toBe('close')
    await more()
    expect(await drain('--undo')).toMatchObject({ code: 0, stdout: '/healthz answers 200 again\n' })
    expect((await ask(`${first.url}/r/1`, { agent }).answer).headers.connection).toBe(undefined)
    await until('the balancer uses it again', async () => (await out()).length === 0, 20_000)
    await more()
    await clients.stop()
  })

  it('answers a client that is between two requests once more, and closes a connection that stays idle, each time', async () => {
    const edge = await machine((await upstream()).url)
    const take = await steps(edge)
    for (let time = 1; time <= 2; time++) {
      const [busy, idle] = [await KeptClient.connect(edge.port), await KeptClient.connect(edge.port)]
      for (const client of [busy, idle]) expect(await client.get()).not.toContain('Connection: close')
      await take('unready')
      await take('leaving')
      expect(await busy.get()).toContain('Connection: close')
      // The machine serves again before its idle connections are closed.
      if (time === 1) await take('serving')
      else await until('the idle connection is closed', () => idle.ended)
    }
  })

  it('closes no connection after it was told to serve again', async () => {
    const edge = await machine((await upstream()).url)
    const take = await steps(edge)
    const [idle, silent] = [await KeptClient.connect(edge.port), await KeptClient.connect(edge.port)]
    await idle.get()
    for (const step of ['unready', 'leaving', 'ended', 'serving']) await take(step)
    await sleep(2_500)
    for (const client of [idle, silent]) {
      expect(client.ended).toBe(false)
      expect(await client.get()).not.toContain('Connection: close')
    }
  })

  it('still leaves after a rollback, and serves after one if it was told to meanwhile', async () => {
    const edge = await Edge.prepare({
      upgrade: { probation: '60s', heartbeat: '50ms' },
      routes: [{ host: '*', respond: { body: 'here' } }],
      ready: '/healthz',
    })
    const run = async (...words: string[]) => {
      const [command = '', ...rest] = words
      const { code } = await edge.sandbox.run(command, '--control', edge.sandbox.control, ...rest)
      expect([command, code]).toEqual([command, 0])
    }
    const config = configFrom(edge.config as unknown as ProxyDocument)
    const next = async () => {
      const proxy = await startProxy(config)
      onTestFinished(() => proxy.close({ timeout: 0 }))
      return proxy
    }
    const elder = await next()
    const agent = new Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    const rolledBack = async () => {
      await run('rollback')
      await until('the first version serves', () => elder.member.phase === 'serving')
      return (await ask(`${edge.url}/`, { agent }).answer).headers.connection
    }
    await next()
    await run('drain', '--wait', '1ms', '--drain', '1ms')
    expect(await rolledBack()).toBe('close')
    await next()
    await run('drain', '--undo')
    expect(await rolledBack()).toBe(undefined)
  })

  it('still leaves after kill -9, and serves when it is told to, or after the reboot', async () => {
    const app = await upstream()
    const edge = await machine(app.url)
    edge.write({ stateFile: edge.sandbox.file('state') })
    await edge.next()
    const drain = (...more: string[]) => edge.sandbox.run('drain', '--control', edge.sandbox.control, ...more)
    const leaving = async () => (await edge.status()).details?.leaving
    const interrupted = drain('--wait', '1h')
    await until('the machine leaves', async () => (await leaving()) === 'unready')
    const { stdout } = await edge.sandbox.run('status', '--control', edge.sandbox.control)
    expect(stdout).toMatch(/^balancer +this machine leaves it \(unready\)/m)
    expect((await drain('--undo')).code).toBe(0)
    expect(await interrupted).toMatchObject({ code: 1, stderr: expect.stringContaining('ERR_FDB_ABORTED') })
    expect(await leaving()).toBe('serving')
    expect((await drain('--wait', '1ms')).code).toBe(0)
    await edge.stateWritten()
    const kill = async () => {
      const pid = await edge.pid
      await edge.signal('SIGKILL')
      await edge.ended(pid)
    }
    await kill()
    await edge.next()
    expect(await leaving()).toBe('leaving')
    await kill()
    const file = edge.sandbox.file('boot')
    writeFileSync(file, 'another\n')
    const cli = [...afterBoot(file), ...present.cli]
    await edge.next({ ...present, cli })
    expect(await leaving()).toBe('serving')
  })
})
