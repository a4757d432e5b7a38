import { createHash } from 'node:crypto'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import tls from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, type Line, upstream } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

interface TcpServer {
  readonly url: string
  readonly sockets: Socket[]
  close(): void
}

/** Says its name, then gives back what it gets. */
async function server(name: string, serve = echo): Promise<TcpServer> {
  const sockets: Socket[] = []
  const listener = createServer({ allowHalfOpen: true }, socket => {
    sockets.push(socket)
    socket.on('error', () => {})
    socket.write(`${name}\n`)
    serve(socket)
  })
  await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve))
  const close = () => {
    listener.close()
    for (const socket of sockets) socket.destroy()
  }
  onTestFinished(close)
  return { url: `tcp://127.0.0.1:${(listener.address() as AddressInfo).port}`, sockets, close }
}

function echo(socket: Socket): void {
  socket.pipe(socket)
}

/** An edge with a listener "db" that forwards, and an ordinary one. */
async function forwarding(servers: TcpServer[], config: Record<string, unknown> = {}, secure = false) {
  const port = await freePort()
  const edge = await Edge.prepare({
    upstreams: { db: { servers: servers.map(({ url }) => url), health: { failures: 1 } } },
    routes: [{ host: '*', respond: { body: 'hello\n' } }],
    accessLog: true,
    drain: { timeout: '5m' },
    upgrade: { probation: '0s' },
    ...config,
  })
  const http = { name: 'http', address: `tcp://127.0.0.1:${edge.port}` }
  const listen = (forward?: string) => [http, { name: 'db', address: `tcp://127.0.0.1:${port}`, forward }]
  const [own, db] = listen('db')
  if (secure) {
    const { tls } = edge.secured([edge.issue('localhost')], { move: 'on' })
    edge.write({ listeners: [own, { ...db, tls: true }], tls })
  } else edge.write({ listeners: [own, db] })
  await edge.next()
  return { edge, port, listen }
}

const TALKS = perLane(30, 100)
const UPGRADES = perLane(2, 6)
/** On a machine that has much else to do. */
const BUSY_MS = 60_000

/** A connection that carries numbered bytes all the time, and wants each of them back in its order. */
class Talk {
  heard = 0
  #said = 0
  readonly #socket: Socket
  readonly #seed: number
  #ending = false
  #wrong = ''
  readonly #ended: Promise<unknown>

  private constructor(socket: Socket, seed: number) {
    this.#socket = socket
    this.#seed = seed
    this.#ended = new Promise(resolve => socket.once('close', resolve))
    socket.on('error', error => (this.#wrong ||= error.message))
    socket.on('data', (chunk: Buffer) => this.#hear(chunk))
  }

  static async begin(port: number, seed: number, secure = false): Promise<Talk> {
    const raw = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    const socket = secure
      ? tls.connect({ socket: raw, rejectUnauthorized: false, allowHalfOpen: true } as tls.ConnectionOptions)
      : raw
    onTestFinished(() => void socket.destroy())
    const greeting = await new Promise<Buffer>((resolve, reject) =>
      socket.once('data', resolve).once('error', reject),
    )
    expect(String(greeting)).toBe('one\n')
    const talk = new Talk(socket, seed)
    talk.#say()
    return talk
  }

  /** Nothing is lost, repeated or changed. */
  async end(): Promise<void> {
    this.#ending = true
    await this.#ended
    expect([this.#wrong, this.heard]).toEqual(['', this.#said])
  }

  #byte(at: number): number {
    return ((at * 2654435761) >>> 16) + this.#seed
  }

  #say(): void {
    if (this.#ending) {
      this.#socket.end()
      return
    }
    const bytes = Buffer.alloc(1 + (this.#byte(this.#said) % 997))
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.#byte(this.#said + i)
    this.#said += bytes.length
    this.#socket.write(bytes)
    setTimeout(() => this.#say(), 5)
  }

  #hear(chunk: Buffer): void {
    for (const byte of chunk) {
      if (byte !== (this.#byte(this.heard) & 255)) this.#wrong ||= `byte ${this.heard} is ${byte}`
      this.heard++
    }
  }
}

const kindsOf = async (edge: Edge) => (await edge.status()).listeners.find(({ name }) => name === 'db')?.kinds

describe('a listener that forwards', () => {
  it('carries bytes both ways and keeps half-closed connections open', async () => {
    const { edge, port } = await forwarding([await server('one')])
    const client = await edge.raw(port)
    expect(await client.until(text => text.endsWith('\n'))).toBe('one\n')
    client.send('\0\xffGET / HTTP/1.1\r\n\r\n')
    expect(await client.until(text => text.length === 20)).toBe('\0\xffGET / HTTP/1.1\r\n\r\n')
    expect(await kindsOf(edge)).toEqual({ tcp: 1 })
    client.send('last words').socket.end()
    expect(await client.toTheEnd()).toBe('last words')
    const line = await edge.logged('connection')
    expect(line).toMatchObject({ listener: 'db', client: '127.0.0.1', bytes: 34, received: 30 })
    for (const key of ['status', 'method', 'target', 'host', 'reason']) expect(line).not.toHaveProperty(key)
    expect((await ask(edge.url).answer).body).toBe('hello\n')
  })

  it('brings 50 MB to a client that stalls', async () => {
    const block = Buffer.alloc(1 << 20, 'every byte of it counts; ')
    const sent = createHash('sha1').update('one\n')
    const { port } = await forwarding([
      await server('one', async socket => {
        for (let n = 0; n < 50; n++) {
          sent.update(block)
          if (!socket.write(block)) await new Promise(resolve => socket.once('drain', resolve))
        }
        socket.end()
      }),
    ])
    const got = createHash('sha1')
    const socket = connect(port, '127.0.0.1')
    onTestFinished(() => void socket.destroy())
    let bytes = 0
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      got.update(chunk)
      bytes += chunk.length
      if (bytes % 16 === 0) await new Promise(resolve => setTimeout(resolve, 1))
    }
    expect(bytes).toBe(50 * block.length + 4)
    expect(got.digest('hex')).toBe(sent.digest('hex'))
  })

  it('takes servers in turn, passes over one that refuses, and counts connections that none takes', async () => {
    const servers = [await server('one'), await server('two'), await server('three')]
    const { edge, port } = await forwarding(servers)
    const greeting = async () => {
      const client = await edge.raw(port)
      const name = (await client.until(text => text.endsWith('\n'))).trim()
      client.socket.end()
      return name
    }
    const greetings = async () => [await greeting(), await greeting(), await greeting(), await greeting()]
    expect(await greetings()).toEqual(['one', 'two', 'three', 'one'])
    servers[1]!.close()
    expect(new Set(await greetings())).toEqual(new Set(['one', 'three']))
    await edge.logged(
      'a server failed too often and gets no requests for a while',
      line => line.server === servers[1]!.url,
    )
    for (const each of servers) each.close()
    const socket = connect(port, '127.0.0.1')
    const error = await new Promise<NodeJS.ErrnoException>(resolve => socket.once('error', resolve))
    expect(error.code).toBe('ECONNRESET')
    const failed = (line: Line) => line.reason === 'connect-failed'
    expect(await edge.logged('connection', failed)).toMatchObject({ listener: 'db', attempts: 3, bytes: 0 })
    await until('none is left', async () => (await kindsOf(edge))?.tcp === undefined)
  })

  it('hands its connections over in upgrades, at any byte', async () => {
    const one = await server('one')
    const { edge, port } = await forwarding([one])
    const talks = await Promise.all(Array.from({ length: TALKS }, (_, n) => Talk.begin(port, n)))
    const half = await edge.raw(port)
    await half.until(text => text === 'one\n')
    half.send('the end of one side').socket.end()
    await half.until(text => text === 'the end of one side')
    const waiting = await edge.raw(port)
    await waiting.until(text => text === 'one\n')
    for (let n = 0; n < UPGRADES; n++) {
      const pid = await edge.pid
      const before = talks.map(({ heard }) => heard)
      await edge.next()
      await edge.ended(pid)
      await until('all go on', () => talks.every(({ heard }, i) => heard > before[i]! + 1_000))
    }
    expect(await kindsOf(edge)).toMatchObject({ tcp: TALKS + 1 })
    waiting.send('late')
    expect(await waiting.until(text => text !== '')).toBe('late')
    await Promise.all(talks.map(talk => talk.end()))
    expect(one.sockets.length).toBe(TALKS + 2)
  })

  it.runIf(NIGHTLY)('hands TLS connections over in upgrades, at any byte', { timeout: 240_000 }, async () => {
    const one = await server('one')
    const { edge, port } = await forwarding([one], {}, true)
    const talks = await Promise.all(Array.from({ length: TALKS }, (_, n) => Talk.begin(port, n, true)))
    for (let n = 0; n < UPGRADES; n++) {
      const pid = await edge.pid
      const before = talks.map(({ heard }) => heard)
      await edge.next()
      await edge.ended(pid, BUSY_MS)
      await until('all go on', () => talks.every(({ heard }, i) => heard > before[i]! + 1_000), BUSY_MS)
    }
    expect((await edge.status()).moves).toMatchObject({ arrived: TALKS, lost: 0 })
    await Promise.all(talks.map(talk => talk.end()))
    expect(one.sockets.length).toBe(TALKS)
  })

  it('leads somewhere else after a reload, for new connections only', async () => {
    const { edge, port, listen } = await forwarding([await server('one')])
    const other = await server('other')
    const first = await edge.raw(port)
    await first.until(text => text === 'one\n')
    const upstreams = { ...(edge.config.upstreams as object), other: { servers: [other.url] } }
    await edge.reload({ upstreams, listeners: listen('other') })
    await (await edge.raw(port)).until(text => text === 'other\n')
    // No HTTP, then HTTP.
    await edge.reload({ listeners: listen() })
    expect((await ask(`http://127.0.0.1:${port}/`).answer).body).toBe('hello\n')
    first.send('still here')
    expect(await first.until(text => text.length > 3)).toBe('still here')
  })

  it('may lead to a server that takes requests too, and closes what is above the limit', async () => {
    const app = await upstream()
    const { edge, port } = await forwarding([], {
      upstreams: { db: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'db' }],
      limits: { connections: 1 },
    })
    const client = await edge.raw(port)
    client.send('GET /r/7 HTTP/1.1\r\nHost: a\r\n\r\n')
    expect(await client.until(text => text.endsWith('7 item-7\n'))).not.toMatch(/x-pid/i)
    expect(await (await edge.raw(port)).toTheEnd()).toBe('')
    client.socket.destroy()
    await until('there is room again', async () => (await kindsOf(edge))?.tcp === undefined)
    expect((await ask(`${edge.url}/r/8`).answer).body).toBe('8 item-8\n')
  })

  it('cuts a connection on which nothing moves for timeouts.tunnel, not for timeouts.idle', async () => {
    const { edge, port } = await forwarding([await server('one')], {
      timeouts: { tunnel: '1s', idle: '50ms' },
    })
    const client = await edge.raw(port)
    const began = performance.now()
    await client.toTheEnd()
    expect(performance.now() - began).toBeGreaterThan(900)
    expect(await edge.logged('connection')).toMatchObject({ reason: 'tunnel-timeout' })
  })
})
