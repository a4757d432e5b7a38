import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import https from 'node:https'
import net from 'node:net'
import tls from 'node:tls'
import { expect, onTestFinished, test, vi } from 'vitest'
import { type Departure, NotRestored } from '../../../src/connections/movable.js'
import type { HttpHooks } from '../../../src/index.js'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import type { ServeOptions } from '../../../src/member/listeners/serve-options.js'
import { giveBack, type Place, place, taken } from '../../connections-support/http-pair.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { until } from '../../processes/until.js'

const CERTIFIED = { cert: CERTIFICATE, key: KEY, keepAliveTimeout: 30_000 }

async function httpsPlace(
  name: string,
  options: https.ServerOptions = {},
  hooks: HttpHooks = {},
): Promise<Place<https.Server>> {
  const server = https.createServer({ ...CERTIFIED, ...options }, (request, response) => {
    const { encrypted, authorized } = request.socket as tls.TLSSocket
    response.end(`${name} ${request.url} ${encrypted} ${authorized}`)
  })
  return place(server, { http: hooks, tls: { move: 'on' } })
}

/** A client with one connection. */
class Client {
  /** The connection below. */
  readonly raw: net.Socket
  readonly socket: tls.TLSSocket
  #got = ''

  constructor({ server }: Place, options: tls.ConnectionOptions = {}) {
    const { port } = server.address() as net.AddressInfo
    this.raw = net.connect(port, '127.0.0.1')
    this.socket = tls.connect({
      socket: this.raw,
      rejectUnauthorized: false,
      servername: 'a.example',
      ...options,
    })
    this.socket.setEncoding('latin1').on('data', text => {
      this.#got += text
    })
    this.socket.on('error', () => {})
    onTestFinished(() => void this.socket.destroy())
  }

  async ask(path: string): Promise<string> {
    this.#got = ''
    this.socket.write(`GET ${path} HTTP/1.1\r\nHost: a.example\r\n\r\n`)
    await until('the answer', () => / (?:true|false)$/.test(this.#got) || this.socket.destroyed)
    return this.#got.slice(this.#got.indexOf('\r\n\r\n') + 4)
  }
}

/** Takes `count` connections out, when they may leave. */
async function allTaken(from: Place, count: number): Promise<Departure[]> {
  const departures: Departure[] = []
  from.moving.onMovable = () => {}
  await until('all have left', () => {
    departures.push(...taken(from))
    return departures.length >= count
  })
  from.moving.onMovable = null
  return departures
}

async function move(from: Place, to: Place, count = 1): Promise<void> {
  giveBack(to, await allTaken(from, count), 'moved')
}

test.each(['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'])(
  'a connection with %s goes on after each move',
  async ciphers => {
    const [a, b, c] = [await httpsPlace('a', { ciphers }), await httpsPlace('b'), await httpsPlace('c')]
    const client = new Client(a)
    expect(await client.ask('/1')).toBe('a /1 true false')
    await move(a, b)
    expect(await client.ask('/2')).toBe('b /2 true false')
    await move(b, c)
    await move(c, a)
    expect(await client.ask('/3')).toBe('a /3 true false')
    expect(client.socket.destroyed).toBe(false)
  },
)

test.each(['before', 'after'])(
  'a request that has arrived when the service ends is answered, %s a move',
  async when => {
    const [a, b] = [await httpsPlace('a'), await httpsPlace('b')]
    const client = new Client(a)
    await client.ask('/1')
    if (when === 'after') await move(a, b)
    const [server, name] = when === 'after' ? [b.served, 'b'] : [a.served, 'a']
    // Longer ago than the time that a new connection has for its first request.
    const now = performance.now.bind(performance)
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + 1_000)
    onTestFinished(() => clock.mockRestore())
    await new Promise(resolve => setImmediate(resolve))
    const answer = client.ask('/2')
    server.endIdle()
    clock.mockRestore()
    expect(await answer).toBe(`${name} /2 true false`)
  },
)

test('first requests that come with the handshake leave every number exact', async () => {
  const [a, b] = [await httpsPlace('a'), await httpsPlace('b')]
  const clients = Array.from({ length: 30 }, () => new Client(a))
  // Each writes before its handshake is complete, so that the request follows the Finished at once.
  await Promise.all(clients.map(client => client.ask('/')))
  expect(a.served.kinds()).toEqual({ idle: 30 })
  await move(a, b, 30)
  expect(new Set(await Promise.all(clients.map(client => client.ask('/'))))).toEqual(
    new Set(['b / true false']),
  )
})

test('a resumed session moves, and answers of any size are counted', async () => {
  const large = 'x'.repeat(100_000)
  const answering = (name: string) => (_request: IncomingMessage, response: ServerResponse) => {
    const [begin, end] = ['é'.repeat(20_000), `${large} ${name} true`]
    response.setHeader('content-length', Buffer.byteLength(begin + end))
    response.write(begin)
    response.end(end)
  }
  const places = await Promise.all(
    ['a', 'b'].map(name => place(https.createServer(CERTIFIED, answering(name)), { tls: { move: 'on' } })),
  )
  const [a, b] = [places[0]!, places[1]!]
  const first = new Client(a)
  const session = once(first.socket, 'session')
  await first.ask('/')
  const client = new Client(a, { session: (await session)[0] as Buffer })
  await client.ask('/')
  expect(client.socket.isSessionReused()).toBe(true)
  await move(a, b, 2)
  for (const each of [first, client]) expect(await each.ask('/')).toMatch(/x b true/)
})

test('answers in small records leave every number exact', async () => {
  const [a, b] = await Promise.all(
    ['a', 'b'].map(name =>
      place(
        https
          .createServer(CERTIFIED, (_request, response) => response.end(`${'x'.repeat(5_000)} ${name} true`))
          .prependListener('secureConnection', socket => socket.setMaxSendFragment(512)),
        { tls: { move: 'on' } },
      ),
    ),
  )
  const clients = Array.from({ length: 5 }, () => new Client(a!))
  await Promise.all(clients.map(client => client.ask('/')))
  await move(a!, b!, 5)
  for (const client of clients) expect(await client.ask('/')).toMatch(/x b true/)
})

test('a client that takes short records only stays', async () => {
  const a = await httpsPlace('a')
  const { port } = a.server.address() as net.AddressInfo
  const client = spawn('openssl', [
    's_client',
    '-quiet',
    '-maxfraglen',
    '1024',
    '-connect',
    `127.0.0.1:${port}`,
  ])
  onTestFinished(() => void client.kill('SIGKILL'))
  client.stdin.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  await once(client.stdout, 'data')
  await until('that is known', () => a.served.kinds().handshake === 1)
  a.moving.onMovable = () => {}
  await until('the test of TLS has ended', () => taken(a).length === 0 && a.moving.movable === 0)
})

test('a client that is asked for a certificate and has none moves after any number of requests', async () => {
  const options = { requestCert: true, rejectUnauthorized: false }
  const [a, b] = [await httpsPlace('a', options), await httpsPlace('b', options)]
  const clients: Client[] = []
  for (let asks = 1; asks <= 20; asks++) {
    const accepted = once(a.server, 'secureConnection')
    const client = new Client(a)
    await accepted
    for (let asked = 0; asked < asks; asked++) await client.ask('/')
    clients.push(client)
  }
  await move(a, b, 20)
  expect(new Set(await Promise.all(clients.map(client => client.ask('/'))))).toEqual(
    new Set(['b / true false']),
  )
})

test('a client without a certificate stays if its first request leaves the number of its records open', async () => {
  const options = { requestCert: true, rejectUnauthorized: false }
  const a = await httpsPlace('a', options)
  const clients = Array.from({ length: 20 }, () => new Client(a))
  await Promise.all(
    clients.map(async (client, i) => {
      for (let asked = 0; asked <= i; asked++) await client.ask('/')
    }),
  )
  expect(Object.keys(a.served.kinds())).toEqual(['handshake'])
})

test('a client that sends a certificate stays, and moves when it resumes its session', async () => {
  const options = { requestCert: true, rejectUnauthorized: false }
  const [a, b] = [await httpsPlace('a', options), await httpsPlace('b', options)]
  const full = new Client(a, CERTIFIED)
  const session = once(full.socket, 'session')
  await full.ask('/')
  expect(a.served.kinds()).toEqual({ 'client-certificate': 1 })
  const resumed = new Client(a, { ...CERTIFIED, session: (await session)[0] as Buffer })
  await resumed.ask('/')
  expect(resumed.socket.isSessionReused()).toBe(true)
  await move(a, b)
  expect(await resumed.ask('/')).toBe('b / true false')
  expect(await full.ask('/')).toBe('a / true false')
})

test('the application sees a TLS socket, and its own data', async () => {
  const seen: unknown[] = []
  const look = (socket: tls.TLSSocket) => {
    const { encrypted, authorized, authorizationError, servername, alpnProtocol } =
      socket as tls.TLSSocket & {
        servername: string
      }
    const { remoteAddress, remotePort, localPort, timeout } = socket
    return [
      [encrypted, authorized, authorizationError, servername, alpnProtocol],
      [remoteAddress, remotePort, localPort, timeout],
      [socket.getProtocol(), socket.getCipher(), socket.isSessionReused(), socket.getPeerCertificate()],
    ]
  }
  const data = new Map<net.Socket, string>()
  const hooks: HttpHooks = {
    serialize: socket => Buffer.from(JSON.stringify(look(socket as tls.TLSSocket))),
    restore: (socket, bytes) => {
      socket.write('')
      data.set(socket, `${Buffer.from(bytes)}`)
      seen.push(look(socket as tls.TLSSocket))
    },
  }
  const [a, b] = [await httpsPlace('a', {}, hooks), await httpsPlace('b', {}, hooks)]
  const client = new Client(a, { ALPNProtocols: ['http/1.1'] })
  await client.ask('/')
  await move(a, b)
  const before = JSON.parse([...data.values()][0]!)
  const after = JSON.parse(JSON.stringify(seen[0]))
  // The port and the timeout are those of the next server.
  for (const facts of [before, after]) facts[1].splice(2)
  expect(after).toEqual(before)
  expect(before[0]).toEqual([true, false, null, 'a.example', 'http/1.1'])
  expect(await client.ask('/')).toBe('b / true false')
})

test('a connection that could not be restored, or was refused, goes on where it was', async () => {
  const fails: HttpHooks = {
    serialize: () => new Uint8Array(),
    restore: () => {
      throw new Error('not now')
    },
  }
  const works: HttpHooks = { serialize: () => new Uint8Array(), restore: () => {} }
  const [a, b] = [await httpsPlace('a', {}, works), await httpsPlace('b', {}, fails)]
  const client = new Client(a)
  await client.ask('/')
  const [departure] = await allTaken(a, 1)
  let back: unknown
  try {
    giveBack(b, [departure!], 'moved')
  } catch (error) {
    back = error
  }
  expect(back).toBeInstanceOf(NotRestored)
  const returned = { record: departure!.record, fds: [(back as NotRestored).fd] }
  a.moving.arrive(a.moving.check(returned.record, returned.fds)!, 'refused')
  expect(await client.ask('/')).toBe('a / true false')
})

test('secrets of a connection are wiped from its record when it has moved', async () => {
  const [a, b] = [await httpsPlace('a'), await httpsPlace('b')]
  const client = new Client(a)
  const secrets: string[] = []
  client.socket.on('keylog', (line: Buffer) => {
    if (/TRAFFIC_SECRET_0/.test(`${line}`)) secrets.push(`${line}`.trim().split(' ')[2]!)
  })
  await client.ask('/')
  const [departure] = await allTaken(a, 1)
  const record = Buffer.from(departure!.record)
  const shown = secrets.filter(secret => record.includes(secret, 0, 'hex'))
  // Only the client's: this process has gone on to the next secret of its own.
  expect([secrets.length, shown.length]).toEqual([2, 1])
  const value = b.moving.check(record, departure!.fds)!
  b.moving.arrive(value, 'moved')
  expect(record.includes(shown[0]!, 0, 'hex')).toBe(false)
  departure!.wipe?.()
  expect(departure!.record.every(byte => byte === 0)).toBe(true)
  expect(await client.ask('/')).toBe('b / true false')
})

test('a connection whose client has changed its key stays, unless it has moved before', async () => {
  const [a, b, c] = [await httpsPlace('a'), await httpsPlace('b'), await httpsPlace('c')]
  const { port } = a.server.address() as net.AddressInfo
  const client = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`])
  onTestFinished(() => void client.kill('SIGKILL'))
  let text = ''
  for (const stream of [client.stdout, client.stderr])
    stream.setEncoding('latin1').on('data', chunk => {
      text += chunk
    })
  const ask = async (path: string) => {
    const before = text.length
    client.stdin.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`)
    await until(
      'the answer',
      () => /\r\n\r\n\w \S+ \w+ \w+/.test(text.slice(before)) || client.exitCode !== null,
    )
    return /\r\n\r\n(\w \S+)/.exec(text.slice(before))?.[1]
  }
  expect(await ask('/1')).toBe('a /1')
  await move(a, b)
  // K: a KeyUpdate that asks for one.
  client.stdin.write('K\n')
  await until('the client has sent it', () => text.includes('KEYUPDATE'))
  expect(await ask('/2')).toBe('b /2')
  await move(b, c)
  expect(await ask('/3')).toBe('c /3')

  const native = new Client(a)
  await native.ask('/')
  const again = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`])
  onTestFinished(() => void again.kill('SIGKILL'))
  await once(again.stdout, 'data')
  let said = ''
  again.stderr.on('data', chunk => {
    said += chunk
  })
  again.stdin.write('K\n')
  // Bytes that it reads together with a command would be lost, and the answer to a whole request would end the connection.
  await until('the client has changed it', () => said.includes('KEYUPDATE'))
  again.stdin.write('GET / HTTP/1.1\r\n')
  await until('the key has changed', () => a.served.kinds()['key-update'] === 1)
  await move(a, b)
  expect(a.served.kinds()).toEqual({ 'key-update': 1 })
})

test('a moved connection ends as others do: at its timeout, at the end of its client, at a changed record', async () => {
  const [a, b] = [await httpsPlace('a'), await httpsPlace('b', { keepAliveTimeout: 200 })]
  const [idle, ending] = [new Client(a), new Client(a)]
  for (const client of [idle, ending]) await client.ask('/')
  await move(a, b, 2)
  for (const client of [idle, ending]) await client.ask('/')
  ending.socket.end()
  await until('both have ended', () => idle.socket.destroyed && ending.socket.destroyed, 60_000)
  await until('the server has none', () => b.served.connections === 0)

  const cut = new Client(a)
  await cut.ask('/')
  await move(a, b)
  let alert: NodeJS.ErrnoException | undefined
  cut.socket.on('error', error => {
    alert = error
  })
  const errors: Error[] = []
  b.server.on('clientError', (error, socket) => {
    errors.push(error)
    socket.destroy()
  })
  // Below TLS: a record that was not sealed with the key.
  cut.raw.write(Buffer.concat([Buffer.of(23, 3, 3, 0, 32), Buffer.alloc(32)]))
  await until('the client has the alert', () => cut.socket.destroyed)
  expect(alert?.code).toMatch(/_ALERT_BAD_RECORD_MAC$/)
  expect(errors).toMatchObject([{ alert: 20 }])
})

test('large bodies go through both ways, at the pace of the slower side', async () => {
  const echo = () => https.createServer(CERTIFIED, (request, response) => request.pipe(response))
  const [a, b] = [await place(echo(), { tls: { move: 'on' } }), await place(echo(), { tls: { move: 'on' } })]
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
  onTestFinished(() => agent.destroy())
  const { port } = a.server.address() as net.AddressInfo
  const send = (body: Buffer) =>
    new Promise<Buffer>((resolve, reject) => {
      const request = https.request({ port, host: '127.0.0.1', agent, method: 'POST' }, async response => {
        const chunks: Buffer[] = []
        for await (const chunk of response) chunks.push(chunk)
        resolve(Buffer.concat(chunks))
      })
      request.on('error', reject).end(body)
    })
  await send(Buffer.from('x'))
  await move(a, b)
  const body = randomBytes(8 * 1024 * 1024)
  expect((await send(body)).equals(body)).toBe(true)
  expect([a.served.connections, b.served.connections]).toEqual([0, 1])
})

test('a connection moves whose first request was large', async () => {
  const echo = () =>
    https.createServer(CERTIFIED, (request, response) => request.resume().on('end', () => response.end()))
  const [a, b] = [await place(echo(), { tls: { move: 'on' } }), await place(echo(), { tls: { move: 'on' } })]
  const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false })
  onTestFinished(() => agent.destroy())
  const { port } = a.server.address() as net.AddressInfo
  const body = Buffer.alloc(1024 * 1024)
  const send = () =>
    new Promise<void>((resolve, reject) => {
      https
        .request({ port, host: '127.0.0.1', agent, method: 'POST' }, response => {
          response.resume().on('end', resolve)
        })
        .on('error', reject)
        .end(body)
    })
  const all = () => Promise.all(Array.from({ length: 8 }, send))
  await all()
  await move(a, b, 8)
  await all()
  expect([a.served.connections, b.served.connections]).toEqual([0, 8])
})

test('the server shows nothing of it but what is documented', async () => {
  const a = await httpsPlace('a')
  const counts: number[] = []
  let socket: tls.TLSSocket | undefined
  a.server.on('secureConnection', secure => {
    socket = secure
    counts.push(a.server.listenerCount('keylog'), secure.listenerCount('keylog'))
  })
  const client = new Client(a)
  await client.ask('/')
  expect(counts).toEqual([0, 1])
  expect(Object.keys(a.server)).not.toContain('listenerCount')
  expect(Object.hasOwn(a.server, 'listenerCount')).toBe(false)
  expect(Object.hasOwn(socket!, '_writeGeneric')).toBe(false)
})

test('options that cannot be kept are refused', () => {
  const of = (server: net.Server, options: ServeOptions) => () => new AttachedServer(server, options)
  const on = { tls: { move: 'on' } } as const
  const secure = () => https.createServer(CERTIFIED)
  const socket = { protocol: 'app/x', serialize: () => undefined, restore: () => {} }
  expect(of(http.createServer(), on)).toThrow('is for an https.Server')
  expect(of(tls.createServer(CERTIFIED), on)).toThrow('or a tls.Server with "socket"')
  expect(of(secure(), { ...on, socket })).toThrow('is for an https.Server')
  expect(of(net.createServer(), { ...on, socket })).toThrow('is for an https.Server')
  expect(of(secure(), { http: {} })).toThrow('for an https.Server or tls.Server')
  expect(of(secure(), { tls: { move: 'yes' as 'on' } })).toThrow('tls.move')
})

test('no connection of a server without TLS 1.3 moves, and that is no fault', async () => {
  const a = await httpsPlace('a', { maxVersion: 'TLSv1.2' })
  const client = new Client(a)
  await client.ask('/')
  await allTested()
  expect(taken(a)).toEqual([])
  expect(a.faults).toEqual([])
  client.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const [text] = (await once(client.socket, 'data')) as [string]
  expect(text).toContain('Connection: close')
})

test('a connection with a certificate for its server name moves', async () => {
  const options = {
    SNICallback: (_name: string, done: (error: null, context: tls.SecureContext) => void) =>
      done(null, tls.createSecureContext(CERTIFIED)),
  }
  const [a, b] = [await httpsPlace('a', options), await httpsPlace('b')]
  a.server.addContext('b.example', CERTIFIED)
  const clients = [new Client(a), new Client(a, { servername: 'b.example' })]
  for (const client of clients) await client.ask('/')
  await move(a, b, 2)
  for (const client of clients) expect(await client.ask('/')).toBe('b / true false')
})

test('connections of a server that has certificates only for server names move at once', async () => {
  const contexts = new Map([['a.example', tls.createSecureContext(CERTIFIED)]])
  const options = {
    ...{ cert: undefined, key: undefined },
    SNICallback: (name: string, done: (error: null, context: tls.SecureContext | undefined) => void) =>
      done(null, contexts.get(name)),
  }
  const [a, b] = [await httpsPlace('a', options), await httpsPlace('b')]
  const client = new Client(a)
  expect(await client.ask('/')).toBe('a / true false')
  await allTested()
  giveBack(b, takenAtOnce(a), 'moved')
  expect(await client.ask('/')).toBe('b / true false')
  expect(a.faults).toEqual([])
})

/** Resolves when the tests of all servers that have started are over: they run one after the other. */
async function allTested(): Promise<void> {
  const last = await httpsPlace('last')
  await new Client(last).ask('/')
  giveBack(last, await allTaken(last, 1), 'returned')
}

test('connections leave at once, because the server was tested when it started', async () => {
  const a = await httpsPlace('a')
  await new Client(a).ask('/')
  await allTested()
  giveBack(a, takenAtOnce(a), 'returned')
  a.server.setSecureContext(CERTIFIED)
  expect(taken(a)).toEqual([])
  await allTested()
  giveBack(a, takenAtOnce(a), 'returned')
})

/** Takes the one connection out, without another test. */
function takenAtOnce(from: Place): Departure[] {
  const departures = taken(from)
  expect(departures).toHaveLength(1)
  return departures
}

test('connections leave although the server could not be tested when it started', async () => {
  const server = https.createServer((_request, response) => response.end('a / true false'))
  const a = await place(server, { tls: { move: 'on' } })
  await allTested()
  server.setSecureContext(CERTIFIED)
  const client = new Client(a)
  await client.ask('/')
  await move(a, await httpsPlace('b'))
  expect(await client.ask('/')).toBe('b / true false')
  expect(a.faults).toEqual([])
})
