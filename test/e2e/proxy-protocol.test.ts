import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect, createServer as createNetServer, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { type Config, Edge, type Raw } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const LOCAL = ['127.0.0.0/8']
const V1 = 'PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n'
const V2 = '\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xc7\x38\x01\xbb'
const V2_LOCAL = '\r\n\r\n\0\r\nQUIT\n\x20\0\0\0'
const GET = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'

/** A server that answers with the X-Forwarded-For of the request. */
async function tellingServer(): Promise<string> {
  const server = createServer({ keepAliveTimeout: 60_000 }, ({ headers }, response) => {
    response.end(`from ${headers['x-forwarded-for']}.`)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A server that keeps what each connection sends first, and answers each request head. */
class FirstBytes {
  readonly texts: string[] = []
  url = ''

  static async start(scheme: 'http' | 'tcp'): Promise<FirstBytes> {
    const first = new FirstBytes()
    const sockets = new Set<Socket>()
    const server = createNetServer(socket => {
      sockets.add(socket)
      const index = first.texts.push('') - 1
      socket.on('error', () => {}).setEncoding('latin1')
      socket.on('data', (text: string) => {
        first.texts[index] += text
        if (text.endsWith('\r\n\r\n')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => {
      server.close()
      for (const socket of sockets) socket.destroy()
    })
    first.url = `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`
    return first
  }
}

async function edgeFor(listener: object, rest: Config = {}): Promise<Edge> {
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [await tellingServer()] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    drain: { timeout: '1m' },
    ...rest,
  })
  edge.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, ...listener }] })
  return edge
}

const answered = (client: Raw) => client.until(text => /from [^\n]*\.$/.test(text))

describe('a connection that begins with a PROXY header', () => {
  it.each([
    ['v1', V1, '192.0.2.7'],
    ['v2', V2, '192.0.2.7'],
    ['v1 without addresses', 'PROXY UNKNOWN\r\n', '127.0.0.1'],
    ['v2 of the sender itself', V2_LOCAL, '127.0.0.1'],
  ])('has the client in it: %s', async (_name, header, client) => {
    const edge = await edgeFor({ proxyProtocol: LOCAL }, { accessLog: true })
    await edge.next()
    const together = await edge.raw()
    expect(await answered(together.send(header + GET))).toContain(`from ${client}.`)
    expect(await answered(together.send(GET))).toContain(`from ${client}.`)
    const pieces = await edge.raw()
    for (const piece of [header.slice(0, 5), header.slice(5), GET.slice(0, 9), GET.slice(9)]) {
      pieces.socket.setNoDelay().write(piece, 'latin1')
      await new Promise(setImmediate)
    }
    expect(await answered(pieces)).toContain(`from ${client}.`)
    await edge.access(line => line.client === client)
    // A load balancer looks whether the port is open.
    const check = await edge.raw()
    check.socket.end()
    expect(await check.toTheEnd()).toBe('')
    expect(edge.lines.filter(({ msg }) => /PROXY header/.test(String(msg)))).toEqual([])
  })

  it('keeps the client when it moves, also over TLS', async () => {
    const edge = await edgeFor({ proxyProtocol: LOCAL })
    const certificate = edge.issue('localhost')
    const [http] = edge.config.listeners as object[]
    const port = await freePort()
    const https = { name: 'https', address: `tcp://127.0.0.1:${port}`, tls: true, proxyProtocol: LOCAL }
    edge.write({ listeners: [http, https], tls: { certificates: [certificate], move: 'on' } })
    const old = await edge.next()
    const plain = await edge.raw()
    expect(await answered(plain.send(V1 + GET))).toContain('from 192.0.2.7.')
    const raw = connect(port, '127.0.0.1')
    raw.write(V2, 'latin1')
    await once(raw, 'connect')
    const secure = connectTls({ socket: raw, rejectUnauthorized: false })
    onTestFinished(() => void raw.destroy())
    secure.on('error', () => {})
    let heard = ''
    secure.setEncoding('latin1').on('data', text => (heard += text))
    const asked = async () => {
      heard = ''
      secure.write(GET)
      await until('the answer comes over TLS', () => /from .*\.$/.test(heard))
      return heard
    }
    expect(await asked()).toContain('from 192.0.2.7.')
    await edge.next()
    await until('the old version has ended', () => hasEnded(old), 20_000)
    expect(await answered(plain.send(GET))).toContain('from 192.0.2.7.')
    expect(await asked()).toContain('from 192.0.2.7.')
  })

  it('must come from a trusted address, and be right', async () => {
    const edge = await edgeFor({ proxyProtocol: ['10.0.0.0/8'] })
    await edge.next()
    const untrusted = await edge.raw()
    expect(await untrusted.send(V1 + GET).toTheEnd()).toMatch(/^HTTP\/1\.1 400 /)
    expect((await ask(edge.url).answer).body).toBe('from 127.0.0.1.')
    await edge.reload({
      listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, proxyProtocol: LOCAL }],
      timeouts: { head: '500ms' },
    })
    expect(await (await edge.raw()).send(GET).toTheEnd()).toBe('')
    const { client, why } = await edge.logged('connections without a valid PROXY header were closed')
    expect({ client, why }).toEqual({ client: '127.0.0.1', why: 'the connection does not begin with PROXY' })
    expect(await (await edge.raw()).send('PROXY ').toTheEnd()).toBe('')
  })
})

describe('a server that gets PROXY headers', () => {
  it('gets one for each client: as it came, or the addresses of the connection', async () => {
    const server = await FirstBytes.start('http')
    const upstreams = (proxyProtocol: string) => ({ app: { servers: [server.url], proxyProtocol } })
    const edge = await edgeFor({ proxyProtocol: ['127.0.0.2'] }, { upstreams: upstreams('v1') })
    await edge.next()
    const client = await edge.raw()
    const { localPort } = client.socket
    for (let n = 0; n < 2; n++) await client.send(GET).until(text => text.endsWith('ok'))
    const own = `PROXY TCP4 127.0.0.1 127.0.0.1 ${localPort} ${edge.port}\r\nGET / HTTP/1.1\r\n`
    expect(server.texts.map(text => text.slice(0, own.length))).toEqual([own, own])
    await edge.reload({ upstreams: upstreams('v2') })
    const behind = connect({ port: edge.port, host: '127.0.0.1', localAddress: '127.0.0.2' })
    onTestFinished(() => void behind.destroy())
    behind.write(V1 + GET, 'latin1')
    await until('the header comes', () => server.texts[2]?.startsWith(`${V2}GET / `) === true)
    // The next version knows the client's port too.
    await edge.reload({ upstreams: upstreams('v1') })
    const old = await edge.pid
    await edge.next()
    await until('the old version has ended', () => hasEnded(old), 20_000)
    await client.send(GET).until(text => text.endsWith('ok'))
    expect(server.texts[3]?.slice(0, own.length)).toBe(own)
    behind.write(GET)
    await until('the header comes', () => server.texts[4]?.startsWith(`${V1}GET / `) === true)
  })

  it('gets one for a whole connection, also on the second server that is tried, and for checks', async () => {
    const server = await FirstBytes.start('tcp')
    const edge = await edgeFor(
      { forward: 'db', proxyProtocol: LOCAL },
      {
        routes: [],
        upstreams: {
          db: {
            servers: [server.url, 'tcp://127.0.0.1:1'],
            proxyProtocol: 'v1',
            check: { interval: '1h' },
          },
        },
      },
    )
    await edge.next()
    await until('the check has come', () => server.texts[0] === 'PROXY UNKNOWN\r\n')
    for (let n = 1; n < 3; n++) {
      const client = await edge.raw()
      client.send(`${V2}bytes`)
      await until('the bytes come', () => server.texts[n] === `${V1}bytes`)
    }
  })
})
