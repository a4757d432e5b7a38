import { expect, it } from 'vitest'
import { type Conversion, convert, languageOf } from '../../../src/convert/convert.js'

function from(text: string): Conversion {
  return convert(text, { file: 'haproxy.cfg', language: 'haproxy', service: 'edge', included: () => [] })
}

const HEAD =
  'defaults\n mode http\n timeout connect 5s\nbackend app\n server s 10.0.0.1:80\nbackend api\n server s 10.0.0.2:80\n'
const web = (...lines: string[]) =>
  from(`${HEAD}frontend web\n bind :80\n ${[...lines, 'default_backend app'].join('\n ')}\n`)
/** Routes, with what they do in short. */
const routes = ({ document }: Conversion) =>
  (
    document.routes as {
      host: string
      path?: string
      when?: string[]
      upstream?: string
      respond?: { status: number }
    }[]
  ).map(({ host, path = '/', when = [], upstream, respond }) =>
    [host, path, when.join(), upstream ?? respond!.status].join(' '),
  )

it('named conditions are alternatives, words in a row hold together, and or separates', () => {
  const conversion = web(
    'acl api path_beg /api/',
    'acl api hdr(host) api.test',
    'acl beta hdr(X-Beta) -m found',
    'use_backend api if api beta || { path /v1/ } METH_GET',
  )
  expect(routes(conversion)).toEqual([
    '* /api header:X-Beta,path=/api/* api',
    'api.test / header:X-Beta api',
    '* /v1 method=GET|HEAD,path=/v1/ api',
    '* /  app',
  ])
})

it('a refusal of addresses outside a list closes the route; a refusal of addresses on a list is named', () => {
  const said = web('http-request deny if { path_beg /admin/ } !{ src 10.0.0.0/8 }')
  expect(routes(said)).toEqual(['* /admin !address=10.0.0.0/8,path=/admin/* 403', '* /  app'])
  expect(said.counts.missing).toBe(0)
  const closed = web('http-request deny if { path_beg /admin/ } !{ src -f /etc/lan.lst }')
  expect(routes(closed)).toEqual(['* /admin path=/admin/* 403', '* /  app'])
  expect(closed.counts.missing).toBe(1)
  const open = web('http-request deny if { src -f /etc/bad.lst }')
  expect([routes(open), open.counts.missing]).toEqual([['* /  app'], 1])
  expect(routes(web('http-request auth unless { http_auth(users) }'))).toEqual(['* /  403'])
})

it('requests that a rule excepts get what they would get without it', () => {
  expect(
    routes(web('http-request deny if METH_GET !{ path_beg /api/ }', 'use_backend api if { path_beg /api/ }')),
  ).toEqual(['* / !path=/api/*,method=GET|HEAD 403', '* /api path=/api/* api', '* /  app'])
})

it('a redirect to https concerns listeners without TLS', () => {
  const conversion = from(
    `${HEAD}frontend web\n bind :80\n bind :443 ssl crt /etc/a.pem alpn h2\n redirect scheme https code 301 if !{ ssl_fc }\n default_backend app`,
  )
  expect(conversion.document).toMatchObject({
    listeners: [
      { name: 'http', address: 'tcp://*:80' },
      { name: 'https', address: 'tcp://*:443', tls: true, http2: true },
    ],
    routes: [
      {
        host: '*',
        listener: 'http',
        respond: { status: 301, headers: { Location: 'https://$host$request_uri' } },
      },
      { host: '*', listener: 'https', upstream: 'app' },
    ],
    tls: { certificates: [{ cert: '/etc/a.pem', key: '/etc/a.pem' }] },
  })
})

it.each([
  ['random', 'two-choices', 0],
  ['random(1)', 'random', 0],
  ['random(2)', 'two-choices', 0],
  ['random(3)', 'two-choices', 1],
])('balance %s chooses by %s', (algorithm, balance, near) => {
  const { document, counts } = from(`defaults
 mode http
frontend web
 bind 127.0.0.1:80
 default_backend app
backend app
 balance ${algorithm}
 server a 10.0.0.1:80`)
  expect(document.upstreams).toMatchObject({ app: { balance } })
  expect(counts).toMatchObject({ near, missing: 0 })
})

it('a backend brings its servers, checks, limits and cookie', () => {
  const { document } = from(`defaults
 mode http
 timeout connect 5s
 timeout server 30s
 default-server inter 2s fall 5
frontend web
 bind 127.0.0.1:80
 default_backend app
backend app
 balance leastconn
 option httpchk GET /health
 http-check expect status 204
 cookie SRV insert indirect nocache secure
 server a 10.0.0.1:80 check weight 3 maxconn 50
 server b 10.0.0.2:443 check ssl verify none
 server c 10.0.0.3:80 check backup`)
  expect(document.upstreams).toEqual({
    app: {
      servers: [
        { address: 'http://10.0.0.1:80', weight: 3 },
        'https://10.0.0.2:443',
        { address: 'http://10.0.0.3:80', backup: true },
      ],
      balance: 'least-connections',
      check: { interval: '2s', fall: 5, http: '/health', status: 204 },
      connections: 50,
      queue: { requests: 10_000, timeout: '5s' },
      sticky: { cookie: 'SRV', secure: true },
      timeouts: { connect: '5s', response: '30s' },
      tls: { verify: false },
    },
  })
})

it('a server that is given twice has one entry, which is no backup if one of them is none', () => {
  const { document } = from(
    'listen a\n bind :80\n mode http\n server a 10.0.0.1:80 backup\n server b 10.0.0.1:80\n server c 10.0.0.1:80 backup',
  )
  expect(document.upstreams).toEqual({ a: { servers: ['http://10.0.0.1:80'] } })
})

it('connections without HTTP are forwarded', () => {
  const { document } = from(
    'listen db\n bind 10.0.0.9:5432\n mode tcp\n server a 10.0.0.1:5432 send-proxy-v2',
  )
  expect(document).toMatchObject({
    listeners: [{ name: 'port-5432', address: 'tcp://10.0.0.9:5432', forward: 'db' }],
    upstreams: { db: { servers: ['tcp://10.0.0.1:5432'], proxyProtocol: 'v2' } },
  })
})

it.each([
  ['bind :80', '1: bind is in no section (global, defaults, frontend …)'],
  ['frontend a\n bind ":80', '2: the text in quotes does not end: a " is missing'],
  [
    'frontend a\n bind :80\n mode http\n http-request deny if { src 1',
    '4: the condition does not end: a } is missing',
  ],
  ['global\n daemon', 'no listener was found: is it a configuration of haproxy?'],
])('a mistake is named with its line: %j', (text, message) => {
  expect(() => from(text)).toThrow(
    expect.objectContaining({ code: 'ERR_FDB_CONFIG', message: expect.stringContaining(message) }),
  )
})

it('the language of a file is known by its name or its text', () => {
  expect(languageOf('/etc/haproxy/haproxy.cfg', '')).toBe('haproxy')
  expect(languageOf('/etc/nginx/sites-enabled/shop', '')).toBe('nginx')
  expect(languageOf('sozu.toml', '')).toBe('sozu')
  expect(languageOf('a', 'global\n  daemon\n')).toBe('haproxy')
  expect(languageOf('a', 'server {\n}\n')).toBe('nginx')
  expect(languageOf('a', 'text')).toBe(null)
})

it('headers for listeners with TLS are set there only', () => {
  const conversion = from(
    `${HEAD}frontend web\n bind :80\n bind :443 ssl crt /c.pem\n http-response set-header A 1 if { ssl_fc }\n http-response set-header B 1 if !{ ssl_fc }\n default_backend app\n`,
  )
  expect(conversion.document.routes).toEqual([
    { host: '*', listener: 'http', upstream: 'app', response: { set: { B: '1' } } },
    { host: '*', listener: 'https', upstream: 'app', response: { set: { A: '1' } } },
  ])
  expect(conversion.counts.missing).toBe(0)
  const never = web('http-response set-header A 1 if { ssl_fc }')
  expect(never.document.routes).toEqual([{ host: '*', upstream: 'app' }])
})

it('headers that cannot be said are not left to clients, and odd names do not reach the file', () => {
  const { document, counts } = web(
    'http-request set-header X-Dn %{+Q}[ssl_c_s_dn]',
    'http-request set-header X-Odd: 1',
    'http-request set-header Content-Length 0',
  )
  expect(document.routes).toEqual([{ host: '*', upstream: 'app', request: { remove: ['X-Dn'] } }])
  expect(counts.missing).toBe(2)
})

it('a path is put before others by set-path', () => {
  const conversion = web('http-request set-path /v1%[path]')
  expect(conversion.document.routes).toEqual([{ host: '*', upstream: 'app', request: { addPrefix: '/v1' } }])
})

it('rates and connections of clients become limits, by a name or inline', () => {
  const conversion = web(
    'stick-table type ip size 1m expire 30s store http_req_rate(30s),conn_cur',
    'http-request track-sc0 src',
    'acl abuse src_http_req_rate(web) gt 100',
    'http-request deny if abuse',
    'http-request deny deny_status 429 if { sc_http_req_rate(0) gt 20 }',
    'tcp-request content reject if { src_conn_cur gt 10 }',
  )
  expect(conversion.document).toMatchObject({
    limits: { connectionsPerClient: 10 },
    routes: [{ rateLimit: { requests: 20, per: '30s' } }],
  })
  expect(conversion.counts.missing).toBe(0)
})

it('name servers and files for errors are said', () => {
  const { document, counts } = from(
    `resolvers r\n nameserver a 10.0.0.2:53\nhttp-errors e\n errorfile 404 /e/404.http\n${HEAD}frontend web\n bind :80\n errorfiles e\n errorfile 503 /e/503.http\n default_backend app\n`,
  )
  expect(document).toMatchObject({
    resolver: { servers: ['10.0.0.2'] },
    errorPages: { 404: '/e/404.http', 503: '/e/503.http' },
  })
  expect(counts.missing).toBe(0)
})

it('servers whose checks ask another port are checked there, if all ask the same one', () => {
  const lines = (ports: readonly string[]) =>
    ports.map((port, n) => ` server s${n} 10.0.0.${n}:5432 check ${port} inter 3s\n`).join('')
  const of = (...ports: readonly string[]) =>
    from(`listen db\n mode tcp\n bind :5432\n option httpchk\n${lines(ports)}`)
  const same = of('port 8008', 'port 8008')
  expect(same.document.upstreams).toMatchObject({ db: { check: { interval: '3s', http: '/', port: 8008 } } })
  expect(same.counts.missing).toBe(0)
  for (const other of ['port 8009', 'addr 10.0.0.9 port 8008', '']) {
    const { document, remarks } = of('port 8008', other)
    expect(document.upstreams).toMatchObject({ db: { check: { interval: '3s' } } })
    const missing = remarks.filter(({ outcome }) => outcome === 'missing').map(({ line }) => line.text)
    expect(missing[0]).toBe('server s0 10.0.0.0:5432 check port 8008 inter 3s')
    expect(missing.at(-1)).toBe('option httpchk')
  }
})

it('a header has one change, the last, also of a backend', () => {
  const { document } = from(
    'defaults\n mode http\nbackend app\n http-request del-header X-B\n http-request set-header x-c 2\n server s 10.0.0.1:80\nfrontend web\n bind :80\n http-request del-header X-A\n http-request set-header X-A 1\n http-request set-header X-B 1\n http-request del-header X-C\n default_backend app\n',
  )
  expect(document.routes).toEqual([
    { host: '*', upstream: 'app', request: { set: { 'X-A': '1', 'x-c': '2' }, remove: ['X-B'] } },
  ])
})

const request = (text: string) => {
  const { document, remarks } = from(text)
  const named = remarks.filter(({ line, outcome }) => /header/.test(line.text) && outcome !== 'said')
  const routes = document.routes as { when?: string[]; request?: object; response?: object }[]
  return [
    ...routes.map(each => [each.when ?? [], each.request ?? {}, each.response ?? {}]),
    ...named.map(({ line, outcome, why }) => `${line.text}: ${outcome}, ${why}`),
  ]
}

it('a header gets another value beside the one that an earlier rule sets, also one of the defaults', () => {
  const text = (first: string, second: string) =>
    `defaults d\n mode http\n ${first}\nfrontend web from d\n bind :80\n ${second}\n default_backend app\ndefaults e\n mode http\nbackend app\n server s 10.0.0.1:80\n`
  const added = (first: string) => request(text(first, 'http-request add-header X-B e'))
  expect(added('http-request set-header x-b d')).toEqual([[[], { set: { 'X-B': 'd, e' } }, {}]])
  expect(added('http-request del-header X-B')).toEqual([[[], { set: { 'X-B': 'e' } }, {}]])
  expect(added('http-request set-header X-C c')).toEqual([
    [[], { set: { 'X-C': 'c', 'X-B': 'e' } }, {}],
    'http-request add-header X-B e: near, it replaces the header of the client',
  ])
  const rule = 'http-response add-header Set-Cookie a=b'
  expect(request(text('http-response set-header X-A a', rule))).toEqual([
    [[], {}, { set: { 'X-A': 'a' } }],
    `${rule}: missing, it would replace the cookies of the server`,
  ])
})

it('the changes of a backend hold for its requests, also those of its defaults, under a condition, and of a listen section', () => {
  const app = 'defaults e\n mode http\n http-request set-header X-A a\nbackend app\n'
  const text = (rules: string, more = '') =>
    `defaults d\n mode http\nfrontend web\n bind :80\n default_backend app\n${app} ${rules}\n server s 10.0.0.1:80\n${more}`
  expect(request(text('http-request set-header X-B b if METH_GET'))).toEqual([
    [['method=GET|HEAD'], { set: { 'X-A': 'a', 'X-B': 'b' } }, {}],
    [[], { set: { 'X-A': 'a' } }, {}],
  ])
  const listen = `defaults\n mode http\nfrontend web\n bind :80\n default_backend app\nlisten app\n bind :81\n http-request set-header X-B b\n server s 10.0.0.1:80\n`
  expect(request(listen)).toEqual([[[], { set: { 'X-B': 'b' } }, {}]])
})

it('the last change of an answer is the one of the frontend', () => {
  const text =
    'defaults\n mode http\nfrontend web\n bind :80\n http-response set-header X-A web\n http-response del-header X-B\n default_backend app\nbackend app\n http-response set-header X-A app\n http-response set-header X-B app\n http-response set-header X-C app\n server s 10.0.0.1:80\n'
  expect(request(text)).toEqual([[[], {}, { set: { 'X-C': 'app', 'X-A': 'web' }, remove: ['X-B'] }]])
})

it('headers that are removed by parts of their names, and hosts with variables, are named', () => {
  const text = (rule: string) =>
    `defaults\n mode http\nfrontend web\n bind :80\n ${rule}\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`
  const named = (rule: string) => request(text(rule)).slice(1)
  expect(named('http-request del-header X-In -m beg')).toEqual([
    'http-request del-header X-In -m beg: missing, headers are removed by their whole names',
  ])
  expect(named('http-request set-header Host %[src]')).toEqual([
    'http-request set-header Host %[src]: missing, the host of requests to servers has no variables',
  ])
  expect(named('http-request set-header Host %[hdr(host)]')).toEqual([])
})

it('options of default-server hold for the servers behind it, unless they take them back', () => {
  const servers = (lines: string) =>
    from(
      `defaults\n mode http\n default-server disabled\nfrontend w\n bind :80\n default_backend app\nbackend app\n ${lines}\n`,
    ).document.upstreams
  expect(servers('server s 10.0.0.1:80\n server t 10.0.0.2:80 enabled')).toEqual({
    app: { servers: ['http://10.0.0.2:80'] },
  })
  const lines = 'default-server enabled check\n server s 10.0.0.1:80\n default-server backup'
  expect(servers(`${lines}\n server t 10.0.0.2:80\n server u 10.0.0.3:80 no-backup no-check`)).toEqual({
    app: {
      servers: ['http://10.0.0.1:80', { address: 'http://10.0.0.2:80', backup: true }, 'http://10.0.0.3:80'],
      check: 'tcp',
    },
  })
})

it('a path is changed where the pattern takes it, and once', () => {
  const text = (rules: string) =>
    `defaults\n mode http\nfrontend web\n bind :80\n ${rules}\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`
  const named = (rules: string) => from(text(rules)).remarks.filter(({ why }) => why !== '')
  expect(request(text('http-request replace-path ^/a/(.*) /\\1'))).toEqual([
    [['path=/a/*'], { stripPrefix: '/a' }, {}],
    [[], {}, {}],
  ])
  const rule = 'http-request replace-path /a(/)?(.*) /\\2'
  expect(named(rule).map(({ why }) => why)).toEqual([
    'only at the begin of the path, by whole segments: /ax stays',
  ])
  const whys = (replaced: string) => named(`http-request replace-path ${replaced}`).map(({ why }) => why)
  expect(whys('^/a(/)?(.*) /v1/\\2')).toEqual(['by whole segments: /ax stays, /a itself becomes /v1'])
  expect(whys('^/a(/.*)? /v1\\1')).toEqual([])
  expect(whys('^/a(/.*)? \\1')).toEqual(['/a itself becomes /'])
  expect(whys('^/a(/.*)? /v1/\\1')).toEqual(['slashes in a row count as one, /a itself becomes /v1'])
  for (const other of ['^/a/(.*) /v1\\1', '^/a(/)?(.*) /v1\\1', '^/a/?(.*) \\1'])
    expect(whys(other)).toEqual(['paths are changed by stripPrefix and addPrefix'])
  expect(named(`http-request set-path /v1%[path]\n ${rule}`).map(({ why }) => why)).toEqual([
    'an earlier rule changes the path',
  ])
})

it('a negation of a negation is the condition', () => {
  const text = (rule: string) =>
    `defaults\n mode http\nfrontend web\n bind :80\n acl b hdr(host) b\n ${rule}\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`
  const { document, counts } = from(text('http-request deny unless !b'))
  expect([document.routes, counts.missing]).toEqual([
    [
      { host: 'b', respond: { status: 403 } },
      { host: '*', upstream: 'app' },
    ],
    0,
  ])
})

it('clients show certificates of the CA of a bind line, which are not in its list of revoked ones', () => {
  const bind = 'bind :443 ssl crt /e/a.pem ca-file ca.crt verify required crl-file ca.crl'
  const { document, remarks } = from(
    `global\n ca-base /ca\n${HEAD}frontend web\n ${bind}\n default_backend app\n`,
  )
  const clientCa = { file: '/ca/ca.crt', required: true, revoked: ['/ca/ca.crl'] }
  expect(document.listeners).toMatchObject([{ tls: true, clientCa }])
  expect(remarks.filter(({ outcome }) => outcome === 'missing')).toEqual([])
})

it('options of a redirect that its target does not have are named', () => {
  const remark = (test: string) => {
    const rule = `redirect prefix https://b.test drop-query if ${test}`
    const found = from(
      `defaults\n mode http\nfrontend w\n bind :80\n ${rule}\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`,
    ).remarks.find(({ line }) => line.text === rule)
    return [found?.outcome, found?.why]
  }
  expect(remark('{ path_beg /a/ }')).toEqual(['near', 'without drop-query'])
  // The part of the line that is said has the difference, too.
  expect(remark('{ path_beg /a/ } or { rand(2) gt 0 }')).toEqual([
    'missing',
    'no counterpart: rand(2) gt 0; without drop-query',
  ])
})

it('a header that is changed under a condition has a route with the change', () => {
  const changed = (...lines: string[]) => {
    const conversion = web(...lines)
    const all = conversion.document.routes as {
      path?: string
      when?: string[]
      request?: unknown
      response?: unknown
    }[]
    return [
      conversion.counts.missing,
      ...all.map(({ path = '/', when = [], request, response }) => [
        [path, ...when].join(' '),
        request ?? response,
      ]),
    ]
  }
  expect(changed('http-request set-header X-A 1 if { path_beg /a/ }', 'http-request del-header X-B')).toEqual(
    [0, ['/a path=/a/*', { set: { 'X-A': '1' }, remove: ['X-B'] }], ['/', { remove: ['X-B'] }]],
  )
  expect(
    changed('http-request set-header X-A 1 if METH_POST', 'http-request set-header X-A 2 if { hdr(X-C) 1 }'),
  ).toEqual([
    0,
    ['/ header:X-C=1 method=POST', { set: { 'X-A': '2' } }],
    ['/ header:X-C=1', { set: { 'X-A': '2' } }],
    ['/ method=POST', { set: { 'X-A': '1' } }],
    ['/', undefined],
  ])
  expect(changed('http-request replace-path ^/api/(.*) /\\1 if { path_beg /api/ }')).toEqual([
    0,
    ['/api path=/api/*', { stripPrefix: '/api' }],
    ['/', undefined],
  ])
  // HAProxy has no request any more when it has the answer, but its variables.
  expect(changed('http-response set-header X-C c if { path_beg /a/ }')).toEqual([1, ['/', undefined]])
  expect(
    changed(
      'http-request set-var(txn.p) path',
      'http-response set-header X-C c if { var(txn.p) -m end .js }',
    ),
  ).toEqual([0, ['/ !path=*/ path=*.js', { set: { 'X-C': 'c' } }], ['/', undefined]])
})

it.each([
  ['hdr(X-A) use_domain_only', 'hash:header:X-A'],
  ['hash req.hdr(X-A)', 'hash:header:X-A'],
  ['hash cookie(c)', 'hash:cookie:c'],
  ['source', 'hash:address'],
  ['url_param a', undefined],
])('servers are chosen by a header, a cookie or an address: balance %s', (given, balance) => {
  const text = `defaults\n mode http\nfrontend web\n bind :80\n default_backend app\nbackend app\n balance ${given}\n server s 10.0.0.1:80\n`
  const { document } = from(text)
  expect((document.upstreams as { app: { balance?: string } }).app.balance).toBe(balance)
})
