import { expect, it } from 'vitest'
import { type Conversion, convert } from '../../../src/convert/convert.js'
import { configFrom } from '../../../src/proxy/config/load.js'
import { answersOf } from '../../convert-support/answers.js'

function from(text: string, files: Record<string, string> = {}): Conversion {
  return convert(text, {
    file: '/etc/nginx/nginx.conf',
    language: 'nginx',
    service: 'edge',
    included: pattern =>
      files[pattern] === undefined ? [] : [{ file: `/etc/nginx/${pattern}`, text: files[pattern] }],
  })
}

const listening = (block: string) => from(`server { listen 80; ${block} }`)
const routesOf = (conversion: Conversion) => conversion.document.routes as Record<string, unknown>[]
/** The fates of the directives with this name. */
const fate = ({ remarks }: Conversion, name: string) =>
  remarks.filter(({ line }) => line.text.split(' ')[0] === name).map(({ outcome }) => outcome)

it.each([
  ['auth_basic "x"; auth_basic_user_file f;', 'auth_basic'],
  ['allow unix:; deny all;', 'allow'],
  ['auth_jwt "x";', 'auth_jwt'],
])('a location that is guarded by %s is closed, not open', (guard, name) => {
  for (const block of [
    `location / { ${guard} proxy_pass http://a:1; }`,
    `${guard} location / { proxy_pass http://a:1; }`,
  ]) {
    const conversion = listening(block)
    expect(routesOf(conversion)).toEqual([{ host: '*', respond: { status: 403 } }])
    expect(fate(conversion, name)).toEqual(['missing'])
  }
})

it('a location whose guard is off, or allows all, is open', () => {
  for (const guard of ['auth_basic off;', 'allow all;', 'auth_request off;'])
    expect(routesOf(listening(`location / { ${guard} proxy_pass http://a:1; }`))[0]).toMatchObject({
      upstream: 'a-1',
    })
})

it('prefixes of proxy_pass are taken from the path and put before it', () => {
  const request = (path: string, target: string) =>
    (routesOf(
      listening(`location ${path} { proxy_pass http://a:1${target}; proxy_set_header Host $host; }`),
    )[0]!.request ?? {}) as object
  expect(request('/api/', '')).toEqual({})
  expect(request('/api/', '/')).toEqual({ stripPrefix: '/api' })
  expect(request('/api/', '/v1/')).toEqual({ stripPrefix: '/api', addPrefix: '/v1' })
  expect(request('/', '/v1/')).toEqual({ addPrefix: '/v1' })
  expect(request('/api/', '/api/')).toEqual({})
})

it('servers get the host that nginx sends: its own unless it is told', () => {
  const host = (header: string) =>
    (
      (routesOf(listening(`server_name shop.test; location / { proxy_pass http://a:1; ${header} }`))[0]!
        .request ?? {}) as { host?: string }
    ).host
  expect(host('')).toBe('a:1')
  expect(host('proxy_set_header X-A 1;')).toBe('a:1')
  expect(host('proxy_set_header Host $http_host;')).toBeUndefined()
  expect(host('proxy_set_header Host $server_name;')).toBe('shop.test')
  expect(host('proxy_set_header Host internal;')).toBe('internal')
})

it('headers of an outer level are forgotten where an inner level has any', () => {
  const conversion = from(`http {
    proxy_set_header X-Outer 1;
    server { listen 80; location / { proxy_pass http://a:1; } location /b { proxy_set_header X-Inner 1; proxy_pass http://a:1; } }
  }`)
  expect(routesOf(conversion).map(({ request }) => (request as { set: object }).set)).toEqual([
    { 'X-Inner': '1' },
    { 'X-Outer': '1' },
  ])
})

it('hosts that no server has reach the default server of the listener, also if others are written first', () => {
  const conversion = from(`http {
    server { listen 80; server_name a.test; return 200 a; }
    server { listen 80 default_server; server_name _; return 404; }
    server { listen 80; server_name .b.test; return 200 b; }
  }`)
  expect(routesOf(conversion).map(({ host }) => host)).toEqual(['a.test', '*', 'b.test', '*.b.test'])
})

it('listeners of all addresses of a port are one', () => {
  const { document } = listening(
    'listen [::]:80; listen 443 ssl http2; ssl_certificate a.pem; ssl_certificate_key a.key; return 204;',
  )
  expect(document.listeners).toEqual([
    { name: 'http', address: 'tcp://*:80' },
    { name: 'https', address: 'tcp://*:443', tls: true, http2: true },
  ])
  expect(document.tls).toEqual({ certificates: [{ cert: '/etc/nginx/a.pem', key: '/etc/nginx/a.key' }] })
})

it('a condition with a return becomes a route of its own', () => {
  const conversion = listening(`server_name a.test www.a.test;
    if ($host = www.a.test) { return 301 https://a.test$request_uri; }
    location / { proxy_pass http://a:1; proxy_set_header Host $host; if ($request_method = POST) { return 405; } if ($http_x_old) { return 410; } }`)
  expect(routesOf(conversion)).toEqual([
    { host: '*', when: ['method=POST'], respond: { status: 405 } },
    { host: '*', when: ['header:x-old'], respond: { status: 410 } },
    { host: '*', upstream: 'a-1' },
    { host: 'www.a.test', respond: { status: 301, headers: { Location: 'https://a.test$request_uri' } } },
  ])
})

it('a rate limit keeps its rate, its key and its burst', () => {
  const conversion = from(`limit_req_zone $binary_remote_addr zone=one:10m rate=30r/m;
    server { listen 80; location / { limit_req zone=one burst=5 nodelay; proxy_pass http://a:1; } }`)
  expect(routesOf(conversion)[0]).toMatchObject({
    rateLimit: { requests: 30, per: '1m', by: 'address', burst: 6, name: 'one' },
  })
})

it('servers with TLS are verified only if nginx does', () => {
  const upstream = (more: string) =>
    (listening(`location / { proxy_pass https://a; ${more} }`).document.upstreams as Record<string, object>)[
      'a-tls'
    ]
  expect(upstream('')).toEqual({ servers: ['https://a:443'], tls: { verify: false } })
  expect(upstream('proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.pem;')).toEqual({
    servers: ['https://a:443'],
    tls: { ca: '/etc/nginx/ca.pem' },
  })
})

it('a stream becomes listeners that forward', () => {
  const { document } = from(
    `stream { upstream db { server 10.0.0.1:5432; server 10.0.0.2:5432 backup; } server { listen 5432; proxy_pass db; proxy_timeout 1h; } }`,
  )
  expect(document).toMatchObject({
    listeners: [{ name: 'port-5432', address: 'tcp://*:5432', forward: 'db' }],
    upstreams: { db: { servers: ['tcp://10.0.0.1:5432', { address: 'tcp://10.0.0.2:5432', backup: true }] } },
    timeouts: { tunnel: '1h' },
  })
})

it('datagrams are forwarded', () => {
  const { document } = from(
    'stream { upstream dns { server 10.0.0.1:53; server 10.0.0.2:53; hash $remote_addr; } server { listen 53 udp reuseport; proxy_pass dns; proxy_timeout 5s; proxy_responses 1; } server { listen 53; proxy_pass dns; } }',
  )
  expect(document).toMatchObject({
    listeners: [
      { address: 'udp://*:53', forward: 'dns', idle: '5s' },
      { address: 'tcp://*:53', forward: 'dns-2' },
    ],
    upstreams: {
      dns: { servers: ['udp://10.0.0.1:53', 'udp://10.0.0.2:53'], balance: 'hash:address' },
      'dns-2': { servers: ['tcp://10.0.0.1:53', 'tcp://10.0.0.2:53'], balance: 'hash:address' },
    },
  })
  configFrom(JSON.parse(JSON.stringify(document)))
})

it('included files are read, and those that are not there are named', () => {
  const conversion = from('http { include mime.types; include sites/a.conf; include gone.conf; }', {
    'sites/a.conf': 'server { listen 80; return 204; }',
  })
  expect(fate(conversion, 'include')).toEqual(['own', 'said', 'missing'])
  expect(conversion.yaml).toContain('line 1: include gone.conf')
})

it.each([
  ['server { listen 80; ', '1: the file ends within a block: a } is missing'],
  ['server {\n listen 80\n}', '2: the directive listen does not end: a ; is missing'],
  ['}', '1: a } without a block'],
  ['server { server_name "a; }', '1: the text that begins here does not end: a " is missing'],
  ['user root;', 'no listener was found: is it a configuration of nginx?'],
])('a mistake is named with its line: %j', (text, message) => {
  expect(() => from(text)).toThrow(
    expect.objectContaining({ code: 'ERR_FDB_CONFIG', message: expect.stringContaining(message) }),
  )
})

it('every directive has a remark, and braces in variables and comments are no blocks', () => {
  const conversion = from(`# a { comment
    user www; http { log_format a '{ "x": "$uri" }'; server { listen 80; set $a "\${host}x"; location / { proxy_pass http://a:1; gzip on; } } }`)
  const { said, near, own, missing } = conversion.counts
  expect(said + near + own + missing).toBe(9)
  expect(fate(conversion, 'gzip')).toEqual(['missing'])
  expect(fate(conversion, 'user')).toEqual(['own'])
})

const GATE = 'location = /gate { internal; proxy_pass http://gate:1/verify?by=edge; }'

it('a service that is asked becomes forwardAuth, and its own location is closed to clients', () => {
  const conversion = listening(`${GATE} location / {
    auth_request /gate;
    auth_request_set $user $upstream_http_x_user;
    auth_request_set $mail $upstream_http_mail;
    proxy_set_header Host $host; proxy_set_header X-User $user; proxy_set_header X-Mail $mail;
    proxy_pass http://app:1;
  }`)
  const forwardAuth = { upstream: 'gate-1', path: '/verify?by=edge', responseHeaders: ['X-User'] }
  const open = { upstream: 'app-1', forwardAuth, request: { remove: ['X-Mail', 'x_mail'] } }
  expect(routesOf(conversion)).toEqual([
    { host: '*', path: '/gate', when: ['!path=*/', 'path=/gate'], respond: { status: 404 } },
    { host: '*', ...open },
  ])
  expect(fate(conversion, 'auth_request_set')).toEqual(['said', 'missing'])
  expect(fate(conversion, 'auth_request')).toEqual(['near'])
})

it('a header that the service gives has no other line, whatever other lines set it', () => {
  const lines = (headers: string, levels: [string, string] = ['', '']) =>
    listening(`${GATE} ${levels[0]} location / { auth_request /gate; ${levels[1]}
      ${headers} proxy_set_header Host $host; proxy_pass http://app:1; }`)
  const set = 'auth_request_set $who $upstream_http_x_a;'
  for (const other of ['X-A own', 'x-a $remote_addr', 'X-A $http_x_a', 'X_A $who', 'X-A ""'])
    for (const headers of [`X-A $who; proxy_set_header ${other}`, `${other}; proxy_set_header X-A $who`]) {
      const conversion = lines(`proxy_set_header ${headers};`, ['', set])
      configFrom(JSON.parse(JSON.stringify(conversion.document)))
      const route = routesOf(conversion).at(-1)!
      const { responseHeaders } = route.forwardAuth as { responseHeaders: string[] }
      expect([responseHeaders.length, route.request]).toEqual([1, undefined])
      const near = conversion.remarks.filter(({ why }) => why.startsWith('a header has one line'))
      expect(near.length, headers).toBe(other.includes('""') ? 0 : 2)
    }
  // Variables of a level around this one are not set where it has its own.
  const outer = lines('proxy_set_header X-A $who;', [set, 'auth_request_set $other $upstream_http_x_b;'])
  expect(routesOf(outer).at(-1)).toMatchObject({ request: { remove: ['X-A', 'x_a'] } })
  const last = lines('proxy_set_header X-A $who;', ['', `auth_request_set $who $upstream_http_x_b; ${set}`])
  expect(routesOf(last).at(-1)).toMatchObject({ forwardAuth: { responseHeaders: ['X-A'] } })
})

it.each([
  ['error_page 401 = @login;', 'location @login { return 302 https://login.test/; }'],
  ['error_page 401 =302 /login;', 'location /login { proxy_pass http://login:1; }'],
  ['error_page 401 403 =403 /oauth2/sign_in;', 'location /oauth2/ { proxy_pass http://login:1; }'],
])('a login in place of the answer of the service is named where it is: %s', (page, login) => {
  const why = 'clients get the 401 or 403 of the service: let forwardAuth.path lead to one that redirects'
  for (const [outer, inner] of [
    ['', `auth_request /gate; ${page}`],
    [page, 'auth_request /gate;'],
  ]) {
    const conversion = listening(`${GATE} ${outer} ${login} location / { ${inner} proxy_pass http://app:1; }`)
    const remarks = conversion.remarks.filter(({ line }) => line.text.startsWith('error_page'))
    expect(remarks).toMatchObject([{ outcome: 'missing', whys: expect.arrayContaining([why]) }])
    expect(routesOf(conversion)).toContainEqual(
      expect.objectContaining({ upstream: 'app-1', forwardAuth: expect.anything() }),
    )
    const named = conversion.remarks.find(({ line }) => line.text === 'location @login')
    if (named !== undefined)
      expect(named).toMatchObject({ outcome: 'missing', why: 'only an error_page leads to it' })
  }
  // Without a service it is about something else.
  const { remarks } = listening(`${login} location / { ${page} proxy_pass http://app:1; }`)
  expect(remarks.find(({ line }) => line.text.startsWith('error_page'))?.why).toMatch(
    /^errorPages is for all/,
  )
})

it.each(['auth_request /none; proxy_pass http://a:1;', 'auth_request /files; proxy_pass http://a:1;'])(
  'a route whose service is not known is closed: %s',
  block => {
    const conversion = listening(`location /files { root /srv; } location /x { ${block} }`)
    expect(routesOf(conversion)).toContainEqual({ host: '*', path: '/x', respond: { status: 403 } })
    expect(fate(conversion, 'auth_request')).toEqual(['missing'])
    expect(fate(conversion, 'proxy_pass')).toEqual(['missing'])
  },
)

it('an exact location leaves what is below its path to others, whatever their order', () => {
  const exact = 'location = /a { proxy_pass http://one:1; }'
  const below = 'location /a/ { proxy_pass http://two:1; }'
  for (const block of [`${exact} ${below}`, `${below} ${exact}`]) {
    const answers = answersOf(listening(block))
    expect([answers('/a'), answers('/a/b'), answers('/')]).toEqual(['one-1', 'two-1', 404])
  }
  const root = answersOf(
    listening('location = / { return 302 /in/; } location / { proxy_pass http://two:1; }'),
  )
  expect([root('/'), root('/x')]).toEqual([302, 'two-1'])
  const redirects = answersOf(listening(`location = /a { return 308 /a/; } ${below}`))
  expect([redirects('/a'), redirects('/a/'), redirects('/a/b')]).toEqual([308, 'two-1', 'two-1'])
})

it('a pattern of alternatives becomes several patterns', () => {
  const answers = answersOf(
    listening('location ~ ^/(in|out)/(?:a|b) { deny all; } location / { proxy_pass http://a:1; }'),
  )
  expect(['/in/a', '/out/bc', '/in/c', '/inside/a'].map(path => answers(path))).toEqual([
    403,
    403,
    'a-1',
    'a-1',
  ])
  const open = listening('location ~ ^/(in|out)/[a-z]+/x { proxy_pass http://a:1; }')
  expect(routesOf(open).map(({ path }) => path)).toEqual(['/in/*/x', '/out/*/x', undefined])
})

it('paths that a rewrite changes, and headers that a condition adds', () => {
  const conversion = listening(
    `location /api/ { rewrite ^/api/(.*)$ /v1/$1 break; proxy_pass http://a:1; proxy_set_header Host $host;
       if ($request_uri ~* \\.js$) { add_header X-Js 1 always; } if ($arg_new) { proxy_pass http://b:1; } }`,
  )
  const request = { stripPrefix: '/api', addPrefix: '/v1' }
  expect(routesOf(conversion).slice(0, 3)).toEqual([
    { host: '*', path: '/api', when: ['query:new'], upstream: 'b-1', request },
    { host: '*', path: '/api', when: ['!path=*/', 'ipath=*.js', 'query:new'], upstream: 'b-1', request },
    {
      host: '*',
      path: '/api',
      when: ['!path=*/', 'ipath=*.js'],
      upstream: 'a-1',
      request,
      response: { set: { 'X-Js': '1' } },
    },
  ])
})

it('a named location gets the requests for which try_files finds no file', () => {
  const conversion = listening(
    'location / { try_files $uri @app; } location @app { proxy_pass http://app:1; proxy_set_header Host $host; }',
  )
  expect(routesOf(conversion)).toEqual([{ host: '*', upstream: 'app-1' }])
  expect(fate(conversion, 'try_files')).toEqual(['near'])
  expect(fate(listening('location @other { proxy_pass http://a:1; }'), 'proxy_pass')).toEqual(['missing'])
})

it('clients cannot say what a variable without a counterpart said', () => {
  const conversion = listening(
    'location / { proxy_pass http://a:1; proxy_set_header Host $host; proxy_set_header X-Dn $ssl_client_s_dn; }',
  )
  expect(routesOf(conversion)[0]).toMatchObject({ request: { remove: ['X-Dn', 'x_dn'] } })
})

it('headers that the proxy says or passes on itself need no change', () => {
  const headers = `Content-Length "" Connection $c Cookie $http_cookie X-Id $http_x_id`.split(/ (?=[A-Z])/)
  const conversion = listening(
    `location / { proxy_pass http://a:1; proxy_set_header Host $host; ${headers.map(each => `proxy_set_header ${each};`).join('')} add_header Content-Length 0; }`,
  )
  expect(routesOf(conversion)).toEqual([{ host: '*', upstream: 'a-1' }])
  expect(conversion.counts.missing).toBe(0)
})

it('settings of a feature that is off need no counterpart', () => {
  const settings = 'gzip_vary on; proxy_cache_bypass $x; ssl_stapling_verify on;'
  expect(listening(`${settings} return 204;`).counts.missing).toBe(0)
  expect(listening(`${settings} gzip on; proxy_cache z; ssl_stapling on; return 204;`).counts.missing).toBe(6)
})

it('settings of a location without a counterpart are missing with it', () => {
  const conversion = listening('location /f/ { alias /srv/; add_header X 1; access_log off; }')
  expect(fate(conversion, 'add_header')).toEqual(['missing'])
  expect(fate(conversion, 'access_log')).toEqual(['own'])
  expect(
    fate(listening('access_log /l; location / { access_log off; return 204; }'), 'access_log').sort(),
  ).toEqual(['near', 'said'])
})

it('connections of a client are limited for all servers together', () => {
  const { document } = from(
    'http { limit_conn_zone $binary_remote_addr zone=c:10m; server { limit_conn c 20; location / { limit_conn c 10; return 204; } } }',
  )
  expect(document.limits).toMatchObject({ connectionsPerClient: 10 })
})

it('a backslash before n, r or t is a control character', () => {
  expect(routesOf(listening('return 200 "a\\n\\"b\\.";'))[0]).toMatchObject({ respond: { body: 'a\n"b\\.' } })
  expect(routesOf(listening('return 200 ok\\n;'))[0]).toMatchObject({ respond: { body: 'ok\n' } })
})

it('a named location has the service, the limit and the guard of the location that leads there', () => {
  const led = (block: string) =>
    routesOf(
      from(`http { limit_req_zone $remote_addr zone=z:1m rate=5r/s; server { ${GATE}
        location / { ${block} try_files $uri @app; } location @app { try_files $uri @app; proxy_pass http://app:1; } } }`),
    ).at(-1)
  expect(led('auth_request /gate; limit_req zone=z;')).toMatchObject({
    upstream: 'app-1',
    forwardAuth: { upstream: 'gate-1', path: '/verify?by=edge' },
    rateLimit: { requests: 5, per: '1s' },
  })
  for (const guard of ['deny all;', 'auth_request /none/@;'])
    expect(led(guard)).toEqual({ host: '*', respond: { status: 403 } })
})

it('a header has one change', () => {
  const conversion = listening(
    'location / { proxy_pass http://a:1; proxy_set_header Host $host; proxy_set_header X-A $x; proxy_set_header x-a $y; proxy_set_header X-B $x; proxy_set_header X-b 1; }',
  )
  expect(routesOf(conversion)[0]!.request).toEqual({ set: { 'X-b': '1' }, remove: ['x-a', 'x_b', 'x_a'] })
})

it('of several lines about a header those without a value say nothing', () => {
  const request = (lines: string) => {
    const { document } = from(`server { listen 80; location / { proxy_pass http://127.0.0.1:1; ${lines} } }`)
    return (document.routes as { request?: unknown }[])[0]!.request
  }
  const host = '127.0.0.1:1'
  expect(request('proxy_set_header X-A own; proxy_set_header x-a "";')).toEqual({
    host,
    set: { 'X-A': 'own' },
    remove: ['x_a'],
  })
  expect(request('proxy_set_header X-A ""; proxy_set_header X-A $http_x_a;')).toEqual({ host })
  expect(request('proxy_set_header X-A "";')).toEqual({ host, remove: ['X-A', 'x_a'] })
})

it('lines behind one about all addresses are not needed', () => {
  const { counts } = from(
    'server { listen 80; location / { allow all; deny all; proxy_pass http://127.0.0.1:1; } }',
  )
  expect(counts.missing).toBe(0)
})

it('a location without a log has none where others have one', () => {
  const logs = (http: string) => {
    const { document, counts } = from(
      `http { ${http} server { listen 80; location / { proxy_pass http://a:1; } location /health { access_log off; return 200; } } }`,
    )
    const all = document.routes as { path?: string; accessLog?: boolean }[]
    return [counts.missing, ...all.map(({ path = '/', accessLog }) => `${path} ${accessLog}`).sort()]
  }
  expect(logs('access_log /var/log/a.log;')).toEqual([0, '/ undefined', '/health false'])
  expect(logs('')).toEqual([0, '/ undefined', '/health undefined'])
})

it('a use of the client’s address is named where nginx takes the address from a header', () => {
  const block = `location / { proxy_pass http://a:1; proxy_set_header X-Real-IP $remote_addr; limit_req zone=z; }`
  const of = (header: string) =>
    from(`limit_req_zone $remote_addr zone=z:1m rate=5r/s; server { listen 80; ${header} ${block} }`)
  for (const name of ['proxy_set_header', 'limit_req']) {
    expect(fate(of('set_real_ip_from 10.0.0.0/8;'), name)).toEqual(['near'])
    expect(fate(of('real_ip_header X-Forwarded-For;'), name)).toEqual(['said'])
  }
})

it('a redirect to a path keeps the port of the listener', () => {
  const target = (listens: string) => {
    const { document } = from(`server { ${listens} return 302 /x; }`)
    const [{ respond }] = document.routes as [{ respond: { headers: object } }]
    return respond.headers
  }
  expect(target('listen 80; listen 443;')).toEqual({ Location: '$scheme://$host/x' })
  expect(target('listen 8080;')).toEqual({ Location: '$scheme://$host:8080/x' })
  expect(target('listen 8080; listen 8081;')).toEqual({ Location: '/x' })
})

it('a rewrite of a location is said once, and its own path is named', () => {
  const of = (location: string, pattern = '^/d/(.*)$') => {
    const { document, remarks } = listening(
      `${location} { rewrite ${pattern} /a/$1 break; proxy_pass http://a:1; }`,
    )
    const [{ request }] = document.routes as [{ request: { stripPrefix?: string } }]
    const { outcome, why } = remarks.find(({ line }) => line.text.startsWith('rewrite'))!
    return [request.stripPrefix, outcome, why]
  }
  expect(of('location /d/')).toEqual(['/d', 'said', ''])
  expect(of('location /d')).toEqual(['/d', 'near', '/d itself is changed too'])
  expect(of('location /d', '^/d/?(.*)$')).toEqual(['/d', 'near', '/d itself becomes /a'])
  expect(of('location = /d')).toEqual([undefined, 'own', 'the location has no such path'])
  expect(of('location /x')).toEqual([undefined, 'missing', 'paths are changed by stripPrefix and addPrefix'])
})

it.each([
  ['/a', '^/a/?(.*)$ /v1/$1', '/a itself becomes /v1'],
  ['/a/', '^/a/?(.*)$ /v1/$1', ''],
  ['/a', '^/a(/|$)(.*)$ /$2', ''],
  ['/a', '^/a(/.*)?$ /v1$1', ''],
  ['/a/', '^/a(/.*)$ /v1/$1', 'slashes in a row count as one'],
  ['/a/', '^/a/(.*)$ /v1$1', 'paths are changed by stripPrefix and addPrefix'],
  ['/a/', '/a/(.*)$ /v1/$1', 'paths are changed by stripPrefix and addPrefix'],
])('a rewrite of location %s is said as far as it can be: %s', (path, rewrite, why) => {
  const { remarks } = convert(
    `server { listen 80; location ${path} { rewrite ${rewrite} break; proxy_pass http://a:1; } }`,
    { file: 'nginx.conf', language: 'nginx', service: 'edge', included: () => [] },
  )
  expect(remarks.find(({ line }) => line.text.startsWith('rewrite'))?.why).toBe(why)
})
