import { createHash } from 'node:crypto'
import net from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import type { Relay } from '../../src/relay/index.js'
import { perLane } from '../lanes/lane.js'
import { startMoving } from './relay-moving.js'
import { send, startWorld, until, type World } from './relay-world.js'

const MEGABYTES = perLane(16, 50)
const SIZE = MEGABYTES * 1024 * 1024
/** The relay passes at most as many bytes in one call, and holds all of them if the receiver takes none. */
const MOST_HELD = 256 * 1024
const BLOCK = Buffer.alloc(1 << 20)
for (let i = 0; i < BLOCK.length; i++) BLOCK[i] = (i * 2654435761) >>> 13
const DIGEST = (() => {
  const hash = createHash('sha1')
  for (let i = 0; i < SIZE; i += BLOCK.length) hash.update(BLOCK)
  return hash.digest('hex')
})()

function pour(socket: net.Socket): void {
  let left = SIZE / BLOCK.length
  const more = (): void => {
    while (left > 0) {
      left--
      if (!socket.write(BLOCK)) break
    }
    if (left > 0) socket.once('drain', more)
  }
  more()
}

/** Reads, but stops again and again for a moment. */
class Sink {
  readonly hash = createHash('sha1')
  bytes = 0
  #head = false
  constructor(socket: net.Socket, stalls: boolean) {
    socket.on('error', () => {})
    socket.on('data', chunk => {
      let body = chunk
      if (!this.#head) {
        const end = chunk.indexOf('\r\n\r\n')
        body = chunk.subarray(end + 4)
        this.#head = true
      }
      this.bytes += body.length
      this.hash.update(body)
      if (!stalls || this.bytes % 64 > 2) return
      socket.pause()
      setTimeout(() => socket.resume(), 1)
    })
  }
}

/** The most that the relay has held at any look. */
function watch(relay: Relay): { most: number; stop(): void } {
  const seen = { most: 0, stop: () => clearInterval(timer) }
  const timer = setInterval(() => {
    seen.most = Math.max(seen.most, relay.heldBytes())
  }, 2)
  return seen
}

let world: World
let server: net.Server

async function start(serve: (socket: net.Socket) => void): Promise<World> {
  server = net.createServer(serve)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  const destination = { key: 'k', authority: 'a', address: { kind: 'tcp', host: '127.0.0.1', port } } as const
  const route = send(destination)
  world = await startWorld(route, { routeByName: () => route, destinationByKey: () => destination })
  return world
}

afterEach(async () => {
  await world.close()
  await new Promise(resolve => server.close(resolve))
})

describe.each([
  ['resting', false],
  ['moved at every turn', true],
])('%s', (_name, moved) => {
  it(`a download of ${MEGABYTES} MB to a client that stalls: every byte right, memory bounded`, async () => {
    const { client, relay } = await start(socket => {
      socket.on('error', () => {})
      socket.once('data', () => {
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${SIZE}\r\n\r\n`)
        pour(socket)
      })
    })
    const peer = await client()
    peer.socket.removeAllListeners('data')
    const sink = new Sink(peer.socket, true)
    const held = watch(relay)
    peer.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    const moving = moved ? startMoving(relay) : undefined
    await until(() => sink.bytes >= SIZE, 'all of it', 25_000).finally(() => {
      held.stop()
      void moving?.stop()
    })
    expect(sink.hash.digest('hex')).toBe(DIGEST)
    expect(held.most).toBeLessThanOrEqual(MOST_HELD)
    if (moving !== undefined) expect(moving.moves).toBeGreaterThan(20)
  })

  it(`an upload of ${MEGABYTES} MB to a server that stalls: every byte right, memory bounded`, async () => {
    let sink: Sink | undefined
    const { client, relay } = await start(socket => {
      sink = new Sink(socket, true)
    })
    const peer = await client()
    const held = watch(relay)
    peer.socket.write(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${SIZE}\r\n\r\n`)
    pour(peer.socket)
    const moving = moved ? startMoving(relay) : undefined
    await until(() => (sink?.bytes ?? 0) >= SIZE, 'all of it', 25_000).finally(() => {
      held.stop()
      void moving?.stop()
    })
    expect(sink!.hash.digest('hex')).toBe(DIGEST)
    expect(held.most).toBeLessThanOrEqual(MOST_HELD)
    peer.socket.destroy()
  })

  it(`a tunnel with ${MEGABYTES} MB both ways at once: every byte right`, async () => {
    let sink: Sink | undefined
    const { client, relay } = await start(socket => {
      socket.on('error', () => {})
      socket.once('data', () => {
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
        pour(socket)
        sink = new Sink(socket, false)
        socket.emit('data', Buffer.from('\r\n\r\n'))
      })
    })
    const peer = await client()
    peer.socket.removeAllListeners('data')
    const here = new Sink(peer.socket, true)
    peer.socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
    await until(() => here.bytes > 0, 'the switch')
    pour(peer.socket)
    const moving = moved ? startMoving(relay) : undefined
    await until(() => here.bytes >= SIZE && (sink?.bytes ?? 0) >= SIZE, 'all of it twice', 25_000).finally(
      () => moving?.stop(),
    )
    expect([here.hash.digest('hex'), sink!.hash.digest('hex')]).toEqual([DIGEST, DIGEST])
  })
})
