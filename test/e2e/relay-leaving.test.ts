import { execFile } from 'node:child_process'
import net from 'node:net'
import { promisify } from 'node:util'
import { afterEach, describe, expect, it } from 'vitest'
import { closeAll, inspectOne, OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { decodeRecord } from '../../src/relay/connection-record.js'
import type {
  ByteStream,
  Destination,
  RelayedConnection,
  RelayedConnections,
  RelayOptions,
} from '../../src/relay/index.js'
import { bundled } from '../processes/bundled.js'
import { arriveMoved, movable } from './relay-moving.js'
import {
  type Peer,
  type Reply,
  type Seen,
  send,
  startWorld,
  Upstream,
  until,
  type World,
} from './relay-world.js'

const ends: (() => unknown)[] = []

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const LAST = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'

interface Side extends World {
  connections: RelayedConnections
  server: Upstream
  asked: Seen[]
}

/** A relay, a server that answers when the test says so, and the relay's connections. */
async function side(options: Partial<RelayOptions> = {}, server?: Upstream): Promise<Side> {
  const asked: Seen[] = []
  const reply: Reply = seen => void asked.push(seen)
  const upstream = server ?? (await Upstream.start(reply))
  if (server === undefined) ends.push(() => upstream.shut())
  const route = send(upstream)
  const world = await startWorld(route, {
    routeByName: name => (name === 'test' ? route : undefined),
    destinationByKey: key => (key === upstream.key ? upstream : undefined),
    ...options,
  })
  ends.push(() => world.close())
  return { ...world, connections: movable(world.relay), server: upstream, asked }
}

/** A server whose queue of connections is full: it answers no client. */
async function silentServer(): Promise<Destination> {
  const fd = OwnedFd.own(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 0 }), 'silent')
  const port = inspectOne(fd).port!
  const fillers = Array.from({ length: 4 }, () => net.connect({ port, host: '127.0.0.1' }))
  for (const filler of fillers) filler.on('error', () => {})
  ends.push(() => {
    for (const filler of fillers) filler.destroy()
    fd.close()
  })
  await until(() => fillers.some(filler => !filler.connecting), 'the queue is full')
  return { key: 'silent', authority: 'a', address: { kind: 'tcp', host: '127.0.0.1', port } }
}

const all = (from: RelayedConnections): RelayedConnection[] => [...from.departures('auto')]

function arriveAll(
  at: RelayedConnections,
  departures: RelayedConnection[],
  how: 'moved' | 'returned' | 'refused',
): void {
  for (const departure of departures) {
    if (how === 'moved') arriveMoved(at, departure)
    else at.arrive(departure, how)
  }
}

async function waiting(world: Side): Promise<Peer> {
  const before = world.asked.length
  const peer = await world.client()
  await peer.write(GET)
  await until(() => world.asked.length > before, 'the request is with the server')
  return peer
}

describe('a connection that left and came back', () => {
  it('goes on as if it had never left, and may leave again', async () => {
    const here = await side()
    const peer = await waiting(here)
    for (let times = 0; times < 3; times++) {
      expect(here.connections.movable).toBe(1)
      const departures = all(here.connections)
      expect(departures).toHaveLength(1)
      expect(here.relay.size).toBe(0)
      arriveAll(here.connections, departures, 'returned')
    }
    here.asked[0]!.peer.socket.write(OK)
    expect(await peer.gets(OK.length)).toBe(OK)
    expect(peer.ended).toBe(false)
  })

  it('because it was refused: stays, and its next answer is the last one', async () => {
    const here = await side()
    const [refused, other] = [await waiting(here), await waiting(here)]
    const departures = all(here.connections)
    arriveAll(here.connections, departures.slice(0, 1), 'refused')
    arriveAll(here.connections, departures.slice(1), 'returned')
    expect(here.connections.movable).toBe(1)
    expect(here.relay.size).toBe(2)
    const again = all(here.connections)
    expect(again).toHaveLength(1)
    arriveAll(here.connections, again, 'returned')
    for (const { peer } of here.asked) peer.socket.write(OK)
    expect(await refused.all()).toBe(LAST)
    expect(await other.gets(OK.length)).toBe(OK)
    expect(other.ended).toBe(false)
  })

  it('and was refused before this process served again: is like any other', async () => {
    const here = await side()
    const peer = await waiting(here)
    arriveAll(here.connections, all(here.connections), 'refused')
    here.relay.resume()
    expect(here.connections.movable).toBe(1)
    here.asked[0]!.peer.socket.write(OK)
    expect(await peer.gets(OK.length)).toBe(OK)
    expect(all(here.connections).map(({ fds }) => closeAll(fds))).toHaveLength(1)
  })
})

describe('a connection that comes when the time of the drain is over', () => {
  it('ends as those do that were there', async () => {
    const here = await side()
    const there = await side({}, here.server)
    const peer = await waiting(here)
    const departures = all(here.connections)
    there.relay.end('', 20)
    arriveAll(there.connections, departures, 'moved')
    expect(await peer.all()).toMatch(/^HTTP\/1\.1 503 /)
  })

  it('goes on when this process serves again by then', async () => {
    const here = await side()
    const there = await side({}, here.server)
    const peer = await waiting(here)
    const departures = all(here.connections)
    there.relay.end('', 20)
    there.relay.resume()
    arriveAll(there.connections, departures, 'moved')
    here.asked[0]!.peer.socket.write(OK)
    expect(await peer.gets(OK.length)).toBe(OK)
    expect(peer.ended).toBe(false)
  })
})

describe('only those between two exchanges', () => {
  it('leave, the others when their answer has ended: then that is told', async () => {
    const [here, there] = [await side(), await side()]
    const [busy, idle] = [await waiting(here), await here.client()]
    const half = await here.client()
    await half.write('GET /half HTTP/1.1\r\nHo')
    await until(() => here.relay.size === 3 && here.relay.counts().head === 1, 'all are there')
    let told = 0
    here.connections.onMovable = () => told++
    const first = [...here.connections.departures('idle')]
    expect(first).toHaveLength(2)
    arriveAll(there.connections, first, 'moved')
    expect(here.connections.movable).toBe(1)
    expect(told).toBe(0)
    here.asked[0]!.peer.socket.write(OK)
    await busy.gets(OK.length)
    await until(() => told > 0, 'it may leave')
    expect(told).toBe(1)
    arriveAll(there.connections, [...here.connections.departures('idle')], 'moved')
    expect(there.relay.size).toBe(3)
    await half.write('st: a\r\n\r\n')
    await idle.write(GET)
    await busy.write(GET)
    await until(() => there.asked.length === 3, 'three requests at the new side')
    expect(there.asked.map(({ head }) => head.resource).sort()).toEqual(['/half', '/x', '/x'])
  })

  it('one that comes while they leave is told of', async () => {
    const here = await side()
    let told = 0
    here.connections.onMovable = () => told++
    expect(all(here.connections)).toEqual([])
    await here.client()
    await until(() => told > 0, 'it may leave')
    closeAll(all(here.connections).flatMap(({ fds }) => fds))
  })
})

describe('one whose stream has just gone', () => {
  it('stays, and leaves when that is settled', async () => {
    const [here, there] = [await side(), await side()]
    const peer = await waiting(here)
    let departures = all(here.connections)
    arriveAll(here.connections, departures, 'returned')
    // The server resets its connection: one turn later the client gets its answer.
    let told = 0
    here.connections.onMovable = () => told++
    here.asked[0]!.peer.socket.resetAndDestroy()
    while (here.relay.counts().waiting > 0) {
      departures = all(here.connections)
      arriveAll(there.connections, departures, 'moved')
      if (departures.length > 0) break
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(await peer.sees('upstream-closed')).toContain('502')
    expect(here.relay.size + there.relay.size).toBe(1)
  })
})

describe('an offer of another process', () => {
  it('meets a refusal when it came from another listener', async () => {
    const here = await side()
    await waiting(here)
    const [departure] = all(here.connections)
    const { record, fds } = departure!
    expect(() => movable(here.relay, 'other').check(record, fds)).toThrow(/"test", not to other/)
    expect(() => here.connections.check(record, [])).toThrow(/0 descriptors/)
    here.connections.arrive(departure!, 'refused')
  })

  it('goes on where its server is not configured; without a server it is refused', async () => {
    const silent = await silentServer()
    const [here, there] = [await side(), await side({ routeByName: () => undefined })]
    const peer = await waiting(here)
    arriveAll(there.connections, all(here.connections), 'moved')
    here.asked[0]!.peer.socket.write(OK)
    expect(await peer.gets(OK.length)).toBe(OK)
    expect(there.reports).toMatchObject([
      { target: '/x', host: 'a', status: 200, destination: here.server.key },
    ])

    const connecting = await side({ route: () => send(silent) })
    await (await connecting.client()).write(GET)
    await until(() => connecting.relay.counts().waiting === 1, 'it is connecting')
    // The connection may be there in a moment.
    let told = 0
    connecting.connections.onMovable = () => told++
    expect(all(connecting.connections)).toEqual([])
    await until(() => told > 0, 'it takes too long')
    const [departure] = all(connecting.connections)
    expect(departure!.fds).toHaveLength(1)
    expect(() => there.connections.check(departure!.record, departure!.fds)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_RELAYED_REFUSED' }),
    )
    arriveMoved(here.connections, departure!)
    await until(() => here.asked.length === 2, 'the request is sent from here')
  })

  it('takes what is left of its time along', async () => {
    const [here, there] = [
      await side({ timeouts: { response: 400 } }),
      await side({ timeouts: { response: 60_000 } }),
    ]
    // Before the request: its time may be running when `waiting` returns.
    const began = performance.now()
    const peer = await waiting(here)
    const asked = performance.now()
    await until(() => performance.now() - asked > 50, 'a part of the time is over')
    const departures = all(here.connections)
    const [left] = departures.map(({ record, fds }) => decodeRecord(record, fds.length).remainingMs)
    // The relay's clock may be a tick late.
    expect(left).toBeLessThan(375)
    arriveAll(there.connections, departures, 'moved')
    expect(await peer.sees('response-timeout')).toContain('504')
    expect(performance.now() - began).toBeGreaterThan(390)
  })
})

describe('a socket that is not plain', () => {
  it('does not count as movable, and stays', async () => {
    const here = await side()
    const stream = {
      owner: null,
      movable: false,
      alive: true,
      connecting: false,
      congested: false,
      unsentBytes: 0,
      remoteAddress: '',
      setReading() {},
      destroy() {},
    } as unknown as ByteStream
    here.relay.acceptStream(stream, { listener: 'test', scheme: 'http' })
    await here.client()
    await until(() => here.relay.size === 2, 'both are there')
    expect(here.connections.movable).toBe(1)
    closeAll(all(here.connections).flatMap(({ fds }) => fds))
    expect(here.relay.size).toBe(1)
    expect(here.connections.movable).toBe(0)
  })
})

describe('a process without a free descriptor', () => {
  it('keeps its connections, and lets them go when there is one again', async () => {
    const { file, env } = bundled('relay-few-descriptors.ts')
    const { stdout } = await promisify(execFile)('prlimit', ['--nofile=100:100', process.execPath, file], {
      env,
    })
    expect(JSON.parse(stdout)).toEqual({
      before: 1,
      without: 0,
      kept: 1,
      told: true,
      after: 1,
      answered: true,
    })
  })
})

describe('connections that leave', () => {
  it('continue in another process with the bytes that were read and not answered, byte for byte', async () => {
    const [here, there] = [await side(), await side()]
    const server = () => here.server.got + there.server.got
    const peer = await here.client()
    await peer.write('POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234')
    await until(() => server().endsWith('01234'), 'half of it is there')
    arriveAll(there.connections, all(here.connections), 'moved')
    await peer.write(`56789${GET}GET /third HT`)
    await until(() => here.asked.length === 1, 'the first is with the server')
    // Pipelined requests travel too.
    arriveAll(here.connections, all(there.connections), 'moved')
    here.asked[0]!.peer.socket.write(OK)
    await until(() => here.asked.length === 2, 'the second')
    arriveAll(there.connections, all(here.connections), 'moved')
    here.asked[1]!.peer.socket.write(OK)
    await peer.gets(OK.length * 2)
    await peer.write('TP/1.1\r\nHost: a\r\n\r\n')
    await until(() => there.asked.length === 1, 'the third')
    expect(there.asked[0]!.head.resource).toBe('/third')
    expect(here.asked.map(({ head, body }) => [head.resource, body])).toEqual([
      ['/p', '0123456789'],
      ['/x', ''],
    ])
  })

  it('send no FIN and no reset', async () => {
    const here = await side()
    const peer = await here.client()
    await until(() => here.relay.size === 1, 'it is there')
    const [departure] = all(here.connections)
    const socket = new net.Socket({ fd: departure!.fds[0]!.release() })
    socket.write('still ')
    // Behind whatever the old side may have sent.
    await peer.sees('still ')
    expect([peer.ended, peer.closed, peer.error]).toEqual([false, false, undefined])
    socket.end('bye')
    expect(await peer.all()).toBe('still bye')
  })
})
