import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/index.js'
import { configFrom } from '../../../src/proxy/config/load.js'
import { config, EXAMPLE } from '../../fixtures/proxy-config.js'

type ProxyDocument = Parameters<typeof configFrom>[0]

/** Every key that a program can give: one that the type does not know does not compile. */
const EVERY: ProxyDocument = {
  service: 'edge',
  control: '/run/edge/upgrade.sock',
  instanceHeader: 'X-Gen',
  hooks: {
    success: 'true',
    failure: 'https://hooks.example/failed',
    rollback: 'false',
    timeout: '5s',
  },
  workers: { count: 2, replace: 'at-once', stopTimeout: '5s', hungTimeout: '1m' },
  listeners: [
    { name: 'http', address: 'tcp://127.0.0.1:8080', tls: false, halfClose: true },
    { name: 'db', address: 'tcp://127.0.0.1:5432', forward: 'db', proxyProtocol: ['10.0.0.0/8'] },
  ],
  upstreams: {
    app: {
      servers: ['https://127.0.0.1:9001'],
      tls: { name: 'app.test', verify: false },
      sticky: { cookie: 'edge', maxAge: '1h', secure: true },
      balance: 'hash:cookie:sid',
      health: { failures: 'off', errors: 5, coolDown: '1s' },
      check: {
        http: '/health',
        status: 204,
        host: 'a.test',
        interval: '1s',
        timeout: '500ms',
        rise: 1,
        fall: 2,
      },
      slowStart: '30s',
      keepAlive: { connections: 1, idle: '500ms', age: '5m' },
      connections: 10,
      queue: { requests: 5, timeout: '1s' },
      retry: 0,
      resend: 0,
      timeouts: { connect: '1s', response: '2m' },
    },
    db: {
      servers: ['tcp://127.0.0.1:9002', { address: 'tcp://127.0.0.1:9003', weight: 2, backup: true }],
      check: { port: 9004 },
      proxyProtocol: 'v2',
    },
  },
  routes: [
    {
      host: '*',
      path: '/a',
      upstream: 'app',
      connect: false,
      basicAuth: { realm: 'a', users: { b: '0'.repeat(64) } },
      cors: {
        origins: ['https://a.test'],
        methods: ['GET'],
        headers: ['X-A'],
        expose: ['X-B'],
        credentials: true,
        maxAge: '1h',
      },
      rateLimit: { requests: 10, per: '1m', burst: 20, by: 'all', name: 'a' },
      accessLog: false,
      request: { host: 'b', stripPrefix: '/a', addPrefix: '/b', set: { a: 'b' }, remove: ['c'] },
      response: { set: { a: 'b' }, remove: ['c'] },
    },
    {
      host: '*',
      listener: 'http',
      when: ['method=GET'],
      forwardAuth: {
        upstream: 'app',
        path: '/verify',
        timeout: '2s',
        requestHeaders: ['Cookie'],
        responseHeaders: ['X-User'],
      },
      respond: { status: 200, body: 'ok', headers: { a: 'b' } },
    },
  ],
  resolver: { servers: ['127.0.0.1:53'], timeout: '1s' },
  tls: { certificates: [], minVersion: 'TLSv1.3', move: 'on', rotateTicketKeys: '1h' },
  drain: {
    timeout: '1s',
    move: 'idle',
    tlsTimeout: '1h',
    generations: 4,
    firstWave: '0s',
    movesPerSecond: 5,
    lastEvent: 'event: bye',
  },
  upgrade: {
    timeout: '1s',
    probation: '0s',
    ready: '1s',
    freeze: '1s',
    prepare: '1s',
    commit: '1s',
    heartbeat: '1s',
    silence: '3s',
    health: {
      http: '/health',
      host: 'a.test',
      listener: 'http',
      interval: '10ms',
      timeout: '100ms',
      passes: 1,
      within: '500ms',
    },
  },
  timeouts: {
    handshake: '1s',
    head: '1s',
    idle: '1s',
    stall: '1s',
    tunnel: '1h',
    connect: '1s',
    response: '1s',
    request: 'off',
  },
  limits: { headBytes: '16k', fields: 10, body: 512, connections: 'auto', connectionsPerClient: 'off' },
  via: 'off',
  trace: true,
  errorPages: {},
  accessLog: true,
  accessLine: { format: 'json', fields: ['ms', 'header:User-Agent'] },
  tracing: { requestId: 'X-Request-Id', traceparent: true },
  metrics: 'tcp://127.0.0.1:9100',
  ready: '/healthz',
  stateFile: { path: '/var/lib/edge.state', sync: 'always', damaged: 'prefix' },
  source: {
    url: 'etcd://127.0.0.1:2379/edge',
    user: 'edge',
    passwordFile: import.meta.filename,
    ca: import.meta.filename,
    cert: import.meta.filename,
    key: import.meta.filename,
  },
  forwarded: { headers: 'both', trust: ['10.0.0.0/8'] },
}
/** Read from files, so not given here. */
const FILES = [
  ...['cert', 'key', 'names'].map(key => `tls.certificates[].${key}`),
  ...['ca', 'cert', 'key'].map(key => `upstreams.NAME.tls.${key}`),
  ...['', '.file', '.required', '.revoked'].map(key => `listeners[].clientCa${key}`),
]
/** In place of `upgrade.health.http`, and of `workers`. */
const OTHERS = ['upgrade.health.tcp', 'upgrade.health.command', 'listeners[].idle', 'listeners[].acme']

function keysOf(value: unknown, path = ''): string[] {
  if (Array.isArray(value)) return value.flatMap(item => keysOf(item, `${path}[]`))
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, below]) => {
    const name = path === 'upstreams' ? 'upstreams.NAME' : path === '' ? key : `${path}.${key}`
    return [name, ...(/\.(?:set|respond\.headers|users)$/.test(name) ? [] : keysOf(below, name))]
  })
}

describe('a configuration that a program makes', () => {
  it('has every key that a file can have, and no other', () => {
    const text = readFileSync(new URL('../../../docs/proxy-config.md', import.meta.url), 'utf8')
    const documented = [...text.matchAll(/^- `([a-zA-Z.[\]]+)`(?: \(.*?\))?: /gm)].map(([, key]) => key!)
    const given = new Set([...keysOf(EVERY), ...FILES, ...OTHERS])
    given.delete('upstreams.NAME')
    expect([...given].sort()).toEqual(documented.sort())
    expect(configFrom(EVERY)).toMatchObject({ service: 'edge', drain: { move: 'idle' } })
  })

  it('equals the same text', () => {
    const document: ProxyDocument = {
      service: 'edge',
      control: '/run/edge/upgrade.sock',
      instanceHeader: 'X-Gen',
      listeners: [{ name: 'http', address: 'tcp://127.0.0.1:8080' }],
      upstreams: { app: { servers: ['http://127.0.0.1:9001', 'http://127.0.0.1:9002'] } },
      routes: [
        { host: '*', path: '/', upstream: 'app' },
        { host: '*', path: '/health', respond: { status: 200, body: 'ok\n' } },
      ],
      drain: { timeout: '30s' },
      upgrade: { timeout: '30s', probation: '10s' },
    }
    expect(configFrom(document)).toEqual(config(EXAMPLE))
  })

  it('causes an error with each wrong key', () => {
    const wrong = { ...EVERY, via: 'no name', limits: { fields: 0 } }
    let thrown: unknown
    try {
      configFrom(wrong)
    } catch (error) {
      thrown = error
    }
    expect(FdbError.is(thrown) && [thrown.code, thrown.details.count]).toEqual(['ERR_FDB_CONFIG', 2])
    expect((thrown as Error).message.split('\n').map(line => line.split(': ')[0])).toEqual([
      'limits.fields',
      'via',
    ])
  })

  it.each([
    ['instanceHeader', new Date(0), 'is an object of class Date, not a header name'],
    [
      'timeouts',
      new Map([['idle', '5s']]),
      'is an object of class Map, not a map (give a plain object); its keys are:',
    ],
    [
      'upstreams',
      new Map([['app', {}]]),
      'is an object of class Map, not a map of names to values; give a plain object',
    ],
    ['forwarded', new Date(0), 'is none of "off", "x-forwarded"'],
    ['upgrade', Promise.resolve(), 'is an object of class Promise'],
    ['via', Buffer.from('edge'), 'is an object of class Uint8Array'],
  ])('causes an error where %s is an object that is not a plain one', (key, value, why) => {
    const wrong = { ...EVERY, [key]: value } as ProxyDocument
    const text = expect.stringContaining(why)
    expect(() => configFrom(wrong)).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_CONFIG', message: text }),
    )
  })

  it('may be a module, or made without a prototype', () => {
    const module = Object.defineProperty(Object.assign(Object.create(null), EVERY), Symbol.toStringTag, {
      value: 'Module',
    })
    expect(configFrom(module)).toMatchObject({ service: 'edge' })
  })
})
