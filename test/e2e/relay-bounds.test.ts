import { once } from 'node:events'
import net from 'node:net'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import type { Decision, Forward, RelayOptions } from '../../src/relay/index.js'
import { NIGHTLY } from '../lanes/lane.js'
import { startMoving } from './relay-moving.js'
import { lateReader, type Reply, send, startWorld, Upstream, until, type World } from './relay-world.js'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const GET = 'GET /x HTTP/1.1\r\nHost: a\r\n\r\n'
const POST_HEAD = 'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n'
const UPGRADE = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'
const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'

let server: Upstream
let world: World

async function start(reply: Reply, options: Partial<RelayOptions> = {}): Promise<World> {
  server = await Upstream.start(reply)
  world = await startWorld(send(server), options)
  return world
}

const answer: Reply = ({ peer }) => void peer.socket.write(OK)
const silence: Reply = () => {}
/** More than kernels take. */
const LONG = (): Decision => ({ kind: 'respond', status: 200, body: 'x'.repeat(32 * 1024 * 1024) })

afterEach(async () => {
  expect(world.faults).toEqual([])
  await world.close()
  await server.shut()
})

describe('timeouts', () => {
  it('an idle connection is ended without an answer', async () => {
    const { client } = await start(answer, { timeouts: { idle: 40 } })
    const peer = await client()
    await peer.write(GET)
    expect(await peer.all()).toBe(OK)
    expect(peer.error).toBeUndefined()
  })

  it('a head that does not end: 408, however often bytes come', async () => {
    const { client } = await start(answer, { timeouts: { head: 60 } })
    const peer = await client()
    await peer.write('GET / HTTP/1.1\r\nX: ')
    const drip = setInterval(() => peer.socket.write('x'), 5)
    expect(await peer.all()).toMatch(/^HTTP\/1.1 408 Request Timeout\r\n[\s\S]*\r\n\r\nhead-timeout\n$/)
    clearInterval(drip)
  })

  it('goes on with what was left while the connection moves', async () => {
    const { client, relay } = await start(answer, { timeouts: { head: 60 } })
    const peer = await client()
    await peer.write('GET / HT')
    await until(() => relay.counts().head === 1, 'part of a head')
    const moving = startMoving(relay)
    expect(await peer.all()).toMatch(/\r\n\r\nhead-timeout\n$/)
    await moving.stop()
    expect(moving.moves).toBeGreaterThan(3)
  })

  it('a body that does not come: 408, and the server sees the request end short', async () => {
    const { client } = await start(answer, { timeouts: { stall: 40 } })
    const peer = await client()
    await peer.write(`${POST_HEAD}bo`)
    expect(await peer.all()).toMatch(/^HTTP\/1.1 408 [\s\S]*\r\n\r\nbody-timeout\n$/)
    expect(server.requests).toHaveLength(0)
  })

  it('a server that does not answer: 504, and its connection is not used again', async () => {
    const { client, relay } = await start(silence, { timeouts: { response: 40 } })
    const peer = await client()
    await peer.write(GET)
    expect(await peer.sees('response-timeout')).toMatch(/^HTTP\/1.1 504 Gateway Timeout\r\n/)
    expect(relay.upstreamCounts().open).toBe(0)
    expect(relay.counts().idle).toBe(1)
  })

  it('a server that does not end the head of its answer: 504, however often bytes come', async () => {
    let drip: NodeJS.Timeout | undefined
    const { client } = await start(
      ({ peer }) => {
        peer.socket.write('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: ')
        drip = setInterval(() => peer.socket.write('x'), 5)
      },
      { timeouts: { response: 60 } },
    )
    const peer = await client()
    await peer.write(GET)
    expect(await peer.sees('response-timeout')).toContain('HTTP/1.1 504 Gateway Timeout')
    clearInterval(drip)
  })

  it('a server that sends interim answers: the time begins again with each, and ends after the last', async () => {
    // Longer than this process is stopped on a busy machine: what came meanwhile is read behind the timers.
    const response = 800
    const { client } = await start(
      async ({ peer, head }) => {
        const began = performance.now()
        while (performance.now() - began < 1.5 * response) {
          peer.socket.write('HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n')
          await new Promise(resolve => setTimeout(resolve, 20))
        }
        if (head.target === '/x') peer.socket.write(OK)
      },
      { timeouts: { response } },
    )
    const [answered, left] = [await client(), await client()]
    await Promise.all([answered.write(GET), left.write(GET.replace('/x', '/left'))])
    expect(await answered.sees('ok')).toMatch(
      /^(HTTP\/1.1 103 Early Hints\r\nLink: <\/a>\r\n\r\n)+HTTP\/1.1 200 /,
    )
    expect(await left.sees('response-timeout')).toContain('HTTP/1.1 504 Gateway Timeout')
  })

  it('a route may have its own', async () => {
    server = await Upstream.start(silence)
    const route: Forward = { ...send(server), options: { responseTimeout: 40 } }
    world = await startWorld(route)
    const peer = await world.client()
    await peer.write(GET)
    expect(await peer.sees('response-timeout')).toContain('504')
  })

  it('an answer that stalls is cut', async () => {
    const { client } = await start(({ peer }) => void peer.socket.write(OK.slice(0, -1)), {
      timeouts: { stall: 40 },
    })
    const peer = await client()
    await peer.write(GET)
    expect(await peer.all()).toBe(OK.slice(0, -1))
  })

  it('a tunnel in which nothing moves is cut, one in which something does is not', async () => {
    const { client, relay } = await start(
      ({ peer }) => {
        peer.raw = true
        peer.socket.write(SWITCH)
      },
      // Longer than this process is stopped on a busy machine: what came meanwhile is read behind the timers.
      { timeouts: { tunnel: 500 } },
    )
    const quiet = await client()
    const busy = await client()
    await quiet.write(UPGRADE)
    await busy.write(UPGRADE)
    const drip = setInterval(() => busy.socket.write('x'), 10)
    await until(() => quiet.closed, 'the quiet one is cut')
    expect(relay.counts().tunnel).toBe(1)
    expect(busy.closed).toBe(false)
    clearInterval(drip)
  })

  it('a whole request whose body comes slowly: 408, however often bytes come', async () => {
    const { client, reports } = await start(answer, { timeouts: { request: 80 } })
    const peer = await client()
    await peer.write(POST_HEAD.replace('4', '100000'))
    const drip = setInterval(() => peer.socket.write('x'), 5)
    expect(await peer.all()).toMatch(/^HTTP\/1.1 408 [\s\S]*\r\n\r\nrequest-timeout\n$/)
    clearInterval(drip)
    expect(reports[0]).toMatchObject({ status: 408, reason: 'request-timeout' })
  })

  it('a whole request that the server does not answer: 504, and the connection goes on', async () => {
    const { client, relay } = await start(silence, { timeouts: { request: 60 } })
    const peer = await client()
    const began = performance.now()
    await peer.write(GET)
    expect(await peer.sees('request-timeout')).toMatch(/^HTTP\/1.1 504 Gateway Timeout\r\n/)
    expect(performance.now() - began).toBeGreaterThanOrEqual(50)
    expect(relay.upstreamCounts().open).toBe(0)
    expect(relay.counts().idle).toBe(1)
  })

  it('a whole request counts its time anew on each one of a connection', async () => {
    const later: Reply = ({ peer }) => void setTimeout(() => peer.socket.write(OK), 60)
    const { client, reports } = await start(later, { timeouts: { request: 150 } })
    const peer = await client()
    for (let n = 1; n <= 4; n++) {
      await peer.write(GET)
      await peer.gets(n * OK.length)
    }
    expect(reports.map(({ status }) => status)).toEqual([200, 200, 200, 200])
  })

  it('a whole request whose answer goes on and on is cut short, and the client sees that', async () => {
    const drips: NodeJS.Timeout[] = []
    const { client, reports } = await start(
      ({ peer }) => {
        peer.socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        drips.push(setInterval(() => peer.socket.write('1\r\nx\r\n'), 5))
      },
      { timeouts: { request: 80 } },
    )
    const peer = await client()
    await peer.write(GET)
    const all = await peer.all()
    for (const drip of drips) clearInterval(drip)
    expect(all).toMatch(/^HTTP\/1.1 200 /)
    expect(all).not.toContain('\r\n0\r\n')
    expect(reports[0]).toMatchObject({ status: 200, reason: 'request-timeout' })
  })

  it('a whole request does not limit the tunnel that comes of it', async () => {
    const { client, relay } = await start(
      ({ peer }) => {
        peer.raw = true
        peer.socket.write(SWITCH)
      },
      { timeouts: { request: 60, tunnel: 200 } },
    )
    const peer = await client()
    const began = performance.now()
    await peer.write(UPGRADE)
    await until(() => relay.counts().tunnel === 1, 'the tunnel')
    await until(() => peer.closed, 'nothing moved in it')
    expect(performance.now() - began).toBeGreaterThanOrEqual(190)
  })

  it('a whole request goes on with what was left while the connection moves', async () => {
    const { client, relay } = await start(answer, { timeouts: { request: 80 } })
    const peer = await client()
    await peer.write(POST_HEAD.replace('4', '100000'))
    const drip = setInterval(() => peer.socket.write('x'), 5)
    await until(() => relay.counts().request === 1, 'the body is under way')
    const moving = startMoving(relay)
    expect(await peer.all()).toMatch(/\r\n\r\nrequest-timeout\n$/)
    clearInterval(drip)
    await moving.stop()
    expect(moving.moves).toBeGreaterThan(3)
  })

  it('an unused connection to a server is closed', async () => {
    const { client, relay } = await start(answer)
    server.keepAlive = { connections: 9, idleMs: 40 }
    const peer = await client()
    await peer.write(GET)
    await peer.gets(OK.length)
    expect(relay.upstreamCounts()).toEqual({ open: 1, idle: 1 })
    await until(() => relay.upstreamCounts().open === 0, 'it is closed')
  })

  it.runIf(NIGHTLY)(
    'a client that does not read the rest of its last answer sees that it is cut',
    async () => {
      server = await Upstream.start(answer)
      world = await startWorld(LONG, { timeouts: { stall: 60 } })
      const client = lateReader(world.port)
      client.stream.write('GET / HTTP/1.0\r\nHost: a\r\n\r\n')
      await until(() => world.relay.counts().closing === 1, 'it is answered')
      await until(() => world.relay.size === 0, 'it is let go')
      client.stream.setReading(true)
      await until(() => client.end !== '', 'it sees the end')
      expect(client.end).toBe('ECONNRESET')
    },
  )

  it('a client that reads slowly is not cut, one that stops reading is', async () => {
    server = await Upstream.start(answer)
    world = await startWorld(LONG, { timeouts: { stall: 150 } })
    const client = net.connect(world.port, '127.0.0.1')
    onTestFinished(() => void client.destroy())
    client.on('error', () => {})
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    let read = 0
    // As much as a receive buffer has to give before its peer is told of the room.
    const piece = 256 * 1024
    for (const end = performance.now() + 1500; performance.now() < end; ) {
      for (let got = 0; got < piece; ) {
        const chunk = client.read() as Buffer | null
        if (chunk === null) await once(client, 'readable')
        else got += chunk.length
        read += chunk?.length ?? 0
      }
      await new Promise(resolve => setTimeout(resolve, 40))
      expect([world.relay.size, client.destroyed]).toEqual([1, false])
    }
    expect(read).toBeLessThan(32 * 1024 * 1024)
    await until(() => world.relay.size === 0, 'it is cut')
  })

  it('a client that was answered and never ends is let go', async () => {
    const { client, relay } = await start(answer, { timeouts: { linger: 40 } })
    const peer = await client()
    await peer.write('BAD\r\n\r\n')
    await peer.all()
    await until(() => relay.size === 0, 'it is let go')
  })
})

describe('an upload after its answer', () => {
  const UPLOAD = 'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n'

  /** The server answers as soon as it has the head. Resolves with a client that has its answer, and goes on sending. */
  async function answered(timeouts: Partial<RelayOptions['timeouts'] & object>) {
    const made = await start(answer, { timeouts })
    const peer = await made.client()
    await peer.write(`${UPLOAD}begun`)
    await until(() => server.peers[0]?.got.endsWith('begun') === true, 'the server has the beginning')
    server.peers[0]!.socket.write(OK)
    await peer.sees('ok')
    return { peer, relay: made.relay }
  }

  it('continues while it makes progress, for longer than a client that owes nothing may stay', async () => {
    const { peer, relay } = await answered({ linger: 20, upload: 400, uploadTotal: 60_000 })
    const began = performance.now()
    while (performance.now() - began < 600) {
      peer.socket.write('more')
      await new Promise(resolve => setTimeout(resolve, 20))
      expect([relay.counts().closing, peer.error]).toEqual([1, undefined])
    }
    peer.socket.end()
    await until(() => relay.size === 0, 'both have ended')
    expect(peer.error).toBeUndefined()
  })

  it.each([
    ['it stops', { upload: 60, uploadTotal: 60_000 }, false],
    ['its time is over', { upload: 60_000, uploadTotal: 100 }, true],
  ])('ends when %s', async (_, timeouts, goesOn) => {
    const { peer, relay } = await answered({ linger: 60_000, ...timeouts })
    const drip = setInterval(() => goesOn && peer.socket.write('more'), 10)
    onTestFinished(() => clearInterval(drip))
    await until(() => relay.size === 0, 'it is given up')
  })

  it('continues in the next process', async () => {
    const { peer, relay } = await answered({ linger: 20, upload: 400, uploadTotal: 60_000 })
    const moving = startMoving(relay)
    const began = performance.now()
    while (performance.now() - began < 300) {
      peer.socket.write('more')
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    await moving.stop()
    expect(moving.moves).toBeGreaterThan(3)
    expect([relay.counts().closing, peer.error]).toEqual([1, undefined])
    peer.socket.end()
    await until(() => relay.size === 0, 'both have ended')
  })
})

describe('limits', () => {
  it.each([
    [
      'a head beyond its bytes',
      `GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(600)}\r\n\r\n`,
      431,
      'head-too-large',
    ],
    [
      'more fields than allowed',
      `GET / HTTP/1.1\r\nHost: a\r\n${'X: 1\r\n'.repeat(20)}\r\n`,
      431,
      'fields-too-many',
    ],
    [
      'a target beyond its bytes',
      `GET /${'x'.repeat(100)} HTTP/1.1\r\nHost: a\r\n\r\n`,
      414,
      'target-too-long',
    ],
    [
      'a body announced beyond its bytes',
      'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n',
      413,
      'body-too-large',
    ],
    [
      'a body that grows beyond its bytes',
      'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsixsix\r\n0\r\n\r\n',
      413,
      'body-too-large',
    ],
  ])('%s', async (_name, text, status, reason) => {
    const { ask } = await start(answer, {
      headLimits: { headBytes: 500, fields: 10, targetBytes: 50 },
      limits: { bodyBytes: 10 },
    })
    expect(await ask(text)).toMatch(
      new RegExp(`^HTTP/1.1 ${status} [\\s\\S]*\r\nConnection: close\r\n\r\n${reason}\n$`),
    )
    expect(server.requests).toHaveLength(0)
  })

  it('a client that pipelines far ahead is not read any further', async () => {
    const { client, relay } = await start(silence, { limits: { pipelinedBytes: 1_000 } })
    const peer = await client()
    for (let i = 0; i < 400; i++) peer.socket.write(GET.repeat(500))
    await until(() => server.requests.length === 1, 'the first request')
    await until(() => peer.socket.writableLength > 0, 'the client is stopped')
    expect(relay.heldBytes()).toBeLessThan(1_000 + 65_536 + 1)
  })

  it('an unknown limit or timeout is refused with its numbers', async () => {
    await start(answer)
    const refusal = async (options: Partial<RelayOptions>): Promise<unknown> =>
      startWorld(send(), options).then(
        () => null,
        ({ code, message }) => `${code}: ${message}`,
      )
    expect(await refusal({ limits: { attempts: 0 } })).toMatch(
      /^ERR_FDB_RELAY_OPTION: the limit attempts is 0: /,
    )
    expect(await refusal({ timeouts: { idle: -5 } })).toMatch(
      /^ERR_FDB_RELAY_OPTION: the timeout idle is -5: /,
    )
  })
})

describe('answers made here', () => {
  it('have a length, a date and the fields asked for; HEAD gets no body', async () => {
    server = await Upstream.start(answer)
    world = await startWorld(() => ({
      kind: 'respond',
      status: 200,
      headers: [
        ['X-A', '1'],
        ['Content-Length', '999'],
      ],
      body: 'grüße\n',
    }))
    const body = Buffer.from('grüße\n').toString('latin1')
    const end = 'HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
    expect(await world.ask(`GET / ${end}`)).toMatch(
      new RegExp(
        `^HTTP/1.1 200 OK\r\nDate: [^\r]+ GMT\r\nX-A: 1\r\nContent-Length: 8\r\nConnection: close\r\n\r\n${body}$`,
      ),
    )
    expect(await world.ask(`HEAD / ${end}`)).toMatch(/Content-Length: 8\r\nConnection: close\r\n\r\n$/)
  })

  it('answer thousands of pipelined requests in one chunk', async () => {
    server = await Upstream.start(answer)
    world = await startWorld(() => ({ kind: 'respond', status: 204 }))
    const peer = await world.client()
    await peer.write(GET.repeat(20_000))
    await until(() => peer.got.split('HTTP/1.1 204').length === 20_001, 'all answers')
  })

  it('wait for a client that does not read them', async () => {
    server = await Upstream.start(answer)
    let routed = 0
    world = await startWorld(() => {
      routed++
      return { kind: 'respond', status: 200, body: 'x'.repeat(100_000) }
    })
    const peer = await world.client()
    peer.socket.pause()
    await peer.write(GET.repeat(1_000))
    await until(() => routed > 10, 'it began')
    const before = await new Promise<number>(resolve => setTimeout(() => resolve(routed), 100))
    expect(before).toBeLessThan(500)
    peer.keep = false
    peer.socket.resume()
    await until(() => routed === 1_000, 'it goes on')
    await until(() => peer.bytes > 100_000_000, 'all of them')
  })

  it('of a route that throws: 500, and the fault is told', async () => {
    server = await Upstream.start(answer)
    world = await startWorld(() => {
      throw new Error('broken')
    })
    expect(await world.ask('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')).toMatch(
      /^HTTP\/1.1 500 [\s\S]*\r\n\r\nroute-failed\n$/,
    )
    expect(world.faults.splice(0)).toEqual([new Error('broken')])
  })

  it('of a refusal carry its reason and the body is not taken for a request', async () => {
    server = await Upstream.start(answer)
    world = await startWorld(() => ({ kind: 'refuse', status: 405, reason: 'no-connect' }))
    const answers = await world.ask(`${POST_HEAD}GE`)
    expect(answers).toMatch(
      /^HTTP\/1.1 405 Method Not Allowed\r\n[\s\S]*Connection: close\r\n\r\nno-connect\n$/,
    )
  })
})

describe('patient drain', () => {
  it('announces the end with the next answer and closes nothing before', async () => {
    const empty: number[] = []
    const { client, relay } = await start(answer, { onEmpty: () => empty.push(1) })
    const peers = await Promise.all([client(), client(), client()])
    await peers[0]!.write(GET)
    await peers[0]!.gets(OK.length)
    relay.drain()
    expect(relay.counts()).toMatchObject({ idle: 3 })
    for (const peer of peers) {
      await peer.write(GET)
      expect(await peer.all()).toMatch(/Connection: close\r\n\r\nok$/)
      peer.socket.end()
    }
    await until(() => relay.size === 0, 'all gone')
    expect(empty).toEqual([1])
    expect(server.requests).toHaveLength(4)
  })

  it('answers all pipelined requests that it has before it ends', async () => {
    const { client, relay } = await start(answer)
    relay.drain()
    const peer = await client()
    await peer.write(GET.repeat(3))
    expect(await peer.all()).toBe(OK + OK + OK.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'))
  })

  it('counts connections by what they do', async () => {
    const { client, relay } = await start(({ peer, head }) => {
      if (head.resource === '/tunnel') {
        peer.raw = true
        peer.socket.write(SWITCH)
      } else if (head.resource === '/half')
        peer.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nha')
    })
    const texts = [
      '',
      'GET /',
      POST_HEAD,
      GET,
      GET.replace('/x', '/half'),
      UPGRADE.replace('/', '/tunnel'),
      'BAD\r\n\r\n',
    ]
    for (const text of texts) await (await client()).write(text)
    const some = { idle: 1, head: 1, request: 1, waiting: 1, response: 1, tunnel: 1, closing: 1 }
    const all = { ...some, events: 0, webSocket: 0, tcp: 0, http2: 0 }
    await until(
      () => relay.size === 7 && relay.counts().tunnel === 1 && relay.counts().response === 1,
      'one of each',
    )
    await until(() => relay.counts().closing === 1 && relay.counts().idle === 1, 'one of each')
    expect(relay.counts()).toEqual(all)
    relay.closeIdle()
    await until(() => relay.counts().idle === 0, 'the one that says nothing ends')
    expect(relay.counts()).toMatchObject({ closing: 2 })
    relay.close()
    expect(relay.size).toBe(0)
    await until(() => relay.upstreamCounts().open === 0, 'no server connection left')
  })
})

describe('the report of a request whose head was refused', () => {
  it.each([
    ['by the parser', 'GET / HTTP/3.0\r\n', {}, 505],
    ['because it did not end', 'GET / HT', { head: 40 }, 408],
  ])('%s: its time is its own, and it is no TCP connection', async (_why, text, timeouts, status) => {
    const { client, reports } = await start(answer, { timeouts })
    const peer = await client()
    const began = performance.now()
    await peer.write(text)
    await peer.all()
    expect(reports).toMatchObject([{ subject: 'unread', method: '', target: '', status }])
    expect(reports[0]!.milliseconds).toBeLessThanOrEqual(performance.now() - began)
  })
})
