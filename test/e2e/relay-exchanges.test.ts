import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { UpstreamPools } from '../../src/relay/index.js'
import { KINDS, type Kind } from './relay-kinds.js'
import { startMoving, startTravelling } from './relay-moving.js'
import { ONES, randomSizes } from './relay-splits.js'
import { send, startWorld, Upstream, until, type World } from './relay-world.js'

let kind: Kind
let split: (() => Iterable<number>) | undefined
let upstream: Upstream
const pools = new UpstreamPools({ tickMs: 10 })
let world: World
/** Where connections may go on. */
let other: World

beforeAll(async () => {
  upstream = await Upstream.start(async ({ head, peer }) => {
    const index = Number(head.resource.slice(1).split('?')[0] || 0)
    const reply = kind.replies[index]!
    const ends = kind.replyEnds && (index === 0 || index === kind.replies.length - 1)
    peer.raw = reply.startsWith('HTTP/1.1 101') || head.method === 'CONNECT'
    await peer.write(reply, split?.())
    if (ends) peer.socket.end()
    if (peer.raw && peer.ended) peer.socket.end()
    else if (peer.raw) peer.socket.on('end', () => peer.socket.end())
  })
  const route = send(upstream)
  // So that the server sees all requests on one connection, in their order.
  const shared = {
    routeByName: () => route,
    destinationByKey: () => upstream,
    pools,
    halfClosedClients: 'serve',
  } as const
  world = await startWorld(route, shared)
  other = await startWorld(route, shared)
})

afterEach(() => expect([...world.faults, ...other.faults]).toEqual([]))

afterAll(async () => {
  await world.close()
  await other.close()
  pools.clear()
  await upstream.shut()
})

async function run(
  exchange: Kind,
  pieces?: () => Iterable<number>,
): Promise<{ client: string; upstream: string }> {
  kind = exchange
  split = pieces
  const before = upstream.got.length
  const client = await world.client()
  await client.write(kind.sends, pieces?.())
  if (kind.ends) client.socket.end()
  if (kind.closes) await client.all()
  else await client.gets(kind.clientGets.length)
  expect(client.ended).toBe(kind.closes)
  client.socket.end()
  await until(() => world.relay.size + other.relay.size === 0, 'the relays let go')
  return { client: client.got, upstream: upstream.got.slice(before) }
}

describe.each(KINDS)('$name', exchange => {
  const wanted = { client: exchange.clientGets, upstream: exchange.gets }

  it('in whole pieces', async () => {
    expect(await run(exchange)).toEqual(wanted)
  })

  it('in random pieces on both sides', async () => {
    for (let seed = 1; seed <= 4; seed++) {
      expect(await run(exchange, () => randomSizes(seed)), `seed ${seed}`).toEqual(wanted)
    }
  })

  it('in random pieces, moved to another relay at every turn', async () => {
    for (let seed = 1; seed <= 2; seed++) {
      const moving = startMoving(world.relay)
      const results = await run(exchange, () => randomSizes(seed)).finally(() => moving.stop())
      expect(results, `seed ${seed}`).toEqual(wanted)
      expect(moving.moves).toBeGreaterThan(3)
    }
  })

  it('in random pieces, on its way between two relays while bytes come, and back where it could not go', async () => {
    for (let seed = 1; seed <= 3; seed++) {
      const moving = startTravelling(world.relay, other.relay, seed)
      const results = await run(exchange, () => randomSizes(seed)).finally(() => moving.stop())
      expect(results, `seed ${seed}`).toEqual(wanted)
    }
  })
})

describe.each(KINDS.filter(({ clientGets }) => clientGets.length < 5_000))('$name', exchange => {
  const wanted = { client: exchange.clientGets, upstream: exchange.gets }

  it('byte by byte on both sides', async () => {
    expect(await run(exchange, () => ONES)).toEqual(wanted)
  })

  it('byte by byte, moved behind every byte', async () => {
    const moving = startMoving(world.relay)
    const results = await run(exchange, () => ONES).finally(() => moving.stop())
    expect(results).toEqual(wanted)
    expect(moving.moves).toBeGreaterThanOrEqual(exchange.sends.length)
  })
})
