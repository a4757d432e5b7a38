import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import tls from 'node:tls'
import { onTestFinished } from 'vitest'
import type { SocketProtocol } from '../../src/connections/adapters/application-socket.js'
import type { MovableConnections } from '../../src/connections/movable.js'
import { socketOver, socketPair } from '../../src/kernel/index.js'
import { CERTIFICATE, KEY } from '../e2e/relay-certificate.js'
import { movable } from '../e2e/relay-moving.js'
import { send, startWorld, Upstream } from '../e2e/relay-world.js'
import { until } from '../processes/until.js'
import { get, RawClient } from './http-client.js'
import { type Place, place } from './http-pair.js'
import { SocketPairs } from './socket-pairs.js'
import { Client, Numbering } from './web-sockets.js'

/** The peer of a connection. The process that has the connection answers its questions. */
export interface Talker {
  /** Resolves with the whole right answer. */
  ask(): Promise<void>
  /** Sends half a question; what it returns sends the rest, and resolves with the answer. */
  half(): Promise<() => Promise<void>>
  /** Goes. */
  end(): void
  /** The connection has ended, as the peer sees it. */
  readonly gone: boolean
}

/** A process's connections of one kind. */
export interface Side {
  readonly moving: MovableConnections
  /** The connections here, also those that stay. */
  readonly size: number
  /** Descriptors that it keeps beside those of its connections, for arriving ones. */
  readonly spare?: number
  /** Resolves when the connection has come here. */
  connect(): Promise<Talker>
}

export interface Kind {
  readonly name: string
  /** A process has some, and can be given such as another one has. */
  side(): Promise<Side>
  /** A side that looks at no descriptor when it goes on. */
  readonly takesAny?: boolean
}

/** Asks `question`, of which the answer ends in `answer`. */
class Lines implements Talker {
  readonly #socket: net.Socket
  readonly #question: string
  readonly #answer: string
  readonly #tend: () => void
  #got = ''
  gone = false

  constructor(socket: net.Socket, question: string, answer: string, tend: () => void = () => {}) {
    this.#socket = socket
    this.#question = question
    this.#answer = answer
    this.#tend = tend
    socket.setEncoding('latin1')
    socket.on('data', chunk => {
      this.#got += chunk
    })
    socket.on('error', () => {})
    for (const end of ['end', 'close'] as const)
      socket.on(end, () => {
        this.gone = true
      })
    onTestFinished(() => {
      socket.destroy()
    })
  }

  async ask(): Promise<void> {
    this.#socket.write(this.#question)
    await this.#answered()
  }

  async half(): Promise<() => Promise<void>> {
    const middle = this.#question.length >> 1
    await new Promise(resolve => this.#socket.write(this.#question.slice(0, middle), resolve))
    return async () => {
      this.#socket.write(this.#question.slice(middle))
      await this.#answered()
    }
  }

  end(): void {
    this.#socket.destroy()
  }

  async #answered(): Promise<void> {
    await until('the answer', () => {
      this.#tend()
      return this.#got.endsWith(this.#answer)
    })
    this.#got = ''
  }
}

async function connected(port: number): Promise<net.Socket> {
  return (await RawClient.to(port)).socket
}

const QUESTION = get('/x')

/** Over a server of Node. */
async function nodeSide(at: Place, talk: (socket: net.Socket) => Talker | Promise<Talker>): Promise<Side> {
  const { port } = at.server.address() as net.AddressInfo
  return {
    moving: at.moving,
    get size() {
      return at.served.connections
    },
    async connect() {
      const before = at.sockets.length
      const talker = await talk(await connected(port))
      await until('it is accepted', () => at.sockets.length > before)
      return talker
    },
  }
}

/** Counts the lines of each connection, and answers them with `!`. */
function counting(): { hooks: SocketProtocol; serve(socket: net.Socket): void } {
  const counts = new WeakMap<net.Socket, { count: number }>()
  const serve = (socket: net.Socket, count = 0): void => {
    const facts = { count }
    counts.set(socket, facts)
    socket.on('error', () => {})
    socket.on('end', () => socket.end())
    socket.on('data', chunk => {
      const lines = chunk.toString().split('\n').length - 1
      facts.count += lines
      if (lines > 0) socket.write('!'.repeat(lines))
    })
  }
  const hooks: SocketProtocol = {
    protocol: 'app/counting-1',
    serialize: socket => Buffer.from(JSON.stringify(counts.get(socket))),
    restore: (socket, record) => serve(socket, JSON.parse(Buffer.from(record).toString()).count),
  }
  return { hooks, serve }
}

const answering = (): http.Server =>
  http.createServer({ keepAliveTimeout: 30_000 }, (_request, response) => response.end('ok'))

async function httpSide(): Promise<Side> {
  return nodeSide(await place(answering()), socket => new Lines(socket, QUESTION, 'ok'))
}

async function httpsSide(): Promise<Side> {
  const server = https.createServer(
    { cert: CERTIFICATE, key: KEY, keepAliveTimeout: 30_000 },
    (_request, response) => response.end('ok'),
  )
  const at = await place(server, { tls: { move: 'on' } })
  const { port } = server.address() as net.AddressInfo
  return {
    moving: at.moving,
    get size() {
      return at.served.connections
    },
    async connect() {
      const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
      const talker = new Lines(socket, QUESTION, 'ok')
      await once(server, 'secureConnection')
      return talker
    },
  }
}

async function upgradedSide(): Promise<Side> {
  const { hooks, serve } = counting()
  const server = answering().on('upgrade', (_request, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: count\r\n\r\n')
    serve(socket as net.Socket)
  })
  return nodeSide(await place(server, { http: { upgraded: hooks } }), async socket => {
    socket.write(get('/', 'Connection: upgrade\r\nUpgrade: count\r\n'))
    await until('it is upgraded', () => socket.bytesRead > 0)
    return new Lines(socket, '?\n', '!')
  })
}

async function webSocketSide(): Promise<Side> {
  const numbering = new Numbering('x', { perMessageDeflate: true })
  const at = await numbering.place()
  return {
    moving: at.moving,
    get size() {
      return at.served.connections
    },
    async connect() {
      return new Asking(await Client.to(at))
    },
  }
}

/** Asks in frames whose mask is 0. */
class Asking implements Talker {
  readonly #client: Client
  readonly #question = Buffer.of(0x81, 0x81, 0, 0, 0, 0, 63)

  constructor(client: Client) {
    this.#client = client
  }

  get gone(): boolean {
    return this.#client.closed !== null
  }

  async ask(): Promise<void> {
    await (await this.half())()
  }

  async half(): Promise<() => Promise<void>> {
    const { raw } = this.#client
    await new Promise(resolve => raw.write(this.#question.subarray(0, 3), resolve))
    return async () => {
      raw.write(this.#question.subarray(3))
      await until('the answer', () => this.#client.got.splice(0).some(text => text.endsWith(' ?')))
    }
  }

  end(): void {
    this.#client.ws.terminate()
  }
}

async function netSide(): Promise<Side> {
  const { hooks, serve } = counting()
  const server = net.createServer(socket => serve(socket))
  return nodeSide(await place(server, { socket: hooks }), socket => new Lines(socket, '?\n', '!'))
}

async function relaySide(): Promise<Side> {
  const upstream = await Upstream.start(({ peer }) => {
    peer.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
  })
  const world = await startWorld(send(upstream))
  onTestFinished(async () => {
    await world.close()
    await upstream.shut()
  })
  return {
    moving: movable(world.relay),
    get size() {
      return world.relay.size
    },
    get spare() {
      return world.relay.upstreamCounts().idle
    },
    async connect() {
      const before = world.relay.size
      const talker = new Lines(await connected(world.port), QUESTION, 'ok')
      await until('it is accepted', () => world.relay.size > before)
      return talker
    },
  }
}

function pairSides(): () => Promise<Side> {
  const sides: SocketPairs[] = []
  const tend = (): void => {
    for (const side of sides) side.tend()
  }
  let count = 0
  return async () => {
    const moving = new SocketPairs()
    sides.push(moving)
    onTestFinished(() => {
      sides.splice(sides.indexOf(moving), 1)
      for (const fd of [...moving.here.values(), ...moving.staying.values()]) fd.close()
    })
    return {
      moving,
      get size() {
        tend()
        return moving.size
      },
      async connect() {
        const [near, far] = socketPair('of a test')
        moving.here.set(`c${count++}`, near)
        return new Lines(socketOver(far, { readable: true, writable: true }), '?\n', '!', tend)
      },
    }
  }
}

/** Every implementation of movable connections that there is. */
export const KINDS: readonly Kind[] = [
  { name: 'of an http.Server', side: httpSide },
  { name: 'of an https.Server', side: httpsSide },
  { name: 'that an application took over from an http.Server', side: upgradedSide },
  { name: 'that are WebSockets of ws', side: webSocketSide },
  { name: 'of a net.Server', side: netSide },
  { name: 'of the relay', side: relaySide },
  { name: 'that are socket pairs', side: pairSides(), takesAny: true },
]
