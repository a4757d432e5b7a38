import { afterEach, describe, expect, it } from 'vitest'
import { type Destination, type KeepAlive, UpstreamPools } from '../../src/relay/index.js'
import { type Peer, send, startWorld, turn, Upstream, until, type World } from './relay-world.js'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const LONG = 60_000

const open: { worlds: World[]; servers: Upstream[]; pools: UpstreamPools[] } = {
  worlds: [],
  servers: [],
  pools: [],
}

/** Answers when so many requests have come, the first time; then each. */
async function answering(together = 1): Promise<Upstream> {
  const waiting: Peer[] = []
  const server = await Upstream.start(({ peer }) => {
    waiting.push(peer)
    if (server.requests.length < together) return
    for (const each of waiting.splice(0)) each.socket.write(OK)
  })
  open.servers.push(server)
  return server
}

function pools(): UpstreamPools {
  const made = new UpstreamPools({ tickMs: 5 })
  open.pools.push(made)
  return made
}

async function world(destination: Destination, shared?: UpstreamPools): Promise<World> {
  const made = await startWorld(send(destination), shared && { pools: shared })
  open.worlds.push(made)
  return made
}

const kept = ({ key, authority, address }: Upstream, keepAlive: KeepAlive): Destination => ({
  key,
  authority,
  address,
  keepAlive,
})

/** Requests of so many clients at the same time, all answered. */
async function asks({ client }: World, count = 1): Promise<void> {
  const peers = await Promise.all(Array.from({ length: count }, client))
  for (const peer of peers) await peer.write(GET)
  for (const peer of peers) expect(await peer.gets(OK.length)).toBe(OK)
}

afterEach(async () => {
  for (const made of open.worlds.splice(0)) {
    expect(made.faults).toEqual([])
    await made.close()
  }
  for (const made of open.pools.splice(0)) made.clear()
  for (const server of open.servers.splice(0)) await server.shut()
})

describe('connections kept open to a server', () => {
  it('number as many as their destination says', async () => {
    const server = await answering(5)
    const made = await world(kept(server, { connections: 2, idleMs: LONG }))
    await asks(made, 5)
    expect(server.peers.length).toBe(5)
    expect(made.relay.upstreamCounts()).toEqual({ open: 2, idle: 2 })
  })

  it('number none where it says 0: each request has its own', async () => {
    const server = await answering()
    const made = await world(kept(server, { connections: 0, idleMs: LONG }))
    for (let n = 1; n <= 3; n++) {
      await asks(made)
      expect(made.relay.upstreamCounts()).toEqual({ open: 0, idle: 0 })
    }
    expect(server.peers.length).toBe(3)
  })

  it('close after its time, each server after its own', async () => {
    const [brief, long] = [await answering(), await answering()]
    const shared = pools()
    await asks(await world(kept(long, { connections: 8, idleMs: LONG }), shared))
    await asks(await world(kept(brief, { connections: 8, idleMs: 30 }), shared))
    expect(shared.idle).toBe(2)
    await until(() => shared.idle === 1, 'one is closed')
    await until(() => brief.peers[0]!.closed, 'the server sees it')
    expect(long.peers[0]!.ended).toBe(false)
  })

  it('close in their own time where two destinations of a server differ', async () => {
    const server = await answering(2)
    const shared = pools()
    const [long, brief] = [
      await world(kept(server, { connections: 8, idleMs: LONG }), shared),
      await world(kept(server, { connections: 8, idleMs: 30 }), shared),
    ]
    await asks(long, 2)
    await asks(brief)
    // Two; or three, where the two had been unused for longer than the second destination takes them.
    const opened = server.peers.length
    await until(() => shared.idle === opened - 1, 'the one used last is closed')
    await turn()
    expect(shared.open).toBe(opened - 1)
    expect(opened).toBeLessThanOrEqual(3)
  })

  it('serve no destination for which they have been unused too long', async () => {
    const server = await answering()
    const shared = pools()
    await asks(await world(kept(server, { connections: 8, idleMs: LONG }), shared))
    const began = performance.now()
    await until(() => performance.now() - began > 20, 'it gets old')
    await asks(await world(kept(server, { connections: 8, idleMs: 15 }), shared))
    expect(server.peers.length).toBe(2)
    await asks(await world(kept(server, { connections: 8, idleMs: LONG }), shared))
    expect(server.peers.length).toBe(2)
  })

  it('close at their age, however much they are used', async () => {
    const server = await answering()
    const made = await world(kept(server, { connections: 8, idleMs: LONG, ageMs: 50 }))
    const began = performance.now()
    while (server.peers.length < 2) await asks(made)
    expect(performance.now() - began).toBeGreaterThanOrEqual(50)
    await until(() => server.peers[0]!.closed, 'the old one is closed')
  })

  it('close when their server is gone, used ones at the end of their request', async () => {
    const [gone, stays] = [await answering(), await answering()]
    const waiting: Peer[] = []
    const busy = await Upstream.start(({ peer }) => void waiting.push(peer))
    open.servers.push(busy)
    const shared = pools()
    const keepAlive = { connections: 8, idleMs: LONG }
    await asks(await world(kept(gone, keepAlive), shared))
    await asks(await world(kept(stays, keepAlive), shared))
    const peer = await (await world(kept(busy, keepAlive), shared)).client()
    await peer.write(GET)
    await until(() => waiting.length === 1, 'the request is under way')
    expect([shared.size, shared.idle, shared.open]).toEqual([3, 2, 3])
    shared.retire(key => key !== stays.key)
    expect([shared.size, shared.idle, shared.open]).toEqual([2, 1, 2])
    waiting[0]!.socket.write(OK)
    expect(await peer.gets(OK.length)).toBe(OK)
    expect([shared.size, shared.idle, shared.open]).toEqual([1, 1, 1])
    await asks(await world(kept(gone, keepAlive), shared))
    expect([shared.size, shared.idle]).toEqual([2, 2])
  })

  it('make room for a new one where a server has its most, if they may not be used', async () => {
    const server = await answering(2)
    const shared = pools()
    await asks(await world(kept(server, { connections: 8, idleMs: LONG }), shared), 2)
    expect(shared).toMatchObject({ open: 2, idle: 2 })
    const last = { ...kept(server, { connections: 0, idleMs: LONG }), connections: 2 }
    const { client } = await world(last, shared)
    const peer = await client()
    await peer.write(GET)
    expect(await peer.gets(OK.length)).toBe(OK)
    expect(server.peers.length).toBe(3)
    expect(shared).toMatchObject({ open: 1, idle: 1 })
    await until(() => server.peers[0]!.closed, 'the one used first is closed')
  })

  it('exclude one on which a request was not sent whole, however early its answer came', async () => {
    const server = await answering()
    const { relay, client } = await world(kept(server, { connections: 8, idleMs: LONG }))
    const [poster, other] = [await client(), await client()]
    await poster.write('POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbegun')
    await until(() => server.peers[0]?.got.endsWith('begun') === true, 'the server has the beginning')
    // The proxy goes on reading: later bytes are the rest of the body to it.
    server.peers[0]!.socket.write(OK)
    expect(await poster.sees('ok')).toMatch(/^HTTP\/1\.1 200 /)
    expect(relay.upstreamCounts()).toEqual({ open: 0, idle: 0 })
    await other.write(GET)
    expect(await other.gets(OK.length)).toBe(OK)
    expect(server.peers.map(({ got }) => got.includes('GET /x'))).toEqual([false, true])
  })

  it('exclude one on which unexpected bytes arrive, together with the next request', async () => {
    const server = await answering()
    const { client, faults } = await world(kept(server, { connections: 8, idleMs: LONG }))
    for (let n = 0; n < 8; n++) {
      const peer = await client()
      await peer.write(GET)
      expect(await peer.gets(OK.length)).toBe(OK)
      const opened = server.peers.length
      // Both have arrived before the event loop looks: it hears of the request first.
      peer.socket.write(GET)
      server.peers.at(-1)!.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nNO')
      expect(await peer.gets(2 * OK.length)).toBe(OK + OK)
      expect(server.peers.length).toBe(opened + 1)
    }
    expect(faults).toEqual([])
  })

  it('serve all relays that share them, and outlive each', async () => {
    const server = await answering()
    const shared = pools()
    const [one, two] = [await world(server, shared), await world(server, shared)]
    await asks(one)
    one.relay.close()
    expect(shared.idle).toBe(1)
    await asks(two)
    expect(server.peers.length).toBe(1)
    shared.clear()
    await until(() => server.peers[0]!.closed, 'it is closed')
    expect(shared.open).toBe(0)
  })
})
