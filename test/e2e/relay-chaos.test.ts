import { readdirSync, readlinkSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { reset } from '../../src/node/socket-handle.js'
import { type Relay, type RelayOptions, UpstreamPools } from '../../src/relay/index.js'
import { perLane } from '../lanes/lane.js'
import { KINDS } from './relay-kinds.js'
import { startMoving, startTravelling } from './relay-moving.js'
import { randomSizes } from './relay-splits.js'
import { type Peer, send, startWorld, turn, Upstream, until } from './relay-world.js'

/** Seeded numbers from 0 to below `n`. */
function dice(seed: number): (n: number) => number {
  let state = seed
  return n => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
}

const REPLIES = KINDS.flatMap(kind => kind.replies)

/** Ends a connection in one of the ways that there are, or leaves it. */
function ending(peer: Peer, way: number): void {
  if (way === 0) reset(peer.socket)
  else if (way === 1) peer.socket.destroy()
  else if (way === 2) peer.socket.end()
}

/** Sockets of this process. (Files come and go with the test runner.) */
const sockets = (): number =>
  readdirSync('/proc/self/fd').filter(fd => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:')
    } catch {
      return false
    }
  }).length

describe.each([
  ['resting', 3],
  ['moved all the time', 7],
  ['on their way between two relays all the time', 11],
])('%s', (_name, seed) => {
  it('whatever clients and servers do: nothing is left over, nothing throws', async () => {
    const roll = dice(seed)
    const upstream = await Upstream.start(async ({ peer }) => {
      const reply = REPLIES[roll(REPLIES.length)]!
      const cut = roll(4) === 0 ? reply.slice(0, roll(reply.length)) : reply
      await peer.write(cut, roll(2) === 0 ? randomSizes(roll(1e6)) : undefined)
      ending(peer, cut === reply ? roll(12) : roll(3))
    })
    upstream.keepAlive = { connections: 4096, idleMs: 200 }
    const before = sockets()
    const route = send(upstream)
    const options: Partial<RelayOptions> = {
      pools: new UpstreamPools({ tickMs: 10 }),
      routeByName: () => route,
      destinationByKey: () => upstream,
      timeouts: {
        stall: 300,
        response: 300,
        idle: 300,
        head: 300,
        tunnel: 300,
        linger: 100,
      },
    }
    const world = await startWorld(route, options)
    const other = await startWorld(route, options)
    const { relay } = world
    const moving =
      seed === 7 ? startMoving(relay) : seed === 11 ? startTravelling(relay, other.relay, seed) : undefined
    const client = async (): Promise<void> => {
      const peer = await world.client()
      const text = KINDS[roll(KINDS.length)]!.sends.repeat(1 + roll(3))
      const cut = roll(3) === 0 ? text.slice(0, roll(text.length)) : text
      await peer.write(cut, roll(3) > 0 ? randomSizes(roll(1e6)) : undefined)
      for (let turns = roll(10); turns > 0; turns--) await turn()
      ending(peer, roll(4))
    }
    for (let round = 0; round < perLane(6, 20); round++) await Promise.all(Array.from({ length: 20 }, client))
    const relays = [relay, other.relay]
    const none = (count: (of: Relay) => number) => relays.every(each => count(each) === 0)
    // None may be on its way: stopped first.
    await moving?.stop()
    await until(() => none(({ size }) => size), 'all client connections gone')
    await until(() => none(each => each.upstreamCounts().open), 'all server connections gone')
    expect([...world.faults, ...other.faults]).toEqual([])
    expect(none(each => each.heldBytes())).toBe(true)
    await world.close()
    await other.close()
    await upstream.shut()
    await until(() => sockets() < before, `no socket left (fewer than ${before})`)
  })
})
