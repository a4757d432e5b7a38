import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import type { ListenerConfig } from '../processes/app.js'
import { BrowserClient } from '../processes/browser-client.js'
import { makeCertificate } from '../processes/certificate.js'
import { Edge } from '../processes/edge.js'
import { freePort, Scene } from '../processes/scene.js'
import { goClient, has } from '../processes/toolchains.js'
import { pause, until } from '../processes/until.js'

/** On a machine that has much else to do. */
const BUSY_MS = 600_000
/**
 * Clients: requests over kept connections, and how many of them ask all the time; WebSockets; event streams; transfers each way. Each WebSocket and event stream gets a message each `tickMs`. Clients that ask all the time pause for `askMs`
 * after each answer. Transfers go on until the last upgrade, with a part each `partMs`. An old process must end within `emptyMs` after the next one serves. `npm run soak -- tls` gives other sizes.
 */
const SIZES = {
  upgrades: 10,
  kept: 500,
  asking: 20,
  sockets: 100,
  streams: 40,
  transfers: 4,
  tickMs: 50,
  askMs: 0,
  partMs: 0,
  emptyMs: BUSY_MS,
}
const ASKED = process.env.FD_BROKER_TLS_SIZES
const {
  upgrades: UPGRADES,
  kept: KEPT,
  asking: ASKING,
  sockets: TALKING,
  streams: EVENTS,
  ...REST
}: typeof SIZES = { ...SIZES, ...JSON.parse(ASKED ?? '{}') }
const { transfers: TRANSFERS, tickMs, askMs, partMs, emptyMs: EMPTY_MS } = REST
/** A transfer has 50 MB. */
const PARTS = 500
const PART = 'x'.repeat(100_000)
const PYTHON_CLIENT = fileURLToPath(new URL('../fixtures/tls_client.py', import.meta.url))

/** The pace of transfers until the last upgrade has ended. */
class Pace {
  over = false

  async turn(): Promise<void> {
    if (!this.over) await pause(partMs)
  }
}

/** Servers whose TLS connections move. */
interface Servers {
  /** The folder of the test. */
  readonly file: (name: string) => string
  /** The ports of the HTTP server, of the one of WebSockets, and of the one of streams. */
  readonly ports: readonly [number, number, number]
  /** Starts the next version. Resolves with the time from when it serves until the old one has ended, in milliseconds. */
  upgrade(): Promise<number>
  /** Whether the last version has given an answer to /whoami. */
  isNewest(answer: Answer): boolean
  /** How many connections were lost, and the refused ones. */
  moves(): Promise<object | null | undefined>
}

interface Answer {
  readonly head: http.IncomingHttpHeaders
  readonly text: string
}

/** Requests over one connection. */
class Kept {
  readonly #agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
  readonly #port: number
  #socket: object | null = null

  constructor(port: number) {
    this.#port = port
    onTestFinished(() => this.#agent.destroy())
  }

  open(path: string): Promise<http.IncomingMessage> {
    const options = { port: this.#port, host: '127.0.0.1', path, agent: this.#agent }
    return new Promise((resolve, reject) => {
      const asked = https.get(options, answer => {
        this.#socket ??= asked.socket
        if (asked.socket === this.#socket) resolve(answer.setEncoding('latin1'))
        else reject(new Error('another connection'))
      })
      asked.on('error', reject)
    })
  }

  async ask(path: string): Promise<Answer> {
    const answer = await this.open(path)
    let text = ''
    for await (const chunk of answer) text += chunk
    return { head: answer.headers, text }
  }

  /** Loads all parts, again until the pace is over. */
  async download(pace: Pace): Promise<void> {
    do {
      let length = 0
      for await (const chunk of await this.open(`/parts/${PARTS}${partMs > 0 ? `/every/${partMs}` : ''}`))
        length += chunk.length
      expect(length).toBe(PARTS * PART.length)
    } while (!pace.over)
  }
}

/** A WebSocket whose messages are answered with their number, and that gets numbered ticks. */
class Talking {
  readonly #ws: WebSocket
  #count = 0
  #ticks = 0
  fault: string | null = null

  constructor(port: number) {
    this.#ws = new WebSocket(`wss://127.0.0.1:${port}/ws`, { rejectUnauthorized: false })
    onTestFinished(() => this.#ws.terminate())
    this.#ws.on('close', code => (this.fault ??= `closed with ${code}`))
    this.#ws.on('error', error => (this.fault ??= error.message))
    this.#ws.on('message', data => {
      const [kind, number] = String(data).slice(0, 30).split(' ')
      const wanted = kind === 'tick' ? ++this.#ticks : ++this.#count
      const got = Number(kind === 'tick' ? number : kind)
      if (got !== wanted) this.fault ??= `${kind} ${got} instead of ${wanted}`
    })
  }

  get isOpen(): boolean {
    return this.#ws.readyState === WebSocket.OPEN
  }

  /** Sends messages until `isLast` returns true, a few ahead of their answers. */
  async #send(text: string, isLast: (sent: number) => boolean, pace?: Pace): Promise<void> {
    const before = this.#count
    let sent = 0
    do {
      await pace?.turn()
      this.#ws.send(text)
      sent++
      await until('an answer', () => this.#count + 4 > before + sent || this.fault, BUSY_MS)
    } while (this.fault === null && !isLast(sent))
    await until('all answers', () => this.#count === before + sent || this.fault, BUSY_MS)
  }

  send(text: string): Promise<void> {
    return this.#send(text, () => true)
  }

  /** Sends all parts, and more until the pace is over. */
  upload(pace: Pace): Promise<void> {
    return this.#send(PART, sent => sent >= PARTS && pace.over, pace)
  }
}

/** Numbered events of one stream. */
class Events {
  #text = ''
  #end: string | null = null

  static async open(port: number): Promise<Events> {
    const events = new Events()
    const answer = await new Kept(port).open('/events')
    answer.on('data', chunk => (events.#text += chunk))
    for (const end of ['end', 'error', 'close'] as const) answer.on(end, () => (events.#end ??= end))
    return events
  }

  get count(): number {
    return this.#ids.length
  }

  get #ids(): number[] {
    return [...this.#text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id))
  }

  /** Numbers that are out of order, and an end. */
  get faults(): unknown[] {
    const ids = this.#ids
    const wrong = ids.filter((id, i) => id !== i + 1)
    return this.#end === null ? wrong : [this.#end, ...wrong]
  }
}

/** A client in a process of its own, until the test has ended. */
function start(file: string, args: string[]) {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  onTestFinished(() => void child.kill('SIGKILL'))
  return { text: () => text, hasEnded: () => child.exitCode !== null }
}

/** Starts clients in Python and Go, and curl, that ask until the returned function is called, which resolves with the faults. */
async function startOthers({ ports: [port], file }: Servers): Promise<() => Promise<string[]>> {
  const stop = file('stop')
  const args = [`${port}`, stop, '4', `${askMs}`]
  const clients = [start('python3', [PYTHON_CLIENT, ...args])]
  const go = await goClient()
  if (go !== null) clients.push(start(go, args))
  const url = `https://127.0.0.1:${port}/whoami?[1-1000000]`
  const curl = start('curl', ['-sSkN', '--rate', '20/s', '-w', 'new: %{num_connects}\n', url])
  for (const { text } of clients)
    await until('it is connected', () => text().includes('connected'), BUSY_MS, text)
  await until('curl has asked', () => curl.text().includes('new'), BUSY_MS)
  return async () => {
    const [first, ...rest] = curl.text().match(/^(?:new|curl).*$/gm)!
    writeFileSync(stop, '')
    await until('the clients have ended', () => clients.every(client => client.hasEnded()), BUSY_MS)
    return [
      ...[first !== 'new: 1' ? first : [], rest.filter(line => line !== 'new: 0')].flat(),
      ...clients.map(({ text }) => text()).filter(text => !/^connected\nasked \d+\n$/.test(text)),
    ]
  }
}

async function upgradedUnderLoad(servers: Servers): Promise<void> {
  const [kept, sockets, streams] = servers.ports
  const all = Array.from({ length: KEPT }, () => new Kept(kept))
  for (let at = 0; at < KEPT; at += 50)
    await Promise.all(all.slice(at, at + 50).map(one => one.ask('/whoami')))
  const talking = Array.from({ length: TALKING + TRANSFERS }, () => new Talking(sockets))
  await until('all are open', () => talking.every(({ isOpen }) => isOpen), BUSY_MS)
  const events = await Promise.all(Array.from({ length: EVENTS }, () => Events.open(streams)))
  const stopOthers = await startOthers(servers)
  const browser = has('chromium') ? await BrowserClient.open({ sockets, streams }, BUSY_MS) : null
  let stopped = false
  const asking = all.slice(0, ASKING).map(async (one, i) => {
    while (!stopped) {
      await one.ask('/whoami')
      await pause(askMs + i)
    }
  })
  const pacing = new Pace()
  const downloads = Array.from({ length: TRANSFERS }, () => new Kept(streams).download(pacing))
  const uploads = talking.slice(TALKING).map(one => one.upload(pacing))
  const emptied: number[] = []
  for (let round = 0; round < UPGRADES; round++) {
    emptied.push(await servers.upgrade())
    const answers = await Promise.all(all.slice(ASKING).map(one => one.ask('/whoami')))
    expect(answers.filter(answer => !servers.isNewest(answer))).toEqual([])
    await Promise.all(talking.slice(0, TALKING).map(one => one.send('a')))
  }
  pacing.over = true
  if (ASKED !== undefined)
    console.log(`the old processes ended after ${emptied.map(Math.round).join(', ')} ms`)
  await Promise.all([...uploads, ...downloads])
  stopped = true
  await Promise.all(asking)
  expect(await stopOthers()).toEqual([])
  expect((await browser?.seen())?.faults ?? []).toEqual([])
  expect(talking.flatMap(({ fault }) => fault ?? [])).toEqual([])
  expect(events.flatMap(({ faults }) => faults)).toEqual([])
  const before = events.map(({ count }) => count)
  await until('all streams go on', () => events.every(({ count }, i) => count > before[i]!), BUSY_MS)
  expect(await servers.moves()).toMatchObject({ lost: 0, refused: {} })
  expect(emptied.filter(ms => ms > EMPTY_MS)).toEqual([])
}

const SERVERS = ['https', 'ws', 'streams'] as const
const DRAIN = { timeout: BUSY_MS, tlsTimeout: BUSY_MS }

/** The port of a server that answers when it has read the whole request. The proxy closes the connection after an earlier answer. */
async function reading(): Promise<number> {
  const server = http.createServer((request, response) => {
    request.resume().on('end', () => response.end('here\n'))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return (server.address() as AddressInfo).port
}

async function listening(servers: readonly ListenerConfig['server'][]) {
  const ports: number[] = []
  for (const _ of servers) ports.push(await freePort())
  const listeners = servers.map(
    (server, i): ListenerConfig => ({
      name: `${server}`,
      spec: `tcp://127.0.0.1:${ports[i]}`,
      server: server!,
    }),
  )
  return { ports, listeners }
}

describe('TLS connections of all kinds lose no byte through upgrades under load:', () => {
  it('those of Node servers', { timeout: 3 * BUSY_MS }, async () => {
    const { ports, listeners } = await listening(SERVERS)
    const upgrade = { probation: 0, heartbeat: 1_000, ready: BUSY_MS }
    const tls = { keepAliveTimeout: BUSY_MS }
    const scene = Scene.open({ upgrade, listeners, moveTls: true, tls, tickMs, drain: DRAIN })
    Object.assign(scene.defaults, makeCertificate(scene))
    let app = await scene.serve()
    await upgradedUnderLoad({
      ports: ports as [number, number, number],
      file: name => scene.file(name),
      async upgrade() {
        const next = await scene.serve()
        const served = performance.now()
        await app.end(BUSY_MS)
        app = next
        return performance.now() - served
      },
      isNewest: ({ text }) => text.endsWith(`,${app.pid}\n`),
      moves: async () => (await app.status()).moves,
    })
  })

  it('those of the proxy', { timeout: 3 * BUSY_MS }, async () => {
    const { ports, listeners } = await listening(['ws', 'streams'])
    await Scene.open({ listeners, tickMs }).serve()
    const [web, ws, streams] = [await reading(), ...ports].map(port => ({
      servers: [`http://127.0.0.1:${port}`],
    }))
    const edge = await Edge.prepare({
      upstreams: { web, ws, streams },
      routes: [
        { host: '*', upstream: 'web' },
        { host: '*', path: '/ws', upstream: 'ws' },
        ...['/events', '/parts'].map(path => ({ host: '*', path, upstream: 'streams' })),
      ],
      upgrade: { probation: '0s', ready: '10m' },
      drain: { timeout: '10m', tlsTimeout: '10m' },
      timeouts: { idle: '10m', handshake: '10m', connect: '10m' },
    })
    edge.write(edge.secured([edge.issue('localhost')], { move: 'on' }))
    let pid = await edge.next()
    await upgradedUnderLoad({
      ports: [edge.port, edge.port, edge.port],
      file: name => `${edge.file}.${name}`,
      async upgrade() {
        const before = pid
        pid = await edge.next()
        const served = performance.now()
        await edge.ended(before, BUSY_MS)
        return performance.now() - served
      },
      isNewest: ({ head }) => head['x-pid'] === `${pid}`,
      moves: async () => (await edge.status()).moves,
    })
  })
})
