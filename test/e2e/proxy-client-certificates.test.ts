import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import http2 from 'node:http2'
import { type AddressInfo, connect, createServer as createTcpServer, type Server } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { type Certificate, issueBy, revoke } from '../processes/certificate.js'
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

describe('a client whose certificate its CA has revoked', () => {
  async function revoking(names: readonly string[], required = true) {
    let lists: string[] = []
    const scene = await edgeWith(({ cert }) => cert)
    const { edge, ca, listeners } = scene
    const { folder } = edge.sandbox
    const certificates = new Map(names.map(name => [name, issueBy(ca, folder, name)]))
    const certificate = (name: string) => certificates.get(name)!
    let made = 0
    const given = (revoked: readonly string[], times = {}) => {
      lists = [revoke(ca, folder, `list-${++made}.crl`, revoked.map(certificate), times)]
      return listeners({ file: ca.cert, required, revoked: lists })
    }
    const reload = async (revoked: readonly string[], times = {}) =>
      edge.reload({ listeners: given(revoked, times) })
    const client = (name: string) => read(certificate(name))
    return { ...scene, given, reload, client, folder }
  }
  const named = (name: string) => ({ 'x-client-cert-subject': `CN=${name},O=Example` })
  /** Waits for the answer of a connection that was open, and returns whether it is the last one. */
  const isLast = async (client: TlsClient) => /connection: close/i.test((await client.answer('/')).head)

  it.runIf(NIGHTLY)(
    'gets no answer, with each certificate of the proxy, also where clients need no certificate',
    async () => {
      for (const required of [true, false]) {
        const { edge, port, reload, client } = await revoking(['alice', 'bob'], required)
        await reload(['alice'])
        await refusal(port, client('alice'))
        await refusal(port, { ...client('alice'), servername: 'two.example' })
        await refusal(port, { ...client('alice'), maxVersion: 'TLSv1.3' } as Options)
        expect(await told(port, client('bob'))).toMatchObject(named('bob'))
        expect(await told(port, { ...client('bob'), servername: 'two.example' })).toMatchObject(named('bob'))
        await until('they are counted', async () => (await handshakes(edge))['client-cert-revoked'] === 3)
      }
    },
  )

  it('resumes no session, and its open connection ends after its next answer; a list that only is newer changes nothing', async () => {
    const { port, reload, client } = await revoking(['alice', 'bob'])
    await reload([])
    const sessionOf = async (name: string) => (await askTls(port, client(name))).session
    const [alice, bob] = [await sessionOf('alice'), await sessionOf('bob')]
    const open = new TlsClient(port, client('alice'))
    await open.ask('/')
    await reload([], { from: '20210101000000Z' })
    expect(await isLast(open)).toBe(false)
    const again = new TlsClient(port, { ...client('alice'), session: alice })
    expect(JSON.parse(await again.ask('/'))).toMatchObject(named('alice'))
    expect(again.socket.isSessionReused()).toBe(true)

    await reload(['alice'])
    expect([await isLast(open), await isLast(again)]).toEqual([true, true])
    await refusal(port, { ...client('alice'), session: alice })
    const other = new TlsClient(port, { ...client('bob'), session: bob })
    expect(JSON.parse(await other.ask('/'))).toMatchObject(named('bob'))
    expect(other.socket.isSessionReused()).toBe(false)
  })

  it('moves to no version that knows that it is revoked, but to one with an equal list', async () => {
    const { edge, port, reload, given, client } = await revoking(['alice'])
    await reload([])
    const { session } = await askTls(port, client('alice'))
    const open = new TlsClient(port, { ...client('alice'), session })
    await open.ask('/')
    edge.write({ listeners: given([], { from: '20210101000000Z' }) })
    const second = await edge.next()
    await until('it has moved', async () => (await open.answer('/')).head.includes(`X-Pid: ${second}`))
    edge.write({ listeners: given(['alice']) })
    const third = await edge.next()
    const draining = () => edge.status().then(({ draining }) => JSON.stringify(draining))
    await until('it was refused', async () => (await draining()).includes('"ERR_FDB_RELAYED_REFUSED":1'))
    const last = await open.answer('/')
    expect([last.head.includes(`X-Pid: ${second}`), /connection: close/i.test(last.head)]).toEqual([
      true,
      true,
    ])
    await refusal(port, { ...client('alice'), session })
    expect(third).not.toBe(second)
  })

  it('ends its connection after the next answer also where the connection has moved', async () => {
    const { edge, port, reload, client } = await revoking(['alice'])
    await reload([])
    const { session } = await askTls(port, client('alice'))
    const open = new TlsClient(port, { ...client('alice'), session })
    await open.ask('/')
    const second = await edge.next()
    await until('it has moved', async () => (await open.answer('/')).head.includes(`X-Pid: ${second}`))
    await reload(['alice'])
    expect(await isLast(open)).toBe(true)
    await refusal(port, { ...client('alice'), session })
  })

  it.runIf(NIGHTLY)(
    'stays refused where a new list is wrong: the reload says why, and so does a next version',
    async () => {
      const { edge, port, ca, other, listeners, reload, client, folder } = await revoking(['alice', 'bob'])
      await reload(['alice'])
      const readable = revoke(ca, folder, 'whole.crl', [])
      const foreign = revoke(other, folder, 'foreign.crl', [])
      const listed = (...revoked: string[]) => listeners({ file: ca.cert, revoked })
      for (const [wanted, why] of [
        [listed(`${folder}/none.crl`), /none\.crl\\?" cannot be read \(ENOENT\)/],
        [listed(ca.cert), /there is no list of revoked certificates in PEM/],
        [listed(foreign), /CN=ca\\?" of .* has no list/],
      ] as const) {
        const { level, ...line } = await edge.reload({ listeners: wanted })
        expect(JSON.stringify(line)).toMatch(why)
        await refusal(port, client('alice'))
        expect(await told(port, client('bob'))).toMatchObject(named('bob'))
      }
      const { code, stderr } = await edge.sandbox.run('proxy', '--config', edge.file, '--check')
      expect([code, stderr]).toEqual([expect.any(Number), expect.stringMatching(/has no list/)])
      expect(code).not.toBe(0)
      await edge.reload({ listeners: listed(foreign, readable) })
      expect(await told(port, client('alice'))).toMatchObject(named('alice'))
    },
  )

  it('gets no answer, nor do others, when the list expires in force', async () => {
    const { edge, port, given, client } = await revoking(['bob'])
    const soon = new Date(Date.now() + 6_000).toISOString().replace(/\.\d+|[-:T]/g, '')
    await edge.reload({ listeners: given([], { until: soon }) })
    expect(await told(port, client('bob'))).toMatchObject(named('bob'))
    await until(
      'it has expired',
      async () => {
        await told(port, client('bob')).catch(() => {})
        return ((await handshakes(edge))['client-crl-has-expired'] ?? 0) > 0
      },
      20_000,
    )
    await refusal(port, client('bob'))
    // The expired list keeps no other change back, and no next version.
    const warned = (what: RegExp) => edge.lines.filter(({ msg }) => what.test(msg)).length
    expect((await edge.reload({ accessLog: false })).msg).toBe('the configuration was read again')
    await edge.next()
    expect(warned(/will be refused: the list of revoked certificates expired on 20/)).toBeGreaterThan(1)
    await refusal(port, client('bob'))
    await edge.reload({ listeners: given([], { from: '20980101000000Z' }) })
    expect(warned(/is valid only from 2098-01-01T00:00:00\.000Z on/)).toBeGreaterThan(0)
    await refusal(port, client('bob'))
    await edge.reload({ listeners: given([]) })
    expect(await told(port, client('bob'))).toMatchObject(named('bob'))
  })
})
