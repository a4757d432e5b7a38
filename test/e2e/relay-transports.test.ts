import { fstatSync, mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { afterEach, describe, expect, it } from 'vitest'
import { type ByteStream, Relay, SocketStream, UpstreamPools } from '../../src/relay/index.js'
import { CERTIFICATE, KEY } from './relay-certificate.js'
import { movable, move } from './relay-moving.js'
import { Peer, type Reply, send, Upstream, until } from './relay-world.js'

const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const BIG = 'x'.repeat(300_000)
const ANSWER = `HTTP/1.1 200 OK\r\nContent-Length: ${BIG.length}\r\n\r\n${BIG}`
const answer: Reply = ({ peer }) => void peer.socket.write(ANSWER)

const ends: (() => unknown)[] = []

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

async function listening<S extends net.Server>(server: S, path: string | 0): Promise<S> {
  await new Promise<void>(resolve =>
    path === 0 ? server.listen(0, '127.0.0.1', resolve) : server.listen(path, resolve),
  )
  ends.push(() => server.close())
  return server
}

const pools = new UpstreamPools()

function started(relay: Relay): Relay {
  ends.push(() => {
    relay.close()
    pools.clear()
  })
  return relay
}

async function upstream(): Promise<Upstream> {
  const server = await Upstream.start(answer)
  ends.push(() => server.shut())
  return server
}

const origin = (scheme: 'http' | 'https') => ({ listener: 'l', scheme })

describe('Unix sockets on both sides', () => {
  it('carry requests, also while they are moved', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'relay-'))
    ends.push(() => rmSync(folder, { recursive: true }))
    const paths = { front: join(folder, 'f'), back: join(folder, 'b') }
    const got: string[] = []
    await listening(
      net.createServer(socket =>
        socket.on('data', chunk => {
          got.push(chunk.toString('latin1'))
          socket.write(ANSWER)
        }),
      ),
      paths.back,
    )
    const destination = { key: 'u', authority: 'a', address: { kind: 'unix', path: paths.back } } as const
    const route = send(destination)
    const relay = started(
      new Relay({ pools, route: () => route, routeByName: () => route, destinationByKey: () => destination }),
    )
    await listening(
      net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, socket =>
        relay.accept(socket, origin('http')),
      ),
      paths.front,
    )
    const peer = new Peer(net.connect(paths.front))
    await peer.write(GET)
    await until(() => got.length === 1, 'the request')
    const connections = movable(relay, 'l')
    expect(move(connections, connections)).toBe(1)
    expect(await peer.gets(ANSWER.length)).toBe(ANSWER)
    expect(got[0]).toContain('X-Forwarded-For: unknown\r\n')
    peer.socket.destroy()
  })
})

describe('a TLS client', () => {
  it('gets answers like any other, and the server learns that it uses TLS', async () => {
    const server = await upstream()
    const relay = started(new Relay({ pools, route: () => send(server) }))
    const front = await listening(
      tls.createServer({ key: KEY, cert: CERTIFICATE, allowHalfOpen: true }, socket =>
        relay.accept(socket, origin('https')),
      ),
      0,
    )
    const { port } = front.address() as net.AddressInfo
    const peer = new Peer(tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false }))
    await peer.write(GET + GET)
    expect(await peer.gets(ANSWER.length * 2)).toBe(ANSWER + ANSWER)
    expect(server.got).toContain('X-Forwarded-Proto: https\r\n')
    peer.socket.destroy()
    await until(() => relay.size === 0, 'it is let go')
  })

  it('harms no other when it goes away in the middle, or is closed here', async () => {
    const server = await upstream()
    const relay = started(new Relay({ pools, route: () => send(server) }))
    const front = await listening(
      tls.createServer({ key: KEY, cert: CERTIFICATE }, socket => relay.accept(socket, origin('https'))),
      0,
    )
    const { port } = front.address() as net.AddressInfo
    const connect = (): Peer => new Peer(tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false }))
    const [first, second] = [connect(), connect()]
    await first.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc')
    await second.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc')
    await until(() => relay.counts().request === 2, 'both are under way')
    first.socket.destroy()
    await until(() => relay.size === 1, 'the first is gone')
    relay.close()
    await until(() => second.closed, 'the second is gone')
  })
})

describe('a stream that is reset', () => {
  it.each([
    ['while nothing is under way', () => {}],
    ['right behind its FIN', (stream: ByteStream) => stream.end()],
    [
      'with much unsent, and FIN behind it',
      (stream: ByteStream) => {
        for (let n = 0; n < 100; n++) stream.write(Buffer.alloc(64 * 1024))
        stream.end()
      },
    ],
  ])('gives its descriptor back: %s', async (_name, before) => {
    const accepted: net.Socket[] = []
    const front = await listening(
      net.createServer({ allowHalfOpen: true }, socket => accepted.push(socket)),
      0,
    )
    const peer = new Peer(net.connect({ port: (front.address() as net.AddressInfo).port, host: '127.0.0.1' }))
    await until(() => accepted.length === 1, 'it is accepted')
    const tally = { open: 0 }
    const nobody = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }
    const stream = new SocketStream(accepted[0]!, nobody, tally)
    const { descriptor } = stream
    const inode = fstatSync(descriptor).ino
    before(stream)
    stream.reset()
    const open = () => {
      try {
        return fstatSync(descriptor).ino === inode
      } catch {
        return false
      }
    }
    await until(() => !open() && peer.closed, 'both are closed')
    expect(tally.open).toBe(0)
  })
})

describe('a socket of a server without pauseOnConnect', () => {
  it('serves too', async () => {
    const server = await upstream()
    const relay = started(new Relay({ pools, route: () => send(server) }))
    const front = await listening(
      net.createServer(socket => relay.accept(socket, origin('http'))),
      0,
    )
    const { port } = front.address() as net.AddressInfo
    const peer = new Peer(net.connect({ port, host: '127.0.0.1' }))
    await peer.write(GET)
    expect(await peer.gets(ANSWER.length)).toBe(ANSWER)
    peer.socket.destroy()
  })
})
