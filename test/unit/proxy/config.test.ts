import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { readConfig } from '../../../src/proxy/config/load.js'
import { isOptional, settingMessages, upstreamMessage, upstreamOf } from '../../../src/proxy/state/entries.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { config, EXAMPLE, LEAST, problems, refusal } from '../../fixtures/proxy-config.js'

describe('a configuration', () => {
  it('reads with everything filled in', () => {
    const { listeners, upstreams, routes, ...rest } = config(EXAMPLE)
    expect(listeners).toMatchObject([
      { name: 'http', spec: { kind: 'tcp', host: '127.0.0.1', port: 8080 }, forward: null },
    ])
    expect(upstreams).toEqual([
      {
        name: 'app',
        servers: [
          { kind: 'tcp', host: '127.0.0.1', port: 9001, text: 'http://127.0.0.1:9001' },
          { kind: 'tcp', host: '127.0.0.1', port: 9002, text: 'http://127.0.0.1:9002' },
        ],
        balance: 'round-robin',
        check: null,
        slowStart: null,
        tls: null,
        sticky: null,
        health: { failures: 3, errors: null, coolDown: 10_000 },
        keepAlive: { connections: 4096, idle: 4000, age: 3_600_000 },
        connections: null,
        queue: null,
        proxyProtocol: null,
        retry: 2,
        resend: 20,
        timeouts: { connect: 3000, response: 60_000 },
      },
    ])
    expect(routes).toEqual([
      { host: '*', path: '/', target: { kind: 'upstream', upstream: 'app', connect: false } },
      { host: '*', path: '/health', target: { kind: 'respond', status: 200, body: 'ok\n', headers: [] } },
    ])
    expect(rest).toEqual({
      service: 'edge',
      errorPages: [],
      metrics: null,
      ready: null,
      source: null,
      stateFile: null,
      workers: null,
      control: '/run/edge/upgrade.sock',
      instanceHeader: 'X-Gen',
      drain: {
        timeout: 30_000,
        tlsTimeout: 3_600_000,
        generations: 16,
        move: 'auto',
        firstWave: 250,
        movesPerSecond: null,
        lastEvent: '',
      },
      upgrade: {
        timeout: 30_000,
        probation: 10_000,
        ready: 30_000,
        freeze: 1000,
        prepare: 10_000,
        commit: 10_000,
        heartbeat: 250,
        silence: 3000,
        health: null,
      },
      resolver: { servers: [], timeout: 5000 },
      tls: { certificates: [], minVersion: 'TLSv1.2', move: 'off', rotateTicketKeys: 43_200_000 },
      timeouts: {
        handshake: 10_000,
        head: 10_000,
        idle: 60_000,
        stall: 60_000,
        tunnel: 60_000,
        connect: 3000,
        response: 60_000,
        request: null,
      },
      limits: { headBytes: 16_384, fields: 100, body: null, connections: 'auto', connectionsPerClient: null },
      via: 'auto',
      trace: false,
      accessLog: false,
      accessLine: { format: 'json', fields: [] },
      tracing: { requestId: null, traceparent: false },
      forwarded: { headers: 'x-forwarded', trust: [] },
    })
  })

  it('stores keepAlive.age as versions without it do, and reads it back so', () => {
    const stored = (keepAlive: string) => {
      const upstreams = `upstreams: { app: { servers: ["http://a:1"], keepAlive: { ${keepAlive} } } }\n`
      const [upstream] = config(`${LEAST}${upstreams}`).upstreams
      const message = upstreamMessage(upstream!, { generation: 1, created: 1 })
      return [message.keepAliveAgeMs ?? null, upstreamOf('app', message)?.keepAlive.age]
    }
    expect(stored('')).toEqual([null, 3_600_000])
    expect(stored('age: 1h')).toEqual([null, 3_600_000])
    expect(stored('age: 5m')).toEqual([300_000, 300_000])
    expect(stored('age: off')).toEqual([0, null])
  })

  it('needs a service and a listener, and nothing else', () => {
    const { control, instanceHeader, upstreams, routes } = config(LEAST.replace(/^control.*\n/m, ''))
    expect([control, instanceHeader, upstreams, routes]).toEqual([null, null, [], []])
    expect(refusal('{}')).toEqual([
      'edge.yaml:1:1: the key "service" is missing',
      'edge.yaml:1:1: the key "listeners" is missing',
    ])
  })

  it('keeps name and address of the listener for metrics apart from the others', () => {
    const text = (metrics: string) => LEAST.replace('name: http', 'name: metrics') + `metrics: "${metrics}"\n`
    expect(config(`${LEAST}metrics: "tcp://127.0.0.1:9100"\n`).metrics).toMatchObject({ port: 9100 })
    expect(refusal(text('tcp://*:8080'))).toEqual([
      expect.stringMatching(/listeners\[0\]\.name: "metrics" is the name of the listener for metrics/),
      expect.stringMatching(/listeners\[0\]\.address: it overlaps with tcp:\/\/\[::\]:8080\S* of "metrics"/),
    ])
    const { port, host } = config(LEAST).listeners[0]!.spec
    expect(refusal(`${LEAST}metrics: "tcp://${host.includes(':') ? `[${host}]` : host}:${port}"\n`)).toEqual([
      expect.stringMatching(/listeners\[0\]\.address: it overlaps with .* of "metrics"/),
    ])
  })

  it('says by what a version proves itself, in the words of fd-broker run --ready too', () => {
    const health = (text: string) => config(`${LEAST}upgrade: { health: ${text} }`).upgrade.health
    const rest = { host: null, listener: null, interval: 250, timeout: 2000, passes: 2, within: 10_000 }
    const none = { http: null, tcp: null, command: null }
    expect(health('http:/health?deep=1')).toEqual({ ...rest, ...none, http: '/health?deep=1' })
    expect(health('{ http: /health?deep=1 }')).toEqual(health('http:/health?deep=1'))
    expect(health('"tcp:[::1]:80"')).toEqual({ ...rest, ...none, tcp: '[::1]:80' })
    expect(health('"command: test -e /a"')).toEqual({ ...rest, ...none, command: ' test -e /a' })
    expect(health('off')).toBeNull()
    expect(health('{ http: /, host: "a.com:8080", listener: http, passes: 3, within: 5s }')).toEqual({
      ...rest,
      ...none,
      http: '/',
      host: 'a.com:8080',
      listener: 'http',
      passes: 3,
      within: 5000,
    })
  })

  it('stands in the settings of the state as long as it is given', () => {
    const settings = (text: string) => {
      const paths = settingMessages(config(`${LEAST}upgrade: { health: ${text} }`), {
        generation: 1,
        created: 1,
      })
      return [...paths.keys()].filter(path => path.startsWith('upgrade.health'))
    }
    const pace = ['interval', 'timeout', 'passes', 'within'].map(key => `upgrade.health.${key}`)
    expect(settings('off')).toEqual([])
    expect(settings('http:/')).toEqual(['upgrade.health.http', ...pace])
    expect(settings('"tcp:a:1"')).toEqual(['upgrade.health.tcp', ...pace])
    expect(['upgrade.health.http', 'upgrade.health.later', 'upgrade.ready'].map(isOptional)).toEqual([
      true,
      false,
      false,
    ])
  })

  it('may ask by http: /PATH only where a listener takes requests', () => {
    const text = `${LEAST.replace('" }]', '", forward: db }]')}upstreams: { db: { servers: ["tcp://a:1"] } }
`
    expect(refusal(`${text}upgrade: { health: http:/ }`)).toEqual([
      expect.stringMatching(
        /^edge.yaml:\d+:\d+: upgrade.health: no listener takes HTTP requests; use "tcp: HOST:PORT"/,
      ),
    ])
    expect(config(`${text}upgrade: { health: "tcp:a:1" }`).upgrade.health).toMatchObject({ tcp: 'a:1' })
  })

  it('may be JSON', () => {
    const json = JSON.stringify({
      service: 'edge',
      control: '/run/c.sock',
      listeners: [{ name: 'a', address: 'unix:/run/a.sock?mode=0660' }],
      routes: [{ host: 'Example.COM', path: '/a/', respond: { status: 204 } }],
      limits: { headBytes: '8k', body: 1_000_000, connections: 10_000 },
      timeouts: { request: '2m', head: '500ms', idle: '1.5m' },
      forwarded: 'both',
    })
    expect(config(json)).toMatchObject({
      listeners: [{ spec: { kind: 'unix', path: '/run/a.sock', mode: 0o660 } }],
      routes: [{ host: 'example.com', path: '/a' }],
      limits: { headBytes: 8192, body: 1_000_000, connections: 10_000 },
      timeouts: { request: 120_000, head: 500, idle: 90_000 },
      forwarded: { headers: 'both', trust: [] },
    })
  })

  it('has plain data, so that a worker may read it', () => {
    const read = config(EXAMPLE)
    expect(structuredClone(read)).toEqual(read)
  })

  it('lets an upstream have timeouts of its own', () => {
    const text = `${LEAST}timeouts: { connect: 1s, response: 5s }
upstreams:
  fast: { servers: ["http://a:1"] }
  slow: { servers: ["http://a:2"], timeouts: { response: 5m } }
`
    expect(config(text).upstreams.map(({ name, timeouts }) => [name, timeouts])).toEqual([
      ['fast', { connect: 1000, response: 5000 }],
      ['slow', { connect: 1000, response: 300_000 }],
    ])
  })

  it('lets a listener forward whole connections to an upstream', () => {
    const text = `${LEAST.replace('}]', '}, { name: db, address: "tcp://*:5432", forward: db }]')}timeouts: { idle: 5s, tunnel: 1h }
upstreams:
  db: { servers: ["tcp://DB1:5432", "tcp://[::1]:5432/", "unix:/run/db.sock"] }
`
    const { listeners, upstreams, timeouts } = config(text)
    expect(listeners.map(({ name, forward }) => [name, forward])).toEqual([
      ['http', null],
      ['db', 'db'],
    ])
    expect(upstreams[0]!.servers.map(({ text }) => text)).toEqual([
      'tcp://db1:5432',
      'tcp://[::1]:5432',
      'unix:/run/db.sock',
    ])
    expect(timeouts).toMatchObject({ idle: 5000, tunnel: 3_600_000 })
  })

  it('may use anchors, and wrong values in them are found where they are written', () => {
    const text = `${LEAST}upstreams:
  a: { servers: &both ["http://a:1", "http://b:0"] }
  b: { servers: *both }
`
    expect(problems(text).map(({ line, column, key }) => [line, column, key])).toEqual([
      [5, 38, 'upstreams.a.servers[1]'],
      [5, 38, 'upstreams.b.servers[1]'],
    ])
  })
})

describe('a wrong configuration', () => {
  it('causes an error with file, line, column, key and remedy', () => {
    const text = EXAMPLE.replace('"http://127.0.0.1:9002"', '"htp://x"')
    expect(refusal(text)).toEqual([
      'edge.yaml:7:45: upstreams.app.servers[1]: "htp://x" is not an upstream address (http://HOST:PORT, https://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT or unix:/path)',
    ])
  })

  it('names several errors at once, in the order of the lines', () => {
    const text = EXAMPLE.replace('timeout: 30s }\nupgrade', 'timeout: 30 }\nupgrade')
      .replace('path: /,', 'path: api,')
      .replace('service: edge', 'service: ""')
    expect(refusal(text)).toEqual([
      'edge.yaml:1:10: service: "" is not a service name (1 to 128 visible characters)',
      'edge.yaml:9:24: routes[0].path: "api" is not a path: it must begin with /',
      'edge.yaml:11:19: drain.timeout: 30 has no unit; write 30s or 30ms',
    ])
  })

  it('names 20 errors at most, and says how many there are', () => {
    const routes = Array.from({ length: 33 }, (_, i) => `  - { host: h${i}, upstream: nowhere }\n`).join('')
    const lines = refusal(`${LEAST}routes:\n${routes}`)
    expect(lines).toHaveLength(21)
    expect(lines[0]).toBe('edge.yaml:5:27: routes[0].upstream: there is no upstream "nowhere"')
    expect(lines[20]).toBe('edge.yaml: and 13 more; correct these first')
  })

  it('has no routes to upstreams that take no requests', () => {
    const text = `${LEAST}upstreams: { db: { servers: ["tcp://db:5432"] } }
routes: [{ host: "*", upstream: db }]
`
    expect(refusal(text)).toEqual([
      'edge.yaml:5:33: routes[0].upstream: "db" has tcp:// or udp:// servers, which take no requests: write http://, or "forward"',
    ])
  })

  it.each([
    ['forward: db', '', '', 'forward: "db" has no udp:// servers; write the name of an upstream with them'],
    [
      'forward: dns, tls: true',
      '',
      '',
      'tls: a udp:// listener passes on datagrams as they are; leave it out',
    ],
    [
      'forward: dns, proxyProtocol: [10.0.0.1]',
      '',
      '',
      'proxyProtocol: a udp:// listener has no connections; leave it out',
    ],
    [
      'forward: dns',
      'workers: 2',
      '',
      'address: the kernel would spread the datagrams of a client over the workers; leave "workers" out',
    ],
    [
      'forward: dns',
      'drain: { move: off }',
      '',
      'address: flows must move, because all versions share their socket; leave "drain.move" out',
    ],
    ['forward: dns', '', ', connections: 5', 'udp:// servers have no connections; leave it out'],
    [
      'forward: dns',
      '',
      ', check: "http:/"',
      'udp:// servers answer no requests; write "tcp", or leave it out',
    ],
  ])('says what does not go with datagrams: %s %s %s', (listener, rest, upstream, why) => {
    const text = `service: x
listeners: [{ name: dns, address: "udp://127.0.0.1:53", ${listener} }]
upstreams: { dns: { servers: ["udp://a:53"]${upstream} }, db: { servers: ["tcp://a:53"] } }
${rest}
`
    expect(refusal(text)).toEqual([expect.stringContaining(why)])
  })

  it('has no datagrams on a listener for connections', () => {
    const text = `service: x
listeners: [{ name: dns, address: "tcp://127.0.0.1:53", forward: dns }]
upstreams: { dns: { servers: ["udp://a:53"] } }
`
    expect(refusal(text)).toEqual([
      expect.stringContaining('"dns" has udp:// servers; write the name of an upstream without them'),
    ])
  })

  it('has an upstream with servers that get connections as they are, where an authority proves names', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-config-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const [cert, key] = ['a.crt', 'a.key'].map(name => join(folder, name))
    writeFileSync(cert!, CERTIFICATE)
    writeFileSync(key!, KEY)
    const text = (acme: string) => `service: x
listeners: [{ name: https, address: "tcp://127.0.0.1:443", tls: true, acme: ${acme} }]
upstreams: { dns: { servers: ["udp://a:53"] }, db: { servers: ["tls://a:5432"] }, ok: { servers: ["tcp://a:1"] } }
tls: { certificates: [{ cert: "${cert}", key: "${key}" }] }
`
    for (const name of ['dns', 'db'])
      expect(refusal(text(name))).toEqual([
        expect.stringContaining(`"${name}" has udp:// servers, or some with TLS`),
      ])
    expect(refusal(text('dbb'))).toEqual([
      expect.stringContaining('there is no upstream "dbb" (did you mean'),
    ])
    expect(config(text('ok')).listeners[0]).toMatchObject({ acme: 'ok' })
  })

  it('points at an unknown key and guesses what was meant', () => {
    expect(refusal(`${LEAST}timeouts: { haed: 3s }\n`)).toEqual([
      'edge.yaml:4:13: timeouts.haed: unknown key (did you mean "head"?); the keys here are: handshake, head, idle, stall, tunnel, connect, response, request',
    ])
    expect(refusal(`${LEAST}Upstream: {}\n`)[0]).toContain('unknown key (did you mean "upstreams"?)')
    expect(refusal(`${LEAST}entirely: {}\n`)[0]).toMatch(/entirely: unknown key; the keys here are/)
  })

  it('guesses an upstream, a mode and a word', () => {
    const text = EXAMPLE.replace('upstream: app', 'upstream: ap')
    expect(refusal(text)).toEqual([
      'edge.yaml:9:37: routes[0].upstream: there is no upstream "ap" (did you mean "app"?)',
    ])
    expect(refusal(`${LEAST}forwarded: x-forward\n`)[0]).toMatch(/\(did you mean "x-forwarded"\?\)$/)
  })

  it('does not add that an upstream is unknown when only its definition is wrong', () => {
    const text = EXAMPLE.replace('"http://127.0.0.1:9002"', '""')
    expect(problems(text).map(({ key }) => key)).toEqual(['upstreams.app.servers[1]'])
  })

  it('causes an error for repeated entries', () => {
    const text = `${LEAST.replace(
      ']',
      ', { name: http, address: "tcp://127.0.0.1:8081" }, { name: b, address: "tcp://127.0.0.1:8080" }]',
    )}upstreams: { app: { servers: ["http://A:80", "http://a:080"] } }
routes:
  - { host: example.com, path: /a, upstream: app }
  - { host: EXAMPLE.com., path: /%61/, upstream: app }
`
    expect(refusal(text).map(line => line.replace(/^.*?: /, ''))).toEqual([
      'listeners[1].name: the name "http" is given twice, first in item [0]',
      'listeners[2].address: the address "tcp://127.0.0.1:8080" is given twice, first in item [0]',
      'upstreams.app.servers[1]: the server "http://a:80" is given twice, first in item [0]',
      'routes[1]: example.com/a is given twice, first by routes[0]',
    ])
  })

  it.each([
    ['tcp://*:80', 'tcp://127.0.0.1:80'],
    ['tcp://127.0.0.1:80', 'tcp://0.0.0.0:80'],
    ['tcp://*:80', 'tcp://0.0.0.0:80'],
    ['tcp://[::]:80', 'tcp://[::1]:80'],
    ['tcp://*:80?reusePort', 'tcp://[::1]:80'],
  ])('causes an error for listeners of which the kernel binds one only: %s and %s', (one, other) => {
    const text = LEAST.replace(/"tcp.*"/, `"${one}" }, { name: b, address: "${other}"`)
    expect(refusal(text)).toEqual([
      expect.stringMatching(
        /^edge\.yaml:3:\d+: listeners\[1\]\.address: it overlaps with .* of the listener "http": /,
      ),
    ])
  })

  it.each([
    ['tcp://[::]:80', 'tcp://0.0.0.0:80'],
    ['tcp://[::]:80', 'tcp://127.0.0.1:80'],
    ['tcp://*:80', 'tcp://127.0.0.1:81'],
    ['tcp://127.0.0.1:80', 'tcp://127.0.0.2:80'],
    ['tcp://*:80?reusePort', 'tcp://127.0.0.1:80?reusePort'],
    ['unix:/a', 'unix:/b'],
  ])('lets listeners have addresses that do not include each other: %s and %s', (one, other) => {
    const text = LEAST.replace(/"tcp.*"/, `"${one}" }, { name: b, address: "${other}"`)
    expect(config(text).listeners).toHaveLength(2)
  })

  it('causes an error for a path that is used twice', () => {
    const text = `${LEAST.replace(/"tcp.*"/, '"unix:/run/edge/upgrade.sock"')}stateFile: /run/edge/upgrade.sock\n`
    expect(refusal(text)).toEqual([
      'edge.yaml:3:36: listeners[0].address: "/run/edge/upgrade.sock" is the path of the control socket too; write another one',
      'edge.yaml:4:12: stateFile: "/run/edge/upgrade.sock" is the path of a socket too; write another one',
    ])
  })

  it('lets two listeners have a port of the kernel’s choice', () => {
    const text = LEAST.replace(/8080" }/, '0" }, { name: b, address: "tcp://127.0.0.1:0" }')
    expect(config(text).listeners).toHaveLength(2)
  })

  it('causes an error for a prefix that the requests of its route do not have', () => {
    const text = `${EXAMPLE.slice(0, EXAMPLE.indexOf('drain'))}  - { host: a, path: /ab/c, upstream: app, request: { stripPrefix: /ab } }
  - { host: b, path: /ab/c, upstream: app, request: { stripPrefix: /a } }
`
    expect(refusal(text)).toEqual([
      'edge.yaml:12:68: routes[3].request.stripPrefix: requests of this route have the path "/ab/c", which does not begin with it',
    ])
  })

  it('causes an error for a service of authorization that could not decide alone', () => {
    const text = `${EXAMPLE.slice(0, EXAMPLE.indexOf('drain'))}  - { host: a, upstream: app, forwardAuth: { upstream: ap } }
  - { host: b, upstream: app, forwardAuth: { upstream: app }, basicAuth: { users: { a: "${'0'.repeat(64)}" } } }
  - { host: c, upstream: app, forwardAuth: { upstream: app }, connect: true }
  - { host: d, upstream: app, forwardAuth: { upstream: app, responseHeaders: [X-A] }, request: { remove: [x-a] } }
  - { host: e, upstream: app, forwardAuth: { upstream: app, requestHeaders: [Host], responseHeaders: [a-b-c-d-e-f-g-h-i-j] } }
`
    expect(refusal(text)).toEqual([
      'edge.yaml:11:56: routes[2].forwardAuth.upstream: there is no upstream "ap" (did you mean "app"?)',
      'edge.yaml:12:31: routes[3].forwardAuth: give "basicAuth" or "forwardAuth", not both',
      'edge.yaml:13:31: routes[4].forwardAuth: CONNECT has no path to ask about; leave it out',
      'edge.yaml:14:78: routes[5].forwardAuth.responseHeaders: "request" changes the header "x-a" too',
      'edge.yaml:15:78: routes[6].forwardAuth.requestHeaders[0]: "Host" is set by the proxy itself; choose another header',
      'edge.yaml:15:103: routes[6].forwardAuth.responseHeaders[0]: "a-b-c-d-e-f-g-h-i-j" has more than 8 hyphens; choose another header',
    ])
  })

  it('causes an error for a route with no target, with two, and with a body that no answer may have', () => {
    const text = `${EXAMPLE.slice(0, EXAMPLE.indexOf('drain'))}  - { host: a }
  - { host: b, upstream: app, respond: {} }
  - { host: c, respond: { status: 204, body: x } }
  - { host: d, respond: {}, connect: true }
`
    expect(refusal(text)).toEqual([
      'edge.yaml:11:5: routes[2]: the route has no target: give "upstream" or "respond"',
      'edge.yaml:12:31: routes[3].respond: give "upstream" or "respond", not both',
      'edge.yaml:13:46: routes[4].respond.body: an answer with status 204 has no body; leave it out',
      'edge.yaml:14:38: routes[5].connect: CONNECT needs an upstream; this route answers by itself',
    ])
  })
})

describe('a text that is no YAML', () => {
  it.each([
    [
      'a star without quotes',
      'routes:\n  - { host: *, path: / }',
      '2:13: put a value that begins with * in quotes, "*"',
    ],
    [
      'a wildcard without quotes',
      'routes:\n  - { host: *.example.com }',
      '2:13: *.example.com refers to nothing; put a value that begins with * in quotes, "*.example.com"',
    ],
    ['a key given twice', 'service: a\nservice: b', '2:1: this key is given twice in the same map'],
    [
      'a second document',
      'service: a\n---\nb: 1',
      '2:1: a second document begins here; the configuration is one document',
    ],
    ['a tab', 'drain:\n\ttimeout: 3s', '2:1: tabs are not allowed as indentation; use spaces'],
    ['an open quote', 'service: "edge', '1:15: missing closing "quote'],
    ['a tag', 'service: !name edge', '1:10: unresolved tag: !name'],
    [
      'an unclosed bracket',
      'service: [a\nb: 1',
      '2:1: this is indented too little, or a [ or { before it is not closed',
    ],
    [
      'a colon in a text',
      'service: a: b',
      '1:11: this does not continue the map or list: correct the indentation, or put a text with ": " in quotes',
    ],
    ['a reserved sign', 'service: @a', '1:10: put a value that begins with @ in quotes'],
    ['a list as a key', '? [a]\n: 1', '1:1: a key must be a text'],
    [
      'a JSON key given twice',
      '{"service": "a", "service": "b"}',
      '1:18: this key is given twice in the same map',
    ],
    [
      'an alias bomb',
      `a0: &a0 x\n${Array.from({ length: 9 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i},`.repeat(9)}*a${i}]\n`).join('')}`,
      '1:1: its aliases repeat too much; write the values out',
    ],
  ])('%s: is refused where it stands', (_, text, expected) => {
    expect(refusal(text)[0]).toBe(`edge.yaml:${expected}`)
  })

  it.each([
    ['a list', '- service: edge'],
    ['a text', 'edge'],
  ])('%s is no map', (_, text) => {
    expect(refusal(text)[0]).toMatch(/^edge\.yaml:1:1: .* not a map.*; its keys are: service, control, /)
  })

  it.each([
    ['a list that has itself in it', `${LEAST}accessLog: &x [*x]`, '4:15', '[…]'],
    ['a map that has itself in it', `${LEAST}accessLog: &x { a: *x }`, '4:15', '{…}'],
  ])('%s is wrong where it stands', (_, text, place, value) => {
    expect(refusal(text)).toContain(`edge.yaml:${place}: accessLog: ${value} is neither true nor false`)
  })

  it('takes no list in many lists', () => {
    const lists = `${'['.repeat(20_000)}${']'.repeat(20_000)}`
    expect(refusal(`${LEAST}accessLog: ${lists}`)[0]).toMatch(
      /^edge\.yaml:4:\d+: this is nested too deeply to be read$/,
    )
    expect(refusal(`{"accessLog":${lists}}`)[0]).toMatch(
      /^edge\.yaml:1:\d+: this is nested too deeply to be read$/,
    )
  })

  it.each(['', '# later\n'])('causes an error that it is empty where it is: %j', text => {
    expect(refusal(text)).toEqual([
      expect.stringMatching(/^edge\.yaml:1:1: the file is empty; its keys are: service, control, /),
    ])
  })

  it('takes no merge keys and no __proto__', () => {
    const text = `${LEAST}__proto__: { accessLog: true }\ndrain: { <<: { timeout: 3s } }\n`
    expect(refusal(text).map(line => line.split('; ')[0])).toEqual([
      'edge.yaml:4:1: __proto__: unknown key',
      'edge.yaml:5:10: drain["<<"]: unknown key (YAML merge keys are not supported)',
    ])
  })
})

describe('a file', () => {
  it('causes an error with its name if it cannot be read, or is not UTF-8', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fd-broker-config-'))
    const file = join(folder, 'edge.yaml')
    const refused = { code: 'ERR_FDB_CONFIG', details: expect.objectContaining({ file }) }
    await expect(readConfig(file)).rejects.toMatchObject({
      ...refused,
      message: expect.stringContaining(`${file} cannot be read (ENOENT`),
    })
    writeFileSync(file, Buffer.from([0x61, 0xff]))
    await expect(readConfig(file)).rejects.toMatchObject({
      ...refused,
      message: `${file} is not UTF-8; save it as UTF-8`,
    })
    writeFileSync(file, `\ufeff${EXAMPLE}`)
    await expect(readConfig(file)).resolves.toMatchObject({ service: 'edge' })
    rmSync(folder, { recursive: true })
  })
})
