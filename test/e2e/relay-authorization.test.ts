import { afterEach, describe, expect, it } from 'vitest'
import type { Authorization, Decision, RelayOptions } from '../../src/relay/index.js'
import { type Reply, send, startWorld, turn, Upstream, until, type World } from './relay-world.js'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const ALLOW = 'HTTP/1.1 204 No Content\r\nX-User: alice\r\n\r\n'
const head = (fields = '', method = 'GET') => `${method} /x?a=1 HTTP/1.1\r\nHost: a:81\r\n${fields}\r\n`
const POST = head('Content-Length: 4\r\n', 'POST')
const LAST = 'Connection: close\r\n'

const open: { worlds: World[]; upstreams: Upstream[] } = { worlds: [], upstreams: [] }

async function upstream(reply: Reply): Promise<Upstream> {
  const server = await Upstream.start(reply)
  open.upstreams.push(server)
  return server
}

/** A server behind a service of authorization that answers by `reply`. */
async function guarded(
  reply: Reply,
  rule: Partial<Authorization> = {},
  { decision, ...options }: Partial<RelayOptions> & { decision?: Decision } = {},
) {
  const app = await upstream(({ peer }) => void peer.socket.write(OK))
  const service = await upstream(reply)
  const authorization: Authorization = {
    service: send(service),
    target: '/verify?by=edge',
    timeout: 8_000,
    requestHeaders: null,
    responseHeaders: ['X-User', 'X-Groups'],
    ...rule,
  }
  const route = { ...(decision ?? send(app)), authorization } as Decision
  const world = await startWorld(() => route, options)
  open.worlds.push(world)
  return { app, service, world, asked: () => world.reports.filter(each => each.subject === 'authorization') }
}

const answers =
  (text: string): Reply =>
  ({ peer }) =>
    void peer.socket.write(text)

/** The fields of a request without a body. */
const fieldsOf = (all: Upstream, at = 0) => all.got.split('\r\n\r\n')[at]!.split('\r\n').slice(1)

afterEach(async () => {
  for (const world of open.worlds.splice(0)) await world.close()
  for (const server of open.upstreams.splice(0)) await server.shut()
})

describe('a service of authorization', () => {
  it('gets method, target, host, client and headers, over a connection that stays', async () => {
    const { world, service, app } = await guarded(answers(ALLOW))
    const forged = 'X-Forwarded-Uri: /\r\nX_Forwarded_Method: HEAD\r\nX-Forwarded-For: 1.1.1.1\r\n'
    const hop = 'Connection: x-hop\r\nX-Hop: 1\r\nTE: trailers\r\n'
    const client = await world.client()
    await client.write(
      `${head(`${forged}${hop}Cookie: sid=1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n`, 'PUT')}ab`,
    )
    await client.gets(OK.length)
    await client.write(head(LAST))
    await client.all()
    expect(service.requests.map(({ head: { method, target }, body }) => [method, target, body])).toEqual([
      ['GET', '/verify?by=edge', ''],
      ['GET', '/verify?by=edge', ''],
    ])
    expect(fieldsOf(service).toSorted()).toEqual([
      'Cookie: sid=1',
      `Host: ${service.authority}`,
      'X-Forwarded-For: 127.0.0.1',
      'X-Forwarded-Host: a:81',
      'X-Forwarded-Method: PUT',
      'X-Forwarded-Proto: http',
      'X-Forwarded-Uri: /x?a=1',
    ])
    expect(service.peers).toHaveLength(1)
    expect(app.requests.map(({ head: { method, target }, body }) => [method, target, body])).toEqual([
      ['PUT', '/x?a=1', 'ab'],
      ['GET', '/x?a=1', ''],
    ])
  })

  it('may get some of the headers only', async () => {
    const { world, service } = await guarded(answers(ALLOW), { requestHeaders: ['cookie'] })
    await world.ask(head(`${LAST}Cookie: sid=1\r\nX-Other: 1\r\n`))
    expect(fieldsOf(service).filter(each => !/^(?:host|x-forwarded)/i.test(each))).toEqual(['Cookie: sid=1'])
  })

  it('gets nothing about contents that the client has, or wants a part of, unless the rule names it', async () => {
    const contents = ['If-None-Match: *', 'If-Match: "a"', 'If-Range: "a"', 'Range: bytes=0-1']
    const dates = ['If-Modified-Since', 'If-Unmodified-Since'].map(
      name => `${name}: ${new Date(0).toUTCString()}`,
    )
    const fields = [...contents, ...dates]
    // As Express and nginx do with an answer of their own.
    const conditional: Reply = ({ peer, head: { fields: own } }) => {
      const refuses = ['if-match', 'if-unmodified-since'].some(name => own.get(name) !== undefined)
      const status = own.get('if-none-match') === '*' ? 304 : refuses ? 412 : 204
      peer.socket.write(`HTTP/1.1 ${status} X\r\n${status === 412 ? 'Content-Length: 0\r\n' : ''}\r\n`)
    }
    const { world, service, app } = await guarded(conditional)
    const request = head(`${LAST}${fields.map(each => `${each}\r\n`).join('')}Content-Length: 0\r\n`, 'PUT')
    expect(await world.ask(request)).toContain('200 OK')
    expect(fieldsOf(app)).toEqual(expect.arrayContaining(fields))
    const named = await guarded(conditional, { requestHeaders: ['if-match'] })
    expect(await named.world.ask(request)).toContain('412')
    expect(service.requests).toHaveLength(1)
  })

  it('gives the request headers that no client can forge', async () => {
    const two = ALLOW.replace('\r\n\r\n', '\r\nx-groups: a\r\nX-Groups: b\r\nX-Other: 1\r\n\r\n')
    let allows = two
    const { world, app } = await guarded(({ peer }) => void peer.socket.write(allows))
    const forged = 'x-user: root\r\nX_USER: root\r\nX-Groups: root\r\nX_Groups: root\r\n'
    await world.ask(head(LAST + forged))
    await world.ask(head(`Connection: close, X-User, x-groups\r\n${forged}`))
    allows = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'
    await world.ask(head(LAST + forged))
    const given = [0, 1, 2].map(at =>
      fieldsOf(app, at).filter(each => /^x.(?:user|groups|other)/i.test(each)),
    )
    const known = ['X-Groups: a, b', 'X-User: alice']
    expect(given.map(each => each.toSorted())).toEqual([known, known, []])
  })

  it.each([
    [
      'a redirect',
      'HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n',
      '',
    ],
    [
      'a refusal',
      'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nContent-Length: 2\r\n\r\nno',
      'no',
    ],
    [
      'chunks',
      'HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nn\r\n1;x\r\no\r\n0\r\nT: 1\r\n\r\n',
      'no',
    ],
    ['an error', 'HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno', 'no'],
  ])('refuses a request: %s goes to the client, which keeps its connection', async (_, answer, body) => {
    const { world, app, asked } = await guarded(answers(answer))
    const client = await world.client()
    await client.write(head() + head('', 'HEAD') + head(LAST))
    const all = await client.all()
    const line = answer.slice(0, 12)
    expect(all.split(line)).toHaveLength(4)
    expect(all.endsWith(`\r\n\r\n${body}`)).toBe(true)
    for (const kept of answer.match(/^(?:Location|Set-Cookie|WWW-Authenticate): .*$/gm) ?? [])
      expect(all).toContain(kept)
    expect(all).not.toMatch(/x-hop|keep-alive|transfer-encoding|^T: /im)
    expect(app.requests).toEqual([])
    expect(asked().map(({ status, reason }) => [status, reason])).toEqual(
      Array(3).fill([Number(line.slice(9)), undefined]),
    )
    expect(world.reports.find(({ subject }) => subject === 'request')?.reason).toBe('auth-refused')
  })

  it('may decide about a fixed answer, and adds the headers of the refusal to its own', async () => {
    const fixed = { kind: 'respond', status: 200, body: 'in', ownHeaders: [['X-Own', '1']] } as const
    let answer = ALLOW
    const reply: Reply = ({ peer }) => void peer.socket.write(answer)
    const { world } = await guarded(reply, {}, { decision: fixed })
    expect(await world.ask(head(LAST))).toMatch(/^HTTP\/1\.1 200 (?:.|\r\n)*\r\n\r\nin$/)
    answer = 'HTTP/1.1 403 Forbidden\r\nx-own: 2\r\nContent-Length: 0\r\n\r\n'
    expect((await world.ask(head(LAST))).match(/x-own: .*/gi)).toEqual(['X-Own: 1'])
  })

  it('lets an upgrade pass as a request, with what the client has sent behind it', async () => {
    const { world, app } = await guarded(({ peer }) => void peer.socket.write(ALLOW))
    app.requests.push = (...seen) => {
      for (const { peer } of seen) {
        peer.raw = true
        peer.socket.write(
          'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nfirst',
        )
      }
      return 0
    }
    const client = await world.client()
    await client.write(`${head('Connection: upgrade\r\nUpgrade: x\r\n')}early`)
    await client.sees('\r\n\r\nfirst')
    await until(() => app.got.endsWith('early'), 'the early bytes')
    expect(client.got).toMatch(/^HTTP\/1\.1 101 /)
  })

  it('gets the next question over another connection if bytes came behind its answer', async () => {
    const { world, service } = await guarded(answers(`${ALLOW}HTTP/1.1 204 `))
    const client = await world.client()
    await client.write(head())
    await client.gets(OK.length)
    await client.write(head(LAST))
    expect((await client.all()).match(/HTTP\/1\.1 200/g)).toHaveLength(2)
    expect(service.peers.length).toBe(2)
  })

  it('gets the question again over a new connection if the idle one has just closed', async () => {
    let count = 0
    const { world, service } = await guarded(({ peer }) => {
      if (++count === 2) peer.socket.destroy()
      else peer.socket.write(ALLOW)
    })
    const client = await world.client()
    await client.write(head())
    await client.gets(OK.length)
    await client.write(head(LAST))
    expect((await client.all()).match(/HTTP\/1\.1 200/g)).toHaveLength(2)
    expect([count, service.peers.length]).toEqual([3, 2])
  })
})

describe('without a decision of the service no request passes:', () => {
  const interim = 'HTTP/1.1 103 Early Hints\r\nX-User: root\r\n\r\n'
  it.each<[what: string, Reply, status: number, why: string]>([
    ['it closes', ({ peer }) => void peer.socket.destroy(), 502, 'upstream-closed'],
    ['it ends', ({ peer }) => void peer.socket.end(), 502, 'upstream-closed'],
    [
      'it ends within a 2xx',
      ({ peer }) => void peer.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx'),
      502,
      'upstream-closed',
    ],
    ['it speaks no HTTP', answers('SSH-2.0-OpenSSH\r\n'), 502, 'status-line'],
    [
      'it switches protocols',
      answers('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'),
      502,
      'switch-unasked',
    ],
    [
      'it refuses with too large a body',
      answers(`HTTP/1.1 403 No\r\nContent-Length: 100000000\r\n\r\n${'x'.repeat(100_000)}`),
      502,
      'answer-too-large',
    ],
    ['it sends 1xx only', answers(interim.repeat(2_000)), 502, 'answer-too-large'],
  ])('%s', async (_, reply, status, why) => {
    const { world, app, asked } = await guarded(reply)
    const answer = await world.ask(`${POST}body${head(LAST)}`)
    expect(answer).toContain(`HTTP/1.1 ${status} `)
    expect(answer).toContain('\r\n\r\nauth-failed\n')
    expect(app.requests).toEqual([])
    expect(asked()[0]).toMatchObject({ reason: why, serverFailed: true })
    expect(world.faults).toEqual([])
  })

  it('it never answers, also while a 2xx lacks its end', async () => {
    for (const begun of ['', 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx', interim]) {
      const { world, app, asked } = await guarded(answers(begun), { timeout: 50 })
      expect(await world.ask(head(LAST))).toMatch(/^HTTP\/1\.1 503 (?:.|\r\n)*\r\n\r\nauth-timeout\n$/)
      expect(app.requests).toEqual([])
      expect(asked()[0]).toMatchObject({ reason: 'response-timeout', serverFailed: true })
    }
  })

  it('nothing listens there, or no server is left', async () => {
    const gone = await Upstream.start(() => {})
    await gone.shut()
    for (const [service, status, why] of [
      [send(gone), 502, 'connect-failed'],
      [send(), 503, 'no-server'],
    ] as const) {
      const { world, app, asked } = await guarded(answers(ALLOW), { service })
      expect(await world.ask(head(LAST))).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
      expect(app.requests).toEqual([])
      expect(asked()[0]).toMatchObject({ reason: why, serverFailed: false })
    }
  })

  it('a body behind an answer that is positive is not waited for when it is too long', async () => {
    const long = `HTTP/1.1 200 OK\r\nX-User: alice\r\nContent-Length: 100000000\r\n\r\n${'x'.repeat(100_000)}`
    const { world, app, service } = await guarded(answers(long))
    expect(await world.ask(head(LAST))).toMatch(/^HTTP\/1\.1 200 /)
    expect(fieldsOf(app)).toContain('X-User: alice')
    await until(() => service.peers[0]!.closed, 'the end of the connection')
  })
})

describe('while the service decides', () => {
  it('the body waits at the client, and goes on when the request passes', async () => {
    let decide = () => {}
    const { world, app, service } = await guarded(({ peer }) => {
      decide = () => void peer.socket.write(ALLOW)
    })
    const client = await world.client()
    const bytes = 16 * 1024 * 1024
    client.socket.write(head(`${LAST}Content-Length: ${bytes}\r\n`, 'POST'))
    client.socket.write('x'.repeat(bytes))
    await until(() => service.requests.length === 1, 'the question')
    for (let i = 0; i < 50; i++) await turn()
    expect(world.relay.heldBytes()).toBeLessThan(1024 * 1024)
    expect(client.socket.writableLength).toBeGreaterThan(bytes / 4)
    expect(app.peers).toEqual([])
    decide()
    await client.all()
    expect(app.requests[0]?.body.length).toBe(bytes)
  })

  it('a client that leaves ends the question', async () => {
    for (const request of [head(), `${POST}b`]) {
      const { world, service, app, asked } = await guarded(() => {})
      const client = await world.client()
      client.socket.write(request)
      await until(() => service.requests.length === 1, 'the question')
      client.socket.destroy()
      await until(() => service.peers[0]!.closed, 'the end of the question')
      await until(() => world.reports.length === 2, 'both reports')
      expect(asked()[0]).toMatchObject({ reason: 'cancelled', serverFailed: false })
      expect(app.peers).toEqual([])
      expect(world.relay.upstreamCounts()).toEqual({ open: 0, idle: 0 })
    }
  })

  it('the end of a drain answers 503, and ends the question', async () => {
    const { world, service, app } = await guarded(() => {})
    const client = await world.client()
    client.socket.write(head())
    await until(() => service.requests.length === 1, 'the question')
    world.relay.end('', 10)
    expect(await client.all()).toMatch(/^HTTP\/1\.1 503 (?:.|\r\n)*\r\n\r\ndrained\n$/)
    await until(() => service.peers[0]!.closed, 'the end of the question')
    expect(app.peers).toEqual([])
  })

  it('a connection whose requests are all refused moves between two of them', async () => {
    const { world, service } = await guarded(() => {})
    const client = await world.client()
    client.socket.write(head().repeat(3))
    await until(() => service.requests.length === 1, 'the question')
    let noticed = 0
    const leaving = () => [...world.relay.departures('auto', () => noticed++)]
    expect(leaving()).toEqual([])
    service.peers[0]!.socket.write('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n')
    await until(() => noticed > 0, 'a notice')
    const [left] = leaving()
    expect(left?.record.fromClient.toString('latin1')).toBe(head().repeat(2))
    left?.client.close()
  })

  it('the connection does not move; it can as soon as the request has passed', async () => {
    let decide = () => {}
    const silent = await upstream(() => {})
    const reply: Reply = ({ peer }) => {
      decide = () => void peer.socket.write(ALLOW)
    }
    const { world, service } = await guarded(reply, {}, { decision: send(silent) })
    const client = await world.client()
    client.socket.write(head())
    await until(() => service.requests.length === 1, 'the question')
    let noticed = 0
    const leaving = () => [...world.relay.departures('auto', () => noticed++)]
    expect(leaving()).toEqual([])
    decide()
    await until(() => noticed > 0, 'a notice')
    const [left] = leaving()
    expect(left?.record.exchange?.facts).toMatchObject({ phase: 'waiting', route: 'test' })
    left?.client.close()
    left?.upstream?.close()
    left?.slot?.close()
  })
})
