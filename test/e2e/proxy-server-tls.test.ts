import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { Agent as PlainAgent, get as plainGet, type RequestListener } from 'node:http'
import { Agent, createServer, get, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { createServer as createTlsServer, type TLSSocket, type TlsOptions } from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { EXPIRED } from '../fixtures/expired-certificate.js'
import { perLane } from '../lanes/lane.js'
import { type Certificate, issue } from '../processes/certificate.js'
import { ask } from '../processes/client.js'
import { type Config, Edge, upstream } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const ROUTES = [{ host: '*', upstream: 'app' }]
const UPGRADES = perLane(1, 3)
const EXPIRED_MESSAGE = 'TLS with a server failed'

function read({ cert, key }: Certificate) {
  return { cert: readFileSync(cert), key: readFileSync(key) }
}

/** A server with TLS that says what it saw of the proxy: the name that it was asked for, and the subject of its certificate. */
class SecureServer {
  connections = 0
  readonly server: Server
  url = ''

  private constructor(options: TlsOptions, answer: RequestListener) {
    this.server = createServer({ keepAliveTimeout: 60_000, ...options }, answer)
    this.server.on('secureConnection', () => this.connections++)
  }

  static async start(options: TlsOptions, answer: RequestListener = saysWhatItSees): Promise<SecureServer> {
    const secure = new SecureServer(options, answer)
    const { server } = secure
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => {
      server.close()
      server.closeAllConnections()
    })
    secure.url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
    return secure
  }
}

const saysWhatItSees: RequestListener = (request, response) => {
  const socket = request.socket as TLSSocket
  const sni = (socket as TLSSocket & { servername?: string | false }).servername || '-'
  response.end(`${sni} ${socket.getPeerCertificate()?.subject?.CN ?? '-'} ${socket.alpnProtocol || '-'}\n`)
}

async function before(server: { url: string }, tls: object | undefined, rest: Config = {}): Promise<Edge> {
  const edge = await Edge.prepare({ routes: ROUTES, accessLog: true, ...rest })
  edge.write({ upstreams: upstreamsOf(server, tls) })
  await edge.next()
  return edge
}

const upstreamsOf = ({ url }: { url: string }, tls?: object, more: object = {}) => ({
  app: { servers: [url], ...(tls && { tls }), ...more },
})

const answerOf = async (edge: Edge) => {
  const { status, body } = await ask(edge.url).answer
  return `${status} ${body.trim()}`
}

/** A folder that ends with the test. */
async function folder() {
  const edge = await Edge.prepare({})
  return edge.sandbox.folder
}

describe('a server with TLS', () => {
  it('gets a name, a certificate and HTTP/1.1 after the CA of the upstream has verified it', async () => {
    const at = await folder()
    const [own, client] = [issue(at, 'app.test', ['app.test']), issue(at, 'edge')]
    const server = await SecureServer.start({
      ...read(own),
      requestCert: true,
      ca: readFileSync(client.cert),
      ALPNProtocols: ['h2', 'http/1.1'],
    })
    const edge = await before(server, { ca: own.cert, name: 'app.test', ...client })
    for (let n = 0; n < 3; n++) expect(await answerOf(edge)).toBe('200 app.test edge http/1.1')
    expect(server.connections).toBe(1)
  })

  const FAILURES = [
    ['certificate-expired', EXPIRED, 'old.test', /expired/],
    ['certificate-name', null, 'other.test', /altnames/],
    ['certificate-untrusted', null, 'app.test', /self-signed/],
  ] as const
  it.each(perLane(FAILURES.slice(1, 2), [...FAILURES]))(
    'fails with %s in the answer, the log and the status',
    async (reason, files, name, why) => {
      const at = await folder()
      const own = issue(at, 'app.test', ['app.test'])
      const ca = join(at, 'ca.pem')
      writeFileSync(ca, files?.cert ?? readFileSync(own.cert))
      const server = await SecureServer.start(files ?? read(own))
      const trust = reason === 'certificate-untrusted' ? {} : { ca }
      const edge = await before(server, { name, ...trust })
      for (let n = 0; n < 3; n++) expect(await answerOf(edge)).toBe(`502 ${reason}`)
      expect(await edge.access(line => line.status === 502)).toMatchObject({ reason })
      const logged = await edge.logged(EXPIRED_MESSAGE)
      expect(logged).toMatchObject({ upstream: 'app', server: server.url, reason })
      expect(logged.why).toMatch(why)
      const facts = { upstream: 'app', server: server.url, reason }
      expect((await edge.status()).details?.serversOut).toMatchObject([{ ...facts, state: 'down' }])
      const { stdout } = await edge.sandbox.run('status', '--control', edge.sandbox.control)
      expect(stdout).toMatch(new RegExp(`^ {2}app +${server.url} +down +.*${reason}`, 'm'))
      expect(server.connections).toBe(0)
    },
  )

  it('can refuse the certificate of the proxy, or speak no TLS', async () => {
    const at = await folder()
    const own = issue(at, 'app.test', ['app.test'])
    // A server of Node closes the connection and does not say why.
    const args = ['-accept', '127.0.0.1:0', '-Verify', '1', '-verify_return_error', '-www']
    const strict = spawn('openssl', ['s_server', '-cert', own.cert, '-key', own.key, ...args])
    onTestFinished(() => void strict.kill('SIGKILL'))
    let said = ''
    strict.stdout.setEncoding('utf8').on('data', more => (said += more))
    const port = await until('it listens', () => /^ACCEPT .*:(\d+)$/m.exec(said)?.[1])
    const edge = await before({ url: `https://127.0.0.1:${port}` }, { ca: own.cert, name: 'app.test' })
    expect(await answerOf(edge)).toBe('502 client-certificate-refused')
    const plain = await upstream()
    const tls = { ca: own.cert }
    const url = plain.url.replace('http', 'https')
    expect(await edge.reload({ upstreams: upstreamsOf({ url }, tls) })).toMatchObject({ level: 30 })
    expect(await answerOf(edge)).toBe('502 tls-failed')
  })

  it('counts as trusted or not from the moment of a reload on, also over connections that were kept', async () => {
    const at = await folder()
    const [own, other] = [issue(at, 'app.test', ['app.test']), issue(at, 'other.test')]
    const server = await SecureServer.start(read(own))
    const ca = join(at, 'ca.pem')
    writeFileSync(ca, readFileSync(own.cert))
    const edge = await before(server, { ca, name: 'app.test' })
    expect(await answerOf(edge)).toMatch(/^200/)
    // The same file with other contents.
    writeFileSync(ca, readFileSync(other.cert))
    await edge.reload({})
    expect(await answerOf(edge)).toBe('502 certificate-untrusted')
    await edge.reload({ upstreams: upstreamsOf(server, { verify: false }) })
    expect(await answerOf(edge)).toMatch(/^200/)
    const { code, stderr } = await edge.sandbox.run(
      ...['servers', 'add', '--control', edge.sandbox.control, 'app', 'https://localhost:1'],
    )
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  })

  it('gets another certificate of the proxy from the moment of a reload on, not over connections that were kept', async () => {
    const at = await folder()
    const own = issue(at, 'app.test', ['app.test'])
    const [first, second] = [issue(at, 'edge'), issue(at, 'renewed')]
    const clients = [readFileSync(first.cert), readFileSync(second.cert)]
    const server = await SecureServer.start({ ...read(own), requestCert: true, ca: clients })
    const edge = await before(server, { ca: own.cert, name: 'app.test', ...first })
    expect(await answerOf(edge)).toMatch(/^200 app\.test edge /)
    // The same files with other contents.
    writeFileSync(first.cert, readFileSync(second.cert))
    writeFileSync(first.key, readFileSync(second.key))
    await edge.reload({})
    expect(await answerOf(edge)).toMatch(/^200 app\.test renewed /)
  })

  it('gets checks over TLS', async () => {
    const at = await folder()
    const own = issue(at, 'app.test', ['app.test'])
    const server = await SecureServer.start(read(own))
    const other = await upstream()
    const tls = { ca: own.cert, name: 'app.test' }
    const check = { http: '/health', interval: '20ms', fall: 1, rise: 1 }
    const edge = await Edge.prepare({ routes: ROUTES })
    const upstreams = (check: object | string, name: string) => ({
      app: { servers: [server.url, other.url], tls: { ...tls, name }, check, slowStart: '1ms' },
    })
    edge.write({ upstreams: upstreams({ ...check, http: '/r/1' }, 'app.test') })
    await edge.next()
    await until('the server is checked', () => server.connections > 2)
    expect((await edge.status()).details?.serversOut).toEqual([])
    await edge.reload({ upstreams: upstreams({ ...check, http: '/r/1' }, 'wrong.test') })
    const { reason } = await edge.logged('a server fails its check and gets no requests until it passes')
    expect(reason).toMatch(/Host: wrong\.test\. is not in the cert's altnames: DNS:app\.test/)
    await edge.reload({ upstreams: upstreams({ interval: '20ms', fall: 1, rise: 1 }, 'app.test') })
    await edge.logged('a server passes its check and gets requests again')
  })

  it('gets the bytes of a whole connection', async () => {
    const at = await folder()
    const own = issue(at, 'db.test', ['db.test'])
    const server = createTlsServer(read(own), socket => void socket.pipe(socket))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const { port } = server.address() as AddressInfo
    const edge = await Edge.prepare({
      upstreams: { db: { servers: [`tls://127.0.0.1:${port}`], tls: { ca: own.cert, name: 'db.test' } } },
    })
    edge.write({ listeners: [{ name: 'db', address: `tcp://127.0.0.1:${edge.port}`, forward: 'db' }] })
    await edge.next()
    const client = await edge.raw()
    await client.send('to the server').until(text => text === 'to the server')
    client.socket.end('and the end')
    expect(await client.toTheEnd()).toBe('and the end')
  })
})

/** {@link upstream} with TLS. */
async function securedApp() {
  const app = await upstream()
  const own = issue(await folder(), 'app.test', ['app.test'])
  const server = await SecureServer.start(read(own), (request, response) =>
    app.server.emit('request', request, response),
  )
  server.server.on('upgrade', (...event) => app.server.emit('upgrade', ...event))
  return { server, own }
}

/** Clients that keep their connection, one request after the other; a request is never tried again. */
function keepAsking(port: number, secure: boolean, clients: number) {
  let going = true
  let connections = 0
  const failures: string[] = []
  const pids = new Set<string>()
  const ask = (agent: Agent | PlainAgent) =>
    new Promise<void>((resolve, reject) => {
      const to = { port, host: '127.0.0.1', path: '/r/5', agent }
      const request = (secure ? get : plainGet)(to, async answer => {
        const body = await text(answer)
        pids.add(String(answer.headers['x-pid']))
        if (answer.statusCode === 200 && body === '5 item-5\n') resolve()
        else reject(new Error(`${answer.statusCode} ${body}`))
      })
      request.on('error', reject).on('socket', () => {
        if (!request.reusedSocket) connections++
      })
    })
  const options = { keepAlive: true, maxSockets: 1 }
  const all = Array.from({ length: clients }, async () => {
    const agent = secure ? new Agent({ ...options, rejectUnauthorized: false }) : new PlainAgent(options)
    while (going && failures.length === 0) await ask(agent).catch(error => failures.push(String(error)))
    agent.destroy()
  })
  onTestFinished(() => {
    going = false
  })
  return {
    pids,
    failures,
    async stop() {
      going = false
      await Promise.all(all)
      return { failures, connections }
    },
  }
}

describe('an upgrade in front of a server with TLS', () => {
  it(`fails no request of plain and secure clients, and moves all their connections, ${UPGRADES} times`, async () => {
    const { server, own } = await securedApp()
    const edge = await Edge.prepare({
      upstreams: upstreamsOf(server, { ca: own.cert, name: 'app.test' }),
      routes: ROUTES,
      upgrade: { probation: '0s' },
      drain: { timeout: '1m' },
      // On a busy machine the server, which is in this process, may take seconds for a handshake.
      timeouts: { connect: '30s' },
    })
    const certificate = edge.issue('localhost')
    const [http] = edge.config.listeners as object[]
    const port = await freePort()
    const secure = { name: 'https', address: `tcp://127.0.0.1:${port}`, tls: true }
    edge.write({ listeners: [http, secure], tls: { certificates: [certificate], move: 'on' } })
    let older = await edge.next()
    const clients = perLane(4, 30)
    const load = await loadOn(edge.url, { slow: 2, writes: 0, rate: 100 })
    const plain = keepAsking(edge.port, false, clients)
    const secured = keepAsking(port, true, clients)
    for (let n = 0; n < UPGRADES; n++) {
      const next = await edge.next()
      const pid = String(next)
      // After a failure they ask no more.
      const failed = () => [...plain.failures, ...secured.failures]
      const both = () => failed().length > 0 || (plain.pids.has(pid) && secured.pids.has(pid))
      await until('the next version answers both', both, 30_000, () => edge.sandbox.output.slice(-3_000))
      expect(failed()).toEqual([])
      await until(
        'the one before has ended',
        () => hasEnded(older),
        30_000,
        () => edge.sandbox.output.slice(-3_000),
      )
      older = next
    }
    expect(await plain.stop()).toEqual({ failures: [], connections: clients })
    expect(await secured.stop()).toEqual({ failures: [], connections: clients })
    await load.stop()
  }, 120_000)

  it('moves a client that always has a next request on its way', async () => {
    const { server, own } = await securedApp()
    const edge = await before(
      server,
      { ca: own.cert, name: 'app.test' },
      { upgrade: { probation: '0s' }, drain: { timeout: '2m' } },
    )
    const old = await edge.pid
    const client = await edge.raw()
    let asked = 0
    let answers = 0
    const ask = () => client.send(`GET /r/${asked++} HTTP/1.1\r\nHost: a\r\n\r\n`)
    const seen: string[] = []
    client.socket.on('data', text => {
      for (const [, pid, number] of String(text).matchAll(/X-Pid: (\d+)|^\d+ item-(\d+)$/gm)) {
        if (pid !== undefined) seen.push(pid)
        else {
          expect(Number(number)).toBe(answers++)
          ask()
        }
      }
    })
    for (let n = 0; n < 20; n++) ask()
    await until('it gets answers', () => answers > 10)
    const pid = String(await edge.next())
    await until('the old version has ended', () => hasEnded(old), 30_000)
    const count = answers
    await until('the next version answers', () => answers > count + 10 && seen.at(-1) === pid)
    expect(client.ended).toBe(false)
  })

  it('leaves a WebSocket in the old version, where it goes on', async () => {
    const { server, own } = await securedApp()
    const edge = await before(server, { ca: own.cert, name: 'app.test' }, { upgrade: { probation: '0s' } })
    const old = await edge.pid
    const webSocket = await edge.talking()
    await webSocket.says('before')
    const slow = ask(`${edge.url}/slow`)
    await edge.next()
    await webSocket.says('after')
    expect((await slow.answer).body).toBe('slow but sure\n')
    await until('only the WebSocket is left', async () => {
      const [first] = (await edge.status()).draining
      return first?.pid === old && first.connections === 1 && first.kinds?.['server-tls'] === 1
    })
  })
})
