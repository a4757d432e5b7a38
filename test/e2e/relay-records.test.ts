import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FdbError } from '../../src/errors.js'
import { closeAll, OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { Relay, type RelayedConnection, RelayedConnections, UpstreamPools } from '../../src/relay/index.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { type Peer, send, startWorld, Upstream, until } from './relay-world.js'

/** The client's bytes, the server's bytes, and the state of the connection then. */
const STATES = [
  ['idle', '', ''],
  ['head', 'GET /a HTTP/1.1\r\nHost: a\r\nX-Half', ''],
  ['waiting', 'GET /a?b HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\n', ''],
  ['request', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc', ''],
  ['request', 'PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nab', ''],
  ['waiting', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n', 'HTTP/1.1 200 OK\r\nX-'],
  ['response', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc'],
  [
    'response',
    'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTr',
  ],
  ['response', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n', 'HTTP/1.1 200 OK\r\n\r\nabc'],
  ['response', 'GET / HTTP/1.0\r\nHost: a\r\n\r\n', 'HTTP/1.1 200 OK\r\n\r\nabc'],
  [
    'events',
    'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n',
  ],
  [
    'webSocket',
    'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05abc',
  ],
  ['tunnel', 'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n', 'HTTP/1.1 200 OK\r\n\r\nabc'],
  ['closing', 'GET / HTTP/1.1\r\n\r\n', ''],
] as const

/** So that those without an answer say what becomes of it. */
const RULES = {
  fields: { response: { set: { 'X-A': 'b' }, remove: ['Server'] } },
  proxyAuthentication: true,
}

/** One connection in each state, as another process is told of it: the record, and how many descriptors come with it. */
const records: { name: string; record: Buffer; fds: number }[] = []
const route = { kind: 'upstream', name: 'test', pick: () => null } as const
let relay: Relay
let connections: RelayedConnections
const faults: unknown[] = []

beforeAll(async () => {
  for (const [state, sends, answers] of STATES) {
    const upstream = await Upstream.start(() => {})
    const world = await startWorld({ ...send(upstream), options: RULES })
    const peer: Peer = await world.client()
    await peer.write(sends)
    await until(() => world.relay.size === 1, 'it is there')
    if (answers !== '') {
      await until(
        () => upstream.peers.length === 1 && upstream.peers[0]!.got.includes('\r\n\r\n'),
        'the request',
      )
      await upstream.peers[0]!.write(answers)
    }
    await until(() => world.relay.counts()[state] === 1, state)
    const here = new RelayedConnections({
      listener: 'test',
      relays: () => [world.relay],
      relay: () => world.relay,
    })
    // Sent bytes may still be on their way.
    await new Promise(resolve => setTimeout(resolve, 20))
    const [departure] = [...here.departures('auto')]
    records.push({ name: state, record: Buffer.from(departure!.record), fds: departure!.fds.length })
    closeAll(departure!.fds)
    await world.close()
    await upstream.shut()
  }
  relay = new Relay({
    route: () => route,
    routeByName: () => route,
    onFault: error => faults.push(error),
    pools: new UpstreamPools(),
    tickMs: 10,
    timeouts: { idle: 50, head: 50, response: 50, stall: 50, tunnel: 50, linger: 20 },
  })
  connections = new RelayedConnections({ listener: 'test', relays: () => [relay], relay: () => relay })
})

afterAll(() => relay.close())

/** Returns null if the record was refused with an error that says why, otherwise the taken descriptors. */
function offer(record: Uint8Array, count: number): OwnedFd[] | null {
  const pairs = Array.from({ length: count }, () => native.socketPair())
  const near = pairs.map(([fd]) => OwnedFd.own(fd, 'near'))
  const far = pairs.map(([, fd]) => OwnedFd.own(fd, 'far'))
  let arrived: RelayedConnection
  try {
    arrived = connections.check(record, near)
  } catch (error) {
    closeAll([...near, ...far])
    if (!FdbError.is(error)) throw error
    return null
  }
  connections.arrive(arrived, 'moved')
  return far
}

/** The peers say something, and go. */
async function settle(taken: OwnedFd[]): Promise<void> {
  for (const fd of taken) {
    try {
      native.sendMessage(fd.raw, Buffer.from('\r\n\r\n0\r\n'), 0, 7, null)
    } catch {
      // The socket has been closed already.
    }
  }
  await new Promise(resolve => setImmediate(resolve))
  closeAll(taken)
}

async function nothingIsLeft(before: number): Promise<void> {
  await until(() => relay.size === 0 && relay.upstreamCounts().open === 0, 'all have ended')
  expect(faults).toEqual([])
  expect(native.openCount()).toBe(before)
}

describe('a record from another process', () => {
  it('as it was made is taken, in every state', async () => {
    const before = native.openCount()
    for (const { name, record, fds } of records) {
      const taken = offer(record, fds)
      expect(taken, name).not.toBeNull()
      await settle(taken!)
    }
    await nothingIsLeft(before)
  })

  it('with the wrong number of descriptors is refused', () => {
    for (const { name, record, fds } of records) {
      for (const count of [0, 1, 2, 3, 4]) {
        // A request that was not sent yet has a server, or none.
        const other = fds === 2 && count === 1 && ['waiting', 'request'].includes(name)
        if (count !== fds && !other) expect(offer(record, count), `${name} with ${count}`).toBeNull()
      }
    }
  })

  it('with descriptors that are no connections is refused', () => {
    const { record } = records[0]!
    const listening = OwnedFd.own(
      native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }),
      'l',
    )
    const file = OwnedFd.own(native.memfd('file'), 'file')
    const datagrams = OwnedFd.own(native.bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }), 'udp')
    for (const fd of [listening, file, datagrams]) {
      expect(() => connections.check(record, [fd]), fd.label).toThrow(/is not a stream socket/)
    }
    expect(() => connections.check(Buffer.from([0xff]), [listening])).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_RELAYED_RECORD' }),
    )
    closeAll([listening, file, datagrams])
  })

  it('with any one bit flipped is refused, or goes on to an end', async () => {
    const before = native.openCount()
    let refused = 0
    let at = 0
    for (const { record, fds } of records) {
      let taken: OwnedFd[] = []
      for (let bit = 0; bit < record.length * 8; bit += perLane(5, 1)) {
        const damaged = Buffer.from(record)
        damaged[bit >> 3]! ^= 1 << (bit & 7)
        const ends = offer(damaged, fds)
        if (ends === null) refused++
        else taken.push(...ends)
        if (++at % 64 === 0) {
          await settle(taken)
          taken = []
        }
      }
      await settle(taken)
    }
    expect(refused).toBeGreaterThan(at / 10)
    await nothingIsLeft(before)
  })

  it('with bytes changed, cut or inserted anywhere is refused, or goes on to an end', async () => {
    const before = native.openCount()
    const change = fc.record({
      which: fc.nat(STATES.length - 1),
      at: fc.nat(400),
      drop: fc.nat(4),
      insert: fc.uint8Array({ maxLength: 12 }),
      fds: fc.option(fc.integer({ min: 1, max: 2 }), { nil: undefined, freq: 4 }),
    })
    await fc.assert(
      fc.asyncProperty(change, async ({ which, at, drop, insert, fds }) => {
        const { record, fds: own } = records[which]!
        const from = at % (record.length + 1)
        const damaged = Buffer.concat([record.subarray(0, from), insert, record.subarray(from + drop)])
        await settle(offer(damaged, fds ?? own) ?? [])
      }),
      { seed: 5, numRuns: 3_000 },
    )
    await nothingIsLeft(before)
  })

  it('of a newer version, with fields that nobody knows here, is taken', async () => {
    const before = native.openCount()
    for (const { record, fds } of records) {
      // Field 500, five bytes.
      const newer = Buffer.concat([record, Buffer.from([0xa2, 0x1f, 5, 1, 2, 3, 4, 5])])
      const taken = offer(newer, fds)
      expect(taken).not.toBeNull()
      await settle(taken!)
    }
    await nothingIsLeft(before)
  })
})
