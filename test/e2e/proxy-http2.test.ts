import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import http2, { type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Edge, upstream } from '../processes/edge.js'
import { Http2Client } from '../processes/http2-client.js'
import {
  ACK,
  END_HEADERS,
  END_STREAM,
  FrameClient,
  frame,
  HEADERS,
  PING,
  preface,
  request,
  SETTINGS,
} from '../processes/http2-frames.js'
import { hasEnded } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { askTls } from '../processes/tls-client.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const run = promisify(execFile)
const QUICK = { upgrade: { probation: '0s' }, accessLog: true }

type Handler = (request: IncomingMessage, response: ServerResponse) => unknown

/** A server with this handler, and a proxy before it: one listener with TLS, one without, both with HTTP/2. */
async function edgeBefore(handler: Handler | null, config: object = {}) {
  const url = handler === null ? (await upstream()).url : await serverOf(handler)
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [url] } },
    routes: [{ host: '*', upstream: 'app' }],
    ...QUICK,
    ...config,
  })
  const securePort = await freePort()
  const certificates = [edge.issue('localhost')]
  edge.write({
    listeners: [
      { name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true },
      { name: 'https', address: `tcp://127.0.0.1:${securePort}`, tls: true, http2: true },
    ],
    tls: { certificates },
  })
  await edge.next()
  return { edge, plain: edge.url, secure: `https://127.0.0.1:${securePort}`, securePort }
}

async function serverOf(handler: Handler): Promise<string> {
  const server = createServer(handler)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function sessionTo(url: string): ClientHttp2Session {
  const session = http2.connect(url, { rejectUnauthorized: false })
  session.on('error', () => {})
  onTestFinished(() => session.destroy())
  return session
}

interface Answer {
  readonly headers: IncomingHttpHeaders & { ':status'?: number | undefined }
  readonly body: string
  readonly trailers: IncomingHttpHeaders
  readonly interim: readonly number[]
  /** The code of RST_STREAM, 0 for none. */
  readonly code: number
}

/** Resolves when the stream has closed. */
function answerOf(stream: ClientHttp2Stream): Promise<Answer> {
  return new Promise(resolve => {
    let headers: Answer['headers'] = {}
    let trailers: IncomingHttpHeaders = {}
    let body = ''
    const interim: number[] = []
    stream.on('error', () => {})
    stream.on('headers', ({ ':status': status }) => interim.push(Number(status)))
    stream.on('response', given => (headers = given))
    stream.on('trailers', given => (trailers = given))
    stream.setEncoding('latin1').on('data', chunk => (body += chunk))
    stream.on('close', () => resolve({ headers, body, trailers, interim, code: stream.rstCode ?? 0 }))
  })
}

const ask = (session: ClientHttp2Session, headers: http2.OutgoingHttpHeaders, body?: string | Buffer) => {
  const stream = session.request(headers, { endStream: body === undefined })
  if (body !== undefined) stream.end(body)
  return answerOf(stream)
}

describe('a request over HTTP/2', () => {
  it('gets to the server as one of HTTP/1.1, with the rules of the relay, and its answer back', async () => {
    const seen: IncomingMessage[] = []
    const { edge, plain, secure } = await edgeBefore((request, response) => {
      seen.push(request)
      response.setHeader('Set-Cookie', ['a=1', 'b=2'])
      response.writeHead(201, { Connection: 'x-hop', 'X-Hop': '1', 'X-Kept': 'yes' })
      response.end(request.method)
    })
    const session = sessionTo(secure)
    const { headers, body } = await ask(session, {
      ':path': '/a?b=c',
      cookie: ['x=1', 'y=2'],
      'x-forwarded-for': '192.0.2.9',
    })
    expect(headers).toMatchObject({ ':status': 201, 'x-kept': 'yes', 'set-cookie': ['a=1', 'b=2'] })
    expect(headers['x-pid']).toBe(String(await edge.pid))
    expect(headers.via).toMatch(/^1\.1 edge-/)
    expect(headers['x-hop']).toBe(undefined)
    expect(body).toBe('GET')
    const [{ method, url, headers: sent, httpVersion }] = seen as [IncomingMessage]
    expect({ method, url, httpVersion }).toEqual({ method: 'GET', url: '/a?b=c', httpVersion: '1.1' })
    expect(sent).toMatchObject({
      host: secure.slice('https://'.length),
      cookie: 'x=1; y=2',
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-proto': 'https',
    })
    expect(sent.via).toMatch(/^2\.0 edge-/)
    const head = await ask(sessionTo(plain), { ':path': '/', ':method': 'HEAD' })
    expect(head).toMatchObject({ headers: { ':status': 201 }, body: '', code: 0 })
    expect(seen.at(-1)).toMatchObject({ method: 'HEAD', headers: { 'x-forwarded-proto': 'http' } })
    await edge.access(({ listener, protocol }) => listener === 'https' && protocol === 'HTTP/2')
    const { listeners } = await edge.status()
    expect(listeners.map(({ kinds }) => kinds.http2)).toEqual([1, 1])
  })

  it('streams its body and gets a streamed answer at the same time, with trailers both ways', async () => {
    const { secure } = await edgeBefore((request, response) => {
      response.writeHead(200, { Trailer: 'x-sum' })
      request.on('data', chunk => response.write(chunk))
      request.on('end', () => {
        response.addTrailers({ 'x-sum': `${request.trailers['x-more']}` })
        response.end()
      })
    })
    const stream = sessionTo(secure).request({ ':path': '/', ':method': 'POST', trailer: 'x-more' }, {
      waitForTrailers: true,
      endStream: false,
    } as http2.ClientSessionRequestOptions)
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-more': 'sent' }))
    const answer = answerOf(stream)
    stream.write('one')
    expect(String(await once(stream, 'data'))).toBe('one')
    stream.end('two')
    const { body, trailers, headers } = await answer
    expect(body).toBe('onetwo')
    expect(trailers).toMatchObject({ 'x-sum': 'sent' })
    expect(headers['transfer-encoding']).toBe(undefined)
  })

  it('gets interim answers, refusals of the relay, and the answers of its routes', async () => {
    const { secure } = await edgeBefore(
      (_request, response) => {
        response.writeEarlyHints({ link: '</a.css>; rel=preload' })
        response.end('late')
      },
      {
        routes: [
          { host: 'a.test', upstream: 'app' },
          { host: 'b.test', respond: { status: 403, body: 'no\n' } },
        ],
        limits: { body: '1k' },
      },
    )
    const session = sessionTo(secure)
    const from = (authority: string, more: object = {}, body?: string) =>
      ask(session, { ':path': '/', ':authority': authority, ...more }, body)
    expect(await from('a.test')).toMatchObject({ interim: [103], body: 'late' })
    expect(await from('b.test')).toMatchObject({ headers: { ':status': 403 }, body: 'no\n' })
    expect(await from('c.test')).toMatchObject({ headers: { ':status': 404 }, body: 'no-route\n' })
    expect(await from('a.test', { 'x-long': 'x'.repeat(17_000) })).toMatchObject({
      headers: { ':status': 431 },
    })
    expect(await from('a.test', { ':method': 'POST' }, 'x'.repeat(3_000))).toMatchObject({
      headers: { ':status': 413 },
      body: 'body-too-large\n',
      code: 0,
    })
    expect(await ask(session, { ':method': 'CONNECT', ':authority': 'a.test:80' })).toMatchObject({
      headers: { ':status': 405 },
      body: 'connect-not-allowed\n',
    })
  })

  it('ends with RST_STREAM if its answer breaks off, and the others on the connection go on', async () => {
    const { secure } = await edgeBefore(async ({ url }, response) => {
      if (url === '/slow') {
        response.write('begun')
        response.on('close', () => {})
        return
      }
      response.writeHead(200, url === '/length' ? { 'Content-Length': 10 } : {})
      response.write('part', () => response.destroy())
    })
    const session = sessionTo(secure)
    const slow = session.request({ ':path': '/slow' })
    await once(slow, 'response')
    for (const path of ['/length', '/chunks'])
      expect(await ask(session, { ':path': path })).toMatchObject({ body: 'part', code: 2 })
    // The client is not to blame, however many there are.
    await Promise.all(Array.from({ length: 250 }, () => ask(session, { ':path': '/length' })))
    expect(slow.closed).toBe(false)
    expect(session.destroyed).toBe(false)
  })

  it('ends at the server when its client resets it', async () => {
    let closed = false
    const { edge, secure } = await edgeBefore((_request, response) => {
      response.on('close', () => (closed = true))
    })
    const session = sessionTo(secure)
    const stream = session.request({ ':path': '/held' })
    stream.on('error', () => {})
    await until('the server has it', async () => (await edge.status()).listeners.length > 0 && stream.id)
    await new Promise<void>(resolve => session.ping(() => resolve()))
    stream.close(8)
    await until('the server is told', () => closed)
    await edge.access(({ reason, protocol }) => reason === 'client-gone' && protocol === 'HTTP/2')
  })

  it('passes a CONNECT on as a tunnel', async () => {
    const target = createServer()
    target.on('connect', (_request, socket) => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      socket.on('data', chunk => socket.write(String(chunk).toUpperCase()))
      socket.on('end', () => socket.end())
    })
    target.listen(0, '127.0.0.1')
    await once(target, 'listening')
    onTestFinished(() => {
      target.close()
      target.closeAllConnections()
    })
    const { port } = target.address() as AddressInfo
    const { secure } = await edgeBefore(null, {
      upstreams: { app: { servers: [`http://127.0.0.1:${port}`] } },
      routes: [{ host: '*', upstream: 'app', connect: true }],
    })
    const stream = sessionTo(secure).request(
      { ':method': 'CONNECT', ':authority': 'a.test:80' },
      { endStream: false },
    )
    const answer = answerOf(stream)
    stream.write('hello ')
    expect(String(await once(stream, 'data'))).toBe('HELLO ')
    stream.end('you')
    expect(await answer).toMatchObject({ body: 'HELLO YOU', headers: { ':status': 200 }, code: 0 })
  })

  it('flows no faster than its server takes it, and its answer no faster than the client', async () => {
    const size = 32 * 1024 * 1024
    const { edge, secure } = await edgeBefore(({ url, method }, response) => {
      if (method === 'POST') return
      response.end(url === '/big' ? Buffer.alloc(size, 'x') : 'ok')
    })
    const session = sessionTo(secure)
    const up = session.request({ ':path': '/', ':method': 'POST' }, { endStream: false })
    up.on('error', () => {})
    const down = session.request({ ':path': '/big' })
    down.on('error', () => {})
    await once(down, 'response')
    down.pause()
    let taken = 0
    const block = Buffer.alloc(64 * 1024)
    const send = () => {
      while (up.write(block, () => (taken += block.length)) && taken < size);
    }
    up.on('drain', send)
    send()
    for (let i = 0; i < 20; i++) expect((await ask(session, { ':path': `/${i}` })).body).toBe('ok')
    expect(taken).toBeLessThan(size / 2)
    expect((await edge.status()).listeners[1]!.connections).toBe(1)
    down.resume()
    let got = 0
    down.on('data', (chunk: Buffer) => (got += chunk.length))
    await until(
      'the whole answer',
      () => got === size,
      20_000,
      () => got,
    )
  })
})

describe('a connection of HTTP/2', () => {
  it('has the address of a PROXY header before its preface', async () => {
    const { edge } = await edgeBefore(({ headers }, response) => response.end(headers['x-forwarded-for']))
    const [http, https] = edge.config.listeners as [object, object]
    await edge.reload({ listeners: [{ ...http, proxyProtocol: ['127.0.0.1'] }, https] })
    const header = Buffer.from('PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n')
    const asked = frame(HEADERS, END_STREAM | END_HEADERS, 1, request('/'))
    for (const pieces of [[Buffer.concat([header, preface(), asked])], [header, preface(), asked]]) {
      const client = new FrameClient(edge.port, Buffer.alloc(0))
      for (const piece of pieces) {
        client.send(piece)
        await new Promise(resolve => setImmediate(resolve))
      }
      await client.until('the answer', () =>
        client.of(0, 1).some(({ payload }) => String(payload) === '192.0.2.7'),
      )
    }
  })

  it('counts once in the limits of connections, and one beyond them is told so', async () => {
    const { secure } = await edgeBefore(null, { limits: { connections: 1 } })
    const session = sessionTo(secure)
    const all = await Promise.all([1, 2, 3].map(i => ask(session, { ':path': `/r/${i}` })))
    expect(all.map(({ headers }) => headers[':status'])).toEqual([200, 200, 200])
    const other = sessionTo(secure)
    expect((await once(other, 'goaway')).slice(0, 2)).toEqual([11, 0])
    session.close()
    await once(session, 'close')
    expect((await ask(sessionTo(secure), { ':path': '/r/4' })).headers[':status']).toBe(200)
  })

  it('ends when it was idle for too long, in two steps', async () => {
    const { edge } = await edgeBefore(null, { timeouts: { idle: '300ms' } })
    const client = new FrameClient(edge.port)
    client.send(frame(SETTINGS, ACK, 0))
    await client.until('the first GOAWAY, and the ping', () => client.of(PING).length === 1)
    expect(client.goaways).toHaveLength(1)
    client.send(frame(PING, ACK, 0, client.of(PING)[0]!.payload))
    await client.until('the end', () => client.closed)
    expect(client.goaways.map(({ last }) => last).slice(0, 2)).toEqual([2 ** 31 - 1, 0])
  })

  it('gets the last event of a stream of events when the time of the drain is over', async () => {
    const { edge, secure } = await edgeBefore(
      (_request, response) => {
        response.writeHead(200, { 'Content-Type': 'text/event-stream' })
        response.write('data: one\n\n')
      },
      { drain: { timeout: '300ms', tlsTimeout: '300ms', lastEvent: 'event: bye' } },
    )
    const session = sessionTo(secure)
    const lasts: number[] = []
    session.on('goaway', (_code: number, last: number) => lasts.push(last))
    const stream = session.request({ ':path': '/' })
    const answer = answerOf(stream)
    await once(stream, 'data')
    await edge.next()
    const closed = once(session, 'close')
    expect(await answer).toMatchObject({ body: 'data: one\n\nevent: bye\n\n', code: 0 })
    await closed
    expect(lasts).toEqual([2 ** 31 - 1, 1])
  })
})

describe('a service that ends', () => {
  it('answers requests in flight, and ends the connections without one at once', async () => {
    const { edge, plain, secure } = await edgeBefore(null)
    const [idle, busy] = [sessionTo(plain), sessionTo(secure)]
    await ask(idle, { ':path': '/r/1' })
    const stream = busy.request({ ':path': '/slow' })
    const answer = answerOf(stream)
    await new Promise<void>(resolve => busy.ping(() => resolve()))
    const pid = await edge.pid
    const ended = once(idle, 'close')
    await edge.signal('SIGTERM')
    await ended
    expect(hasEnded(pid)).toBe(false)
    expect(await answer).toMatchObject({ headers: { ':status': 200 }, body: 'slow but sure\n', code: 0 })
    await edge.ended(pid)
  })
})

describe('a listener', () => {
  it('has HTTP/2 only if it is to have it', async () => {
    const { edge, securePort } = await edgeBefore(null)
    const alpn = async () =>
      (await askTls(securePort, { ALPNProtocols: ['h2', 'http/1.1'] }).catch(() => null))?.socket.alpnProtocol
    const [http, https] = edge.config.listeners as [object, object]
    await edge.reload({
      listeners: [
        { ...http, http2: undefined },
        { ...https, http2: undefined },
      ],
    })
    expect(await alpn()).toBe('http/1.1')
    const client = new FrameClient(edge.port)
    await until('the client is refused', () => client.closed)
    await edge.access(({ reason, status }) => reason === 'version-unsupported' && status === 505)
  })

  it('takes the preface in any pieces, and a request of HTTP/1.1 after it', async () => {
    const { edge } = await edgeBefore(null)
    const client = new FrameClient(edge.port, Buffer.alloc(0))
    const bytes = Buffer.concat([
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      frame(SETTINGS, 0, 0),
      frame(HEADERS, END_STREAM | END_HEADERS, 1, request('/r/7')),
    ])
    for (let at = 0; at < bytes.length; at += 5) {
      client.send(bytes.subarray(at, at + 5))
      await new Promise(resolve => setImmediate(resolve))
    }
    await client.until('the answer', () =>
      client.of(0, 1).some(({ payload }) => String(payload) === '7 item-7\n'),
    )
    const answer = await fetch(`${edge.url}/r/8`)
    expect(await answer.text()).toBe('8 item-8\n')
  })

  it.skipIf(!has('curl'))('serves curl, with TLS and without', async () => {
    const { plain, secure } = await edgeBefore(null)
    const curl = async (...args: string[]) =>
      (await run('curl', ['-sk', '-w', ' %{http_version}', '--data-binary', 'hello', ...args])).stdout
    expect(await curl('--http2', `${secure}/echo`)).toBe('hello 2')
    expect(await curl('--http2-prior-knowledge', `${plain}/echo`)).toBe('hello 2')
    expect(await curl('--http1.1', `${secure}/echo`)).toBe('hello 1.1')
  })

  it('ends its connections in two steps when it is removed, and idle ones within seconds', async () => {
    const { edge } = await edgeBefore(null)
    const client = new FrameClient(edge.port)
    client.send(frame(SETTINGS, ACK, 0))
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, request('/slow')))
    await until('a connection', async () => (await edge.status()).listeners[0]!.kinds.http2 === 1)
    const [, https] = edge.config.listeners as [object, object]
    await edge.reload({ listeners: [https] })
    await client.until('the first GOAWAY', () => client.goaways.length === 1)
    expect(client.goaways[0]).toEqual({ last: 2 ** 31 - 1, code: 0 })
    const [ping] = client.of(PING)
    // A request that crosses the GOAWAY.
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, request('/r/9')))
    client.send(frame(PING, ACK, 0, ping!.payload))
    await client.until('the second GOAWAY', () => client.goaways.length >= 2)
    expect(client.goaways[1]).toEqual({ last: 3, code: 0 })
    await client.until('both answers', () =>
      [1, 3].every(id => client.of(0, id).some(({ flags }) => (flags & END_STREAM) !== 0)),
    )
    await client.until('the end of the connection', () => client.closed, 3_000)
  })
})

const UPGRADES = 3

/** Longer than other tests: a version needs a second to start and to end. */
describe('upgrades', () => {
  it(`refuse no request of Node's client, with TLS and without, in ${UPGRADES} of them`, async () => {
    const { edge, plain, secure } = await edgeBefore(null)
    const clients = [plain, secure].map(url => new Http2Client(url, { streams: 10, path: '/r/1' }))
    const answered = () => clients.map(({ counts }) => counts.answered)
    for (let i = 0; i < UPGRADES; i++) {
      const before = answered()
      await until('answers', () => answered().every((count, each) => count > before[each]! + 30))
      const old = await edge.pid
      await edge.next()
      await until('the one before has ended', () => hasEnded(old), 20_000)
    }
    for (const client of clients) {
      const { answered, unsent: _, ...losses } = await client.end()
      expect(losses).toEqual({ failed: [], brokenSessions: [] })
      expect(answered).toBeGreaterThan(UPGRADES * 30)
    }
  })
})
