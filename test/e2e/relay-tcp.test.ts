import { createHash } from 'node:crypto'
import net, { type AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import type { Destination, Forward, RelayOptions } from '../../src/relay/index.js'
import { perLane } from '../lanes/lane.js'
import { movable, startMoving } from './relay-moving.js'
import { Peer, send, startWorld, until, type World } from './relay-world.js'

const BLOCK = Buffer.alloc(1 << 20, 'a block of which each byte matters, ')
/** Each is a megabyte. */
const BLOCKS = perLane(16, 50)

const ends: (() => unknown)[] = []

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A server that gives each connection to the test. */
class Server implements Destination {
  readonly key: string
  readonly authority = ''
  readonly address: { kind: 'tcp'; host: string; port: number }
  readonly peers: Peer[] = []

  private constructor(port: number) {
    this.key = `127.0.0.1:${port}`
    this.address = { kind: 'tcp', host: '127.0.0.1', port }
  }

  static async start(serve: (peer: Peer) => void = () => {}): Promise<Server> {
    const server = net.createServer({ allowHalfOpen: true, noDelay: true })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const started = new Server((server.address() as AddressInfo).port)
    server.on('connection', socket => {
      const peer = new Peer(socket)
      started.peers.push(peer)
      serve(peer)
    })
    ends.push(() => {
      server.close()
      for (const { socket } of started.peers) socket.destroy()
    })
    return started
  }

  static async refusing(): Promise<Server> {
    const probe = net.createServer()
    await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
    const { port } = probe.address() as AddressInfo
    await new Promise(resolve => probe.close(resolve))
    return new Server(port)
  }

  /** A server whose queue of connections is full: it answers no client. */
  static async silent(): Promise<Server> {
    const fd = native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 0 })
    ends.push(() => native.closeMany([fd]))
    const { port } = native.inspect([fd])[0]!
    const fillers = Array.from({ length: 4 }, () => net.connect({ port: port!, host: '127.0.0.1' }))
    for (const filler of fillers) filler.on('error', () => {})
    ends.push(() => {
      for (const filler of fillers) filler.destroy()
    })
    await until(() => fillers.some(filler => !filler.connecting), 'the queue is full')
    return new Server(port!)
  }

  async peer(): Promise<Peer> {
    await until(() => this.peers.length > 0, 'a connection comes')
    return this.peers.at(-1)!
  }
}

async function world(route: Forward, options: Partial<RelayOptions> = {}): Promise<World> {
  const started = await startWorld(
    route,
    {
      routeByName: () => route,
      destinationByKey: key => (route.pick([])?.key === key ? route.pick([])! : undefined),
      ...options,
    },
    route,
  )
  ends.push(() => started.close())
  return started
}

function echo({ socket }: Peer): void {
  socket.on('data', chunk => socket.write(chunk)).on('end', () => socket.end())
}

/** Reads with stalls, and hashes. */
function sink(socket: net.Socket): { bytes: number; digest: () => string } {
  const hash = createHash('sha1')
  const seen = { bytes: 0, digest: () => hash.digest('hex') }
  socket.on('data', chunk => {
    seen.bytes += chunk.length
    hash.update(chunk)
    if (seen.bytes % 64 > 2) return
    socket.pause()
    setTimeout(() => socket.resume(), 1)
  })
  return seen
}

const DIGEST = (() => {
  const hash = createHash('sha1')
  for (let i = 0; i < BLOCKS; i++) hash.update(BLOCK)
  return hash.digest('hex')
})()

function pour(socket: net.Socket, then: () => void): void {
  let left = BLOCKS
  const more = (): void => {
    while (left > 0) {
      left--
      if (!socket.write(BLOCK)) break
    }
    if (left > 0) socket.once('drain', more)
    else then()
  }
  more()
}

describe.each([
  ['resting', false],
  ['moved at every turn', true],
])('a TCP connection, %s', (_name, moved) => {
  const begin = async (route: Forward, options?: Partial<RelayOptions>) => {
    const made = await world(route, options)
    if (moved) {
      const moving = startMoving(made.relay)
      ends.push(() => moving.stop())
    }
    return made
  }

  it('carries bytes both ways, whoever speaks first', async () => {
    const server = await Server.start(({ socket }) => void socket.write('220 ready\r\n'))
    const { client, relay } = await begin(send(server))
    const peer = await client()
    expect(await peer.sees('ready')).toBe('220 ready\r\n')
    expect(relay.counts()).toMatchObject({ tcp: 1, tunnel: 0 })
    await peer.write('\0\xff GET / HTTP/1.1\r\n\r\n')
    expect(await (await server.peer()).gets(21)).toBe('\0\xff GET / HTTP/1.1\r\n\r\n')
  })

  it('keeps each direction open when the other has ended', async () => {
    const server = await Server.start()
    const { client, relay, reports } = await begin(send(server))
    const peer = await client()
    await peer.write('question')
    peer.socket.end()
    const other = await server.peer()
    expect(await other.all()).toBe('question')
    other.socket.write('late ')
    await peer.sees('late')
    other.socket.end('answer')
    expect(await peer.all()).toBe('late answer')
    await until(() => relay.size === 0, 'nothing is left')
    expect(peer.error ?? other.error).toBeUndefined()
    if (moved) return
    expect(reports).toMatchObject([
      { subject: 'tcp', method: '', status: 0, reason: undefined, attempts: 1, destination: server.key },
    ])
    expect(reports[0]).toMatchObject({ bytesReceived: 8, bytesSent: 11 })
  })

  it('brings all to a server that ended first and takes it slowly', async () => {
    const server = await Server.start(({ socket }) => {
      socket.removeAllListeners('data')
      socket.end('go on')
    })
    const { client, relay } = await begin(send(server))
    const peer = await client()
    await peer.sees('go on')
    const { socket } = await server.peer()
    const seen = sink(socket)
    pour(peer.socket, () => peer.socket.end())
    await until(() => seen.bytes >= BLOCKS * BLOCK.length, 'all of it', 25_000)
    expect(seen.digest()).toBe(DIGEST)
    await until(() => relay.size === 0, 'nothing is left')
  })

  it(`brings ${BLOCKS} MB to a client that stalls; no more is held than two reads`, async () => {
    const server = await Server.start(({ socket }) => pour(socket, () => socket.end()))
    const { client, relay } = await begin(send(server))
    const peer = await client()
    peer.socket.removeAllListeners('data')
    const seen = sink(peer.socket)
    let most = 0
    const watch = setInterval(() => (most = Math.max(most, relay.heldBytes())), 2)
    ends.push(() => clearInterval(watch))
    await until(() => seen.bytes >= BLOCKS * BLOCK.length, 'all of it', 25_000)
    expect(seen.digest()).toBe(DIGEST)
    expect(most).toBeLessThan(256 * 1024)
  })

  it('passes a server over that refuses', async () => {
    const server = await Server.start(echo)
    const told: unknown[] = []
    const refusing = { ...(await Server.refusing()), failed: (why: string) => told.push(why) }
    const { client } = await begin(send(refusing, { ...server, opened: tcp => told.push(tcp) }))
    const peer = await client()
    await peer.write('hello')
    peer.socket.end()
    expect(await peer.all()).toBe('hello')
    expect(new Set(told)).toEqual(new Set(['connect-failed', true]))
  })
})

describe('a TCP connection', () => {
  it('passes a server over that does not answer in time', async () => {
    const good = await Server.start(echo)
    const { client, reports } = await world(send(await Server.silent(), good), { timeouts: { connect: 60 } })
    const peer = await client()
    peer.socket.end('hello')
    expect(await peer.all()).toBe('hello')
    await until(() => reports.length > 0, 'it is over')
    expect(reports).toMatchObject([{ attempts: 2, destination: good.key, reason: undefined }])
  })

  it.each([
    ['refused by all', () => Promise.all([Server.refusing(), Server.refusing()]), 'connect-failed', 2],
    ['answered by none', () => Promise.all([Server.silent()]), 'connect-timeout', 1],
    ['for which there is no server', async () => [], 'no-server', 0],
  ] as const)('%s is reset, and counted', async (_name, servers, reason, attempts) => {
    const { client, relay, reports } = await world(send(...(await servers())), { timeouts: { connect: 60 } })
    const error = client().then(
      async peer => {
        await until(() => peer.closed, 'it is closed')
        return peer.error
      },
      // So early that its connect() fails.
      error => error.code,
    )
    expect(await error).toBe('ECONNRESET')
    expect(reports).toMatchObject([{ subject: 'tcp', status: 0, reason, attempts }])
    expect(relay.size).toBe(0)
    expect(relay.upstreamCounts().open).toBe(0)
  })

  it('resets on one side when the other side resets, so that it does not look whole', async () => {
    const server = await Server.start()
    const { client, reports } = await world(send(server))
    const [one, two] = [await client(), await client()]
    await one.write('half a mess')
    await two.write('half a mess')
    await until(() => server.peers.length === 2 && server.peers.every(({ got }) => got !== ''), 'both')
    one.socket.resetAndDestroy()
    await until(() => server.peers.some(({ error }) => error === 'ECONNRESET'), 'the server sees it')
    server.peers.find(({ error }) => error === undefined)!.socket.resetAndDestroy()
    await until(() => two.error === 'ECONNRESET', 'the client sees it')
    expect(reports.map(({ reason }) => reason)).toEqual(['client-gone', 'upstream-closed'])
  })

  it('on which nothing moves is cut, one on which something does is not', async () => {
    const server = await Server.start()
    const { client, relay, reports } = await world(send(server), { timeouts: { tunnel: 1_000, idle: 20 } })
    const [quiet, busy] = [await client(), await client()]
    const drip = setInterval(() => busy.socket.write('x'), 10)
    ends.push(() => clearInterval(drip))
    await until(() => quiet.closed, 'the quiet one is cut')
    expect(reports).toMatchObject([{ reason: 'tunnel-timeout' }])
    expect(relay.counts().tcp).toBe(1)
    expect(busy.closed).toBe(false)
  })

  it('goes on while the relay drains, and is not idle', async () => {
    const server = await Server.start(echo)
    const { client, relay } = await world(send(server))
    const peer = await client()
    await peer.write('a')
    await peer.sees('a')
    relay.drain()
    relay.closeIdle()
    await peer.write('b')
    expect(await peer.sees('b')).toBe('ab')
  })

  it('moves without a question to its client, until that sends', async () => {
    const server = await Server.start(echo)
    const { client, relay } = await world(send(server))
    const peer = await client()
    await peer.write('a')
    await peer.sees('a')
    const connections = movable(relay)
    const [quiet] = [...connections.departures('auto')]
    const witness = connections.arrive(quiet!, 'moved')
    expect([witness.asked, witness.answered]).toEqual([false, false])
    await peer.write('b')
    await peer.sees('b')
    expect([witness.asked, witness.answered]).toEqual([true, true])
  })

  it('never uses a connection that an HTTP request has left behind', async () => {
    const server = await Server.start(({ socket }) => {
      socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'))
    })
    const { relay, client } = await startWorld(send(server))
    ends.push(() => relay.close())
    const request = await client()
    await request.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await request.sees('ok')
    expect(relay.upstreamCounts()).toEqual({ open: 1, idle: 1 })
    const [near, far] = await pair()
    relay.accept(near, { listener: 'l', scheme: 'http' }, send(server))
    far.write('raw')
    await until(() => server.peers.length === 2, 'a connection of its own')
    expect(await server.peers[1]!.sees('raw')).toBe('raw')
  })
})

async function pair(): Promise<[net.Socket, net.Socket]> {
  const listener = net.createServer({ pauseOnConnect: true, allowHalfOpen: true })
  await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve))
  const accepted = new Promise<net.Socket>(resolve => listener.once('connection', resolve))
  const far = net.connect((listener.address() as AddressInfo).port, '127.0.0.1')
  ends.push(() => {
    far.destroy()
    listener.close()
  })
  return [await accepted, far]
}
