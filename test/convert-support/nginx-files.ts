import type { Arbitrary } from 'fast-check'
import fc from '../lanes/generated.js'
import type { Asked, Listener } from './places.js'
import { PLAIN_PATHS } from './plain-paths.js'

const of = (...all: readonly string[]): Arbitrary<string> => fc.constantFrom(...all)

const HOSTS = ['a.test', 'b.test', 'w.b.test', 'v.w.b.test', 'z.test']
const NAMES = ['a.test', 'b.test', '*.b.test', '.b.test', 'w.b.test', 'A.test']
const PLAIN = ['/', '/', '/a', '/a/', '/a/b', '/a/b/', '/d/', '/d', '/a.php', '/.e']
const PATTERNS = [
  ...[
    '\\.php$',
    '\\.(php|css)$',
    '/\\.',
    '^/a/[^/]+/e$',
    '^/a/(.*)$',
    '^/(a|d)/',
    '^/a',
    '^/[0-9]+$',
    'b',
    '^/$',
  ],
  ...[
    '^/a/b',
    '^/d/(\\w+)',
    '\\.(?:css|js)(\\?.*)?$',
    '^/(?!a)',
    '^/a/.*\\.php$',
    '/b/',
    '^.+\\.css',
    '^/a.php$',
  ],
  ...['^/a/b$', '^/a/?$', '^/a(/|$)', 'b$', '^/d/[0-9]'],
]

const address = of('127.0.0.1', '127.0.0.2', '127.0.0.0/30', '127.0.0.0/8', 'all', '10.0.0.0/8', '::1')
const access = fc
  .array(fc.tuple(of('allow', 'deny'), address), { minLength: 1, maxLength: 3 })
  .chain(list => fc.boolean().map(rest => [...list, ...(rest ? [['deny', 'all']] : [])]))
  .map(list => list.map(each => `${each.join(' ')};`).join(' '))
const basic = 'auth_basic "x"; auth_basic_user_file @home/htpasswd;'
const guard = fc.oneof(
  { weight: 4, arbitrary: access },
  of(
    'deny all;',
    'deny all;',
    basic,
    basic,
    'auth_basic off;',
    'allow all;',
    'auth_request /judge;',
    'auth_request off;',
  ),
  access.map(list => `satisfy any; ${list} ${basic}`),
  access.map(list => `satisfy all; ${list} ${basic}`),
  of(`satisfy any; ${basic}`, 'satisfy any;', `satisfy any; auth_request /judge; allow 127.0.0.1; deny all;`),
  of(
    'internal;',
    'auth_request /judge; auth_request_set $who $upstream_http_x_a;',
    'valid_referers none server_names; if ($invalid_referer) { return 403; }',
    'limit_except GET { deny all; }',
    'limit_except GET POST { allow 127.0.0.1; deny all; }',
    `limit_except GET { ${basic} }`,
  ),
)
const answer = of(
  ...[
    'return 200 "own";',
    'return 403;',
    'return 410;',
    'return 444;',
    'return 204;',
    'return 401;',
    'return 503;',
    'return 404;',
  ],
  ...[
    'return 301 https://moved.test$request_uri;',
    'return 302 /else;',
    'return 307 http://$host/x;',
    'return 302 $scheme://$host/y$request_uri;',
    'return 301 https://$host$request_uri;',
    'return 302 /start?rd=$scheme://$host$request_uri;',
    'return 308 /a/;',
    'default_type text/plain; return 200 "own";',
    'add_header X-C c; return 200 "own";',
  ],
  ...[
    'rewrite ^ https://moved.test$request_uri permanent;',
    'rewrite ^/a/(.*)$ https://moved.test/$1 redirect;',
  ],
  ...['rewrite ^(.*)$ /else redirect;', 'rewrite ^/(.*)$ http://w.test/$1 permanent;'],
)
const change = of(
  ...[
    'rewrite ^/a/(.*)$ /z/$1 break;',
    'rewrite ^/d/(.*)$ /a/$1 last;',
    'rewrite ^/a/b$ /d/ last;',
    'rewrite ^/z http://z.test/ permanent;',
  ],
  ...['rewrite /b /c break;', 'rewrite ^/a/(.*)$ /$1 break;', 'rewrite ^/a(/.*)$ $1 break;'],
  ...['rewrite ^/a/b/?$ /d permanent;', 'rewrite ^/d/(.*)$ /a/$1 break;', 'rewrite ^ /d/b break;'],
)
const pass = of(
  ...['one', 'two', 'three'].flatMap(name => [
    `proxy_pass http://${name};`,
    `proxy_pass http://${name}/;`,
    `proxy_pass http://${name}/v1/;`,
    `proxy_pass http://${name}/v1;`,
  ]),
  'proxy_pass http://@two;',
  'proxy_pass http://@three/a/b/;',
  'proxy_pass http://$chosen;',
)
const header = of(
  ...[
    'proxy_set_header Host $host;',
    'proxy_set_header Host $http_host;',
    'proxy_set_header Host inner.test;',
    'proxy_set_header X-Real-IP $remote_addr;',
  ],
  ...[
    'proxy_set_header X-A own;',
    'proxy_set_header X-A "";',
    'proxy_set_header X-A $http_x_a;',
    'proxy_set_header X-B "$scheme $request_method";',
    'proxy_set_header X-A $who;',
    'proxy_set_header X-B $http_x_a;',
    'proxy_set_header X-C "$scheme $host $server_port";',
    'proxy_set_header X-C $proxy_add_x_forwarded_for;',
    'proxy_set_header X-C $request_uri;',
    'proxy_set_header X-C $arg_t;',
  ],
  ...[
    'proxy_set_header X-B $server_name;',
    'add_header X-C c;',
    'add_header X-C c always;',
    'proxy_hide_header X-B;',
  ],
)
const test = of(
  ...[
    '$request_method = POST',
    '$request_method != GET',
    '$request_method !~ ^(GET|HEAD)$',
    '$request_method ~ POST',
  ],
  ...[
    '$http_x_a',
    '$http_x_a = 1',
    '$http_x_a != 1',
    '$http_x_a ~ ^1',
    '$http_x_a !~* ^1$',
    '$http_x_a = ""',
  ],
  ...['$arg_t = s', '$arg_t != s', '$cookie_c = 1'],
  ...['$uri ~ "b$"', '$request_uri ~* "\\.(css|js)$"', '$uri !~ "^/a"', '$request_uri !~ "^/[ad]"'],
  ...['$uri ~ \\.php$', '$request_uri ~ "^/a"', '$remote_addr = 127.0.0.1', '$remote_addr != 127.0.0.1'],
)
/** Conditions that the command only names: a list that refuses some requests and has no counterpart. */
const listed = fc.tuple(
  of(
    '$http_user_agent ~* (bot|1)',
    '$query_string = ""',
    '$http_host ~ b',
    '$args ~ s',
    '$host != a.test',
    '$host = a.test',
    '$server_port = 1',
  ),
  of('return 301 https://moved.test/;', 'return 200 "own";', 'set $flag 1;'),
)
const branch = fc
  .oneof(
    {
      weight: 8,
      arbitrary: fc.tuple(
        test,
        fc.oneof(
          { weight: 4, arbitrary: answer },
          of(
            'proxy_pass http://two;',
            'add_header X-C if;',
            'set $flag 1;',
            'rewrite ^ /d/ last;',
            'proxy_pass http://three; break;',
          ),
        ),
      ),
    },
    { weight: 1, arbitrary: listed },
  )
  .map(([condition, then]) => `if (${condition}) { ${then} }`)
/** Refusals that the command can only name, or for which it closes a route. */
const refused = fc
  .tuple(
    of(
      '$http_user_agent ~* (bot|1)',
      '$query_string = ""',
      '$http_host ~ b',
      '$args ~ s',
      '$bad',
      '$net',
      '-f /nowhere/closed.html',
      '$bad = 1',
      '$known = 0',
      '$known != 1',
      '$host != a.test',
    ),
    of('return 403;', 'return 444;', 'return 401;'),
  )
  .map(([condition, then]) => `if (${condition}) { ${then} }`)
/** Lines of files that people run, besides those above. */
const other = of(
  ...['try_files $uri @else;', 'try_files $uri $uri/ @app;', 'try_files $uri =404;', 'try_files $uri /a;'],
  ...['include @home/deny.conf;', 'include @home/headers.conf;', 'include @home/none/*.conf;'],
  ...[
    'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;',
    'client_max_body_size 5m;',
    'proxy_read_timeout 90s;',
    'limit_req zone=all burst=1000 nodelay;',
    'access_log off;',
    'proxy_redirect off;',
    'proxy_buffering off; proxy_http_version 1.1;',
    'expires 1h;',
    'auth_request /judge; error_page 401 = @login;',
    'auth_request /judge; error_page 401 =302 /else;',
    'auth_request /judge; error_page 401 403 =403 /a;',
    'auth_request /judge; auth_request_set $who $upstream_http_x_a; auth_request_set $mail $upstream_http_x_b; proxy_set_header X-A $who; proxy_set_header X-B $mail; error_page 401 = @login;',
    'proxy_pass_header Server; proxy_intercept_errors on; sub_filter a b;',
    'if ($request_uri ~* "\\.(css|js)$") { add_header X-C js; }',
    'real_ip_header X-Forwarded-For; set_real_ip_from 127.0.0.0/8;',
    'auth_request /judge; auth_request_set $who $upstream_http_x_a; proxy_set_header X-A $who;',
  ],
)
const failure = of(
  'error_page 404 /a;',
  'error_page 403 =200 /d/;',
  'error_page 403 =404 /none;',
  'error_page 401 @else;',
  'error_page 403 @else;',
  'error_page 401 =302 /else;',
  'error_page 401 403 @login;',
  'error_page 500 502 503 504 /50x.html;',
)

type Lines = readonly string[]

/** `freq`: one of so many has none. */
const rarely = (arbitrary: Arbitrary<string>, times: number): Arbitrary<string> =>
  fc.oneof({ weight: times - 1, arbitrary: fc.constant('') }, { weight: 1, arbitrary })

const plainPass = of(
  ...['one', 'two', 'three', '$chosen', 'one/$1'].map(name => `proxy_pass http://${name};`),
  ...['one', 'two', 'three'].map(name => `proxy_pass http://${name};`),
)
const target = (isPattern: boolean) =>
  fc.oneof(
    { weight: 6, arbitrary: isPattern ? plainPass : pass },
    { weight: 3, arbitrary: answer },
    { weight: 1, arbitrary: of('root /nowhere;', 'alias /nowhere/; expires 1h; add_header X-C c;', '') },
  )
const body = (isPattern: boolean): Arbitrary<Lines> =>
  fc.tuple(
    rarely(guard, 3),
    rarely(branch, 5),
    rarely(refused, 15),
    rarely(other, 5),
    rarely(change, 9),
    target(isPattern),
    rarely(header, 2),
    rarely(
      header.filter(each => !each.startsWith('add_header')),
      3,
    ),
    rarely(failure, 12),
  )
const plain = fc.oneof(
  { weight: 6, arbitrary: of(...PLAIN) },
  { weight: 2, arbitrary: of(...PLAIN).map(path => `= ${path}`) },
  { weight: 1, arbitrary: of(...PLAIN).map(path => `^~ ${path}`) },
)
const pattern = fc.oneof(
  { weight: 4, arbitrary: of(...PATTERNS).map(text => `~ ${text}`) },
  { weight: 1, arbitrary: of(...PATTERNS).map(text => `~* ${text}`) },
)

function block(name: string, lines: Lines, inner: Lines = []): string {
  const all = [...lines, ...inner].filter(each => each !== '')
  return `${name} {\n${all.map(each => `  ${each.replaceAll('\n', '\n  ')}`).join('\n')}\n}`
}

interface Located {
  readonly matcher: string
  readonly lines: Lines
  readonly inner: readonly Located[]
}

const leaf: Arbitrary<Located> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ matcher: plain, lines: body(false), inner: fc.constant([]) }) },
  { weight: 2, arbitrary: fc.record({ matcher: pattern, lines: body(true), inner: fc.constant([]) }) },
)
const location: Arbitrary<Located> = fc
  .tuple(
    leaf,
    fc.oneof(
      { weight: 4, arbitrary: fc.constant([]) },
      { weight: 1, arbitrary: fc.array(leaf, { minLength: 1, maxLength: 2 }) },
    ),
  )
  .map(([of, inner]) => ({ ...of, inner }))

/** The text of locations, without those that nginx would refuse: given twice, or outside the location around them. */
function located(all: readonly Located[], around: string | null): Lines {
  const known = new Set<string>()
  return all.flatMap(({ matcher, lines, inner }) => {
    const path = matcher.replace(/^(?:=|\^~) /, '')
    const isPattern = matcher.startsWith('~')
    const key = matcher.startsWith('=') ? matcher : path
    if (known.has(key) || around?.startsWith('=') === true) return []
    if (
      around !== null &&
      !isPattern &&
      (around.startsWith('~') || !path.startsWith(around.replace('^~ ', '')))
    )
      return []
    if (around?.startsWith('~') === true && !isPattern) return []
    known.add(key)
    return [block(`location ${matcher}`, lines, located(inner, matcher))]
  })
}

const ofServer = fc.oneof(
  { weight: 5, arbitrary: branch.filter(each => !/proxy_pass|add_header/.test(each)) },
  {
    weight: 1,
    arbitrary: of(
      'if ($host = a.test) { return 403; }',
      'if ($host = w.b.test) { return 200 "own"; }',
      'if ($scheme = http) { return 200 "own"; }',
      'if ($scheme != http) { return 403; }',
      'if ($https != on) { return 302 https://$host/; }',
    ),
  },
)

/** The listeners of a server; one speaks TLS for all servers if it does for one. */
const listens: Arbitrary<Lines> = fc.oneof(
  { weight: 5, arbitrary: fc.constant<Lines>(['port']) },
  {
    weight: 2,
    arbitrary: fc.constantFrom<Lines[]>(
      ...[['port', 'second'], ['port', 'tls ssl'], ['port', 'tls'], ['second'], ['tls ssl']],
      ...[
        ['second', 'tls ssl'],
        ['port', 'second', 'tls ssl'],
      ],
    ),
  },
)

const server = fc
  .record({
    names: fc.uniqueArray(of(...NAMES), { maxLength: 2 }),
    main: fc.nat(3),
    listens,
    lines: fc.tuple(
      rarely(
        guard.filter(each => !/internal|limit_except/.test(each)),
        6,
      ),
      rarely(refused, 20),
      rarely(ofServer, 6),
      rarely(ofServer, 20),
      rarely(refused, 20),
      rarely(of('try_files $uri @app;', 'try_files $uri =404;'), 20),
      rarely(answer, 20),
      rarely(header, 3),
      rarely(change, 12),
      rarely(failure, 20),
      rarely(of('include @home/deny.conf;', 'include @home/headers.conf;'), 20),
    ),
    locations: fc.array(location, { minLength: 1, maxLength: 4 }),
    /** Lines of the location that `try_files` leads to. */
    app: rarely(
      fc.oneof(guard, refused, branch, answer, change, of('try_files $uri @else;', 'root /nowhere;')),
      2,
    ),
  })
  .map(each => each)

function serverText(
  {
    names,
    main,
    listens,
    lines,
    locations,
    app,
  }: { names: string[]; main: number; listens: Lines; lines: Lines; locations: Located[]; app: string },
  mayBeMain: boolean,
): string {
  const own = [...lines, ...located(locations, null)]
  const text = [app, ...own].join('\n')
  return block('server', [
    ...listens.map(each => `listen 127.0.0.1:@${each}${main === 0 && mayBeMain ? ' default_server' : ''};`),
    ...(names.length > 0 ? [`server_name ${names.join(' ')};`] : []),
    ...own,
    ...(text.includes('@else') ? ['location @else { return 418; }'] : []),
    ...(text.includes('@app') ? [block('location @app', [app, 'proxy_pass http://three;'])] : []),
    ...(text.includes('@login') ? ['location @login { return 302 https://login.test/; }'] : []),
    ...(text.includes('$who') ? ['set $who "";'] : []),
    ...(text.includes('auth_request /') ? ['location = /judge { internal; proxy_pass http://judge; }'] : []),
  ])
}

const upstreams = of(
  'upstream one { server @one; }',
  'upstream one { server @one weight=3 max_fails=2; keepalive 4; }',
  'upstream one { least_conn; server @one; server @two down; }',
  'upstream one { server @one; server @two backup; }',
  'upstream one { ip_hash; server @one; }',
)

/** Lines for servers that use these names. */
const SHARED = [
  ['$connection_upgrade', 'map $http_upgrade $connection_upgrade { default upgrade; "" close; }'],
  ['$bad', 'map $http_x_a $bad { default 0; 1 1; }'],
  ['$chosen', 'map $http_x_a $chosen { default one; 2 two; }'],
  ['$net', 'geo $net { default 1; 127.0.0.1 0; }'],
  ['$known', 'map $http_x_pass $known { default 0; 1 1; }'],
  ['zone=all', 'limit_req_zone $binary_remote_addr zone=all:1m rate=1000r/s;'],
] as const

/** Lines that have no counterpart, or a difference that each request may show. */
const UNSAID =
  /\$bad|\$known|\$chosen|\$net|\$who|\$arg_t;|sub_filter|invalid_referer|internal|alias|-f |one\/\$1|x_forwarded|try_files|expires|include|limit_req|auth_request|auth_basic|error_page|backup|down;|set \$flag|rewrite (?:\^\/[adz]|\/b)|http_user_agent|query_string|http_host|args ~|\$host |server_port|real_ip|return 444|!~\*|~ \^1|location @(?!app)/

const onlySaid = (text: string) =>
  text
    .split('\n')
    .filter(line => !UNSAID.test(line) || line.includes('upstream'))
    .join('\n')
    .replaceAll(' server @two down;', '')
    .replaceAll(' server @two backup;', '')
    .replaceAll('root /nowhere;', 'proxy_pass http://one;')

/** A configuration of nginx, with names in place of ports. */
const whole: Arbitrary<string> = fc
  .record({
    upstream: upstreams,
    lines: fc.tuple(
      rarely(
        guard.filter(each => !/internal|limit_except|judge/.test(each)),
        9,
      ),
      rarely(header, 4),
      rarely(failure, 30),
      rarely(fc.constant('underscores_in_headers on;'), 15),
      rarely(fc.constant('real_ip_header X-Forwarded-For; set_real_ip_from 127.0.0.0/8;'), 15),
    ),
    servers: fc.array(server, { minLength: 1, maxLength: 3 }),
  })
  .map(({ upstream, lines, servers }) => {
    const [first, ...others] = servers
    const known = [{ ...first!, listens: [...new Set(['port', ...first!.listens])] }, ...others]
    const all = [
      ...lines,
      ...known.map((each, at) => serverText(each, !known.slice(0, at).some(({ main }) => main === 0))),
    ].join('\n')
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      name => `${name}_temp_path @home/${name};`,
    )
    const http = [
      ...temporary,
      'access_log off;',
      upstream,
      'upstream two { server @two; }',
      'upstream three { server @three; }',
      'upstream judge { server @judge; }',
      'ssl_certificate @home/edge.crt; ssl_certificate_key @home/edge.key;',
      ...SHARED.filter(([name]) => all.includes(name)).map(([, line]) => line),
    ]
    return `${process.getuid?.() === 0 ? 'user root;\n' : ''}daemon off; master_process off;\npid @home/nginx.pid; error_log @home/error.log;\nevents { worker_connections 200; }\n${block('http', http, [all])}\n`
  })

export const nginxFiles: Arbitrary<string> = fc.oneof(whole, whole.map(onlySaid))

const PATHS = [
  ...PLAIN_PATHS,
  ...[
    '/a.php',
    '/x.php',
    '/a/x.php',
    '/a/b/x.css',
    '/x.js',
    '/X.PHP',
    '/.e',
    '/a/.e',
    '/a?t=s',
    '/a/x?t=s&u=1',
    '//a/b',
    '/a%2fb',
    '/%61/b',
    '/else',
    '/v1/x',
    '/a.php/x',
    '/axphp',
  ],
  ...['/a/./b', '/x.php?t=s', '/A/b', '/judge', '/a/b.php'],
]

export const nginxRequests: Arbitrary<Asked[]> = requestsOf(HOSTS, PATHS)

export function requestsOf(hosts: readonly string[], paths: readonly string[]): Arbitrary<Asked[]> {
  const asked = fc.record({
    at: fc.constantFrom<Listener>('port', 'port', 'port', 'second', 'tls'),
    host: of(...hosts),
    path: of(...paths),
    method: of('GET', 'GET', 'GET', 'POST', 'HEAD', 'PUT'),
    headers: fc.oneof(
      { weight: 4, arbitrary: fc.constant({}) },
      {
        weight: 1,
        arbitrary: fc.constantFrom<Record<string, string>>(
          { 'x-a': '1' },
          { 'x-a': '12' },
          { 'x-a': '2' },
          { x_a: '1' },
          { 'x-a': '2', x_a: '1' },
          { 'x-a': '1', x_a: '2' },
          { cookie: 'c=1' },
          { 'x-pass': '1' },
          { authorization: 'Basic YTph' },
          { 'x-forwarded-for': '10.1.1.1' },
          { 'user-agent': 'bot' },
        ),
      },
    ),
    from: of('127.0.0.1', '127.0.0.1', '127.0.0.2', '127.9.9.9'),
  })
  return fc.array(asked, { minLength: 50, maxLength: 50 })
}
