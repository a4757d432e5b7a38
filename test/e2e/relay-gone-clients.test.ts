import { afterEach, describe, expect, it } from 'vitest'
import type { RelayOptions } from '../../src/relay/index.js'
import { type Peer, type Reply, send, startWorld, Upstream, until, type World } from './relay-world.js'

const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
/** Every timeout of the relay is many times as long. */
const SOON_MS = 2_000

let server: Upstream
let world: World

async function start(reply: Reply, options: Partial<RelayOptions> = {}): Promise<World> {
  server = await Upstream.start(reply)
  world = await startWorld(send(server), options)
  return world
}

afterEach(async () => {
  expect(world.faults).toEqual([])
  await world.close()
  await server.shut()
})

const silence: Reply = () => {}
const closes = (peer: Peer) => peer.socket.destroy()
const resets = (peer: Peer) => peer.socket.resetAndDestroy()
const LEAVING: [how: string, leave: (peer: Peer) => void][] = [
  ['closes', closes],
  ['resets', resets],
]

async function serverNotices(): Promise<void> {
  await until(() => server.peers[0]!.closed || server.peers[0]!.ended, 'the server hears of it', SOON_MS)
  await until(() => world.relay.size === 0, 'nothing is left', SOON_MS)
  expect(world.reports).toMatchObject([{ reason: 'client-gone', serverFailed: false }])
}

describe.each(LEAVING)('a client that %s', (_how, leave) => {
  it('while it waits for an answer is noticed by the server behind', async () => {
    const { client } = await start(silence)
    const peer = await client()
    await peer.write(GET)
    await until(() => server.requests.length === 1, 'the request')
    leave(peer)
    await serverNotices()
  })

  it('in the middle of an answer', async () => {
    const { client } = await start(
      ({ peer }) => void peer.socket.write(`${OK.replace('Length: 2', 'Length: 9')}`),
    )
    const peer = await client()
    await peer.write(GET)
    await peer.sees('ok')
    leave(peer)
    await serverNotices()
  })

  it('behind requests that it sent far ahead', async () => {
    const { client, relay } = await start(silence)
    const peer = await client()
    await peer.write(GET + GET.repeat(2000))
    await until(() => server.requests.length === 1 && relay.heldBytes() > 16 * 1024, 'it is not read')
    leave(peer)
    await serverNotices()
  })
})

describe('a client that resets', () => {
  it('ends the exchange while the server takes nothing of its upload', async () => {
    const { client, relay } = await start(silence)
    const peer = await client()
    await peer.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n')
    await until(() => server.peers.length === 1, 'the connection to the server')
    server.peers[0]!.socket.pause()
    const flood = setInterval(() => {
      if (peer.socket.writableLength < 1 << 20) peer.socket.write(Buffer.alloc(1 << 18))
    }, 1)
    let before = -1
    // Nothing moves any more.
    await until(() => {
      const now = peer.socket.bytesWritten - peer.socket.writableLength
      const still = now === before && relay.heldBytes() > 0 && peer.socket.writableLength >= 1 << 20
      before = now
      return still
    }, 'everybody is full')
    clearInterval(flood)
    resets(peer)
    await until(() => relay.size === 0, 'the relay hears of it', SOON_MS)
    server.peers[0]!.socket.resume()
    await serverNotices()
  })
})

describe('a client that ends its direction and goes on reading', () => {
  const later: Reply = ({ peer }) => void setTimeout(() => peer.socket.write(OK), 50)

  it('counts as gone', async () => {
    const { client } = await start(silence)
    const peer = await client()
    await peer.write(GET)
    peer.socket.end()
    await until(() => peer.closed, 'it is closed')
    expect(peer.got).toBe('')
    await serverNotices()
  })

  it('gets its answers where that is configured, also behind requests that it sent far ahead', async () => {
    const { client, reports } = await start(later, { halfClosedClients: 'serve' })
    const one = await client()
    await one.write(GET)
    one.socket.end()
    expect(await one.all()).toContain('\r\n\r\nok')
    const many = await client()
    await many.write(GET + GET.repeat(800))
    many.socket.end()
    await until(() => reports.length > 5, 'some answers')
    expect(many.closed).toBe(false)
    closes(many)
  })
})
