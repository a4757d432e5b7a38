import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import http2 from 'node:http2'
import { type AddressInfo, connect, createServer as createTcpServer, type Server } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Certificate, issueBy } from '../processes/certificate.js'
import { Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { askTls, TlsClient } from '../processes/tls-client.js'
import { until } from '../processes/until.js'

interface Options {
  cert?: Buffer
  key?: Buffer
  session?: Buffer
  servername?: string
}

type Told = Record<string, string>

const FORGED = { 'X-Client-Cert-Verified': 'true', x_client_cert_subject: 'CN=root' }
const read = ({ cert, key }: Certificate) => ({
  cert: readFileSync(cert),
  key: readFileSync(key),
})

/** A server that answers with what it is told about the certificate of the client. */
async function teller(): Promise<string> {
  const server = createServer((request, response) => {
    const told = Object.entries(request.headers).filter(([name]) => /^x.client.cert/.test(name))
    response.end(JSON.stringify(Object.fromEntries(told)))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function edgeWith(clientCa: (ca: Certificate) => object | string, rest: object = {}) {
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [await teller()] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    drain: { timeout: '1m' },
    ...rest,
  })
  const port = await freePort()
  const ca = edge.issue('ca')
  const other = edge.issue('other-ca')
  const listeners = (given: object | string) => [
    { name: 'http', address: `tcp://127.0.0.1:${edge.port}` },
    { name: 'https', address: `tcp://127.0.0.1:${port}`, tls: true, http2: true, clientCa: given },
  ]
  edge.write({
    listeners: listeners(clientCa(ca)),
    tls: {
      certificates: [edge.issue('localhost'), edge.issue('two.example', ['two.example'])],
      move: 'on',
    },
  })
  await edge.next()
  const client = (by: Certificate, name: string) => read(issueBy(by, edge.sandbox.folder, name))
  return { edge, port, ca, other, listeners, client }
}

const told = async (port: number, options: Options): Promise<Told> => {
  const client = new TlsClient(port, options)
  return JSON.parse(await client.ask('/')) as Told
}

async function toldOverHttp2(port: number, options: Options): Promise<Told> {
  const session = http2.connect(`https://127.0.0.1:${port}`, { rejectUnauthorized: false, ...options })
  onTestFinished(() => session.destroy())
  const answer = JSON.parse(await text(session.request({ ':path': '/', ...FORGED }))) as Told
  session.close()
  return answer
}

/** Passes connections on, and holds all that the client sends after its first bytes. */
class SlowTls {
  readonly port: number
  held = false
  release = () => {}

  private constructor(server: Server, port: number) {
    this.port = (server.address() as AddressInfo).port
    server.on('connection', client => {
      const proxy = connect(port, '127.0.0.1')
      for (const socket of [client, proxy]) socket.on('error', () => {})
      proxy.pipe(client)
      client.once('data', hello => {
        proxy.write(hello)
        client.once('data', rest => {
          client.pause()
          this.held = true
          this.release = () => {
            proxy.write(rest)
            client.pipe(proxy)
          }
        })
      })
    })
  }

  static async to(port: number): Promise<SlowTls> {
    const server = createTcpServer()
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    return new SlowTls(server, port)
  }
}

const refusal = (port: number, options: Options) => {
  const client = new TlsClient(port, { maxVersion: 'TLSv1.2', ...options })
  return expect(client.ask('/')).rejects.toThrow('the connection was closed after 0 answers')
}

const handshakes = async (edge: Edge) => {
  const { stdout } = await edge.sandbox.run(
    'certificates',
    'list',
    '--control',
    edge.sandbox.control,
    '--json',
  )
  return (JSON.parse(stdout) as { handshakes: { failed: Record<string, number> } }).handshakes.failed
}

describe('a listener with the CAs of its clients', () => {
  it('names the client to servers, over HTTP/1 and HTTP/2, also if the client claims another name, and refuses all others', async () => {
    const { edge, port, ca, other, client } = await edgeWith(({ cert }) => cert)
    const alice = client(ca, 'alice')
    const found = await told(port, alice)
    expect(found).toEqual({
      'x-client-cert-verified': 'true',
      'x-client-cert-subject': 'CN=alice,O=Example',
      'x-client-cert-issuer': 'CN=ca',
      'x-client-cert-serial': expect.stringMatching(/^[0-9A-F]{2,40}$/),
      'x-client-cert-san': 'DNS:alice, URI:spiffe://example/alice',
      'x-client-cert-fingerprint': expect.stringMatching(/^[0-9a-f]{64}$/),
    })
    expect(await toldOverHttp2(port, alice)).toEqual(found)
    const plain = await edge.raw()
    const forged = Object.entries(FORGED).map(([name, value]) => `${name}: ${value}\r\n`)
    plain.send(`GET / HTTP/1.1\r\nHost: a\r\n${forged.join('')}\r\n`)
    expect(await plain.until(answer => answer.endsWith('}'))).toMatch(/\r\n\{\}$/)
    await refusal(port, {})
    await refusal(port, client(other, 'mallory'))
    await until('both are counted', async () => Object.keys(await handshakes(edge)).length === 2)
    expect(await handshakes(edge)).toEqual({
      'peer-did-not-return-a-certificate': 1,
      'client-unable-to-verify-leaf-signature': 1,
    })
  })

  it('asks by the same CAs for each of its own certificates', async () => {
    const { port, ca, other, client } = await edgeWith(({ cert }) => cert)
    const servername = 'two.example'
    const named = await told(port, { ...client(ca, 'alice'), servername })
    expect(named).toMatchObject({ 'x-client-cert-subject': 'CN=alice,O=Example' })
    await refusal(port, { ...client(other, 'mallory'), servername })
    await refusal(port, { servername })
  })

  it('tells the same after an upgrade, also of a connection that moves, and drains the others', async () => {
    const { edge, port, ca, client } = await edgeWith(({ cert }) => cert)
    const alice = client(ca, 'alice')
    const { session, socket } = await askTls(port, alice)
    socket.destroy()
    const stays = new TlsClient(port, alice)
    const moves = new TlsClient(port, { ...alice, session })
    const found = await Promise.all([stays.ask('/'), moves.ask('/')])
    expect(JSON.parse(found[1])).toMatchObject({ 'x-client-cert-subject': 'CN=alice,O=Example' })
    expect([moves.socket.isSessionReused(), found[0] === found[1]]).toEqual([true, true])
    const pid = await edge.next()
    const kinds = () => edge.status().then(({ draining }) => draining.map(each => each.kinds))
    await until('one has moved', async () => JSON.stringify(await kinds()).includes('"client-certificate":1'))
    const answer = await moves.answer('/')
    expect(answer.head).toContain(`X-Pid: ${pid}`)
    expect(answer.body).toBe(found[1])
    const last = await stays.answer('/')
    expect([last.body === found[1], /connection: close/i.test(last.head)]).toEqual([true, true])
    expect(await told(port, { ...alice, session })).toEqual(JSON.parse(found[1]))
  })

  it('says where a client has none and need not, and takes other CAs at a reload', async () => {
    const { edge, port, ca, other, listeners, client } = await edgeWith(({ cert: file }) => ({
      file,
      required: false,
    }))
    const none = { 'x-client-cert-verified': 'false' }
    const alice = client(ca, 'alice')
    const { session } = await askTls(port, {})
    expect(await told(port, { session })).toEqual(none)
    const before = new TlsClient(port, alice)
    expect(JSON.parse(await before.ask('/'))).toMatchObject({ 'x-client-cert-verified': 'true' })
    const { session: ofAlice } = await askTls(port, alice)
    await refusal(port, client(other, 'mallory'))
    await edge.reload({ listeners: listeners({ file: other.cert, required: false }) })
    expect((await before.answer('/')).head).toMatch(/connection: close/i)
    await refusal(port, alice)
    const again = new TlsClient(port, { session: ofAlice })
    expect([JSON.parse(await again.ask('/')), again.socket.isSessionReused()]).toEqual([none, false])
    expect(await told(port, client(other, 'bob'))).toMatchObject({
      'x-client-cert-subject': 'CN=bob,O=Example',
    })
  })

  it('believes no certificate that was verified by the CAs of an earlier configuration', async () => {
    const { port, ca, other, edge, listeners, client } = await edgeWith(({ cert: file }) => ({
      file,
      required: false,
    }))
    const slow = await SlowTls.to(port)
    const late = told(slow.port, client(ca, 'alice'))
    await until('the handshake has begun', () => slow.held)
    await edge.reload({ listeners: listeners({ file: other.cert, required: false }) })
    slow.release()
    expect(await late).toEqual({ 'x-client-cert-verified': 'false' })
  })

  it('serves clients without a certificate once more at most, where a reload asks all for one', async () => {
    const { port, ca, edge, listeners, client } = await edgeWith(({ cert: file }) => ({
      file,
      required: false,
    }))
    const alice = client(ca, 'alice')
    const { session } = await askTls(port, alice)
    const [movable, without] = [new TlsClient(port, { ...alice, session }), new TlsClient(port)]
    await Promise.all([movable.ask('/'), without.ask('/')])
    await edge.reload({ listeners: listeners(ca.cert) })
    expect((await without.answer('/')).head).toMatch(/connection: close/i)
    await refusal(port, {})
    // The next version refuses the connection, because its client was not asked alike.
    await edge.next()
    const kinds = () => edge.status().then(({ draining }) => JSON.stringify(draining))
    await until('it has come back', async () => (await kinds()).includes('"ERR_FDB_RELAYED_REFUSED":1'))
    const last = await movable.answer('/')
    expect(last.head).toMatch(/connection: close/i)
    expect(JSON.parse(last.body)).toMatchObject({ 'x-client-cert-verified': 'true' })
  })

  it('passes its own health check', async () => {
    const health = { http: '/', listener: 'https' }
    const { edge, port, ca, client } = await edgeWith(({ cert }) => cert, {
      upgrade: { probation: '0s', health },
    })
    await edge.next()
    expect(await told(port, client(ca, 'alice'))).toMatchObject({ 'x-client-cert-verified': 'true' })
  })
})
