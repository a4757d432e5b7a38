import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { samplesOf, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'

/** A server that keeps the heads that it gets, and answers when it is told to. */
async function server() {
  const heads: string[] = []
  const waiting: Socket[] = []
  const listener = createServer(socket => {
    onTestFinished(() => void socket.destroy())
    let text = ''
    socket
      .on('error', () => {})
      .on('data', chunk => {
        text += chunk.toString('latin1')
        for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
          heads.push(text.slice(0, end + 4))
          text = text.slice(end + 4)
          waiting.push(socket)
        }
      })
  })
  const port = await freePort()
  await new Promise<void>(resolve => listener.listen(port, '127.0.0.1', resolve))
  onTestFinished(() => void listener.close())
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    heads,
    async asked(count: number): Promise<string> {
      await until(`${count} requests`, () => heads.length >= count)
      return heads[count - 1]!
    },
    /** Closes the connections of the requests that wait. */
    drop(): void {
      for (const socket of waiting.splice(0)) socket.destroy()
    },
    answer(text: string): void {
      for (const socket of waiting.splice(0)) socket.write(text)
    },
  }
}

/** Returns the URL of a server with this listener. */
async function serving(listener: http.RequestListener): Promise<string> {
  const served = http.createServer(listener)
  const port = await freePort()
  await new Promise<void>(resolve => served.listen(port, '127.0.0.1', resolve))
  onTestFinished(() => {
    served.closeAllConnections()
    served.close()
  })
  return `http://127.0.0.1:${port}`
}

const ANSWER = 'HTTP/1.1 200 OK\r\nServer: secret\r\nX-Old: 1\r\nContent-Length: 2\r\n\r\nok'
const get = (lines = '') => `GET / HTTP/1.1\r\nHost: a.test\r\n${lines}\r\n`
const done = (text: string) => text.endsWith('\r\n\r\nok')

describe('the fields of a route', () => {
  it('tell a server the address of the client in X-Real-IP, which no client can forge', async () => {
    const app = await server()
    const request = { set: { 'X-Real-IP': '$remote_addr' } }
    const edge = await Edge.start({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app', request }],
    })
    const client = await edge.raw()
    client.send(get('x-real-ip: 1.1.1.1\r\nX-Real-IP: 2.2.2.2\r\n'))
    const head = await app.asked(1)
    expect(head.match(/^x-real-ip: .*$/gim)).toEqual(['X-Real-IP: 127.0.0.1'])
    app.answer(ANSWER)
    await client.until(done)
  })

  it('set and remove fields both ways, also where the connection moves meanwhile', async () => {
    const app = await server()
    const edge = await Edge.start({
      upgrade: { probation: '0s' },
      upstreams: { app: { servers: [app.url] } },
      routes: [
        {
          host: '*',
          upstream: 'app',
          request: { host: 'inner.test:81', set: { 'X-Tenant': 'seven' }, remove: ['Cookie'] },
          response: { set: { 'X-Old': 'new', 'X-Frame-Options': 'DENY' }, remove: ['Server'] },
        },
        { host: 'plain.test', upstream: 'app' },
      ],
    })
    const client = await edge.raw()
    client.send(get('Cookie: a\r\nX-Tenant: one\r\nX-Real-IP: 1.1.1.1\r\nA: b\r\n'))
    const head = await app.asked(1)
    expect(head).toMatch(/^GET \/ HTTP\/1.1\r\nHost: inner\.test:81\r\nX-Tenant: seven\r\nA: b\r\n/)
    expect(head).not.toMatch(/cookie|x-real-ip|: one/i)
    app.answer(ANSWER)
    const check = (answer: string) => {
      expect(answer).toMatch(/\r\nX-Old: new\r\n[\s\S]*\r\nX-Frame-Options: DENY\r\n/)
      expect(answer).toMatch(/\r\nX-Pid: \d+\r\n/)
      expect(answer).not.toMatch(/secret|X-Old: 1/)
    }
    check(await client.until(done))
    // The request is with the server while the connection moves: the answer's rules go with it.
    client.send(get())
    await app.asked(2)
    const first = await edge.pid
    await edge.next()
    await edge.ended(first)
    app.answer(ANSWER)
    check(await client.until(done))
    client.send(get().replace('a.test', 'plain.test'))
    expect(await app.asked(3)).toContain('\r\nHost: plain.test\r\n')
    app.answer(ANSWER)
    expect(await client.until(done)).toContain('\r\nServer: secret\r\nX-Old: 1\r\n')
  })

  it('may be those of a route made at run time, which crosses an upgrade', async () => {
    const app = await server()
    const edge = await Edge.start({ upstreams: { app: { servers: [app.url] } }, routes: [] })
    const route = {
      host: '*',
      path: '/shop',
      upstream: 'app',
      request: { stripPrefix: '/shop', addPrefix: '/v1', set: { 'X-Tenant': 'eight' } },
    }
    const file = join(edge.sandbox.folder, 'routes.json')
    writeFileSync(file, JSON.stringify([route]))
    expect((await edge.routes('add', '--file', file)).code).toBe(0)
    await edge.next()
    const client = await edge.raw()
    client.send(get().replace('/', '/shop/cart?a=/shop'))
    expect(await app.asked(1)).toMatch(
      /^GET \/v1\/cart\?a=\/shop HTTP\/1\.1\r\nHost: a\.test\r\nX-Tenant: eight\r\n/,
    )
    expect((await edge.routes('list', '--json')).stdout).toContain('"X-Tenant"')
  })
})

describe('connections to a server', () => {
  it('have a limit: another server is tried, or 503', async () => {
    const [one, two] = [await server(), await server()]
    const edge = await Edge.start({
      upstreams: { app: { servers: [one.url, two.url], connections: 1 } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const clients = [await edge.raw(), await edge.raw(), await edge.raw()]
    for (const client of clients.slice(0, 2)) client.send(get())
    await until('both servers are asked', () => one.heads.length === 1 && two.heads.length === 1)
    expect(await clients[2]!.send(get()).until(text => text.endsWith('servers-full\n'))).toMatch(
      /^HTTP\/1.1 503 /,
    )
  })
})

describe('a proxy whose upstream is itself', () => {
  it('says that it is a loop', async () => {
    const edge = await Edge.prepare({})
    edge.write({
      upstreams: { me: { servers: [edge.url] } },
      routes: [{ host: '*', upstream: 'me' }],
    })
    await edge.next()
    const client = await edge.raw()
    expect(await client.send(get()).until(text => text.endsWith('loop\n'))).toMatch(/^HTTP\/1.1 508 /)
  })
})

describe('a route with passwords', () => {
  it('lets its users pass, over HTTP/1 and HTTP/2 and after upgrades, and names the user to the server', async () => {
    const app = await server()
    const sha256 = (password: string) => createHash('sha256').update(password).digest('hex')
    const request = { set: { 'X-User': '$remote_user' }, remove: ['Authorization'] }
    const route = (users: object) => ({
      host: '*',
      upstream: 'app',
      basicAuth: { realm: 'staff', users },
      request,
    })
    const edge = await Edge.prepare({
      upgrade: { probation: '0s' },
      upstreams: { app: { servers: [app.url] } },
      routes: [
        route({ 'al\u00e9': sha256('a:b'), bob: sha256('c') }),
        { host: 'open.test', respond: { body: 'ok' } },
      ],
    })
    edge.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true }] })
    await edge.next()
    const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`
    const statusOf = async (authorization?: string, host = 'a.test') => {
      const headers = { ':authority': host, ...(authorization !== undefined && { authorization }) }
      const session = http2.connect(edge.url)
      const stream = session.request(headers)
      const [answer] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders]
      session.close()
      return `${answer[':status']} ${answer['www-authenticate'] ?? ''}`
    }
    const REFUSED = '401 Basic realm="staff", charset="UTF-8"'
    const refusesOthers = async () => {
      for (const wrong of [
        undefined,
        'Basic',
        'Basic !',
        basic('bob'),
        basic('bob:'),
        basic('bob:a:b'),
        basic('eve:c'),
      ])
        expect([wrong, await statusOf(wrong)]).toEqual([wrong, REFUSED])
      const client = await edge.raw()
      client.send(get(`Authorization: ${basic('bob:c')}\r\nAuthorization: ${basic('bob:c')}\r\n`))
      expect(await client.until(text => text.includes('unauthorized'))).toMatch(/^HTTP\/1\.1 401 /)
      expect(await statusOf(undefined, 'open.test')).toBe('200 ')
    }
    const passes = async (credentials: string, user: string) => {
      const client = await edge.raw()
      client.send(get(`Authorization: ${basic(credentials)}\r\n`))
      const head = await app.asked(app.heads.length + 1)
      expect(head).toContain(`\r\nX-User: ${user}\r\n`)
      expect(head).not.toMatch(/authorization/i)
      app.answer(ANSWER)
      await client.until(done)
    }
    await refusesOthers()
    await passes('bob:c', 'bob')
    await edge.next()
    await refusesOthers()
    await passes('al\u00e9:a:b', 'al%C3%A9')
    await edge.reload({
      routes: [route({ eve: sha256('d') }), { host: 'open.test', respond: { body: 'ok' } }],
    })
    await refusesOthers()
    await passes('eve:d', 'eve')
  })
})

describe('a route with a service of authorization', () => {
  it('asks it over HTTP/1 and HTTP/2, in the middle of an upgrade, of a reload and of a stop too', async () => {
    const [app, auth] = [await server(), await server()]
    const metricsPort = await freePort()
    const rule = { upstream: 'auth', path: '/verify', responseHeaders: ['X-User'] }
    const cors = { origins: ['https://a.test'] }
    const routes = (timeout: string) => [
      { host: '*', upstream: 'app', forwardAuth: { ...rule, timeout }, cors },
      { host: '*', path: '/late', upstream: 'app', forwardAuth: { ...rule, timeout: '50ms' } },
    ]
    const edge = await Edge.prepare({
      upgrade: { probation: '0s' },
      upstreams: { app: { servers: [app.url] }, auth: { servers: [auth.url] } },
      routes: routes('8s'),
      metrics: `tcp://127.0.0.1:${metricsPort}`,
      accessLog: true,
      accessLine: { fields: ['target', 'status', 'reason', 'auth', 'authMs', 'upstream'] },
    })
    edge.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true }] })
    await edge.next()
    const line = (target: string) => edge.access(each => each.target === target)
    const ask1 = async (path: string) => {
      const client = await edge.raw()
      client.send(`POST ${path} HTTP/1.1\r\nHost: a.test\r\nX-User: root\r\nContent-Length: 4\r\n\r\nbody`)
      const question = await auth.asked(auth.heads.length + 1)
      expect(question).toMatch(/^GET \/verify HTTP\/1\.1\r\nHost: 127\.0\.0\.1:\d+\r\nX-User: root\r\n/)
      expect(question).toContain(`\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Uri: ${path}\r\n\r\n`)
      return client
    }
    const ask2 = async (path: string) => {
      const session = http2.connect(edge.url)
      onTestFinished(() => session.destroy())
      const stream = session.request({
        ':method': 'POST',
        ':path': path,
        'x-user': 'root',
        'content-length': 4,
        origin: 'https://a.test',
      })
      stream.end('body')
      await auth.asked(auth.heads.length + 1)
      return stream
    }
    const isAsked = async (count: number) => {
      await app.asked(count)
      for (const head of app.heads.slice(-2)) expect(head.match(/^x-user: .*$/gim)).toEqual(['X-User: alice'])
    }
    const ALLOW = 'HTTP/1.1 200 OK\r\nX-User: alice\r\nContent-Length: 2\r\n\r\nok'
    const statusOf = async (stream: http2.ClientHttp2Stream) => {
      const [answer] = (await once(stream.resume(), 'response')) as [http2.IncomingHttpHeaders]
      return answer
    }
    const both = async (path: string, meanwhile: () => Promise<unknown>) => {
      const client = await ask1(`${path}1`)
      const stream = await ask2(`${path}2`)
      const answered = statusOf(stream)
      const before = app.heads.length
      await meanwhile()
      auth.answer(ALLOW)
      await isAsked(before + 2)
      app.answer(ANSWER)
      await client.until(done)
      expect(await answered).toMatchObject({
        ':status': 200,
        'access-control-allow-origin': 'https://a.test',
      })
    }
    await both('/plain', async () => {})
    expect(await line('/plain1')).toMatchObject({ status: 200, auth: 'passed', authMs: expect.any(Number) })
    await both('/upgrade', async () => {
      const late = await ask1('/late')
      const answer = late.until(text => text.endsWith('auth-timeout\n'))
      await edge.next()
      expect(await answer).toMatch(/ 503 /)
    })
    await both('/reload', () => edge.reload({ routes: routes('9s') }))
    const late = { status: 503, reason: 'auth-timeout', auth: 'response-timeout' }
    expect(await line('/late')).toMatchObject(late)
    const refused = await ask2('/refused')
    auth.answer(
      'HTTP/1.1 302 Found\r\nLocation: /login\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n',
    )
    expect(await statusOf(refused)).toMatchObject({
      ':status': 302,
      location: '/login',
      'access-control-allow-origin': 'https://a.test',
    })
    expect(await line('/refused')).toMatchObject({ reason: 'auth-refused', auth: 'refused' })
    const samples = async () => samplesOf((await ask(`http://127.0.0.1:${metricsPort}/metrics`).answer).body)
    const counted = async (result: string) =>
      sumOf(await samples(), 'fdbroker_proxy_authorizations_total', `result="${result}"`)
    await until(
      'all are counted',
      async () => (await counted('passed')) === 6 && (await counted('late')) === 1,
    )
    expect(await counted('refused')).toBe(1)
    await both('/stop', () => edge.signal('SIGTERM'))
  })

  it.runIf(NIGHTLY)('asks about each request of a load through upgrades, and answers it', async () => {
    const passed = new Set<string>()
    const strange: string[] = []
    const auth = await serving((asked, answer) => {
      const uri = String(asked.headers['x-forwarded-uri'])
      const decide = () => {
        if (uri.endsWith('0')) answer.writeHead(302, { location: '/login' }).end()
        else if (uri.endsWith('1')) answer.destroy()
        else {
          passed.add(uri)
          answer.writeHead(200, { 'x-user': `of ${uri}` }).write('o')
          setTimeout(() => answer.end('k'), 2)
        }
      }
      setTimeout(decide, Number(uri.at(-1)) * 2)
    })
    const app = await serving((asked, answer) => {
      const uri = String(asked.url)
      if (!passed.has(uri) || asked.headers['x-user'] !== `of ${uri}`) strange.push(`${uri} has not passed`)
      let bytes = 0
      asked.on('data', chunk => (bytes += chunk.length)).on('end', () => answer.end(String(bytes)))
    })
    // Node closes idle connections after 5 s.
    const keepAlive = { idle: '1s' }
    const edge = await Edge.start({
      upgrade: { probation: '0s' },
      upstreams: {
        app: { servers: [app], keepAlive },
        auth: {
          servers: [auth],
          keepAlive,
          health: { failures: 'off' },
          connections: 8,
          queue: { requests: 500 },
        },
      },
      routes: [
        {
          host: '*',
          upstream: 'app',
          forwardAuth: { upstream: 'auth', timeout: '30s', responseHeaders: ['X-User'] },
        },
      ],
    })
    const agent = new http.Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    let sent = 0
    const exchange = async () => {
      const path = `/${++sent}`
      const bytes = sent % 3 === 0 ? 200_000 : 0
      const method = bytes === 0 ? 'GET' : 'POST'
      const asked = http.request(`${edge.url}${path}`, { agent, method, headers: { 'x-user': 'root' } })
      asked.end('b'.repeat(bytes))
      const [answer] = (await once(asked, 'response')) as [http.IncomingMessage]
      const body = await text(answer)
      const found = answer.statusCode === 200 ? body : answer.statusCode
      const wanted = path.endsWith('0') ? 302 : path.endsWith('1') ? 502 : String(bytes)
      if (found !== wanted) strange.push(`${path}: ${found}`)
    }
    let over = false
    const clients = Array.from({ length: 20 }, async () => {
      while (!over) await exchange()
    })
    for (let round = 0; round < 5; round++) {
      const before = sent
      // Each third one has 200 kB: 100 of them are work, not a wait.
      await until('some requests', () => sent > before + 100, 60_000)
      await edge.next()
    }
    over = true
    await Promise.all(clients)
    expect(strange).toEqual([])
  })
})

describe('a route for pages of other sites', () => {
  it('answers the questions of browsers, and names the pages that may use answers, also of a request that moves meanwhile', async () => {
    const app = await server()
    const cors = {
      origins: ['https://a.test'],
      methods: ['PUT'],
      headers: ['X-A'],
      expose: ['X-B'],
      credentials: true,
    }
    const sha256 = createHash('sha256').update('c').digest('hex')
    const routes = [
      { host: 'a.test', upstream: 'app', cors, response: { set: { 'X-C': '1' }, remove: ['Server'] } },
      {
        host: 'b.test',
        respond: { body: 'ok' },
        cors: { origins: ['*'] },
        basicAuth: { users: { bob: sha256 } },
      },
      { host: 'gone.test', upstream: 'gone', cors },
    ]
    const edge = await Edge.start({
      upgrade: { probation: '0s' },
      upstreams: {
        app: { servers: [app.url] },
        gone: { servers: [`http://127.0.0.1:${await freePort()}`], retry: 0 },
      },
      routes,
    })
    const said = (answer: string) =>
      answer.match(/^(?:HTTP\/1\.1 \d+|(?:access-control|vary|x-c|server).*)/gim)?.sort()
    const asks = async (origin: string, method: string, host = 'a.test') => {
      const client = await edge.raw()
      const lines = `Host: ${host}\r\nOrigin: ${origin}\r\nAccess-Control-Request-Method: ${method}\r\n\r\n`
      return said(
        await client.send(`OPTIONS / HTTP/1.1\r\n${lines}`).until(text => text.includes('\r\n\r\n')),
      )
    }
    const ALLOWED = ['Access-Control-Allow-Origin: https://a.test', 'Access-Control-Allow-Credentials: true']
    const EXPOSED = 'Access-Control-Expose-Headers: X-B'
    const sorted = (...lines: string[]) => lines.sort()
    expect(await asks('https://a.test', 'PUT')).toEqual(
      sorted(
        'HTTP/1.1 204',
        'Vary: Origin',
        ...ALLOWED,
        EXPOSED,
        'Access-Control-Allow-Methods: PUT',
        'Access-Control-Allow-Headers: X-A',
        'Access-Control-Max-Age: 600',
      ),
    )
    const refused = ['HTTP/1.1 403', 'Vary: Origin']
    expect(await asks('https://a.test', 'DELETE')).toEqual(refused)
    expect(await asks('https://a.test.evil', 'PUT')).toEqual(refused)
    expect(await asks('null', 'POST', 'b.test')).toEqual([
      'Access-Control-Allow-Methods: GET, HEAD, POST',
      'Access-Control-Allow-Origin: *',
      'Access-Control-Max-Age: 600',
      'HTTP/1.1 204',
    ])
    const unauthorized = await edge.raw()
    unauthorized.send('GET / HTTP/1.1\r\nHost: b.test\r\nOrigin: https://x\r\n\r\n')
    expect(said(await unauthorized.until(text => text.includes('unauthorized')))).toEqual([
      'Access-Control-Allow-Origin: *',
      'HTTP/1.1 401',
    ])

    // The proxy's own errors too: without a server, and where the server is gone after a move.
    const fails = async (host: string, meanwhile = async () => {}) => {
      const client = await edge.raw()
      client.send(`GET / HTTP/1.1\r\nHost: ${host}\r\nOrigin: https://a.test\r\n\r\n`)
      await meanwhile()
      return said(await client.until(text => /\r\n\r\n.*\n$/s.test(text)))
    }
    const own = (status: number) => sorted(`HTTP/1.1 ${status}`, 'Vary: Origin', ...ALLOWED, EXPOSED)
    expect(await fails('gone.test')).toEqual(own(502))
    const moved = fails('a.test', async () => {
      await app.asked(1)
      await edge.next()
      app.drop()
    })
    expect(await moved).toEqual(own(502))

    const OF_SERVER =
      'Server: x\r\nVary: Accept\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok'
    const gets = async (origin: string, meanwhile = async () => {}) => {
      const client = await edge.raw()
      client.send(get(origin === '' ? '' : `Origin: ${origin}\r\n`))
      await app.asked(app.heads.length + 1)
      await meanwhile()
      app.answer(`HTTP/1.1 200 OK\r\n${OF_SERVER}`)
      return said(await client.until(done))?.filter(line => !line.startsWith('HTTP'))
    }
    const mine = sorted('Vary: Accept', 'Vary: Origin', 'X-C: 1', ...ALLOWED, EXPOSED)
    expect(await gets('https://a.test')).toEqual(mine)
    expect(await gets('https://b.test')).toEqual(['Vary: Accept', 'Vary: Origin', 'X-C: 1'])
    expect(await gets('')).toEqual(['Vary: Accept', 'Vary: Origin', 'X-C: 1'])
    expect(await gets('https://a.test', async () => void (await edge.next()))).toEqual(mine)
    await edge.reload({ routes: [{ ...routes[0], cors: { ...cors, origins: ['https://b.test'] } }] })
    expect(await gets('https://a.test')).toEqual(['Vary: Accept', 'Vary: Origin', 'X-C: 1'])
  })
})
