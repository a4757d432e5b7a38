import { expect, it } from 'vitest'
import { type Conversion, convert } from '../../../src/convert/convert.js'
import { answersOf } from '../../convert-support/answers.js'

const from = (text: string): Conversion =>
  convert(text, { file: '/etc/nginx/nginx.conf', language: 'nginx', service: 'edge', included: () => [] })
const listening = (block: string) => from(`server { listen 80; ${block} }`)
const routesOf = ({ document }: Conversion) => document.routes as Record<string, unknown>[]
/** The status or the upstream of each path. */
const gets = (conversion: Conversion) =>
  Object.fromEntries(
    routesOf(conversion).map(({ path = '/', when = [], respond, upstream }) => [
      [path, ...(when as string[])].join(' '),
      (respond as { status: number } | undefined)?.status ?? upstream,
    ]),
  )
const open = (at: string, host = 'a') => `location ${at} { proxy_pass http://${host}:1; }`

it.each([
  'auth_ldap "Forbidden";',
  'auth_pam "x";',
  'auth_digest "x";',
  'access_by_lua_block { ngx.exit(403) }',
  'access_by_lua_file a.lua;',
  'js_access auth.check;',
])('the guard of a module closes its location: %s', guard => {
  expect(gets(listening(`location / { ${guard} proxy_pass http://a:1; }`))).toEqual({ '/': 403 })
  expect(gets(listening(`${guard} ${open('/')}`))).toEqual({ '/': 403 })
})

it('settings of such modules, and those that are off, close nothing', () => {
  const settings = 'auth_ldap off; auth_jwt_key_file k; auth_ldap_servers s; access_by_lua_no_postpone on;'
  expect(gets(listening(`${settings} ${open('/')}`))).toEqual({ '/': 'a-1' })
})

it.each([
  '($ssl_client_verify != SUCCESS)',
  '($ssl_client_verify = NONE)',
  '($remote_addr != $known)',
  '($http_referer !~ ^https://shop\\.test/)',
  '($allowed = 0)',
  '($known !~ ^1)',
  '($deny)',
])(
  'a condition that cannot be said, and refuses all but some requests, closes the location: %s',
  condition => {
    const tables = 'geo $allowed { default 0; 10.0.0.0/8 1; } map $http_x_key $known { default 0; k 1; }'
    const of = (block: string) => from(`http { ${tables} server { listen 80; ${block} } }`)
    for (const block of [
      `location / { if ${condition} { return 403; } proxy_pass http://a:1; }`,
      `if ${condition} { return 444; } ${open('/')}`,
    ]) {
      const conversion = of(block)
      expect(gets(conversion)).toEqual({ '/': 403 })
      expect(conversion.remarks.find(({ line }) => line.text.startsWith('if'))).toMatchObject({
        outcome: 'missing',
        why: expect.stringContaining('403'),
      })
    }
  },
)

it.each([
  '($http_user_agent ~* (bot|crawl))',
  '($bad_bot)',
  '($blocked = 1)',
  '(-f $document_root/maintenance.html)',
  '($host !~* ^(shop|www)\\.test$)',
])('a condition that refuses some requests only is named: %s', condition => {
  const tables =
    'map $http_user_agent $bad_bot { default 0; ~bot 1; } geo $blocked { default 0; 192.0.2.0/24 1; }'
  const conversion = from(
    `http { ${tables} server { listen 80; location / { if ${condition} { return 403; } proxy_pass http://a:1; } } }`,
  )
  expect(gets(conversion)).toEqual({ '/': 'a-1' })
  expect(conversion.remarks.find(({ line }) => line.text.startsWith('if'))?.outcome).toBe('missing')
})

it('a pattern comes before longer plain paths, and before later patterns', () => {
  const denied = 'location ~ ^/api/ { deny all; proxy_pass http://a:1; }'
  for (const block of [
    `${open('/')} ${denied} ${open('/api/public')}`,
    `${open('/')} ${open('/api/public')} ${denied}`,
    `${open('/')} ${denied} ${open('~ ^/api/public/')}`,
  ]) {
    const answers = answersOf(listening(block))
    expect(['/', '/api/', '/api/x', '/api/public', '/api/public/x'].map(path => answers(path))).toEqual([
      'a-1',
      ...[403, 403, 403, 403],
    ])
  }
  const at = (block: string, path: string) => answersOf(listening(block))(path)
  expect(at(`${open('/api/')} ${denied}`, '/api/x')).toBe(403)
  expect(at(`${open('^~ /api/public')} ${denied}`, '/api/public/x')).toBe('a-1')
  // The first pattern that matches, not the longest.
  const later = `${open('~ ^/api/public/')} ${denied}`
  expect([at(later, '/api/x'), at(later, '/api/public/x'), at(later, '/api/public')]).toEqual([
    403,
    'a-1',
    403,
  ])
  // A name in the pattern's open segment.
  const me = (location: string) => `${location} location ~ ^/users/[^/]+ { deny all; proxy_pass http://a:1; }`
  expect([at(me(open('/users/me')), '/users/me'), at(me(open('/users/me')), '/users/7')]).toEqual([403, 403])
  const exact = answersOf(listening(me(open('= /users/me'))))
  expect(['/users/me', '/users/me/', '/users/me/x'].map(path => exact(path))).toEqual(['a-1', 403, 403])
  // No path of the proxy says the pattern: all requests that may match it are refused.
  expect(at(`${open('/a')} location ~ ^/(?!b) { deny all; }`, '/a')).toBe(403)
})

it('where several locations take a part of each other, nginx decides which is first', () => {
  const denied = (at: string) => `location ${at} { deny all; proxy_pass http://b:1; }`
  const at = (block: string, path: string) => answersOf(listening(`${block} ${open('/')}`))(path)
  // The pattern has more segments.
  expect(at(`${denied('^~ /a/')} ${open('~ ^/[^/]+/b')}`, '/a/b')).toBe(403)
  expect(at(`${denied('~ ^/c')} ${open('~ ^/[^/]+/b')}`, '/c/b')).toBe(403)
  // Below one that takes nothing below its own path.
  expect(at(`${denied('~ ^/a/b')} ${open('~ ^/a/[^/]+$')}`, '/a/b/c')).toBe(403)
  expect(at(`${open('/a/b')} ${denied('~ ^/a/[^/]+$')}`, '/a/b')).toBe(403)
  const three = answersOf(listening(`${open('= /x')} ${open('/x', 'b')} ${open('/x/', 'c')}`))
  expect(['/x', '/x/', '/x/y', '/'].map(path => three(path))).toEqual(['a-1', 'c-1', 'c-1', 404])
})

it('a pattern that ends with $ takes nothing below its path', () => {
  const answers = answersOf(
    listening(
      `location / { deny all; proxy_pass http://a:1; } ${open('~ ^/health$')} ${open('~ ^/files/.*$')}`,
    ),
  )
  expect(
    ['/health', '/health/', '/health/x', '/files/', '/files/x', '/files'].map(path => answers(path)),
  ).toEqual(['a-1', ...[403, 403], ...['a-1', 'a-1'], 403])
})

it('a guarded location is not lost beside one with the same path, nor for paths that begin alike', () => {
  const guarded = 'location /x/ { deny all; proxy_pass http://b:1; }'
  for (const block of [`${open('/x')} ${guarded}`, `${guarded} ${open('/x')}`]) {
    const answers = answersOf(listening(block))
    expect([answers('/x'), answers('/x/'), answers('/x/y')]).toEqual(['a-1', 403, 403])
  }
  for (const block of [`${open('/x')} ${open('/x/', 'b')}`, `${open('/x/', 'b')} ${open('/x')}`]) {
    const answers = answersOf(listening(block))
    expect([answers('/x'), answers('/x/'), answers('/x/y')]).toEqual(['a-1', 'b-1', 'b-1'])
  }
  const begins = answersOf(listening(`${open('/')} location /x { deny all; proxy_pass http://b:1; }`))
  expect([begins('/x'), begins('/xy'), begins('/xy/z'), begins('/y')]).toEqual([403, 403, 403, 'a-1'])
})

it('a pattern comes before a location within another, beside one with a slash', () => {
  const within = `location / { proxy_pass http://a:1; ${open('^~ /a')} } ${open('/a/', 'b')} location ~ ^/a(/|$) { return 401; }`
  const answers = answersOf(listening(within))
  expect(['/a', '/a/', '/a/b', '/b'].map(path => answers(path))).toEqual([401, 401, 401, 'a-1'])
})

it('patterns in the middle and at the end of paths keep their guard, also within a location', () => {
  const answers = answersOf(
    listening(
      `${open('/')} location ~ /\\. { deny all; } location /media/ { alias /srv/; location ~* \\.(php|cgi)$ { deny all; } } location ~ \\.css$ { proxy_pass http://css:1; }`,
    ),
  )
  const paths = [
    '/.env',
    '/a/.git/x',
    '/media/a.php',
    '/media/a.PHP',
    '/media/a.png',
    '/a.php',
    '/a/b.css',
    '/a%2eCSS',
  ]
  expect(paths.map(path => answers(path))).toEqual([403, 403, 403, 403, 'a-1', 'a-1', 'css-1', 'a-1'])
})

it('addresses that are allowed or denied are those of connections', () => {
  const at = (block: string, client: string, method = 'GET') =>
    answersOf(listening(`location / { ${block} proxy_pass http://a:1; }`))('/', { client, method })
  const both = (block: string) => [at(block, '10.1.1.1'), at(block, '192.0.2.7')]
  expect(both('allow 10.0.0.0/8; deny all;')).toEqual(['a-1', 403])
  expect(both('deny 10.1.0.0/16; allow 10.0.0.0/8; deny all;')).toEqual([403, 403])
  expect(both('allow 10.1.1.0/24; deny 10.0.0.0/8;')).toEqual(['a-1', 'a-1'])
  expect(both('satisfy any; allow 10.0.0.0/8; deny all; auth_basic x;')).toEqual(['a-1', 403])
  expect(both('allow 10.0.0.0/8; deny all; auth_basic x;')).toEqual([403, 403])
  expect(both('if ($remote_addr = 10.1.1.1) { return 410; }')).toEqual([410, 'a-1'])
  // The address that a header says, and names, are others.
  const real = 'set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;'
  expect(both(`${real} allow 10.0.0.0/8; deny all;`)).toEqual([403, 403])
  expect(both('allow unix:; deny all;')).toEqual([403, 403])
  const limit = 'limit_except GET { allow 10.0.0.0/8; deny all; }'
  expect([at(limit, '192.0.2.7'), at(limit, '192.0.2.7', 'PUT'), at(limit, '10.1.1.1', 'PUT')]).toEqual([
    'a-1',
    403,
    'a-1',
  ])
})

it('of several servers with one name the first has it, as nginx reads names', () => {
  const { document } = from(
    `http { ${['.b.test', 'b.test a.test', 'a.test'].map(name => `server { listen 80; server_name ${name}; return 200 "${name}"; }`).join('')} }`,
  )
  const found = (document.routes as { host: string; respond: { body: string } }[]).map(
    ({ host, respond }) => `${host} ${respond.body}`,
  )
  expect(found).toEqual(['* .b.test', 'a.test b.test a.test'])
})

it('a rewrite that leads to another location closes its paths where the server has guards', () => {
  const block = (more: string) =>
    answersOf(listening(`rewrite ^/d/(.*)$ /admin/$1 last; ${open('/')} ${more}`))('/d/x')
  expect([block('location /admin/ { deny all; }'), block(open('/admin/'))]).toEqual([403, 'a-1'])
})

it('of several conditions the first counts', () => {
  const conversion = listening(
    `location / { if ($arg_token = "") { return 403; } if ($request_method = OPTIONS) { return 204; } proxy_pass http://a:1; }`,
  )
  expect(gets(conversion)).toEqual({
    '/ !query:token': 403,
    '/ !query:token method=OPTIONS': 403,
    '/ method=OPTIONS': 204,
    '/': 'a-1',
  })
})

it('files that a service decides about are closed, not left to the location around them', () => {
  const gate = 'location = /gate { internal; proxy_pass http://gate:1; }'
  expect(
    gets(listening(`${gate} ${open('/')} location /files { auth_request /gate; root /srv; }`))['/files'],
  ).toBe(403)
})

it('a stream that refuses some addresses is left out', () => {
  const server = (more: string) => `server { listen 5432; ${more} proxy_pass 10.0.0.1:5432; }`
  const http = 'http { server { listen 80; return 204; } }'
  expect(from(`stream { ${server('')} } ${http}`).document.listeners).toHaveLength(2)
  for (const stream of [server('allow 10.0.0.0/8; deny all;'), `deny all; ${server('')}`]) {
    const conversion = from(`stream { ${stream} } ${http}`)
    expect(conversion.document.listeners).toEqual([{ name: 'http', address: 'tcp://*:80' }])
    expect(conversion.remarks.find(({ line }) => line.text === 'listen 5432')?.outcome).toBe('missing')
  }
  expect(() => from(`stream { ${server('deny all;')} }`)).toThrow(/no listener is left/)
})

it('clients show certificates of their own CA wherever a server asks for them', () => {
  const tls = 'listen 443 ssl; ssl_certificate c.pem; ssl_certificate_key c.key; return 200 a;'
  const clientCa = (...servers: string[]) =>
    (
      from(`http { ${servers.map((each, at) => `server { server_name s${at}; ${tls} ${each} }`).join('')} }`)
        .document.listeners as { clientCa?: object }[]
    )[0]!.clientCa
  expect(clientCa('ssl_verify_client on; ssl_trusted_certificate ca.pem;')).toEqual({
    file: '/etc/nginx/ca.pem',
    required: true,
  })
  const on = 'ssl_verify_client on; ssl_client_certificate ca.pem;'
  const lists = ['a.crl', 'a.crl', 'b.crl'].map(list => `${on} ssl_crl ${list};`)
  expect(clientCa(on, ...lists)).toMatchObject({
    revoked: ['a.crl', 'b.crl'].map(list => expect.stringMatching(list)),
  })
  expect(clientCa(on, 'ssl_verify_client optional; ssl_client_certificate ca.pem;')).toMatchObject({
    required: true,
  })
  const two = from(
    `http { server { server_name a; ${tls} ${on} } server { server_name b; ${tls} ssl_verify_client on; ssl_client_certificate other.pem; } }`,
  )
  expect(routesOf(two).map(({ host, respond }) => [host, (respond as { status: number }).status])).toEqual([
    ['*', 200],
    ['b', 403],
  ])
})

it('two upstreams never have one name', () => {
  const { document } = from(
    `stream { upstream app { server 10.0.0.1:1; } server { listen 99; proxy_pass app; } }
    http { upstream app { server 10.0.0.2:2; } upstream b-80 { server 10.0.0.3:3; }
    server { listen 80; ${open('/')} location /app { proxy_pass http://app; } location /b { proxy_pass http://b-80; } location /c { proxy_pass http://b:80; } } }`,
  )
  const servers = new Map(
    Object.entries(document.upstreams as Record<string, { servers: string[] }>).map(([name, each]) => [
      name,
      each.servers[0],
    ]),
  )
  const routes = document.routes as { path?: string; upstream: string }[]
  const of = (path: string) => servers.get(routes.find(each => each.path === path)!.upstream)
  expect([of('/app'), of('/b'), of('/c')]).toEqual(['http://10.0.0.2:2', 'http://10.0.0.3:3', 'http://b:80'])
  expect(
    servers.get((document.listeners as { forward?: string }[]).find(each => each.forward)!.forward!),
  ).toBe('tcp://10.0.0.1:1')
})

it('a server with and without TLS redirects only requests without', () => {
  for (const condition of ['$scheme = http', '$scheme != https', '$https = ""', '$https != on']) {
    const conversion = listening(
      `listen 443 ssl; ssl_certificate c.pem; ssl_certificate_key c.key; if (${condition}) { return 301 https://$host$request_uri; } ${open('/')}`,
    )
    expect(
      routesOf(conversion).map(({ listener, upstream, respond }) => [
        listener,
        upstream ?? (respond as { status: number }).status,
      ]),
    ).toEqual([
      ['http', 301],
      ['https', 'a-1'],
    ])
  }
})

it('files of included files are relative to the folder of the first one', () => {
  const { document } = convert('http { include sites/a.conf; }', {
    file: '/etc/nginx/nginx.conf',
    language: 'nginx',
    service: 'edge',
    included: () => [
      {
        file: '/etc/nginx/sites/a.conf',
        text: 'server { listen 443 ssl; ssl_certificate c.pem; ssl_certificate_key c.key; return 204; }',
      },
    ],
  })
  expect(document.tls).toMatchObject({ certificates: [{ cert: '/etc/nginx/c.pem' }] })
})

it('odd files are refused with their line, and nothing of them leaves the comments', () => {
  for (const text of ['server { location { } }', 'stream { server; } server { listen 80; upstream; }'])
    expect(() => from(text)).toThrow(expect.objectContaining({ code: 'ERR_FDB_CONFIG' }))
  expect(() => from(`${'a {'.repeat(50_000)}`)).toThrow(/more than 100 blocks/)
  const { yaml } = listening('server_name "~x\nservice: evil"; return 204;')
  expect(yaml.split('\n').filter(line => !line.startsWith('#') && /evil/.test(line))).toEqual([])
})

it('an exact location takes no path with a slash at its end that the server keeps out', () => {
  const exact = 'location = /a { satisfy any; allow 10.0.0.1; deny all; proxy_pass http://a:1; }'
  const conversion = from(`http { deny 10.0.0.0/8; server { listen 80; ${exact} } }`)
  const open = routesOf(conversion).filter(({ upstream }) => upstream !== undefined)
  expect(open.length).toBeGreaterThan(0)
  for (const { when } of open) expect(when).toContain('!path=*/')
  expect(routesOf(conversion).at(-1)).toMatchObject({ respond: { status: 403 } })
})

it('a location that only has conditions is named, as its other requests go to the location around it', () => {
  const text = 'location /a { if ($http_x = 1) { return 403; } }'
  const conversion = from(`server { listen 80; location / { proxy_pass http://127.0.0.1:1; } ${text} }`)
  const remark = conversion.remarks.find(({ line }) => line.text.startsWith('location /a'))
  expect([remark?.outcome, remark?.whys]).toEqual([
    'missing',
    ['its files need a server; until then these requests go to the location around it', '/ax is refused too'],
  ])
})

it('a condition on the path as sent is named: escaped letters are read before', () => {
  const conversion = from(
    'server { listen 80; location / { if ($request_uri !~ ^/open) { return 403; } proxy_pass http://127.0.0.1:1; } }',
  )
  const remark = conversion.remarks.find(({ line }) => line.text.startsWith('if'))
  expect([remark?.outcome, remark?.why]).toEqual(['near', 'paths are compared after %61 and // are read'])
})

it('try_files leads requests away from the servers of its location, and opens no other', () => {
  const answer = (tried: string, other = '') =>
    answersOf(listening(`location / { ${tried} proxy_pass http://app; } ${other}`))('/x')
  expect(answer('try_files $uri =404;')).toBe(404)
  expect(answer('try_files $uri /a;')).toBe('app')
  expect(answer('try_files $uri /a;', 'location /a { return 401; }')).toBe(403)
})

it('a pattern takes no path with a slash at its end where no location does', () => {
  const answers = (other = '') => {
    const answer = answersOf(listening(`${open('~ b$')} ${other}`))
    return ['/a/b', '/a/b/'].map(path => answer(path))
  }
  expect(answers()).toEqual(['a-1', 404])
  expect(answers('location / { return 410; }')).toEqual(['a-1', 410])
})

it('a pattern within a location takes neither its path without the slash, nor one with a slash behind its own end', () => {
  const within = answersOf(listening(`location /a/b/ { root /srv; ${open('~ ^/a/b')} }`))
  expect(['/a/b', '/a/b/', '/a/b/c'].map(path => within(path))).toEqual([404, 'a-1', 'a-1'])
  const beside = answersOf(listening(`${open('~* b$')} ${open('/', 'b')}`))
  expect(['/a/b', '/a/b/'].map(path => beside(path))).toEqual(['a-1', 'b-1'])
})

it('a redirect to an exact path with a slash at its end is named', () => {
  const { remarks } = listening(open('= /a/'))
  expect(remarks.find(({ line }) => line.text === 'location = /a/')).toMatchObject({
    outcome: 'near',
    why: 'nginx redirects /a to it',
  })
})

it('a server whose location / has only files, or conditions, keeps its hosts and its patterns', () => {
  for (const within of ['root /srv;', 'if ($http_x = 1) { return 403; }']) {
    const answer = answersOf(
      from(`http { server { listen 80; server_name a.test; location / { ${within} } ${open('~ ^/b', 'b')} }
        server { listen 80 default_server; ${open('/')} } }`),
    )
    const paths = ['/', '/x', '/b/c'].map(path => answer(path, { host: 'a.test' }))
    expect([...paths, answer('/', { host: 'b.test' })]).toEqual([404, 404, 'b-1', 'a-1'])
  }
})

it('each difference of a line is named', () => {
  const { remarks, yaml } = listening(
    'location /a { satisfy any; allow 127.0.0.1; auth_basic x; proxy_pass http://a:1/; }',
  )
  const remark = remarks.find(({ line }) => line.text.startsWith('proxy_pass'))
  expect([remark?.outcome, remark?.whys]).toEqual([
    'missing',
    ['its route answers 403 until it has a guard', 'the path begins with /, or is /'],
  ])
  expect(yaml).toContain('(its route answers 403 until it has a guard; the path begins with /, or is /)')
})

it('nginx comes to no return behind an if that ends with break', () => {
  const answer = answersOf(
    listening(
      `location / { deny 192.0.2.0/24; proxy_pass http://a:1; if ($http_x = 1) { proxy_pass http://b:1; break; } if ($http_x) { return 410; } return 307 /x; }`,
    ),
  )
  const at = (x: string | null, client = '10.0.0.1') =>
    answer('/', { client, fields: x === null ? [] : [`X: ${x}`] })
  expect([at('1'), at('1', '192.0.2.7'), at('2'), at(null)]).toEqual(['b-1', 403, 410, 307])
})

it('a condition on the end of a path takes no path with a slash behind it', () => {
  const get = (condition: string) => {
    const answer = answersOf(
      listening(`location / { if ($uri ${condition}) { return 410; } proxy_pass http://a:1; }`),
    )
    return ['/x.php', '/x.php/', '/y'].map(path => answer(path))
  }
  expect(get('~ \\.php$')).toEqual([410, 'a-1', 'a-1'])
  expect(get('!~ \\.php$')).toEqual(['a-1', 410, 410])
  const rewritten = answersOf(
    listening(`location / { deny 192.0.2.7; rewrite ^/a/b$ /d/ last; proxy_pass http://a:1; }`),
  )
  expect(['/a/b', '/a/b/'].map(path => rewritten(path))).toEqual([403, 'a-1'])
})

it('a named location has its own guards too, and those of the server', () => {
  const services = ['one', 'two'].map(
    name => `location = /${name} { internal; proxy_pass http://${name}:1; }`,
  )
  const led = (outer: string, named: string, around = '', next = '') =>
    listening(
      `${services.join(' ')} ${around} location / { ${outer} try_files $uri @app; } location @app { ${named} proxy_pass http://a:1; } location @next { ${next} proxy_pass http://a:1; }`,
    )
  const both = (...args: [string, string, string?]) =>
    ['10.1.1.1', '192.0.2.7'].map(client => answersOf(led(...args))('/', { client }))
  expect(both('', '')).toEqual(['a-1', 'a-1'])
  expect(both('', 'deny all;')).toEqual([403, 403])
  expect(both('allow all;', '', 'deny 10.0.0.0/8;')).toEqual([403, 'a-1'])
  expect(both('deny 192.0.2.0/24;', 'deny 10.1.0.0/16;')).toEqual([403, 403])
  expect(both('', 'auth_basic x;')).toEqual([403, 403])
  const asked = (outer: string, named: string, next?: string) =>
    routesOf(led(outer, named, '', next)).find(({ path }) => path === undefined) as { forwardAuth?: object }
  expect(asked('', 'auth_request /one;').forwardAuth).toMatchObject({ upstream: 'one-1' })
  expect(asked('auth_request /two;', '').forwardAuth).toMatchObject({ upstream: 'two-1' })
  expect(asked('auth_request /one;', 'auth_request /two;')).toEqual({ host: '*', respond: { status: 403 } })
  const shared = 'auth_request_set $who $upstream_http_x_who;'
  expect(asked(`auth_request /one; ${shared}`, 'proxy_set_header X-Who $who;').forwardAuth).toMatchObject({
    responseHeaders: ['X-Who'],
  })
  expect(asked('auth_request /one;', 'try_files $uri @next;', 'auth_request /two;')).toEqual({
    host: '*',
    respond: { status: 403 },
  })
  const answers = listening(
    'location / { allow 10.0.0.0/8; deny all; try_files $uri @off; } location @off { deny all; return 302 /x; }',
  )
  expect(['10.1.1.1', '192.0.2.7'].map(client => answersOf(answers)('/', { client }))).toEqual([302, 403])
})

it('the service that nginx asks is that of the location within others, and of a return that a rewrite leaves', () => {
  const gate = 'location = /gate { internal; proxy_pass http://gate:1; }'
  const conversion = listening(
    `${gate} auth_request /gate; location / { rewrite ^ /d break; return 200 own; }`,
  )
  expect(conversion.remarks.find(({ line }) => line.text.startsWith('return'))).toMatchObject({
    outcome: 'near',
    why: 'nginx answers before it asks for an address or a password',
  })
  expect(routesOf(conversion).at(-1)).toMatchObject({
    respond: { status: 200 },
    forwardAuth: { upstream: 'gate-1' },
  })
  const within = routesOf(
    listening(
      `location / { proxy_pass http://a:1; location / { root /srv; } } location /b { auth_request /gate; proxy_pass http://b:1; }`,
    ),
  )
  expect(within).toContainEqual({ host: '*', path: '/b', respond: { status: 403 } })
})

it('a pattern within another takes no path with a slash that the other does not take', () => {
  const answers = answersOf(listening(`location ~ ^/a/b$ { ${open('~ /b')} } ${open('/', 'c')}`))
  expect(['/a/b', '/a/b/'].map(path => answers(path))).toEqual(['a-1', 'c-1'])
})

it('clients cannot say a header that the route changes with _ in its name, which nginx ignores', () => {
  const request = (lines: string) => {
    const conversion = listening(
      `location / { proxy_pass http://a:1; proxy_set_header Host $host; ${lines} }`,
    )
    return routesOf(conversion)[0]!.request
  }
  expect(request('proxy_set_header X-My-User one; proxy_set_header X-Off "";')).toEqual({
    set: { 'X-My-User': 'one' },
    remove: ['X-Off', 'x-my_user', 'x_my-user', 'x_my_user', 'x_off'],
  })
  expect(request('underscores_in_headers on; proxy_set_header X-My-User one;')).toEqual({
    set: { 'X-My-User': 'one' },
  })
  expect(request('proxy_set_header X-Real-IP $remote_addr;')).toEqual({
    set: { 'X-Real-IP': '$remote_addr' },
  })
  const { counts } = listening('underscores_in_headers off; proxy_pass_request_headers off; return 204;')
  expect(counts.missing).toBe(2)
})

it('of several lines of add_header about one header of an answer the others are named', () => {
  const { remarks } = listening('add_header X-A 1; add_header x-a 2 always; return 200 own;')
  expect(remarks.filter(({ outcome }) => outcome === 'near').map(({ line }) => line.text)).toEqual([
    'add_header X-A 1',
    'add_header x-a 2 always',
  ])
})

it('a guarded pattern within one that is not said exactly is named: more paths are refused', () => {
  const inner = 'location ~* \\.php$ { deny 127.0.0.1; proxy_pass http://a:1; }'
  const { remarks } = listening(`location ~ ^/a.php$ { return 200 own; ${inner} } ${open('/')}`)
  expect(remarks.find(({ line }) => line.text.startsWith('location ~*'))).toMatchObject({
    outcome: 'near',
    why: 'more paths are refused',
  })
})

it.each([
  ['if ($net) { return 403; }', 403],
  ['if ($request_method = POST) { return 403; }', 403],
  ['if ($http_user_agent !~ ^ok) { return 403; }', 403],
  ['limit_except GET { deny all; }', 403],
  ['try_files $uri =404;', 404],
  ['try_files $uri @closed;', 403],
  ['try_files $uri @app;', 'a-1'],
  ['internal;', 'a-1'],
  ['if ($request_method = POST) { return 302 /x; } deny all;', 302],
  ['if ($request_method = GET) { return 302 /x; } deny all;', 403],
  ['rewrite ^ https://moved.test permanent;', 301],
])('the rules of a location that try_files leads to hold for its requests: %s', (rules, status) => {
  const conversion = from(
    `http { geo $net { default 1; 127.0.0.1 0; } server { listen 80;
      location /d { deny 192.0.2.0/24; try_files $uri @app; proxy_pass http://b:1; }
      location @app { ${rules} proxy_pass http://a:1; }
      location @closed { deny all; proxy_pass http://a:1; } } }`,
  )
  const answer = answersOf(conversion)
  expect(answer('/d', { method: 'POST', client: '10.0.0.1' })).toBe(status)
  expect(answer('/d', { method: 'POST', client: '192.0.2.1' })).toBe(403)
})

it('a named location without a server opens nothing that the location before it keeps out', () => {
  const led = (outer: string, named: string) => {
    const services = 'location = /one { internal; proxy_pass http://one:1; }'
    const answer = answersOf(
      listening(
        `${services} location /d { ${outer} try_files $uri @files; } location @files { ${named} root /srv; } ${open('/')}`,
      ),
    )
    return ['10.0.0.1', '192.0.2.1'].map(client => answer('/d', { client }))
  }
  expect(led('', '')).toEqual(['a-1', 'a-1'])
  expect(led('deny 192.0.2.0/24;', '')).toEqual([403, 403])
  expect(led('', 'deny 192.0.2.0/24;')).toEqual([403, 403])
  expect(led('', 'if ($request_method = GET) { return 410; }')).toEqual([410, 410])
  expect(led('auth_request /one;', 'if ($request_method = POST) { return 410; }')).toEqual([403, 403])
})

it('the guards of a server hold for requests that no location takes, and that try_files leads elsewhere', () => {
  const answer = answersOf(
    listening(
      `deny 192.0.2.0/24; try_files $uri @app; location @app { proxy_pass http://a:1; } ${open('/b', 'b')}`,
    ),
  )
  const at = (path: string) => ['10.0.0.1', '192.0.2.1'].map(client => answer(path, { client }))
  expect([at('/'), at('/b')]).toEqual([
    ['a-1', 403],
    ['b-1', 403],
  ])
})

it('a condition on the host or the scheme counts in its order', () => {
  const refusal = 'if ($request_method = POST) { return 403; }'
  const answers = (lines: string, name = 'listen 80; server_name a.test;') => {
    const answer = answersOf(from(`server { ${name} ${lines} ${open('/')} }`))
    return ['GET', 'POST'].map(method => answer('/', { host: 'a.test', method }))
  }
  const ofHost = 'if ($host = a.test) { return 200 own; }'
  const ofScheme = 'if ($scheme = http) { return 200 own; }'
  for (const own of [ofHost, ofScheme]) {
    expect(answers(`${refusal} ${own}`)).toEqual([200, 403])
    expect(answers(`${own} ${refusal}`)).toEqual([200, 200])
    expect(answers(`${own.replace('200 own', '403')} ${own}`)).toEqual([403, 403])
  }
  expect(answers(`${ofScheme.replace('200 own', '403')} ${ofHost}`)).toEqual([403, 403])
  expect(answers(`${ofHost.replace('200 own', '403')} ${ofScheme}`)).toEqual([403, 403])
})

it('a condition on a header that nginx also takes with _ in its name is named', () => {
  const remark = (lines: string) => {
    const { remarks } = listening(
      `${lines} location / { if ($http_x_a) { return 403; } proxy_pass http://a:1; }`,
    )
    return remarks.find(({ line }) => line.text.startsWith('if'))
  }
  expect(remark('')).toMatchObject({ outcome: 'said' })
  const answered = answersOf(
    listening('underscores_in_headers on; if ($http_x_a != 1) { return 200 own; } return 401;'),
  )
  expect(answered('/', { fields: ['X_A: 1'] })).toBe(401)
  expect(remark('underscores_in_headers on;')).toMatchObject({
    outcome: 'missing',
    why: 'a header with _ in its name is another one for the proxy',
  })
})

it('a header that is passed on is named where nginx also takes it with _ in its name', () => {
  const remark = (lines: string) => {
    const location = 'location / { proxy_set_header X-A $http_x_a; proxy_pass http://a:1; }'
    const { remarks } = listening(`${lines} ${location}`)
    return remarks.find(({ line }) => line.text.startsWith('proxy_set_header'))
  }
  expect(remark('')).toMatchObject({ outcome: 'own' })
  for (const lines of ['underscores_in_headers on;', 'ignore_invalid_headers off;'])
    expect(remark(lines)).toMatchObject({
      outcome: 'near',
      why: 'a header with _ in its name stays beside it',
    })
})

it('a limit by a header is named where nginx also counts it with _ in its name', () => {
  const outcome = (line: string) => {
    const zone = 'limit_req_zone $http_x_key zone=k:1m rate=1r/s;'
    const conversion = from(
      `http { ${line} ${zone} server { location / { limit_req zone=k; proxy_pass http://a:1; } } }`,
    )
    return conversion.remarks.find(each => each.line.text.startsWith('limit_req zone'))?.outcome
  }
  expect([outcome(''), outcome('underscores_in_headers on;')]).toEqual(['said', 'missing'])
})

it('a listener speaks TLS for all servers if it does for one', () => {
  const { document } = from(`http { server { listen 443 ssl; server_name a.test; ${open('/')} }
    server { listen 443; server_name b.test; ssl_verify_client on; ssl_client_certificate /ca.pem;
      if ($scheme = http) { return 200 own; } return 403; } }`)
  expect(document).toMatchObject({
    listeners: [{ tls: true, clientCa: { file: '/ca.pem', required: true } }],
    routes: [{ host: '*' }, { host: 'b.test', respond: { status: 403 } }],
  })
})

/** The statuses or upstreams of the routes of a host at a listener, for the path `/`. */
const placesOf = (block: string) =>
  Object.fromEntries(
    routesOf(from(`http { ${block} }`)).map(({ listener = '', host, respond, upstream }) => [
      `${listener} ${host}`,
      (respond as { status?: number } | undefined)?.status ?? upstream,
    ]),
  )

it('a name that another server has at one listener counts at the others', () => {
  expect(
    placesOf(`server { listen 80; listen 81; ${open('/')} } server { listen 80; server_name b.test; return 410; }
      server { listen 80; listen 81; server_name .b.test; return 403; }`),
  ).toEqual({
    'http *': 'a-1',
    'http b.test': 410,
    'port-81 *': 'a-1',
    'port-81 b.test': 403,
    'port-81 *.b.test': 403,
  })
})

it('a condition on the host takes no requests of other servers', () => {
  const other = (name: string, host: string) =>
    placesOf(`server { listen 80; return 403; } server { listen 80; server_name *.w.test; return 410; }
      server { listen 80; server_name ${name}; if ($host = ${host}) { return 200 own; } return 401; }`)
  expect(other('b.test', 'z.test')[' z.test']).toBeUndefined()
  expect(other('*.test', 'v.w.test')[' v.w.test']).toBeUndefined()
  expect(other('*.test', 'v.test')[' v.test']).toBe(200)
  expect(other('b.test', 'b.test')[' b.test']).toBe(200)
})
