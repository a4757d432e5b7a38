import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { ackedBytes } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { descriptorOf } from '../../src/node/socket-handle.js'
import type { Forward, RelayOptions } from '../../src/relay/index.js'
import { type Reply, send, startWorld, turn, Upstream, until, type World } from './relay-world.js'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const LAST = 'GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
const POST = 'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody'

const open: { world?: World; upstreams: Upstream[]; fillers: net.Socket[]; fds: number[] } = {
  upstreams: [],
  fillers: [],
  fds: [],
}

async function upstream(reply: Reply): Promise<Upstream> {
  const server = await Upstream.start(reply)
  open.upstreams.push(server)
  return server
}

async function world(route: Forward, options: Partial<RelayOptions> = {}): Promise<World> {
  return (open.world = await startWorld(route, options))
}

const answering = (): Promise<Upstream> => upstream(({ peer }) => void peer.socket.write(OK))

async function dead(): Promise<Upstream> {
  const server = await Upstream.start(() => {})
  await server.shut()
  return server
}

afterEach(async () => {
  await open.world?.close()
  for (const server of open.upstreams.splice(0)) await server.shut()
  for (const filler of open.fillers.splice(0)) filler.destroy()
  native.closeMany(open.fds.splice(0))
})

describe('a server that cannot be reached', () => {
  it('loses its turn, and the next one gets the request once, body included', async () => {
    const good = await answering()
    const { ask, reports } = await world(send(await dead(), good))
    expect(await ask(POST + LAST)).toBe(`${OK}${OK.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')}`)
    expect(good.requests.map(({ head, body }) => head.method + body)).toEqual(['POSTbody', 'GET'])
    expect(reports.map(({ attempts, destination }) => [attempts, destination])).toEqual([
      [2, good.key],
      [2, good.key],
    ])
  })

  it('counts as failed in the balancer, and a server that answers as well', async () => {
    const bad = await dead()
    const good = await answering()
    const told: string[] = []
    const { ask } = await world(
      send(
        { ...bad, key: 'bad', failed: why => told.push(`bad ${why}`) },
        { ...good, key: 'good', address: good.address, opened: () => told.push('good opened') },
      ),
    )
    await ask(LAST)
    expect(told).toEqual(['bad connect-failed', 'good opened'])
  })

  it('makes a 502 with a reason when no other is left, and the connection goes on', async () => {
    const { ask, reports } = await world(send(await dead(), await dead()))
    const answers = await ask(GET + LAST)
    expect(answers.match(/HTTP\/1.1 502 Bad Gateway/g)).toHaveLength(2)
    expect(answers).toContain('\r\n\r\nconnect-failed\n')
    expect(reports[0]).toMatchObject({ status: 502, reason: 'connect-failed', attempts: 2 })
  })

  it('makes a 504 where it does not answer to a connection', async () => {
    const fd = native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 0 })
    open.fds.push(fd)
    const { port } = native.inspect([fd])[0]!
    for (let i = 0; i < 4; i++) {
      const filler = net.connect({ port: port!, host: '127.0.0.1' })
      filler.on('error', () => {})
      open.fillers.push(filler)
    }
    await until(() => open.fillers.some(filler => !filler.connecting), 'the queue is full')
    const silent = {
      key: 'silent',
      authority: 'a',
      address: { kind: 'tcp', host: '127.0.0.1', port: port! },
    } as const
    const { ask } = await world(send(silent), { timeouts: { connect: 60 } })
    expect(await ask(LAST)).toMatch(/^HTTP\/1.1 504 Gateway Timeout\r\n[\s\S]*\r\n\r\nconnect-timeout\n$/)
  })

  describe('because the queue of its Unix socket is full', () => {
    /** A queue that has its most, and what to do for it to have none. */
    async function full() {
      const path = join(mkdtempSync(join(tmpdir(), 'fdb-full-')), 'socket')
      onTestFinished(() => rmSync(dirname(path), { recursive: true }))
      const fd = native.bindSocket({ kind: 'unix', host: path, backlog: 1 })
      open.fds.push(fd)
      let refused = false
      while (!refused) {
        const filler = net.connect(path)
        open.fillers.push(filler)
        refused = await new Promise<boolean>(resolve => {
          filler.once('connect', () => resolve(false)).once('error', () => resolve(true))
        })
      }
      const answerAll = () => {
        for (let at = native.accept(fd); at >= 0; at = native.accept(fd)) {
          const socket = new net.Socket({ fd: at })
          open.fillers.push(socket)
          socket.on('error', () => {}).on('data', () => socket.write(OK))
        }
      }
      const address = { kind: 'unix', path } as const
      return { destination: { key: 'full', authority: 'a', address }, answerAll }
    }

    it('gets the connection as soon as it takes it', async () => {
      const { destination, answerAll } = await full()
      const { ask, relay, reports } = await world(send(destination))
      const asked = ask(LAST)
      await until(() => relay.upstreamCounts().open === 1, 'the relay connects')
      for (let n = 0; n < 5; n++) await turn()
      expect(relay.upstreamCounts().open).toBe(1)
      const draining = setInterval(answerAll, 1)
      expect(await asked).toMatch(/^HTTP\/1.1 200 OK/)
      clearInterval(draining)
      expect(reports[0]).toMatchObject({ status: 200, attempts: 1 })
    })

    it('makes a 504 when it takes none in time', async () => {
      const { destination } = await full()
      const { ask, relay } = await world(send(destination), { timeouts: { connect: 60 } })
      expect(await ask(LAST)).toMatch(/^HTTP\/1.1 504 [\s\S]*\r\n\r\nconnect-timeout\n$/)
      expect(relay.upstreamCounts().open).toBe(0)
    })
  })

  it('makes a 503 where the balancer names none', async () => {
    const { ask } = await world(send())
    expect(await ask(LAST)).toMatch(/^HTTP\/1.1 503 Service Unavailable\r\n[\s\S]*\r\n\r\nno-server\n$/)
  })

  it('makes a 503 where all have the most connections that they may have', async () => {
    const server = await upstream(() => {})
    server.connections = 1
    const { client, ask } = await world(send(server))
    const first = await client()
    await first.write(GET)
    await until(() => server.requests.length === 1, 'the first request')
    expect(await ask(LAST)).toMatch(/^HTTP\/1.1 503 [\s\S]*\r\n\r\nservers-full\n$/)
  })
})

describe('a server that goes away', () => {
  it('before it answers, and no other server: 502, and the request was sent once', async () => {
    const server = await upstream(({ peer }) => void peer.socket.destroy())
    const { ask } = await world(send(server))
    expect(await ask(LAST)).toMatch(/^HTTP\/1.1 502 [\s\S]*\r\n\r\nupstream-closed\n$/)
    expect(server.requests).toHaveLength(1)
  })

  it('before it answers: another server gets a GET', async () => {
    const server = await upstream(({ peer }) => void peer.socket.destroy())
    const { ask } = await world(send(server, await answering()))
    expect(await ask(LAST)).toMatch(/^HTTP\/1.1 200 OK/)
    expect(server.requests).toHaveLength(1)
  })

  const onceOnly: Reply = ({ peer }) => {
    if (peer.got.match(/ HTTP/g)!.length > 1) peer.socket.destroy()
    else peer.socket.write(OK)
  }

  it('on a connection used before: a GET is sent again on a fresh one', async () => {
    const server = await upstream(onceOnly)
    const { client, relay } = await world(send(server))
    const peer = await client()
    await peer.write(GET)
    await peer.gets(OK.length)
    await peer.write(GET)
    expect(await peer.gets(OK.length * 2)).toBe(OK + OK)
    expect(server.peers).toHaveLength(2)
    expect(relay.size).toBe(1)
  })

  it('on a connection used before: a GET that would switch is sent again, and what came early goes into the tunnel', async () => {
    const server = await upstream(seen => {
      const { peer, head } = seen
      if (head.upgrade === undefined || server.peers.length === 1) return onceOnly(seen)
      peer.raw = true
      peer.socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello')
    })
    const { client } = await world(send(server))
    const peer = await client()
    await peer.write(GET)
    await peer.gets(OK.length)
    await peer.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nearly')
    expect(await peer.sees('hello')).toContain('HTTP/1.1 101 ')
    expect(await server.peers[1]!.sees('early')).toMatch(/\r\n\r\nearly$/)
    expect(server.got.match(/GET/g)).toHaveLength(3)
  })

  it('on a connection used before: a POST is not repeated', async () => {
    const server = await upstream(onceOnly)
    const { client } = await world(send(server))
    const peer = await client()
    await peer.write(GET)
    await peer.gets(OK.length)
    await peer.write(POST)
    expect(await peer.sees('upstream-closed')).toContain('HTTP/1.1 502')
    expect(server.got.match(/POST/g)).toHaveLength(1)
  })

  it.each([
    ['ends', (socket: net.Socket) => void socket.destroy()],
    ['breaks', (socket: net.Socket) => void socket.resetAndDestroy()],
  ])(
    'and %s a connection used before just when a POST comes: it is sent over a fresh one',
    async (_name, leave) => {
      const server = await answering()
      const { client, reports } = await world(send(server))
      const peer = await client()
      await peer.write(GET)
      await peer.gets(OK.length)
      // The relay is told of both in one turn, and of the request first.
      peer.socket.write(POST)
      leave(server.peers[0]!.socket)
      expect(await peer.gets(OK.length * 2)).toBe(OK + OK)
      expect([server.peers.length, server.requests.map(({ head, body }) => head.method + body)]).toEqual([
        2,
        ['GET', 'POSTbody'],
      ])
      expect(reports[1]).toMatchObject({ status: 200, attempts: 1 })
    },
  )

  it('while its connection is unused: nobody notices', async () => {
    const server = await answering()
    const { client, relay } = await world(send(server))
    const peer = await client()
    await peer.write(POST)
    await peer.gets(OK.length)
    expect(relay.upstreamCounts()).toEqual({ open: 1, idle: 1 })
    server.peers[0]!.socket.destroy()
    await until(() => relay.upstreamCounts().open === 0, 'the pool lets go')
    await peer.write(POST)
    expect(await peer.gets(OK.length * 2)).toBe(OK + OK)
  })

  it.each([
    ['by length', 'Content-Length: 99\r\n', ''],
    ['in chunks', 'Transfer-Encoding: chunked\r\n', '5\r\n'],
  ])('within an answer %s: the client sees that it is cut', async (_name, field, size) => {
    const text = `HTTP/1.1 200 OK\r\n${field}\r\n${size}hello`
    const server = await upstream(({ peer }) => void peer.socket.end(text))
    const { client, reports } = await world(send(server))
    const peer = await client()
    await peer.write(GET)
    expect(await peer.all()).toBe(text)
    expect(reports[0]).toMatchObject({ status: 200, reason: 'upstream-closed' })
  })

  it('by reset within an answer until close: the last chunk is missing', async () => {
    const server = await upstream(({ peer }) => {
      peer.socket.write('HTTP/1.1 200 OK\r\n\r\nhello')
      void until(() => peerOf() !== '', 'the client has it').then(() => peer.socket.resetAndDestroy())
    })
    const { client } = await world(send(server))
    const peer = await client()
    const peerOf = (): string => peer.got
    await peer.write(GET)
    expect(await peer.all()).toBe('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n')
  })

  it('within an answer to HTTP/1.0 that ends with the connection: the client sees an error', async () => {
    const text = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\nhello'
    const server = await upstream(({ peer }) => {
      peer.socket.write(text)
      void until(() => asked.got.endsWith('hello'), 'the client has it').then(() => peer.socket.end())
    })
    const { client } = await world(send(server))
    const asked = await client()
    await asked.write('GET / HTTP/1.0\r\nHost: a\r\n\r\n')
    await until(() => asked.closed, 'the end')
    expect(asked.error).toBe('ECONNRESET')
  })

  it('within a tunnel: the client sees an error', async () => {
    const server = await upstream(({ peer }) => {
      peer.raw = true
      peer.socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
    })
    const { client } = await world(send(server))
    const peer = await client()
    await peer.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
    await peer.sees('\r\n\r\n')
    server.peers[0]!.socket.resetAndDestroy()
    await until(() => peer.closed, 'the end')
    expect(peer.error).toBe('ECONNRESET')
  })
})

describe('an answer that is none', () => {
  it.each([
    ['no HTTP', 'hello\r\n\r\n', 'status-line'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab', 'length-repeated'],
    [
      'a switch that nobody asked for',
      'HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n',
      'switch-unasked',
    ],
    ['a line feed alone', 'HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n', 'line-ending'],
  ])('%s: 502', async (_name, reply, reason) => {
    const server = await upstream(({ peer }) => void peer.socket.write(reply))
    const { ask, relay } = await world(send(server))
    const answer = await ask(LAST)
    expect(answer).toMatch(/^HTTP\/1.1 502 Bad Gateway\r\n/)
    expect(answer).toContain(`\r\n\r\n${reason}\n`)
    expect(relay.upstreamCounts().open).toBe(0)
  })

  it('bytes behind the answer are never taken for the next one', async () => {
    const server = await upstream(
      ({ peer }) => void peer.socket.write(`${OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil`),
    )
    const { ask } = await world(send(server))
    expect(await ask(GET + LAST)).not.toContain('evil')
    expect(server.peers).toHaveLength(2)
  })
})

describe('a client that goes away', () => {
  it.each([
    ['while the server thinks', GET],
    ['within its body', POST.slice(0, -2)],
  ])('%s: the server sees it', async (_name, text) => {
    const server = await upstream(() => {})
    const { client, relay, reports } = await world(send(server))
    const peer = await client()
    await peer.write(text)
    await until(() => server.got.includes('\r\n\r\n'), 'the request')
    peer.socket.resetAndDestroy()
    await until(() => server.peers[0]!.ended || server.peers[0]!.closed, 'the server sees the end')
    await until(() => relay.size === 0 && relay.upstreamCounts().open === 0, 'all let go')
    expect(reports).toMatchObject([{ status: 0, reason: 'client-gone' }])
  })

  it('with FIN within its body: the server gets no whole request', async () => {
    const server = await upstream(() => {})
    const { client } = await world(send(server))
    const peer = await client()
    await peer.write(POST.slice(0, -2))
    peer.socket.end()
    await until(() => server.peers[0]?.ended || server.peers[0]?.closed || false, 'the server sees the end')
    expect(server.requests).toHaveLength(0)
  })

  it('with FIN behind its request counts as gone where so configured', async () => {
    const server = await upstream(() => {})
    const { client, relay } = await world(send(server), { halfClosedClients: 'abort' })
    const peer = await client()
    await peer.write(GET)
    await until(() => server.requests.length === 1, 'the request')
    peer.socket.end()
    await until(() => relay.upstreamCounts().open === 0, 'the server is let go')
  })
})

describe('an answer before the whole request', () => {
  it('reaches a client that goes on sending, and ends the connection', async () => {
    const early = net.createServer(socket => {
      socket.on('error', () => {})
      socket.once('data', () => socket.end('HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig'))
    })
    await new Promise<void>(resolve => early.listen(0, '127.0.0.1', resolve))
    const { port } = early.address() as net.AddressInfo
    const { client } = await world(
      send({ key: 'early', authority: 'a', address: { kind: 'tcp', host: '127.0.0.1', port } }),
    )
    const peer = await client()
    await peer.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n')
    await peer.sees('big')
    await peer.write('x'.repeat(500_000))
    expect(await peer.all()).toBe(
      'HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig',
    )
    expect(peer.error).toBeUndefined()
    early.close()
  })

  it('reaches the client although its server has broken the connection, and what comes meanwhile cannot be sent', async () => {
    const sockets: net.Socket[] = []
    const early = net.createServer(socket => sockets.push(socket.on('error', () => {}).on('data', () => {})))
    await new Promise<void>(resolve => early.listen(0, '127.0.0.1', resolve))
    const { port } = early.address() as net.AddressInfo
    const { client, reports } = await world(
      send({ key: 'early', authority: 'a', address: { kind: 'tcp', host: '127.0.0.1', port } }),
    )
    const peer = await client()
    await peer.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n')
    await until(() => sockets.some(({ bytesRead }) => bytesRead > 0), 'the server has the head')
    // The relay is told of all this in one turn, and of the body first.
    peer.socket.write('12345')
    sockets[0]!.write('HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig')
    sockets[0]!.resetAndDestroy()
    expect(await peer.all()).toMatch(/^HTTP\/1.1 413 Too Large\r\n[\s\S]*\r\n\r\nbig$/)
    expect(reports).toMatchObject([{ status: 413, serverFailed: false }])
    early.close()
  })

  it.each([
    ['sends more of its body', 'x'],
    ['sends more than all buffers hold', 'x'.repeat(32 << 20)],
  ])(
    'comes whole to a client that reads late, %s, although its server has broken the connection',
    async (_name, more) => {
      const sockets: net.Socket[] = []
      const early = net.createServer(socket =>
        sockets.push(socket.on('error', () => {}).on('data', () => {})),
      )
      await new Promise<void>(resolve => early.listen(0, '127.0.0.1', resolve))
      const { port } = early.address() as net.AddressInfo
      const { client, relay, reports } = await world(
        send({ key: 'early', authority: 'a', address: { kind: 'tcp', host: '127.0.0.1', port } }),
      )
      const peer = await client()
      peer.socket.pause()
      await peer.write(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${64 << 20}\r\n\r\n`)
      await until(() => sockets.some(({ bytesRead }) => bytesRead > 0), 'the server has the head')
      const server = sockets[0]!
      server.pause()
      const sent = async (text: string): Promise<void> => {
        server.write(text)
        await until(
          () =>
            server.writableLength === 0 &&
            ackedBytes(descriptorOf(server)!, server.bytesWritten) === server.bytesWritten,
          'the relay has it in its buffer',
        )
      }
      await sent('HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n')
      const chunk = `8000\r\n${'.'.repeat(32_768)}\r\n`
      let chunks = 0
      for (; relay.heldBytes() === 0; chunks++) await sent(chunk)
      // The relay has stopped to read.
      for (let i = 0; i < 2; i++, chunks++) await sent(chunk)
      await sent('0\r\n\r\n')
      server.resetAndDestroy()
      peer.socket.write(more)
      await new Promise(resolve => setTimeout(resolve, 100))
      peer.socket.resume()
      const body = (await peer.all()).split('\r\n\r\n').slice(1).join('\r\n\r\n')
      expect(body === `${chunk.repeat(chunks)}0\r\n\r\n`).toBe(true)
      expect(reports).toMatchObject([{ status: 413, serverFailed: false }])
      early.close()
    },
  )

  it('may itself be long: both bodies flow at once', async () => {
    const server = net.createServer(socket => {
      socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n'))
      socket.on('data', chunk => {
        const end = chunk.indexOf('\r\n\r\n')
        socket.write(chunk.subarray(end < 0 ? 0 : end + 4))
      })
      socket.on('error', () => {})
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as net.AddressInfo
    const { client } = await world(
      send({ key: 'echo', authority: 'a', address: { kind: 'tcp', host: '127.0.0.1', port } }),
    )
    const peer = await client()
    await peer.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345')
    await peer.sees('12345')
    await peer.write('67890')
    expect(await peer.all()).toMatch(/Connection: close\r\n\r\n1234567890$/)
    server.close()
  })

  it('switches no protocol: the rest of the body would be the first bytes of the tunnel', async () => {
    const server = await upstream(() => {})
    const { client, reports } = await world(send(server))
    const peer = await client()
    const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 10\r\n\r\n'
    await peer.write(`POST /x HTTP/1.1\r\nHost: a\r\n${upgrade}12345`)
    await until(() => server.peers[0]?.got.endsWith('12345') === true, 'the server has the beginning')
    server.peers[0]!.socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    )
    expect(await peer.all()).toMatch(/^HTTP\/1\.1 502 [\s\S]*Connection: close\r\n[\s\S]*switched-too-early/)
    expect(reports).toMatchObject([{ status: 502, reason: 'switched-too-early' }])
    await until(() => server.peers[0]!.closed, 'the server is let go')
  })
})
