import { afterEach, describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { startMoving } from './relay-moving.js'
import { type Peer, send, startWorld, Upstream, until, type World } from './relay-world.js'

const CLIENTS = perLane(100, 1_500)
const ASK = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
const ANSWER = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

interface Resting {
  server: Upstream
  world: World
  peers: Peer[]
}

/** Clients that have had one answer each. */
async function resting(): Promise<Resting> {
  const server = await Upstream.start(({ peer }) => void peer.socket.write(ANSWER))
  const route = send(server)
  server.keepAlive = { connections: CLIENTS, idleMs: 30_000 }
  const world = await startWorld(route, {
    routeByName: () => route,
    destinationByKey: () => server,
  })
  ends.push(
    () => server.shut(),
    () => world.close(),
  )
  const peers: Peer[] = []
  while (peers.length < CLIENTS) {
    const some = await Promise.all(Array.from({ length: 100 }, () => world.client()))
    peers.push(...some)
  }
  const all = { server, world, peers }
  await allAnswered(all, 1)
  expect(world.relay.counts()).toMatchObject({ idle: CLIENTS, closing: 0 })
  return all
}

/** All ask before anything of it is read, and all are answered. */
async function allAnswered({ server, world, peers }: Resting, times: number): Promise<void> {
  for (const { socket } of peers) socket.write(ASK)
  const length = times * ANSWER.length
  await until(() => peers.every(({ got }) => got.length >= length), `all are answered ${times} times`, 20_000)
  const others = peers.filter(({ got }) => got !== ANSWER.repeat(times)).map(({ got }) => got)
  const failed = world.reports.filter(({ reason }) => reason !== undefined)
  expect({ others, failed, troubled: server.troubled }).toEqual({ others: [], failed: [], troubled: [] })
}

describe('many idle clients', () => {
  it('all get answers when all ask at once', async () => {
    const all = await resting()
    await allAnswered(all, 2)
    await allAnswered(all, 3)
    expect(all.world.relay.size).toBe(CLIENTS)
  })

  it('all get answers when they ask while they move', async () => {
    const all = await resting()
    const moving = startMoving(all.world.relay)
    await allAnswered(all, 2)
    await allAnswered(all, 3)
    await moving.stop()
    expect(all.world.relay.size).toBe(CLIENTS)
  })

  it('all close here when all leave at once, however they leave', async () => {
    const { world, peers } = await resting()
    for (const [i, { socket }] of peers.entries()) {
      if (i % 2 === 0) socket.resetAndDestroy()
      else socket.destroy()
    }
    await until(() => world.relay.size === 0, 'nobody is left')
  })
})
