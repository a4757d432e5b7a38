import { readFileSync, writeFileSync } from 'node:fs'
import http2 from 'node:http2'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { type Certificate, issueBy } from '../processes/certificate.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { randomFrom } from '../processes/random.js'
import { freePort } from '../processes/scene.js'

const SEED = Number(process.env.FD_BROKER_SEED ?? 1)
const WORKERS = SEED % 4 === 0
const REQUESTS = perLane(480, 12_000)
const AT_A_TIME = 24
/** The longest time of one request: most end before. */
const PATIENCE_MS = 150

type Below = (below: number) => number

const TRACE = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

/** Headers with a meaning for the proxy, a part of it, or Node, and values that they may have. */
const FIELDS: Readonly<Record<string, readonly string[]>> = {
  traceparent: [TRACE, TRACE, TRACE, `${TRACE}-x`, 'ff-00000000000000000000000000000000-0000000000000000-00'],
  tracestate: ['a=1', '', 'a=1,b=2,,a=1'],
  'X-Request-Id': ['a-1'],
  'X-Forwarded-For': ['10.0.0.1', '10.0.0.1, unknown', 'fe80::1%eth0', '[::1]:80'],
  'X-Real-IP': ['10.0.0.1'],
  Forwarded: ['for=10.0.0.1', 'for="[::1]:80";proto=https', 'for="', 'for=_a;by=,'],
  Via: ['1.1 edge'],
  'Max-Forwards': ['0', '1', '10', '-1'],
  Cookie: ['edge=x', 'edge=; edge=x; a', 'edge'],
  Authorization: ['Basic YWxpY2U6c2VjcmV0', 'Basic %%%', 'Basic', 'Bearer x'],
  Origin: ['https://app.example.com', 'null'],
  'Access-Control-Request-Method': ['PUT', 'GET, PUT'],
  'Access-Control-Request-Headers': ['x-a', ','],
  Referer: ['http://a.test/'],
  Range: ['bytes=0-,-1'],
  TE: ['trailers', 'trailers, deflate;q=0.5', 'gzip'],
  Trailer: ['x', 'HTTP2-Settings'],
  Expect: ['100-continue', '200-maybe'],
  Upgrade: ['websocket', 'h2c', 'a, b'],
  Connection: ['close', 'upgrade', 'close, te', 'keep-alive, x-key', 'traceparent'],
  'Keep-Alive': ['timeout=5'],
  'Proxy-Authorization': ['Basic YWxpY2U6c2VjcmV0'],
  'X-Client-Cert-Subject': ['CN=root'],
  'HTTP2-Settings': ['AAMAAABkAAQAoAAAAAIAAAAA'],
  'Content-Type': ['text/event-stream', 'application/json; charset="utf-8'],
  'Content-Encoding': ['gzip', 'identity'],
  'Set-Cookie': ['a=b; Path=/', '='],
  Location: ['/x', 'https://a.test/', '//b'],
  Date: ['Thu, 01 Jan 1970 00:00:00 GMT'],
  Vary: ['*', 'Origin'],
  'Sec-WebSocket-Key': ['dGhlIHNhbXBsZSBub25jZQ=='],
  'X-Key': ['x', 'xyz'],
  X_Request_Id: ['a'],
}
/** Most messages with one of these are refused at once. */
const FRAMING: Readonly<Record<string, readonly string[]>> = {
  'Content-Length': ['0', '5', '5, 5', '99999999999999999999'],
  'Transfer-Encoding': ['chunked', 'identity', 'gzip, chunked'],
  Host: ['a.test', 'b.test'],
}
/** Values for any header. */
const VALUES = [
  ...['', ' ', ',', ', ,', '\t', 'x', '0', '99999999999999999999', '*', '"', '\\', 'a"b', '%00', '%'],
  ...['$host', '\xe9', '\x80\xff', 'a\x01b', 'a;b=c', 'x'.repeat(3_000)],
]
const PATHS = ['/', '/app', '/v1?old=%', '/v2/x?a', '/queue', '/v1', '/cors', '/auth', '/rate', '/rate?old']
const METHODS = ['GET', 'GET', 'HEAD', 'POST', 'OPTIONS', 'PUT']
/** Most requests with one of these are refused at once. */
const ODD_PATHS = ['*', '//', '/%2e%2e', '/app#a', '/é', '/v2/../x']
const ODD_METHODS = ['TRACE', 'CONNECT', 'get', 'A-B']
const STATUSES = [200, 200, 200, 100, 101, 103, 204, 206, 301, 304, 401, 404, 421, 500, 503, 599, 999]

const oneOf = <T>(below: Below, values: readonly T[]): T => values[below(values.length)]!

function field(below: Below): readonly [name: string, values: readonly string[]] {
  return oneOf(below, Object.entries(below(20) === 0 ? FRAMING : FIELDS))
}

function fieldLines(below: Below, most: number): string {
  const lines = Array.from({ length: below(most + 1) }, () => {
    const [name, values] = field(below)
    const value = () => (below(3) === 0 ? oneOf(below, VALUES) : oneOf(below, values))
    return Array.from({ length: 1 + below(2) * below(3) }, () => `${name}: ${value()}\r\n`)
  })
  // Some defects show only in both together.
  if (below(4) === 0) {
    const states = Array.from(
      { length: below(3) },
      () => `tracestate: ${oneOf(below, VALUES.slice(0, 4))}\r\n`,
    )
    lines.push([`traceparent: ${TRACE}\r\n`, ...states])
  }
  return lines.flat().join('')
}

function body(below: Below): string {
  const text = 'x'.repeat(below(2) * below(5_000))
  switch (below(5)) {
    case 0:
      return `Transfer-Encoding: chunked\r\n\r\n${text.length.toString(16)};a=b\r\n${text}\r\n${text.length > 0 ? '0\r\n' : ''}${fieldLines(below, 3)}\r\n`
    case 1:
      return `Content-Length: ${text.length}\r\n\r\n${text}`
    case 2:
      return `Content-Length: ${text.length + 5}\r\n\r\n${text}`
    default:
      return '\r\n'
  }
}

function requestText(below: Below): string {
  const host =
    below(3) > 0 ? 'a.test' : oneOf(below, ['a.test', 'a.test:80', '[::1]:80', '', 'A.TEST.', 'a b'])
  const target = `${below(12) === 0 ? 'http://a.test' : ''}${oneOf(below, below(12) === 0 ? ODD_PATHS : PATHS)}`
  return `${oneOf(below, below(12) === 0 ? ODD_METHODS : METHODS)} ${target} HTTP/1.${below(8) === 0 ? 0 : 1}\r\nHost: ${host}\r\n${fieldLines(below, 6)}${body(below)}`
}

function responseText(below: Below): string {
  return `HTTP/1.1 ${oneOf(below, STATUSES)} ${oneOf(below, ['OK', '', '\xe9'])}\r\n${fieldLines(below, 5)}${body(below)}`
}

/** Frames of a WebSocket, some of them damaged. */
function frames(below: Below): Buffer {
  const frame = () => {
    const bytes = Buffer.alloc(below(300), 'x')
    const first = oneOf(below, [0x81, 0x82, 0x01, 0x80, 0x88, 0x89, 0xf1, 0x83])
    const length = oneOf(below, [bytes.length & 0x7f, 126, 127, 0x80 | (bytes.length & 0x7f), 0xfe])
    return Buffer.concat([Buffer.of(first, length), bytes])
  }
  return Buffer.concat(Array.from({ length: 1 + below(4) }, frame))
}

function upgradeText(below: Below): string {
  const fields = fieldLines(below, 2)
  return `GET ${oneOf(below, PATHS)} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${fields}\r\n`
}

const SWITCHED = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'

/** A header of the PROXY protocol, version 2, often with wrong parts. */
function proxyV2(below: Below): Buffer {
  const content = Buffer.from(
    Array.from({ length: oneOf(below, [0, 12, 36, 37, 216, 20]) }, () => below(256)),
  )
  const head = Buffer.from('\r\n\r\n\0\r\nQUIT\n\0\0\0\0', 'latin1')
  head[12] = oneOf(below, [0x21, 0x21, 0x21, 0x20, 0x11, 0x22])
  head[13] = oneOf(below, [0x11, 0x21, 0x31, 0x12, 0x00, 0xff])
  head.writeUInt16BE(below(8) === 0 ? below(65_536) : content.length, 14)
  return Buffer.concat([head, content])
}

/** A server that answers everything, also a PROXY header, with anything. */
async function hostileServer(below: Below): Promise<string> {
  const server = createServer(socket => {
    socket
      .on('error', () => {})
      .on('data', data => {
        if (below(3) > 0 && /\r\nupgrade: *websocket\r\n/i.test(data.toString('latin1'))) {
          socket.write(SWITCHED)
          socket.write(frames(below))
        } else if (below(20) === 0) socket.resetAndDestroy()
        else socket.write(responseText(below), 'latin1')
        if (below(4) === 0) socket.end()
      })
  })
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  onTestFinished(() => void server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A proxy that uses all of its features that look at, or add, headers. */
async function wholeEdge(
  below: Below,
  { metrics: metricsPort, behind: proxyPort, secure }: Record<'metrics' | 'behind' | 'secure', number>,
): Promise<{ edge: Edge; shown: Certificate }> {
  const server = await hostileServer(below)
  const health = { failures: 'off' }
  const variables = '$host $request_uri $remote_addr $remote_user $scheme $request_method'
  const changes = {
    request: { set: { 'X-All': variables, 'X-Forwarded-For': '$remote_addr' }, remove: ['Referer'] },
    response: { set: { 'X-Answer': variables }, remove: ['Server'] },
  }
  const edge = await Edge.prepare({
    upstreams: {
      plain: { servers: [server], health, sticky: { cookie: 'edge', maxAge: '1h' } },
      one: { servers: [server], health, proxyProtocol: 'v1', balance: 'hash:header:X-Key' },
      two: { servers: [server], health, proxyProtocol: 'v2', balance: 'hash:cookie:edge' },
      few: { servers: [server], health, connections: 2, queue: { requests: 3, timeout: '50ms' } },
    },
    routes: [
      { host: '*', upstream: 'plain', ...changes },
      { host: '*', path: '/v1', upstream: 'one', request: { stripPrefix: '/v1', host: 'b.test' } },
      { host: '*', path: '/v1', when: ['query:old', 'method=GET|PUT'], upstream: 'two' },
      { host: '*', path: '/v2', when: ['header:X-Key=x*'], upstream: 'two', connect: true },
      { host: '*', path: '/queue', upstream: 'few', ...changes },
      {
        host: '*',
        path: '/cors',
        upstream: 'plain',
        cors: { origins: ['https://app.example.com'], credentials: true, expose: ['X-Answer'] },
      },
      {
        host: '*',
        path: '/auth',
        upstream: 'one',
        ...changes,
        basicAuth: { users: { alice: '2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b' } },
      },
      {
        host: '*',
        path: '/rate',
        upstream: 'two',
        rateLimit: { requests: 5, per: '1s', by: 'header:X-Key' },
      },
      { host: 'moved.test', respond: { status: 308, headers: { Location: 'https://$host$request_uri' } } },
    ],
    timeouts: { idle: '300ms', stall: '300ms', head: '300ms', response: '300ms', tunnel: '300ms' },
    accessLog: true,
    accessLine: {
      fields: [
        'client',
        'method',
        'host',
        'target',
        'status',
        'reason',
        'ms',
        'queueMs',
        'requestId',
        'traceId',
        'header:Referer',
        'header:traceparent',
      ],
    },
    tracing: { requestId: 'X-Request-Id', traceparent: true },
    forwarded: { headers: 'both', trust: ['127.0.0.1'] },
    metrics: `tcp://127.0.0.1:${metricsPort}`,
    upgrade: { probation: '0s' },
    drain: { timeout: '2s' },
  })
  const ca = edge.issue('ca')
  const page = join(edge.sandbox.folder, 'page.html')
  writeFileSync(page, '<p>$status $reason $request_id</p>')
  edge.write({
    errorPages: { '4xx': page, '503': page },
    ...(WORKERS && { workers: 2 }),
    tls: {
      certificates: [edge.issue('localhost'), edge.issue('b.test', ['b.test'], 'rsa:2048')],
      move: 'on',
    },
    listeners: [
      {
        name: 'secure',
        address: `tcp://127.0.0.1:${secure}`,
        tls: true,
        http2: true,
        clientCa: { file: ca.cert, required: false },
      },
      { name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true, halfClose: true },
      { name: 'behind', address: `tcp://127.0.0.1:${proxyPort}`, proxyProtocol: ['127.0.0.1'] },
    ],
  })
  return { edge, shown: issueBy(ca, edge.sandbox.folder, 'client') }
}

/** Sends bytes. Resolves when the connection has ended, or after {@link PATIENCE_MS}. */
function send(
  port: number,
  first: string | Buffer,
  { later, tls }: { later?: string | Buffer; tls?: object | undefined } = {},
): Promise<void> {
  return new Promise(resolve => {
    const begin = () => {
      socket.write(first, 'latin1')
      if (later !== undefined) setTimeout(() => socket.write(later, 'latin1'), PATIENCE_MS / 4)
    }
    const socket: Socket =
      tls === undefined
        ? connect(port, '127.0.0.1', begin)
        : connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false, ...tls }, begin)
    const over = () => {
      clearTimeout(timer)
      socket.destroy()
      resolve()
    }
    const timer = setTimeout(over, PATIENCE_MS)
    socket
      .on('data', () => {})
      .on('end', over)
      .on('error', over)
  })
}

/** Sends requests over HTTP/2, whose client refuses some of the fields itself. */
function sendHttp2(port: number, below: Below, tls?: object): Promise<void> {
  return new Promise(resolve => {
    const session = http2.connect(`http${tls === undefined ? '' : 's'}://127.0.0.1:${port}`, {
      rejectUnauthorized: false,
      ...tls,
    })
    const over = () => {
      clearTimeout(timer)
      session.destroy()
      resolve()
    }
    const timer = setTimeout(over, PATIENCE_MS)
    session.on('error', over)
    for (let n = 0; n < 3; n++) {
      const headers: http2.OutgoingHttpHeaders = {
        ':method': oneOf(below, METHODS),
        ':path': oneOf(below, PATHS),
        ':authority': 'a.test',
        te: 'trailers',
      }
      for (let more = below(6); more > 0; more--)
        headers[field(below)[0].toLowerCase()] = [oneOf(below, VALUES), oneOf(below, VALUES)].slice(below(2))
      try {
        const stream = session.request(headers)
        stream.on('error', () => {}).resume()
        stream.end('x'.repeat(below(2) * below(1_000)))
      } catch {
        // The client refuses these fields.
      }
    }
  })
}

it.runIf(NIGHTLY)(
  `no fields of clients and servers end a proxy that uses all of its features (FD_BROKER_SEED=${SEED})`,
  async () => {
    const below = randomFrom(SEED)
    const ports = { metrics: await freePort(), behind: await freePort(), secure: await freePort() }
    const { edge, shown } = await wholeEdge(below, ports)
    const credentials = { cert: readFileSync(shown.cert), key: readFileSync(shown.key) }
    const next = async () => {
      const pid = await edge.launch()
      if (WORKERS) await edge.logged('the workers serve', line => line.pid === pid)
      else await edge.serving(pid)
      return edge.pid
    }
    let pid = await next()
    const options = () => ({
      servername: oneOf(below, ['localhost', 'b.test', 'c.test']),
      ...(below(2) === 0 && credentials),
    })
    const one = async (n: number) => {
      const text = () => requestText(below) + (below(4) === 0 ? requestText(below) : '')
      if (n % 8 === 0) await sendHttp2(edge.port, below)
      else if (n % 8 === 1) await sendHttp2(ports.secure, below, options())
      else if (n % 8 === 2) await send(ports.secure, text(), { tls: options() })
      else if (n % 8 === 3) await send(edge.port, upgradeText(below), { later: frames(below) })
      else if (n % 8 === 4)
        await send(ports.secure, upgradeText(below), { later: frames(below), tls: options() })
      else if (n % 8 === 5)
        await send(ports.behind, Buffer.concat([proxyV2(below), Buffer.from(text(), 'latin1')]))
      else if (n % 8 === 6) {
        const from = oneOf(below, [
          'TCP4 10.0.0.1 10.0.0.2 1 80',
          'TCP6 fe80::1%eth0 ::1 1 80',
          'TCP6 fe80::1 ::1 1 80',
          'UNKNOWN',
          'TCP4 a b c d',
        ])
        await send(ports.behind, `PROXY ${from}\r\n${requestText(below)}`)
      } else {
        // In two pieces: a connection may move between them.
        const bytes = text()
        const cut = below(bytes.length)
        await send(edge.port, bytes.slice(0, cut), { later: bytes.slice(cut) })
      }
    }
    const turns = Math.floor(REQUESTS / AT_A_TIME)
    for (let turn = 0; turn < turns; turn++) {
      const load = Promise.all(Array.from({ length: AT_A_TIME }, (_, i) => one(turn * AT_A_TIME + i)))
      if (turn % 12 === 6) pid = await next()
      await load
      expect(await edge.pid.catch(String), edge.sandbox.output.slice(-3_000)).toBe(pid)
    }
    const faults = edge.lines.filter(({ level }) => level >= 50)
    expect(faults).toEqual([])
    expect((await ask(`http://127.0.0.1:${ports.metrics}/metrics`).answer).status).toBe(200)
  },
  600_000,
)
