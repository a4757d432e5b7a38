import { createServer, request } from 'node:http'
import { type AddressInfo, connect, createServer as createNetServer } from 'node:net'
import { join } from 'node:path'
import { text as readAll } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const GET = (path: string, host = 'a.test') => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`

/** A server that answers with the head it got. */
async function mirror(): Promise<string> {
  const server = createServer((request, response) => response.end(JSON.stringify(request.headers)))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Accepts connections; what is done with them is the caller's. */
async function rawServer(onConnection: (socket: import('node:net').Socket) => void): Promise<string> {
  const sockets = new Set<import('node:net').Socket>()
  const server = createNetServer(socket => {
    sockets.add(socket.on('error', () => {}))
    onConnection(socket)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

describe('requests', () => {
  it('go where host and path lead, and answers say which process passed them on', async () => {
    const [one, two] = [await upstream('one'), await upstream('two')]
    const edge = await Edge.start({
      upstreams: { one: { servers: [one.url] }, two: { servers: [two.url] } },
      routes: [
        { host: '*', upstream: 'one' },
        { host: 'b.test', path: '/r', upstream: 'two' },
        { host: '*.c.test', upstream: 'two' },
        { host: '*', path: '/health', respond: { body: 'fine\n', headers: { 'Cache-Control': 'no-store' } } },
      ],
    })
    const by = async (host: string, path: string) => {
      const { headers, body } = await ask(`${edge.url}${path}`, { headers: { host } }).answer
      expect(headers['x-pid']).toBe(String(await edge.pid))
      return [headers['x-upstream'], body]
    }
    expect(await by('a.test', '/r/1')).toEqual(['one', '1 item-1\n'])
    expect(await by('b.test:8080', '/r/2')).toEqual(['two', '2 item-2\n'])
    expect(await by('b.test', '/right')).toEqual(['one', 'no such page\n'])
    expect(await by('x.y.C.test', '/r/3')).toEqual(['two', '3 item-3\n'])
    const health = await ask(`${edge.url}/health?now`).answer
    expect(health).toMatchObject({ status: 200, body: 'fine\n' })
    expect(health.headers).toMatchObject({
      'cache-control': 'no-store',
      'content-type': 'text/plain; charset=utf-8',
    })
  })

  it('tell servers about the client, who cannot forge it unless the proxy trusts it', async () => {
    const app = { servers: [await mirror()] }
    const forged = { 'x-forwarded-for': '6.6.6.6', forwarded: 'for=6.6.6.6', 'x-forwarded-host': 'bank.test' }
    const routes = [{ host: '*', upstream: 'app' }]
    const edge = await Edge.start({ upstreams: { app }, routes })
    const seen = async () =>
      JSON.parse((await ask(edge.url, { headers: { ...forged, host: 'a.test' } }).answer).body)
    expect(await seen()).toMatchObject({
      host: 'a.test',
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-host': 'a.test',
      'x-forwarded-proto': 'http',
    })
    expect(await seen()).not.toHaveProperty('forwarded')
    await edge.reload({ forwarded: { headers: 'both', trust: ['127.0.0.0/8'] } })
    expect(await seen()).toMatchObject({
      'x-forwarded-for': '6.6.6.6, 127.0.0.1',
      'x-forwarded-host': 'bank.test',
      forwarded: expect.stringContaining('for=6.6.6.6, for=127.0.0.1'),
    })
    await edge.reload({ forwarded: 'off' })
    expect(Object.keys(await seen()).filter(name => name.includes('forwarded'))).toEqual([])
  })

  it('carry large bodies in both directions, with a length and in chunks', async () => {
    const app = await upstream()
    const edge = await Edge.start({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const size = 16 * 1024 * 1024
    const got = await ask(`${edge.url}/bytes?size=${size}`).answer
    expect(got.body.length).toBe(size)
    const body = 'abcdefghijklmnop'.repeat(size / 16)
    const echoed = await ask(`${edge.url}/echo`, { method: 'POST', body }).answer
    expect(echoed.body === body).toBe(true)
    const chunked = await new Promise<string>((resolve, reject) => {
      const sent = request(`${edge.url}/echo`, {
        method: 'POST',
        headers: { 'transfer-encoding': 'chunked' },
      })
      sent.on('response', response => readAll(response).then(resolve, reject)).on('error', reject)
      for (let n = 0; n < 64; n++) sent.write(body.slice(0, size / 64))
      sent.end()
    })
    expect(chunked.length).toBe(size)
  })

  it('wait for 100 Continue where they ask for it', async () => {
    const app = await upstream()
    const edge = await Edge.start({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const raw = await edge.raw()
    raw.send('POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n')
    expect(await raw.until(text => text.includes('\r\n\r\n'))).toMatch(/^HTTP\/1\.1 100 /)
    raw.send('hello')
    const answer = await raw.until(text => text.endsWith('hello'))
    expect(answer).toMatch(/^HTTP\/1\.1 200 /)
  })

  it('may be HTTP/1.0, with and without Host, and see no chunks', async () => {
    const app = await upstream()
    const edge = await Edge.start({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const plain = await (await edge.raw()).send('GET /r/7 HTTP/1.0\r\n\r\n').toTheEnd()
    expect(plain).toMatch(/^HTTP\/1\.[01] 200 [\s\S]*\r\n\r\n7 item-7\n$/)
    const stream = await (await edge.raw()).send('GET /stream?lines=3 HTTP/1.0\r\nHost: a\r\n\r\n').toTheEnd()
    expect(stream).toMatch(/\r\n\r\nline 0\nline 1\nline 2\n$/)
    expect(stream.toLowerCase()).not.toContain('transfer-encoding')
    const kept = (await edge.raw()).send('GET /r/8 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
    expect(await kept.until(text => text.endsWith('8 item-8\n'))).toMatch(/connection: keep-alive/i)
    kept.send('GET /r/9 HTTP/1.0\r\n\r\n')
    expect(await kept.toTheEnd()).toMatch(/9 item-9\n$/)
  })

  it('may become WebSockets', async () => {
    const app = await upstream()
    const edge = await Edge.start({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const socket = new WebSocket(`${edge.url.replace('http', 'ws')}/ws`)
    onTestFinished(() => socket.terminate())
    const heard: string[] = []
    socket.on('message', data => heard.push(String(data)))
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
    socket.send('one')
    socket.send('x'.repeat(300_000))
    await until('both come back', () => heard.length === 2)
    expect(heard.map(each => each.length)).toEqual([3, 300_000])
    expect((await edge.status()).connections).toBe(1)
    socket.close(1000)
    expect(await new Promise(resolve => socket.once('close', resolve))).toBe(1000)
  })

  it('may be CONNECT where a route allows it, and nowhere else', async () => {
    const seen: string[] = []
    const far = await rawServer(socket => {
      socket.setEncoding('latin1').once('data', head => {
        seen.push(String(head).split('\r\n')[0]!)
        socket.write('HTTP/1.1 200 Connected\r\n\r\n')
        socket.on('data', text => socket.write(String(text).toUpperCase()))
      })
    })
    const edge = await Edge.start({
      upstreams: { far: { servers: [far] } },
      routes: [
        { host: 'yes.test', upstream: 'far', connect: true },
        { host: 'no.test', upstream: 'far' },
        { host: 'own.test', respond: { body: 'here\n' } },
      ],
    })
    const connected = (await edge.raw()).send('CONNECT yes.test:443 HTTP/1.1\r\nHost: yes.test:443\r\n\r\n')
    expect(await connected.until(text => text.includes('\r\n\r\n'))).toMatch(/^HTTP\/1\.1 200 /)
    connected.send('hello')
    expect(await connected.until(text => text.length === 5)).toBe('HELLO')
    for (const host of ['no.test', 'own.test', 'unknown.test']) {
      const answer = await (await edge.raw())
        .send(`CONNECT ${host}:443 HTTP/1.1\r\nHost: ${host}:443\r\n\r\n`)
        .toTheEnd()
      expect(answer).toMatch(
        host === 'unknown.test' ? /^HTTP\/1\.1 404 / : /^HTTP\/1\.1 405 [\s\S]*connect-not-allowed/,
      )
    }
    expect(seen).toEqual(['CONNECT yes.test:443 HTTP/1.1'])
  })

  it('come and go by Unix sockets too', async () => {
    const app = await upstream()
    const inner = await Edge.prepare({})
    const path = join(inner.sandbox.folder, 'inner.sock')
    inner.write({
      listeners: [{ name: 'unix', address: `unix:${path}` }],
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
      instanceHeader: 'X-Inner',
    })
    await inner.next()
    const edge = await Edge.start({
      upstreams: { inner: { servers: [`unix:${path}`] } },
      routes: [{ host: '*', upstream: 'inner' }],
    })
    const { status, headers, body } = await ask(`${edge.url}/r/5`).answer
    expect({ status, body }).toEqual({ status: 200, body: '5 item-5\n' })
    expect(headers['x-inner']).toBe(String(await inner.pid))
    const counted = async () => (await inner.status()).listeners[0]!.connections
    // The one that the other proxy keeps for its next request.
    expect(await counted()).toBe(1)
    const socket = connect(path)
    onTestFinished(() => void socket.destroy())
    await until('it is counted', async () => (await counted()) === 2)
  })
})

describe('requests that are not passed on', () => {
  it('get a status and a reason, which the access log has too', async () => {
    const dead = `http://127.0.0.1:${await freePort()}`
    const app = await upstream()
    const silent = await rawServer(() => {})
    const garbled = await rawServer(socket => socket.once('data', () => socket.end('nonsense\r\n\r\n')))
    const hangsUp = await rawServer(socket => socket.once('data', () => socket.destroy()))
    const upstreams = {
      app: { servers: [app.url] },
      dead: { servers: [dead] },
      silent: { servers: [silent], timeouts: { response: '300ms' } },
      garbled: { servers: [garbled] },
      hangsUp: { servers: [hangsUp] },
    }
    const edge = await Edge.start({
      accessLog: true,
      limits: { headBytes: '1k', body: 100, fields: 20 },
      timeouts: { head: '300ms' },
      upstreams,
      routes: Object.keys(upstreams).map(upstream => ({ host: `${upstream}.test`, upstream })),
    })
    const cases: [request: string, status: number, reason: string][] = [
      [GET('/', 'nobody.test'), 404, 'no-route'],
      [GET('/a/../b', 'app.test'), 400, 'path-ambiguous'],
      ['GET / HTTP/1.1\r\n\r\n', 400, 'host-missing'],
      [`GET / HTTP/1.1\r\nHost: app.test\r\nX: ${'x'.repeat(2000)}\r\n\r\n`, 431, 'head-too-large'],
      ['POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 101\r\n\r\n', 413, 'body-too-large'],
      [GET('/', 'dead.test'), 502, 'connect-failed'],
      [GET('/', 'garbled.test'), 502, ''],
      [GET('/', 'hangsUp.test'), 502, 'upstream-closed'],
      [GET('/', 'silent.test'), 504, 'response-timeout'],
      ['GET / HTTP/1.1\r\nHost: app', 408, 'head-timeout'],
    ]
    for (const [sent, status, reason] of cases) {
      const raw = (await edge.raw()).send(sent)
      const answer = await raw.until(text => /\r\n\r\n[a-z-]+\n$/.test(text))
      expect(answer, sent.slice(0, 60)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
      const [, said = ''] = /\r\n\r\n([a-z-]+)\n$/.exec(answer) ?? []
      if (reason !== '') expect(said, sent.slice(0, 60)).toBe(reason)
      await edge.access(line => line.status === status && line.reason === said)
    }
  })

  it('get a status when they take longer than timeouts.request, or end short; tunnels do not', async () => {
    const app = await upstream()
    const edge = await Edge.start({
      accessLog: true,
      timeouts: { request: '300ms' },
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const socket = new WebSocket(`${edge.url.replace('http', 'ws')}/ws`)
    onTestFinished(() => socket.terminate())
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
    const slow = await (await edge.raw()).send(GET('/slow')).until(text => text.endsWith('request-timeout\n'))
    expect(slow).toMatch(/^HTTP\/1\.1 504 /)
    const stream = await (await edge.raw()).send(GET('/stream?lines=1000')).toTheEnd()
    expect(stream).toMatch(/^HTTP\/1\.1 200 [\s\S]*line 1\n/)
    expect(stream).not.toContain('\r\n0\r\n')
    await edge.access(line => line.target.startsWith('/stream') && line.reason === 'request-timeout')
    const echoed = new Promise(resolve => socket.once('message', data => resolve(String(data))))
    socket.send('still here')
    expect(await echoed).toBe('still here')
  })

  it('reach no server when they smuggle another request', async () => {
    const seen: string[] = []
    const far = await rawServer(socket =>
      socket.setEncoding('latin1').on('data', text => {
        seen.push(String(text))
        socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
      }),
    )
    const edge = await Edge.start({
      upstreams: { far: { servers: [far] } },
      routes: [
        { host: '*', upstream: 'far' },
        { host: '*', path: '/admin', respond: { status: 403 } },
      ],
    })
    const hidden = 'GET /admin HTTP/1.1\r\nHost: a\r\n\r\n'
    const attempts = [
      `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello${hidden}`,
      `GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n${hidden}`,
      `GET / HTTP/1.1\nHost: a\n\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\n\r\nx\r\n0\r\n\r\n${hidden}`,
    ]
    for (const attempt of attempts) {
      const answer = await (await edge.raw()).send(attempt).toTheEnd()
      expect(answer, attempt.slice(0, 90)).toMatch(/^HTTP\/1\.1 (400|501) /)
      expect(answer.match(/HTTP\/1\.1/g), attempt.slice(0, 90)).toHaveLength(1)
    }
    expect(seen.filter(text => text.includes('/admin'))).toEqual([])
    const paths = [
      '/%61dmin',
      '//admin',
      '/admin;x',
      '/./admin',
      '/x/..;/admin',
      '/x%2f..%2fadmin',
      '/\\admin',
    ]
    for (const path of paths) {
      const answer = await (await edge.raw()).send(GET(path)).until(text => text.includes('\r\n\r\n'))
      expect(answer, path).toMatch(/^HTTP\/1\.1 (403|400) /)
    }
    expect(seen.filter(text => text.includes('admin'))).toEqual([])
  })

  it('get an answer that there are too many clients', async () => {
    const edge = await Edge.start({
      limits: { connections: 2 },
      routes: [{ host: '*', respond: { body: 'hello\n' } }],
    })
    const [one, two] = [await edge.raw(), await edge.raw()]
    one.send(GET('/'))
    two.send(GET('/'))
    await Promise.all([one, two].map(raw => raw.until(text => text.endsWith('hello\n'))))
    const refused = await (await edge.raw()).send(GET('/')).toTheEnd()
    expect(refused).toMatch(/^HTTP\/1\.1 503 [\s\S]*too-many-connections\n$/)
    one.socket.destroy()
    await until('there is room again', async () => {
      const raw = (await edge.raw()).send(GET('/'))
      const text = await raw.until(text => text.endsWith('\n'))
      raw.socket.destroy()
      return text.endsWith('hello\n')
    })
  })
})

describe('servers that fail', () => {
  it('lose their turn, and their requests go to others where nothing was sent', async () => {
    const dead = `http://127.0.0.1:${await freePort()}`
    const app = await upstream()
    const edge = await Edge.start({
      accessLog: true,
      upstreams: {
        app: { servers: [dead, app.url], health: { failures: 2, coolDown: '10m' } },
        strict: { servers: [dead, app.url], retry: 0, health: { failures: 'off' } },
      },
      routes: [
        { host: '*', upstream: 'app' },
        { host: 'strict.test', upstream: 'strict' },
      ],
    })
    for (let n = 0; n < 8; n++) {
      expect(await ask(`${edge.url}/r/${n}`).answer).toMatchObject({ status: 200, body: `${n} item-${n}\n` })
    }
    await edge.access(line => line.target === '/r/7')
    const tries = edge.lines.filter(line => line.msg === 'request').map(line => line.attempts ?? 1)
    expect(tries.filter(count => count === 2)).toHaveLength(2)
    const down = await edge.logged('a server failed too often and gets no requests for a while')
    expect(down).toMatchObject({ upstream: 'app', server: dead })
    const strict = async () =>
      (await ask(`${edge.url}/r/1`, { headers: { host: 'strict.test' } }).answer).status
    expect([await strict(), await strict(), await strict(), await strict()].toSorted()).toEqual([
      200, 200, 502, 502,
    ])
  })

  it('get requests again once they answer', async () => {
    const port = await freePort()
    const edge = await Edge.start({
      upstreams: {
        app: { servers: [`http://127.0.0.1:${port}`], health: { failures: 1, coolDown: '100ms' } },
      },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const status = async () => (await ask(`${edge.url}/r/1`).answer).status
    expect(await status()).toBe(502)
    const server = createServer((_request, response) => response.end('up\n'))
    await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
    onTestFinished(() => {
      server.closeAllConnections()
      server.close()
    })
    await until('the server is used', async () => (await status()) === 200)
  })

  it('get their share again after each restart, and the log says when they went and came back', async () => {
    const servers = await Promise.all([1, 2, 3, 4, 5].map(restartable))
    const edge = await Edge.start({
      upstreams: {
        app: { servers: servers.map(({ url }) => url), health: { failures: 1, coolDown: '200ms' } },
      },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const answers = async (count: number) => {
      const bodies: string[] = []
      for (let n = 0; n < count; n++) {
        const { status, body } = await ask(`${edge.url}/${n}`).answer
        bodies.push(status === 200 ? body : String(status))
      }
      return bodies
    }
    for (const server of servers) {
      await server.stop()
      // An odd number of requests each time: the turn stands elsewhere when the server comes back.
      expect(await answers(7)).not.toContain('502')
      await edge.logged(
        'a server failed too often and gets no requests for a while',
        line => line.server === server.url,
      )
      await server.start()
      await until('the server gets a request', async () => (await answers(1))[0] === server.url)
      await edge.logged('a server responds and gets requests again', line => line.server === server.url)
      const share = await answers(servers.length)
      expect(share.toSorted()).toEqual(servers.map(({ url }) => url).toSorted())
    }
  })
})

/** A server that can be stopped and started again at its address, which it answers with. */
async function restartable() {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  let server = createServer()
  const start = () => {
    server = createServer((_request, response) => response.end(url))
    return new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  }
  const stop = () => {
    server.closeAllConnections()
    return new Promise<unknown>(resolve => server.close(resolve))
  }
  await start()
  onTestFinished(() => void stop())
  return { url, start, stop }
}

/** A server that counts its connections. */
async function counting() {
  const counted = { connections: 0, closed: 0, url: '' }
  const server = createServer({ keepAliveTimeout: 600_000 }, (_request, response) => response.end('ok\n'))
  server.on('connection', socket => {
    counted.connections++
    socket.on('close', () => counted.closed++)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  counted.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return counted
}

describe('connections to servers', () => {
  it('stay open for the next request, or close at once', async () => {
    const server = await counting()
    const servers = [server.url]
    const routes = [{ host: '*', upstream: 'app' }]
    const edge = await Edge.start({ upstreams: { app: { servers } }, routes })
    const five = async () => {
      server.connections = 0
      for (let n = 0; n < 5; n++) expect((await ask(edge.url).answer).status).toBe(200)
      return server.connections
    }
    expect(await five()).toBe(1)
    await edge.reload({ upstreams: { app: { servers, keepAlive: { connections: 0 } } } })
    expect(await five()).toBe(5)
  })

  it('stay open as each upstream says, whatever the others say', async () => {
    const [none, brief, long] = [await counting(), await counting(), await counting()]
    const edge = await Edge.start({
      upstreams: {
        none: { servers: [none.url], keepAlive: { connections: 0 } },
        brief: { servers: [brief.url], keepAlive: { idle: '100ms' } },
        long: { servers: [long.url], keepAlive: { connections: 4, idle: '10m' } },
      },
      routes: ['none', 'brief', 'long'].map(upstream => ({ host: `${upstream}.test`, upstream })),
    })
    const twice = async (host: string) => {
      for (let n = 0; n < 2; n++) await ask(edge.url, { headers: { host } }).answer
    }
    await twice('long.test')
    await twice('none.test')
    await twice('brief.test')
    await until('the brief one is closed', () => brief.closed === 1)
    expect([none.connections, brief.connections, long.connections]).toEqual([2, 1, 1])
    expect(long.closed).toBe(0)
  })

  it('close at once when a reload has removed their server', async () => {
    const [gone, stays] = [await counting(), await counting()]
    const keepAlive = { idle: '10m' }
    const upstreams = {
      gone: { servers: [gone.url], keepAlive },
      stays: { servers: [stays.url], keepAlive },
    }
    const routes = ['gone', 'stays'].map(upstream => ({ host: `${upstream}.test`, upstream }))
    const edge = await Edge.start({ upstreams, routes })
    for (const host of ['gone.test', 'stays.test']) await ask(edge.url, { headers: { host } }).answer
    await edge.reload({ upstreams: { stays: upstreams.stays }, routes: routes.slice(1) })
    await until('the connection is closed', () => gone.closed === 1)
    expect(stays.closed).toBe(0)
  })

  it('serve all listeners, and outlive a reload that changes the timeouts', async () => {
    const server = await counting()
    const [one, two] = [await freePort(), await freePort()]
    const edge = await Edge.start({
      listeners: [one, two].map((port, n) => ({ name: `l${n}`, address: `tcp://127.0.0.1:${port}` })),
      upstreams: { app: { servers: [server.url], keepAlive: { idle: '1m' } } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    await ask(`http://127.0.0.1:${one}/`).answer
    await ask(`http://127.0.0.1:${two}/`).answer
    await edge.reload({ timeouts: { idle: '61s' } })
    await ask(`http://127.0.0.1:${one}/`).answer
    expect(server.connections).toBe(1)
  })
})

describe('the access log', () => {
  it('has a line for each request', async () => {
    const app = await upstream()
    const edge = await Edge.start({
      accessLog: true,
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    await ask(`${edge.url}/r/1?x=y`, { headers: { host: 'a.test:99' } }).answer
    const line = await edge.access(() => true)
    expect(line).toMatchObject({
      pid: await edge.pid,
      listener: 'http',
      client: '127.0.0.1',
      method: 'GET',
      host: 'a.test',
      target: '/r/1?x=y',
      status: 200,
      upstream: app.url,
    })
    expect(line.ms).toBeGreaterThanOrEqual(0)
    expect(line.bytes).toBeGreaterThan(9)
    expect(Date.parse(line.time)).not.toBeNaN()
  })
})
