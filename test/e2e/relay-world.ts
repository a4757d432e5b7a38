import type { AddressInfo } from 'node:net'
import net from 'node:net'
import { type Framing, type RequestHead, RequestReader } from '../../src/http1/index.js'
import type { ByteStream, StreamOwner } from '../../src/relay/byte-stream.js'
import {
  type Decision,
  type Destination,
  dialSocket,
  type ExchangeReport,
  type Forward,
  type KeepAlive,
  Relay,
  type RelayOptions,
  UpstreamPools,
} from '../../src/relay/index.js'
import { GivenTime } from '../processes/given-time.js'

export const turn = (): Promise<void> => new Promise(resolve => setImmediate(() => setImmediate(resolve)))

/** Resolves when `check` is true; looks at every turn of the event loop. Throws after `ms` of the machine's own time. */
export async function until(check: () => boolean, what: string, ms = 8_000): Promise<void> {
  const time = new GivenTime()
  while (!check()) {
    if (time.now() > ms) throw new Error(`not within ${ms} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 1))
  }
}

/** A peer of the relay: what it got, and whether the other side has ended or reset. */
export class Peer {
  readonly socket: net.Socket
  got = ''
  bytes = 0
  ended = false
  closed = false
  error: string | undefined
  keep = true
  /** A server's: what comes now is no HTTP, but a tunnel's. */
  raw = false

  constructor(socket: net.Socket) {
    this.socket = socket
    socket.setNoDelay(true)
    socket.on('data', chunk => {
      this.bytes += chunk.length
      if (this.keep) this.got += chunk.toString('latin1')
    })
    socket.on('end', () => (this.ended = true))
    socket.on('error', error => (this.error = (error as NodeJS.ErrnoException).code))
    socket.on('close', () => (this.closed = true))
  }

  /** Writes the text in these pieces, one a turn. */
  async write(text: string, sizes: Iterable<number> = [text.length]): Promise<void> {
    let at = 0
    for (const size of sizes) {
      if (at >= text.length || this.closed) return
      this.socket.write(text.slice(at, at + size), 'latin1')
      at += size
      if (at < text.length) await turn()
    }
    if (at < text.length && !this.closed) this.socket.write(text.slice(at), 'latin1')
  }

  async gets(length: number): Promise<string> {
    await until(
      () => this.got.length >= length || this.closed,
      `${length} bytes, got ${JSON.stringify(this.got)}`,
    )
    return this.got
  }

  async sees(text: string): Promise<string> {
    await until(() => this.got.includes(text) || this.closed, `${text} in ${JSON.stringify(this.got)}`)
    return this.got
  }

  /** All that came, once the other side has ended. */
  async all(): Promise<string> {
    await until(() => this.ended || this.closed, `the end of ${JSON.stringify(this.got.slice(0, 300))}`)
    return this.got
  }
}

/** A client that reads nothing before it is told to, and hears how its connection ends: Node takes a reset behind bytes for an end. */
export function lateReader(port: number) {
  const client = { stream: null as unknown as ByteStream, bytes: 0, end: '' }
  const owner: StreamOwner = {
    onOpen() {},
    onDrain() {},
    onData: (_stream, _chunk, to) => (client.bytes += to),
    onEnd: () => (client.end ||= 'FIN'),
    onClose: (_stream, error) => (client.end ||= (error as NodeJS.ErrnoException | null)?.code ?? 'closed'),
  }
  const address = { kind: 'tcp', host: '127.0.0.1', port } as const
  client.stream = dialSocket({ key: '', authority: '', address }, owner, { open: 0 })
  client.stream.setReading(false)
  return client
}

export interface Seen {
  head: RequestHead
  /** As it came, chunk syntax included. */
  body: string
  peer: Peer
}

export type Reply = (request: Seen) => void | Promise<void>

/** A server that reads requests strictly, and answers each with raw bytes. */
export class Upstream implements Destination {
  readonly key: string
  readonly authority: string
  readonly address: { kind: 'tcp'; host: string; port: number }
  connections = Number.POSITIVE_INFINITY
  keepAlive: KeepAlive = { connections: 4096, idleMs: 30_000 }
  readonly peers: Peer[] = []
  readonly requests: Seen[] = []
  readonly #server: net.Server

  private constructor(server: net.Server) {
    this.#server = server
    const { port } = server.address() as AddressInfo
    this.key = this.authority = `127.0.0.1:${port}`
    this.address = { kind: 'tcp', host: '127.0.0.1', port }
  }

  static async start(reply: Reply): Promise<Upstream> {
    const server = net.createServer({ allowHalfOpen: true, noDelay: true })
    // More than any test connects at once: with Node's 511 the kernel drops the others, and they come a second later.
    await new Promise<void>(resolve => server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, resolve))
    const upstream = new Upstream(server)
    server.on('connection', socket => {
      const peer = new Peer(socket)
      upstream.peers.push(peer)
      upstream.#serve(peer, reply)
    })
    return upstream
  }

  /** Everything that all connections have brought, in the order in which they came. */
  get got(): string {
    return this.peers.map(peer => peer.got).join('')
  }

  /** The connections that are not simply open, for messages. */
  get troubled(): string[] {
    return this.peers
      .filter(({ ended, closed, error }) => ended || closed || error !== undefined)
      .map(({ ended, closed, error, got }) => JSON.stringify({ ended, closed, error, got }))
  }

  /** Refuses connections from now on. */
  async shut(): Promise<void> {
    const closed = new Promise(resolve => this.#server.close(resolve))
    for (const peer of this.peers) peer.socket.destroy()
    await closed
  }

  #serve(peer: Peer, reply: Reply): void {
    const reader = new RequestReader({ headBytes: 1 << 20 })
    let seen: Seen | null = null
    let body: Framing | null = null
    peer.socket.on('data', chunk => {
      for (let at = 0; at < chunk.length && !peer.raw; ) {
        if (seen === null) {
          const head = reader.read(chunk, at)
          at += reader.consumed
          if (head === null) return
          seen = { head, body: '', peer }
          body = head.framing()
        } else {
          const taken = body!.advance(chunk, at, chunk.length)
          seen.body += chunk.toString('latin1', at, at + taken)
          at += taken
        }
        if (!body!.done) continue
        this.requests.push(seen)
        void reply(seen)
        seen = null
      }
    })
    peer.socket.on('end', () => {
      if (!peer.raw) peer.socket.end()
    })
  }
}

export interface World {
  relay: Relay
  port: number
  reports: ExchangeReport[]
  faults: unknown[]
  client(): Promise<Peer>
  /** Sends, ends nothing, and gives what came until the relay ended the connection. */
  ask(text: string): Promise<string>
  close(): Promise<void>
}

export const send = (...destinations: Destination[]): Forward => ({
  kind: 'upstream',
  name: 'test',
  pick: tried => destinations.find(destination => !tried.includes(destination)) ?? null,
})

/** With `forward` its clients' connections are passed on as they are. */
export async function startWorld(
  route: Forward | ((head: RequestHead) => Decision),
  options: Partial<RelayOptions> = {},
  forward?: Forward,
): Promise<World> {
  const reports: ExchangeReport[] = []
  const faults: unknown[] = []
  const pools = new UpstreamPools({ tickMs: 10 })
  const relay = new Relay({
    route: typeof route === 'function' ? route : () => route,
    onExchange: report => reports.push(report),
    onFault: error => faults.push(error),
    tickMs: 10,
    pools,
    ...options,
  })
  const origin = { listener: 'test', scheme: 'http' } as const
  const server = net.createServer({ noDelay: true, allowHalfOpen: true, pauseOnConnect: true }, socket =>
    relay.accept(socket, origin, forward),
  )
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const clients: Peer[] = []
  const client = async (): Promise<Peer> => {
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
    const peer = new Peer(socket)
    clients.push(peer)
    return peer
  }
  return {
    relay,
    port,
    reports,
    faults,
    client,
    async ask(text) {
      const peer = await client()
      peer.socket.write(text, 'latin1')
      const all = await peer.all()
      peer.socket.end()
      return all
    },
    async close() {
      relay.close()
      pools.clear()
      for (const peer of clients) peer.socket.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

/** The fields that the relay adds to a request for `host`. */
export const FORWARDED = (host = 'a'): string =>
  `X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n${host === '' ? '' : `X-Forwarded-Host: ${host}\r\n`}`
