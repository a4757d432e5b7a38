import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import tls from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import { get } from '../../connections-support/http-client.js'
import { folders } from '../../native/support.js'
import { issue } from '../../processes/certificate.js'
import { until } from '../../processes/until.js'

const folder = folders()

async function certificate(): Promise<{ key: Buffer; cert: Buffer }> {
  const { key, cert } = issue(await folder(), 'localhost')
  return { key: readFileSync(key), cert: readFileSync(cert) }
}

async function served(server: net.Server): Promise<{ served: AttachedServer; port: number }> {
  const it = new AttachedServer(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    it.release()
    it.cut()
    server.close()
  })
  return { served: it, port: (server.address() as net.AddressInfo).port }
}

/** Connected, with what was sent on it. */
async function client(port: number, secure: boolean, text = ''): Promise<net.Socket> {
  const options = { port, host: '127.0.0.1', rejectUnauthorized: false }
  const socket = secure ? tls.connect(options) : net.connect(options)
  socket.on('error', () => {})
  onTestFinished(() => {
    socket.destroy()
  })
  await once(socket, secure ? 'secureConnect' : 'connect')
  if (text !== '') socket.write(text)
  return socket
}

async function expectKinds(served: AttachedServer, kinds: Record<string, number>): Promise<void> {
  const sum = Object.values(kinds).reduce((all, count) => all + count, 0)
  await until(
    'they are known',
    () =>
      served.connections === sum && Object.entries(kinds).every(([kind, n]) => served.kinds()[kind] === n),
    10_000,
    () => served.kinds(),
  )
}

const answerUnlessSlow: http.RequestListener = (request, response) => {
  if (request.url !== '/slow') response.end('ok')
}

describe('connections that are closed at the end of the drain are named', () => {
  it('https: those that answer, those between two requests, those in their handshake', async () => {
    const { served: all, port } = await served(https.createServer(await certificate(), answerUnlessSlow))
    for (let i = 0; i < 3; i++) await client(port, true, get('/slow'))
    for (let i = 0; i < 2; i++) await client(port, true, get('/'))
    await client(port, false)
    await expectKinds(all, { answering: 3, idle: 2, handshake: 1 })
    expect(all.cut()).toEqual({
      idle: 3,
      busy: 3,
      closed: expect.arrayContaining([
        { kind: 'tls', reason: 'handshake', count: 1 },
        { kind: 'https', reason: 'answering', count: 3 },
        { kind: 'https', reason: 'idle', count: 2 },
      ]),
    })
    await all.emptied()
  })

  it('http: also half requests, and what was upgraded', async () => {
    const server = http.createServer(answerUnlessSlow)
    server.on('upgrade', (_request, socket) => socket.write('HTTP/1.1 101 Go\r\n\r\n'))
    const { served: all, port } = await served(server)
    await client(port, false, get('/slow'))
    await client(port, false, get('/'))
    await client(port, false, `${get('/')}GET /half`)
    await client(port, false, get('/', 'Connection: upgrade\r\nUpgrade: chat\r\n'))
    await expectKinds(all, { answering: 1, idle: 1, 'half-request': 1, upgraded: 1 })
    expect(all.cut()).toMatchObject({ idle: 2, busy: 2 })
    await all.emptied()
  })

  it('http2: sessions with streams and without, and HTTP/1 beside them', async () => {
    const server = http2.createSecureServer({ ...(await certificate()), allowHTTP1: true })
    server.on('request', (request, response) => {
      if (request.url !== '/slow') response.end('ok')
    })
    const { served: all, port } = await served(server)
    const sessions = [0, 1].map(() => {
      const session = http2.connect(`https://127.0.0.1:${port}`, { rejectUnauthorized: false })
      session.on('error', () => {})
      onTestFinished(() => session.destroy())
      return session
    })
    await Promise.all(sessions.map(session => once(session, 'connect')))
    sessions[0]!.request({ ':path': '/slow' }).on('error', () => {})
    await client(port, true, get('/slow'))
    await client(port, true, get('/'))
    await expectKinds(all, { answering: 2, idle: 2 })
    expect(all.cut().closed).toEqual([
      { kind: 'http2', reason: 'answering', count: 1 },
      { kind: 'http2', reason: 'idle', count: 1 },
      { kind: 'https', reason: 'answering', count: 1 },
      { kind: 'https', reason: 'idle', count: 1 },
    ])
    await all.emptied()
  })

  it('net and tls: no more than that they are open', async () => {
    const plain = await served(net.createServer(socket => socket.on('error', () => {})))
    const secure = await served(tls.createServer(await certificate(), socket => socket.on('error', () => {})))
    await client(plain.port, false)
    await client(secure.port, true)
    await expectKinds(plain.served, { open: 1 })
    await expectKinds(secure.served, { open: 1 })
    expect(plain.served.cut().closed).toEqual([{ kind: 'net', reason: 'open', count: 1 }])
    expect(secure.served.cut().closed).toEqual([{ kind: 'tls', reason: 'open', count: 1 }])
  })

  it('and hooks for connections that cannot move are refused', async () => {
    const hooks = { protocol: 'app/x-1', serialize: () => undefined, restore: () => {} }
    for (const server of [
      https.createServer(),
      http2.createServer(),
      tls.createServer(),
      http.createServer(),
    ])
      expect(() => new AttachedServer(server, { socket: hooks })).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_OPTION' }),
      )
  })
})
