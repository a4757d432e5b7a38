import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import http2, { type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type WebSocket, WebSocketServer } from 'ws'
import { Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const MASK = Buffer.from([1, 2, 3, 4])

function masked(opcode: number, payload: Buffer): Buffer {
  return Buffer.concat([
    Buffer.from([0x80 | opcode, 0x80 | payload.length]),
    MASK,
    payload.map((byte, i) => byte ^ MASK[i % 4]!),
  ])
}

/** A server of WebSockets that echoes, and a proxy before it, with TLS and HTTP/2. */
async function scene(http2WebSockets: boolean, config: object = {}) {
  const server = createServer((_, response) => response.end('no WebSocket'))
  const sockets: WebSocket[] = []
  new WebSocketServer({ server, path: '/echo' }).on('connection', socket => {
    sockets.push(socket)
    socket.on('message', data => socket.send(data.toString()))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const { port } = server.address() as AddressInfo
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [`http://127.0.0.1:${port}`] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    accessLog: true,
    ...config,
  })
  const secure = await freePort()
  const certificates = [edge.issue('localhost')]
  edge.write({
    listeners: [
      { name: 'https', address: `tcp://127.0.0.1:${secure}`, tls: true, http2: true, http2WebSockets },
    ],
    tls: { certificates },
  })
  await edge.next()
  const session = http2.connect(`https://localhost:${secure}`, {
    rejectUnauthorized: false,
    lookup: (_host, _options, done) => done(null, [{ address: '127.0.0.1', family: 4 }] as never, 4),
  })
  session.on('error', () => {})
  onTestFinished(() => session.destroy())
  await once(session, 'remoteSettings')
  return { edge, session, sockets }
}

function open(session: ClientHttp2Session, path: string) {
  const stream: ClientHttp2Stream = session.request(
    { ':method': 'CONNECT', ':protocol': 'websocket', ':path': path, 'sec-websocket-version': '13' },
    { endStream: false },
  )
  const got: Buffer[] = []
  stream.on('error', () => {})
  stream.on('data', chunk => got.push(chunk))
  return { stream, got: () => Buffer.concat(got) }
}

describe('a WebSocket over HTTP/2', () => {
  it('reaches its server over HTTP/1.1, and carries frames both ways until both have ended it', async () => {
    const { edge, session, sockets } = await scene(true)
    expect(session.remoteSettings.enableConnectProtocol).toBe(true)
    const { stream, got } = open(session, '/echo')
    const [headers] = await once(stream, 'response')
    expect(headers[':status']).toBe(200)
    expect(headers['sec-websocket-accept']).toBeUndefined()
    stream.write(masked(1, Buffer.from('hello')))
    await until('the echo', () => got().length === 7)
    expect(got().toString('latin1')).toBe('\x81\x05hello')
    expect(sockets).toHaveLength(1)
    stream.write(masked(8, Buffer.from([3, 232])))
    await until('the server answers the close frame', () => got().length === 11)
    stream.end()
    await once(stream, 'close')
    await until('the server has seen the end', () => sockets[0]!.readyState === 3)
    await edge.logged('request', line => line.status === 101)
  })

  it('gets the status of a server that refuses, and 502 for an answer that opens none', async () => {
    const { session } = await scene(true)
    const refused = open(session, '/other')
    expect((await once(refused.stream, 'response'))[0][':status']).toBe(400)
    const { edge: other, session: plain } = await scene(true, {
      routes: [{ host: '*', respond: { body: 'no WebSocket' } }],
    })
    const answered = open(plain, '/echo')
    expect((await once(answered.stream, 'response'))[0][':status']).toBe(502)
    await other.logged('request', line => line.status === 502 && line.reason === 'no-websocket')
  })

  it.each([
    [
      '101 with a wrong Sec-WebSocket-Accept',
      '101 S',
      'Upgrade: websocket\r\nSec-WebSocket-Accept: aGVsbG8=\r\n',
    ],
    ['101 without Sec-WebSocket-Accept', '101 S', 'Upgrade: websocket\r\n'],
    ['101 with another Upgrade', '101 S', 'Upgrade: h2c\r\nSec-WebSocket-Accept: RIGHT\r\n'],
    ['101 without Upgrade', '101 S', 'Sec-WebSocket-Accept: RIGHT\r\n'],
    ['200 that ends with its connection', '200 OK', ''],
    ['200 with a length', '200 OK', 'Content-Length: 100\r\n'],
    ['204', '204 No Content', 'Sec-WebSocket-Accept: RIGHT\r\nUpgrade: websocket\r\n'],
  ])(
    'ends with 502 if its server answers %s, and the server keeps its other clients',
    async (_, status, lines) => {
      const sockets: Socket[] = []
      const server = createTcpServer(socket => {
        socket.on('error', () => {})
        socket.once('data', data => {
          const key = /^sec-websocket-key: (.*)\r$/im.exec(data.toString('latin1'))?.[1]
          if (key === undefined) {
            socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
            return
          }
          sockets.push(socket)
          const accept = createHash('sha1')
            .update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
            .digest('base64')
          socket.write(
            `HTTP/1.1 ${status}\r\n${lines.replace('RIGHT', accept)}Connection: upgrade\r\n\r\n\x81\x05hello`,
            'latin1',
          )
        })
      }).listen(0, '127.0.0.1')
      await once(server, 'listening')
      onTestFinished(() => {
        server.close()
        for (const socket of sockets) socket.destroy()
      })
      const servers = [`http://127.0.0.1:${(server.address() as AddressInfo).port}`]
      const { edge, session } = await scene(true, {
        upstreams: { app: { servers, health: { failures: 3, coolDown: '1m' }, retry: 0 } },
      })
      for (let n = 0; n < 4; n++) {
        const { stream, got } = open(session, '/echo')
        const closed = once(stream, 'close')
        const [headers] = await once(stream, 'response')
        stream.write(masked(1, Buffer.from('lost')))
        expect(headers[':status']).toBe(502)
        await closed
        expect([got().toString('latin1'), stream.rstCode]).toEqual(['no-websocket\n', 0])
        await until('the connection to the server is closed', () => sockets[n]!.destroyed)
        expect(sockets[n]!.bytesRead).toBeLessThan(600)
      }
      await edge.logged('request', line => line.status === 502 && line.reason === 'no-websocket')
      const plain = session.request({ ':path': '/' })
      expect(await text(plain)).toBe('ok')
    },
  )

  it('gets a close frame between two frames when the time of the drain is over', async () => {
    const { edge, session } = await scene(true, { drain: { tlsTimeout: '300ms', timeout: '300ms' } })
    const { stream, got } = open(session, '/echo')
    await once(stream, 'response')
    stream.write(masked(1, Buffer.from('hello')))
    await until('the echo', () => got().length === 7)
    await edge.next()
    await until('the close frame', () => got().length >= 11)
    expect([got()[7], got().readUInt16BE(9)]).toEqual([0x88, 1001])
  })

  it('needs the setting', async () => {
    const { session } = await scene(false)
    expect(session.remoteSettings.enableConnectProtocol).not.toBe(true)
  })
})
