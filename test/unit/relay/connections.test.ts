import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { type LentFd, memoryFile, socketPair } from '../../../src/kernel/index.js'
import {
  type ByteStream,
  type Destination,
  type ExchangeOptions,
  type ExchangeReport,
  type Forward,
  NO_OWNER,
  Relay,
  type RelayOptions,
  type StreamOwner,
  streamFromFd,
  UpstreamPools,
} from '../../../src/relay/index.js'
import { openDescriptors } from '../../fixtures/open-descriptors.js'
import { until } from '../../processes/until.js'

const NOTHING = Buffer.alloc(0)
const ORIGIN = { listener: 'web', scheme: 'http' } as const

const SERVER: Destination = {
  key: 'a',
  authority: 'a',
  address: { kind: 'tcp', host: '127.0.0.1', port: 1 },
  keepAlive: { connections: 4, idleMs: 1_000 },
}

/** A stream whose peer is the test. */
class Stream implements ByteStream {
  owner: StreamOwner | null = null
  since = 0
  connecting = false
  congested = false
  unsentBytes = 0
  alive = true
  reusable = true
  untouched = true
  untouchedNow = true
  bytesRead = 0
  bytesWritten = 0
  remoteAddress = '9.9.9.9'
  movable = true
  secure = false
  stays = null
  reading = false
  /** Bytes read from its peer, and not told. */
  unread = ''
  readonly calls: string[] = []
  readonly descriptor: LentFd

  constructor(descriptor = 1 << 20) {
    this.descriptor = descriptor as LentFd
  }

  write(bytes: Buffer | string, from = 0, to: number = bytes.length): void {
    this.calls.push(Buffer.from(bytes).toString('latin1', from, to))
  }
  setReading(on: boolean): void {
    this.reading = on
  }
  end(): void {
    this.calls.push('end')
  }
  destroy(): void {
    this.alive = false
  }
  reset(): void {
    this.alive = false
  }
  takeUnsent(): Buffer[] {
    return []
  }
  mayMove(): boolean {
    return true
  }
  detach() {
    return { unread: Buffer.from(this.unread), unsent: NOTHING, ended: false }
  }
  /** The peer sends this. */
  hear(text: string): void {
    this.bytesRead += text.length
    this.owner!.onData(this, Buffer.from(text, 'latin1'), text.length)
  }
}

/** Makes a queue whose servers do not change. */
const watch = () => () => {}

/** A route to one server, whose requests wait in this queue. */
function queuedFor(server: Destination, queue: NonNullable<Forward['queue']>): Forward {
  return { kind: 'upstream', name: 'r', pick: tried => (tried.length > 0 ? null : server), queue }
}

/** A relay with one client. `servers`: the streams that it has dialled. */
function relayWith(options: Partial<RelayOptions> = {}, route?: ExchangeOptions, descriptor?: number) {
  const servers: Stream[] = []
  const reports: ExchangeReport[] = []
  const pools = new UpstreamPools({
    dial: (_to, owner) => {
      const stream = new Stream()
      Object.assign(stream, { owner, connecting: true })
      servers.push(stream)
      return stream
    },
  })
  const pick: Forward['pick'] = tried => (tried.length > 0 ? null : SERVER)
  const relay = new Relay({
    route: () => ({ kind: 'upstream', name: 'r', pick, ...(route && { options: route }) }),
    pools,
    onExchange: report => reports.push(report),
    ...options,
  })
  const client = new Stream(descriptor)
  relay.acceptStream(client, ORIGIN)
  onTestFinished(() => relay.close())
  const connects = () => {
    const server = servers.at(-1)!
    server.connecting = false
    server.owner!.onOpen(server)
    return server
  }
  const leaves = () => relay.departures('auto', () => {}).next().value ?? null
  return { relay, client, servers, reports, connects, leaves }
}

const GET = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
const UPGRADE = GET.replace('\r\n\r\n', '\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n')
const SWITCHED = 'HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n'

describe('how long nothing may happen in an exchange', () => {
  afterEach(() => void vi.useRealTimers())

  const TICK_MS = 10
  const timeouts = { connect: 100, tunnel: 200, stall: 300, response: 400 }
  const options = { connectTimeout: 1_000, responseTimeout: 4_000 }
  const answering = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'
  const post = 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n'

  it.each([
    ['a connection to the server', 'connect-timeout', GET, null, 100, 1_000],
    ['the head of its answer', 'response-timeout', GET, '', 400, 4_000],
    ['the rest of its answer', 'stalled', GET, answering, 300, 300],
    ['the body of the request', 'body-timeout', post, '', 300, 300],
    ['more in a tunnel', 'tunnel-timeout', UPGRADE, SWITCHED, 200, 200],
  ] as const)('depends on what is waited for, and where that may be on the route: %s', (...row) => {
    const [, reason, request, answer, usual, onRoute] = row
    for (const [route, ms] of [
      [undefined, usual],
      [options, onRoute],
    ] as const) {
      vi.useFakeTimers({
        toFake: [
          'setInterval',
          'clearInterval',
          'clearTimeout',
          'setImmediate',
          'clearImmediate',
          'performance',
        ],
      })
      const { client, reports, connects } = relayWith({ timeouts, tickMs: TICK_MS }, route)
      client.hear(request)
      if (answer !== null) {
        const server = connects()
        if (answer !== '') server.hear(answer)
      }
      vi.advanceTimersByTime(ms - 1)
      expect(reports).toEqual([])
      vi.advanceTimersByTime(1 + 2 * TICK_MS)
      expect(reports).toMatchObject([{ reason }])
      vi.useRealTimers()
    }
  })
})

describe('a header that a route sets', () => {
  const trail = { headers: [], requestId: 'X-Request-Id', traceparent: true }
  const forwarded = { forwarded: true }

  it.each([
    ['x-request-id', 'mine'],
    ['Traceparent', 'mine'],
    ['X-Forwarded-For', '$remote_addr'],
    ['x-forwarded-Host', 'a.test'],
    ['Forwarded', 'for=_hidden'],
  ])('replaces the line that the relay would write: %s', (name, value) => {
    const sent = (route?: ExchangeOptions) => {
      const { client, connects } = relayWith({ trail, forwarded }, route)
      client.hear(GET.replace('\r\n\r\n', `\r\n${name}: client\r\n\r\n`))
      return connects().calls.join('').split('\r\n')
    }
    const isOf = (line: string) => line.toLowerCase().startsWith(`${name.toLowerCase()}:`)
    const before = sent()
    expect(before.filter(isOf)).toHaveLength(1)
    const after = sent({ fields: { request: { set: { [name]: value } } } })
    expect(after.filter(isOf)).toEqual([`${name}: ${value}`])
    const others = (lines: string[]) =>
      lines.map(line => line.split(':')[0]!).filter(line => !isOf(`${line}:`))
    expect(others(after)).toEqual(others(before))
  })
})

describe('the header with the number of a request', () => {
  it.each(['X-Real-IP', 'x_request_id'])(
    'replaces the lines of clients, however they are spelled: %s',
    name => {
      const trail = { headers: [], requestId: name, traceparent: false }
      const { client, connects } = relayWith({ trail })
      const forged = [name, name.replaceAll('_', '-'), name.toUpperCase()].map(each => `\r\n${each}: forged`)
      client.hear(GET.replace('\r\n\r\n', `${forged.join('')}\r\n\r\n`))
      const sent = connects().calls.join('')
      expect([sent.includes('forged'), sent.split(`\r\n${name}: `).length]).toEqual([false, 2])
    },
  )
})

describe('a fault of the relay', () => {
  it('ends the connection of its client alone, and is told', () => {
    const faults: unknown[] = []
    const route: Forward = {
      kind: 'upstream',
      name: 'r',
      pick: () => SERVER,
      get options(): never {
        throw new Error('a bug')
      },
    }
    const onFault = (error: unknown) => void faults.push(error)
    const { relay, client } = relayWith({ route: () => route, onFault })
    client.hear(GET)
    expect([faults, client.alive, relay.size]).toEqual([[new Error('a bug')], false, 0])
  })

  it('in what a server brings about ends the connection of its client alone too', () => {
    const faults: unknown[] = []
    const second: Destination = {
      ...SERVER,
      key: 'b',
      get proxyProtocol(): never {
        throw new Error('a bug')
      },
    }
    const pick: Forward['pick'] = tried => (tried.length === 0 ? SERVER : second)
    const onFault = (error: unknown) => void faults.push(error)
    const { relay, client, servers } = relayWith({
      route: () => ({ kind: 'upstream', name: 'r', pick }),
      onFault,
    })
    client.hear(GET)
    const [server] = servers
    server!.owner!.onClose(server!, null)
    expect([faults, client.alive, relay.size]).toEqual([[new Error('a bug')], false, 0])
  })

  it.each(['onDrain', 'onEnd'] as const)(
    'in a request that was held until %s ends its connection alone',
    event => {
      const faults: unknown[] = []
      const pick = () => SERVER
      const broken: Forward = {
        kind: 'upstream',
        name: 'r',
        pick,
        get options(): never {
          throw new Error('a bug')
        },
      }
      const onFault = (error: unknown) => void faults.push(error)
      const { relay, client, connects } = relayWith({
        route: ({ resource }) => (resource === '/' ? { kind: 'upstream', name: 'r', pick } : broken),
        onFault,
      })
      client.hear(GET + GET.replace('/', '/second'))
      client.congested = true
      const server = connects()
      server.hear('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
      expect(faults).toEqual([])
      client.congested = false
      client.owner![event](client)
      expect([faults, client.alive, relay.size]).toEqual([[new Error('a bug')], false, 0])
    },
  )

  it('does not come of a PROXY header for a client that has closed its connection', () => {
    const faults: unknown[] = []
    const pick = () => ({ ...SERVER, proxyProtocol: 'v1' as const })
    const onFault = (error: unknown) => void faults.push(error)
    // Nothing is open under this number.
    const { client, connects } = relayWith(
      { route: () => ({ kind: 'upstream', name: 'r', pick }), onFault },
      {},
      -1,
    )
    client.hear(GET)
    expect([faults, connects().calls[0]]).toEqual([[], 'PROXY UNKNOWN\r\n'])
  })
})

describe('the headers of a trace that a client sends', () => {
  const parent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

  it.each([
    ['an empty second tracestate', [`traceparent: ${parent}`, 'tracestate: a=1', 'tracestate:'], 'a=1'],
    ['an empty first tracestate', [`traceparent: ${parent}`, 'tracestate:', 'tracestate: a=1'], 'a=1'],
    ['two empty ones', [`traceparent: ${parent}`, 'tracestate:', 'tracestate:'], undefined],
    ['two parents', [`traceparent: ${parent}-x`, 'traceparent:'], undefined],
  ])('reach the server as far as they are right: %s', (_, lines, state) => {
    const trail = { headers: ['traceparent'], requestId: null, traceparent: true }
    const { client, connects } = relayWith({ trail })
    client.hear(GET.replace('\r\n\r\n', `\r\n${lines.join('\r\n')}\r\n\r\n`))
    const sent = connects().calls.join('')
    expect(sent.match(/\r\ntraceparent: /g)).toHaveLength(1)
    expect(/\r\ntracestate: (.*)\r\n/.exec(sent)?.[1]).toBe(state)
  })
})

describe('the headers of a request for the access log', () => {
  it.each(['constructor', '__proto__'])('have nothing that the client has not sent: %s', name => {
    const trail = { headers: [name], requestId: null, traceparent: false }
    const noted = (lines: string) => {
      const { client, reports } = relayWith({ trail, route: () => ({ kind: 'respond', status: 200 }) })
      client.hear(GET.replace('\r\n\r\n', `\r\n${lines}\r\n`))
      return reports[0]?.trail?.headers[name]
    }
    expect([noted(''), noted(`${name}: x\r\n`)]).toEqual([undefined, 'x'])
  })
})

describe('the times of a request for the access log', () => {
  const trail = { headers: [], requestId: null, traceparent: false }

  /** Returns a function that lets the clock of this process go on. */
  function clock(): (ms: number) => void {
    let now = 1_000
    const spy = vi.spyOn(performance, 'now').mockImplementation(() => now)
    onTestFinished(() => spy.mockRestore())
    return ms => {
      now += ms
    }
  }

  it('have the whole wait for a server if the request moves meanwhile', () => {
    const pass = clock()
    const full = { ...SERVER, connections: 0 }
    const queue = { most: 5, ms: 60_000, waiting: 0, servers: () => [full], watch, ended() {} }
    const [own, peer] = socketPair('client')
    onTestFinished(() => {
      own.close()
      peer.close()
    })
    const { client, leaves } = relayWith(
      {
        trail,
        route: () => queuedFor(full, queue),
      },
      undefined,
      own.raw,
    )
    client.hear(GET)
    leaves()
    pass(1_500)
    const left = leaves()
    left?.client.close()
    expect(left?.record.exchange?.facts.trail?.queueMs).toBe(1_500)
  })

  it('has the rest of its wait after a move, also if a server refuses it and it waits for another one', () => {
    const pass = clock()
    const full = { ...SERVER, key: 'b', connections: 0 }
    const queue = { most: 5, ms: 60_000, waiting: 0, servers: () => [full], watch, ended() {} }
    const forward = (servers: Destination[]): Forward => ({
      kind: 'upstream',
      name: 'r',
      pick: tried => servers.find(each => !tried.includes(each)) ?? null,
      queue,
    })
    const [own, peer] = socketPair('client')
    onTestFinished(() => {
      own.close()
      peer.close()
    })
    const from = relayWith({ route: () => forward([full]) }, undefined, own.raw)
    from.client.hear(GET)
    from.leaves()
    pass(200)
    const to = relayWith({ routeByName: () => forward([SERVER, full]), destinationByKey: () => SERVER })
    const left = from.leaves()!
    to.relay.import({ ...left, record: { ...left.record, remainingMs: 1_000 } })
    const [refusing] = to.servers as [Stream]
    refusing.owner!.onClose(refusing, new Error('connect ECONNREFUSED'))
    to.client.owner!.onClose(to.client, null)
    to.leaves()
    pass(200)
    const again = to.leaves()
    again?.client.close()
    expect(again?.record.remainingMs).toBe(1_000)
  })

  it('has the whole time in a queue of the next process if it has waited for the connection to a server only', () => {
    const pass = clock()
    const full = { ...SERVER, key: 'b', connections: 0 }
    const queue = { most: 5, ms: 60_000, waiting: 0, servers: () => [full], watch, ended() {} }
    const forward: Forward = {
      kind: 'upstream',
      name: 'r',
      pick: tried => [SERVER, full].find(each => !tried.includes(each)) ?? null,
      queue,
    }
    const [own, peer] = socketPair('client')
    onTestFinished(() => {
      own.close()
      peer.close()
    })
    const from = relayWith({ timeouts: { connect: 1_000 } }, undefined, own.raw)
    from.client.hear(GET)
    from.leaves()
    pass(200)
    const to = relayWith({ routeByName: () => forward, destinationByKey: () => SERVER })
    to.relay.import(from.leaves()!)
    to.servers[0]!.owner!.onClose(to.servers[0]!, new Error('connect ECONNREFUSED'))
    to.client.owner!.onClose(to.client, null)
    to.leaves()
    pass(200)
    const again = to.leaves()
    again?.client.close()
    expect(again?.record.remainingMs).toBe(60_000)
  })

  it('has the whole time for its answer from a kept connection that it gets after a move', async () => {
    const [own, peer] = socketPair('client')
    onTestFinished(() => {
      own.close()
      peer.close()
    })
    const full = { ...SERVER, connections: 0 }
    const queue = { most: 5, ms: 60_000, waiting: 0, servers: () => [full], watch, ended() {} }
    const from = relayWith(
      {
        route: () => queuedFor(full, queue),
      },
      undefined,
      own.raw,
    )
    from.client.hear(GET)
    from.leaves()
    const left = await until('it may leave', from.leaves)
    const forward: Forward = { kind: 'upstream', name: 'r', pick: () => SERVER }
    const timeouts = { response: 60_000 }
    const to = relayWith({ routeByName: () => forward, destinationByKey: () => SERVER, timeouts, tickMs: 5 })
    to.client.hear(GET)
    const server = to.connects()
    server.hear('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
    to.relay.import({ ...left, record: { ...left.record, remainingMs: 20 } })
    expect(server.calls.filter(text => text.startsWith('GET'))).toHaveLength(2)
    Object.assign(server, { descriptor: peer.raw })
    to.client.owner!.onClose(to.client, null)
    const again = to.leaves()
    again?.client.close()
    again?.upstream?.close()
    expect(again?.record.remainingMs).toBeGreaterThan(50_000)
  })

  it('stays whole if it waits behind a server that got a PROXY header and did not accept', () => {
    const pass = clock()
    const refusing = { ...SERVER, proxyProtocol: 'v1' as const, keepAlive: { connections: 0, idleMs: 1 } }
    const full = { ...refusing, key: 'b', connections: 0 }
    const queue = { most: 5, ms: 60_000, waiting: 0, servers: () => [full], watch, ended() {} }
    const pick: Forward['pick'] = tried => [refusing, full].find(each => !tried.includes(each)) ?? null
    const [own, peer] = socketPair('client')
    onTestFinished(() => {
      own.close()
      peer.close()
    })
    const { client, servers, leaves } = relayWith(
      { route: () => ({ kind: 'upstream', name: 'r', pick, queue }) },
      undefined,
      own.raw,
    )
    client.hear(GET)
    const [server] = servers as [Stream]
    server.takeUnsent = () => server.calls.map(text => Buffer.from(text, 'latin1'))
    server.owner!.onClose(server, new Error('connect ECONNREFUSED'))
    leaves()
    pass(1_500)
    const left = leaves()
    left?.client.close()
    expect(left?.record.exchange?.toUpstream.toString('latin1')).toMatch(/^GET \/ HTTP\/1\.1\r\n/)
  })

  it('have that of the connection to the server that answers, not of one that died before', () => {
    const pass = clock()
    const servers = [SERVER, { ...SERVER, key: 'b' }]
    const pick: Forward['pick'] = tried => servers.find(each => !tried.includes(each)) ?? null
    const { client, connects, reports } = relayWith({
      trail,
      route: () => ({ kind: 'upstream', name: 'r', pick }),
    })
    client.hear(GET)
    pass(10)
    const first = connects()
    pass(500)
    first.alive = false
    first.owner!.onClose(first, new Error('read ECONNRESET'))
    pass(20)
    connects().hear('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
    expect(reports[0]?.trail?.connectMs).toBe(20)
  })
})

describe('a relay that drains for good', () => {
  it('ends connections after their next answer also when the others may stay again', () => {
    const { relay, client, connects } = relayWith()
    relay.drainForGood()
    relay.resume()
    client.hear(GET)
    connects().hear('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
    expect(client.calls.join('')).toContain('Connection: close')
  })
})

describe('a request whose head cannot be written for the server', () => {
  it.each([
    ['an impossible field', { fields: { request: { set: { Connection: 'x' } } } }],
    ['an impossible host', { host: 'a\r\nb' }],
  ])('gets 500, and the fault is told: %s', (_, route) => {
    const faults: unknown[] = []
    const { client, servers, reports } = relayWith({ onFault: error => faults.push(error) }, route)
    client.hear(GET)
    expect(client.calls.join('')).toMatch(/^HTTP\/1.1 500 [\s\S]*\r\n\r\ninternal\nend$/)
    expect(faults).toMatchObject([{ code: 'ERR_FDB_HTTP1_FIELD' }])
    expect(reports).toMatchObject([{ status: 500, reason: 'internal', serverFailed: false }])
    expect(servers).toEqual([])
  })
})

describe('a request whose server dies before it answers', () => {
  const [OTHER, THIRD] = [
    { ...SERVER, key: 'b' },
    { ...SERVER, key: 'c' },
  ]
  const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'

  /** A relay with three servers. `dies`: the last server that was dialled closes its connection. */
  function withServers(mayResend?: () => boolean) {
    const failed: string[] = []
    const all = [SERVER, OTHER, THIRD].map(server => ({
      ...server,
      failed: (why: string) => void failed.push(`${server.key} ${why}`),
    }))
    const pick: Forward['pick'] = tried => all.find(each => !tried.includes(each)) ?? null
    const made = relayWith({
      route: () => ({ kind: 'upstream', name: 'r', pick, ...(mayResend && { mayResend }) }),
    })
    const dies = () => {
      const server = made.connects()
      server.alive = false
      server.owner!.onClose(server, new Error('read ECONNRESET'))
    }
    const answers = () => made.client.calls.splice(0).join('').split('\r\n', 1)[0]
    return { ...made, dies, answers, failed }
  }

  it('goes to another server, and the first counts as failed', () => {
    const { client, connects, dies, answers, servers, reports, failed } = withServers()
    client.hear(GET)
    dies()
    const other = connects()
    expect(other.calls).toEqual(servers[0]!.calls)
    other.hear(OK)
    expect(answers()).toBe('HTTP/1.1 200 OK')
    expect(reports).toMatchObject([{ destination: 'b', attempts: 2, serverFailed: false }])
    expect(failed).toEqual(['a upstream-closed'])
  })

  it('goes to no third server, which it could kill too', () => {
    const { client, dies, answers, servers, reports, failed } = withServers()
    client.hear(GET)
    dies()
    dies()
    expect(answers()).toBe('HTTP/1.1 502 Bad Gateway')
    expect(servers.length).toBe(2)
    expect(reports).toMatchObject([{ destination: 'b', reason: 'upstream-closed', serverFailed: true }])
    expect(failed).toEqual(['a upstream-closed'])
  })

  it('goes to the same server again if its connection was reused, then to another', () => {
    const { client, connects, dies, answers, servers, failed, reports } = withServers()
    client.hear(GET)
    const first = connects()
    first.hear(OK)
    expect(answers()).toBe('HTTP/1.1 200 OK')
    client.hear(GET)
    expect(servers.length).toBe(1)
    first.owner!.onClose(first, new Error('read ECONNRESET'))
    dies()
    connects().hear(OK)
    expect(answers()).toBe('HTTP/1.1 200 OK')
    expect(reports.map(({ destination, attempts }) => [destination, attempts])).toEqual([
      ['a', 1],
      ['b', 3],
    ])
    expect(failed).toEqual(['a upstream-closed'])
  })

  it.each([
    ['it may change something', GET.replace('GET', 'POST'), '', undefined],
    [
      'it has a body',
      GET.replace('GET', 'PUT').replace('\r\n\r\n', '\r\nContent-Length: 1\r\n\r\nx'),
      '',
      undefined,
    ],
    ['a part of the answer has come', GET, 'HTTP/1.1 2', undefined],
    ['the route allows no more', GET, '', () => false],
    [
      'the route throws',
      GET,
      '',
      () => {
        throw new Error('thrown')
      },
    ],
  ])('gets 502 if %s', (_, request, heard, mayResend) => {
    const { client, connects, answers, servers, failed } = withServers(mayResend)
    client.hear(request)
    const server = connects()
    if (heard !== '') server.hear(heard)
    server.owner!.onClose(server, new Error('read ECONNRESET'))
    expect(answers()).toBe('HTTP/1.1 502 Bad Gateway')
    expect([servers.length, failed]).toEqual([1, []])
  })
})

describe('an answer of the relay itself', () => {
  it('has a field of its route instead of the one of every response, not both', () => {
    const { client } = relayWith({
      responseFields: { set: { 'X-Pid': '7', 'X-All': '1' } },
      route: () => ({ kind: 'respond', status: 200, headers: [['x-pid', 'mine']] }),
    })
    client.hear(GET)
    const lines = client.calls.join('').split('\r\n')
    expect(lines.filter(line => /^x-/i.test(line))).toEqual(['x-pid: mine', 'X-All: 1'])
  })
})

describe('a peer that takes its bytes slowly', () => {
  afterEach(() => void vi.useRealTimers())

  it('stays while it takes more, also after the other side had taken more than it ever did', () => {
    vi.useFakeTimers({
      toFake: [
        'setInterval',
        'clearInterval',
        'clearTimeout',
        'setImmediate',
        'clearImmediate',
        'performance',
      ],
    })
    const [clientPair, serverPair] = [socketPair('client'), socketPair('server')]
    onTestFinished(() => {
      for (const fd of [...clientPair, ...serverPair]) fd.close()
    })
    const timeouts = { tunnel: 200 }
    const { relay, client, connects } = relayWith({ timeouts, tickMs: 10 }, undefined, clientPair[0].raw)
    client.hear(UPGRADE)
    const server = Object.assign(connects(), { descriptor: serverPair[0].raw })
    server.hear(SWITCHED)
    // All written bytes count as taken: these sockets hold no unread bytes.
    Object.assign(client, { congested: true, bytesWritten: 1_000 })
    Object.assign(server, { congested: true, bytesWritten: 500 })
    vi.advanceTimersByTime(230)
    expect(relay.size).toBe(1)
    Object.assign(client, { congested: false })
    for (let round = 0; round < 3; round++) {
      server.bytesWritten += 100
      vi.advanceTimersByTime(230)
      expect(relay.size).toBe(1)
    }
    vi.advanceTimersByTime(230)
    expect(relay.size).toBe(0)
  })
})

describe('clients that have gone while nothing is read from them', () => {
  afterEach(() => void vi.useRealTimers())

  it('show, unless another that has gone took them out meanwhile', () => {
    vi.useFakeTimers({
      toFake: ['setInterval', 'clearInterval', 'clearTimeout', 'setImmediate', 'clearImmediate'],
    })
    const pairs = [socketPair('one'), socketPair('two')]
    const reasons: unknown[] = []
    const { relay, connects } = relayWith({
      limits: { pipelinedBytes: 1 },
      onExchange: ({ reason }) => {
        reasons.push(reason)
        // The other client is read from again.
        if (reasons.length === 1)
          answers[1]!.hear('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
      },
    })
    const before = relay.size
    const answers = pairs.map(([own]) => {
      const client = new Stream(own.raw)
      relay.acceptStream(client, ORIGIN)
      client.hear(`${GET}G`)
      expect(client.reading).toBe(false)
      return connects()
    })
    vi.advanceTimersByTime(100)
    expect(reasons).toEqual([])
    for (const [, theirs] of pairs) theirs.close()
    vi.advanceTimersByTime(100)
    expect([reasons, relay.size]).toEqual([['client-gone', undefined], before + 1])
    relay.close()
    vi.advanceTimersByTime(1_000)
    expect([relay.size, vi.getTimerCount()]).toEqual([0, 0])
    for (const [own] of pairs) own.close()
  })
})

describe('a tunnel without frames', () => {
  it('passes on, and counts, nothing of its client when it has ended', () => {
    const { relay, client, reports, connects } = relayWith()
    client.hear(UPGRADE)
    const server = connects()
    server.hear(SWITCHED)
    client.hear('before')
    relay.end('', 10_000)
    client.hear('after')
    expect(server.calls.slice(1)).toEqual(['before', 'end'])
    expect(client.calls.at(-1)).toBe('end')
    relay.close()
    expect(reports).toMatchObject([{ bytesReceived: 6 }])
  })
})

describe('a relay that serves again', () => {
  afterEach(() => void vi.useRealTimers())

  it('hears first requests and answers that have come while this process was stopped', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const answer = 'HTTP/1.1 204 No Content\r\n\r\n'
    const [silent, asked] = [relayWith(), relayWith()]
    asked.client.hear(GET)
    const server = asked.connects()
    silent.relay.closeIdle()
    asked.relay.end('', 1_000)
    // A turn of the event loop runs timers, then reads.
    vi.advanceTimersByTime(1_000)
    silent.client.hear(GET)
    server.hear(answer)
    await new Promise(resolve => setImmediate(resolve))
    silent.connects().hear(answer)
    for (const { client } of [silent, asked]) expect(client.calls.join('')).toMatch(/^HTTP\/1\.1 204 /)
  })

  it('lets the requests go on that its drain would have given up', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { relay, client, connects } = relayWith()
    client.hear(GET)
    const server = connects()
    relay.end('', 1_000)
    relay.resume()
    vi.advanceTimersByTime(2_000)
    server.hear('HTTP/1.1 204 No Content\r\n\r\n')
    expect(client.calls.join('')).toMatch(/^HTTP\/1\.1 204 /)
  })

  it('still gives up the tunnels that it has ended', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { relay, client, connects } = relayWith()
    client.hear(UPGRADE)
    connects().hear(SWITCHED)
    relay.end('', 1_000)
    relay.resume()
    vi.advanceTimersByTime(1_000)
    await new Promise(resolve => setImmediate(resolve))
    vi.advanceTimersByTime(1_000)
    expect([client.alive, relay.size]).toEqual([false, 0])
  })

  it('waits again for a server that does not accept before its client moves', () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const { relay, client, leaves } = relayWith()
    client.hear(GET)
    vi.advanceTimersByTime(1)
    expect(leaves()).toBeNull()
    relay.resume()
    vi.advanceTimersByTime(101)
    expect(leaves()).toBeNull()
  })
})

describe('a connection that leaves in the middle of a request head', () => {
  it.each([
    ['takes along what was read of the head, and behind it what its stream had read', 'GET / HT', false],
    ['takes along what was held back for the next request in the same order', 'GET / HT', true],
    ['takes along what its stream had read where nothing of a head is there', '', false],
  ])('%s', (_, heard, congested) => {
    using file = memoryFile('client', 'client')
    const { client, leaves } = relayWith({}, undefined, file.raw)
    // Requests of a client that does not read are held back.
    client.congested = congested
    if (heard !== '') client.hear(heard)
    client.unread = 'TP/1.1\r\n'
    const left = leaves()
    expect(left?.record.fromClient.toString()).toBe(`${heard}TP/1.1\r\n`)
    left?.client.close()
  })
})

describe('a connection that cannot leave as there is no duplicate of its server’s', () => {
  it('stays, and leaves no duplicate of its client’s behind', () => {
    using file = memoryFile('client', 'client')
    const { client, connects, leaves, relay } = relayWith({}, undefined, file.raw)
    client.hear(GET)
    connects()
    const before = openDescriptors()
    expect(leaves).toThrow()
    expect(openDescriptors()).toBe(before)
    expect(relay.size).toBe(1)
  })
})

describe('a connection that comes', () => {
  it('ends behind the bytes that are still to be written, where it was ended before', async () => {
    const [ours, theirs] = socketPair('client')
    const { client, leaves, relay } = relayWith({}, undefined, ours.raw)
    client.detach = () => ({ unread: NOTHING, unsent: Buffer.from('rest'), ended: true })
    const left = leaves()!
    const heard: string[] = []
    const peer = streamFromFd(
      theirs,
      {
        ...NO_OWNER,
        onData: (_stream, chunk, to) => void heard.push(chunk.toString('latin1', 0, to)),
        onEnd: () => void heard.push('end'),
      },
      { open: 0 },
    )
    peer.setReading(true)
    relay.import(left)
    ours.close()
    await until('it has ended', () => heard.includes('end'))
    expect(heard).toEqual(['rest', 'end'])
    peer.destroy()
  })
})

describe('a moved connection, as a witness', () => {
  const destinationByKey = () => SERVER
  const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

  /** A connection to a client, or a server, and its other end. */
  function pair() {
    const [ours, theirs] = socketPair('client')
    const heard: string[] = []
    const onData: StreamOwner['onData'] = (_stream, chunk, to) =>
      void heard.push(chunk.toString('latin1', 0, to))
    const peer = streamFromFd(theirs, { ...NO_OWNER, onData }, { open: 0 })
    peer.setReading(true)
    onTestFinished(() => {
      peer.destroy()
      ours.close()
    })
    return { ours, peer, heard }
  }

  it('shows nothing while only its server can answer, but what it does then', async () => {
    const [client, server] = [pair(), pair()]
    const from = relayWith({ destinationByKey }, undefined, client.ours.raw)
    from.client.hear(GET)
    Object.assign(from.connects(), { descriptor: server.ours.raw })
    const witness = from.relay.import(from.leaves()!)
    expect(witness).toMatchObject({ asked: false, answered: false })
    server.peer.write(OK)
    await until('it is answered', () => client.heard.join('').endsWith('ok'))
    expect(witness).toMatchObject({ asked: true, answered: true })
  })

  it('shows that a client has asked what this process must send', async () => {
    const client = pair()
    const from = relayWith({ destinationByKey }, undefined, client.ours.raw)
    const witness = from.relay.import(from.leaves()!)
    expect(witness).toMatchObject({ asked: false, answered: false })
    client.peer.write(GET)
    await until('it is sent on', () => from.servers.length === 1)
    expect(witness).toMatchObject({ asked: true, answered: false })
  })

  it.each([
    ['nothing while it waits in a queue', 0, false],
    ['that its client has asked while this process must dial', 1, true],
  ])('shows %s', async (_, connections, asked) => {
    const client = pair()
    const server = { ...SERVER, connections }
    const queue = { most: 1, ms: 60_000, waiting: 0, servers: () => [server], watch, ended: () => {} }
    const pick: Forward['pick'] = tried => (tried.length > 0 ? null : server)
    const forward = { kind: 'upstream', name: 'r', pick, queue } as const
    const all = { route: () => forward, routeByName: () => forward, destinationByKey: () => server }
    const from = relayWith(all, undefined, client.ours.raw)
    from.client.hear(GET)
    const witness = from.relay.import(await until('it may leave', from.leaves))
    expect([queue.waiting, witness]).toMatchObject([1 - connections, { asked, answered: false }])
  })
})

describe('an unused connection to a server', () => {
  function poolsWith() {
    return new UpstreamPools({ dial: () => new Stream(), tickMs: 10 })
  }

  it('reads, so that its end is heard, although the exchange before had stopped reading', () => {
    const pools = poolsWith()
    const one = new Stream()
    pools.release(SERVER, one)
    expect(one.reading).toBe(true)
    one.owner!.onEnd(one)
    expect(one.alive).toBe(false)
    expect(pools.idle).toBe(0)
    expect(pools.acquire(SERVER, NO_OWNER, false)).not.toBe(one)
  })

  it('serves no request when it is older than it may be, whatever has closed it by then', () => {
    const pools = poolsWith()
    const one = new Stream()
    pools.release(SERVER, one, performance.now() - 1_000)
    expect(pools.acquire(SERVER, NO_OWNER, false)).not.toBe(one)
  })

  it('closes when its time is over, and one that came later when its own is', async () => {
    const pools = poolsWith()
    const server = { ...SERVER, keepAlive: { connections: 4, idleMs: 100 } }
    const [one, two] = [new Stream(), new Stream()]
    const begun = performance.now()
    pools.release(server, one)
    await until('half of its time is over', () => performance.now() > begun + 50)
    pools.release(server, two)
    await until('the first is closed', () => !one.alive)
    expect(pools.idle).toBe(two.alive ? 1 : 0)
    await until('the second is closed', () => !two.alive)
  })
})
