import type { Arbitrary } from 'fast-check'
import fc from '../lanes/generated.js'
import { requestsOf } from './nginx-files.js'
import { PLAIN_PATHS } from './plain-paths.js'

const of = (...all: readonly string[]): Arbitrary<string> => fc.constantFrom(...all)

const HOSTS = ['a.test', 'b.test', 'w.b.test', 'v.w.b.test', 'z.test']
const test = of(
  ...[
    'path /a',
    'path /a /d',
    'path /',
    'path_beg /a',
    'path_beg /a/',
    'path_beg /d /a/b',
    'path_beg -i /A',
    'path -i /A/B',
  ],
  ...[
    'path_end .php',
    'path_end .php .css',
    'path_end -i .PHP',
    'path_end /',
    'path_sub b',
    'path_sub /.',
    'path_dir b',
    'path_reg ^/a/[^/]+/e$',
  ],
  ...[
    'path_reg ^/(a|d)/',
    'path_reg \\.php$',
    'path_reg ^/[0-9]+$',
    'path,lower -m beg /a',
    'path -m end b',
    'url_beg /a',
  ],
  ...[
    'hdr(host) a.test',
    'hdr(host) -i A.TEST b.test',
    'hdr_end(host) .b.test',
    'hdr_end(host) -i .test',
    'hdr_beg(host) w.',
    'hdr_dom(host) b.test',
    'hdr(host) -m found',
  ],
  ...[
    'method GET',
    'method GET POST',
    'hdr(X-A) 1',
    'hdr(X-A) -m found',
    'hdr_beg(X-A) 1',
    'hdr_cnt(X-A) 0',
    'cook(c) 1',
    'url_param(t) s',
    'urlp(t) -m found',
  ],
  ...[
    'src 127.0.0.1',
    'src 127.0.0.0/30 10.0.0.0/8',
    'src 127.0.0.2 127.9.0.0/16',
    'ssl_fc',
    'dst_port @port',
    'dst_port @second',
    'ssl_fc',
    'always_true',
    'nbsrv(one) lt 1',
    'rand(2) gt 3',
  ],
  ...[
    'path_beg /v1',
    'path /v1/a',
    'path_beg /b /v1/d',
    'hdr(X-B) own',
    'hdr(X-B) -m found',
    'query -m found',
  ],
  ...[
    'path_beg -f @home/paths.lst',
    'path -i -f @home/paths.lst',
    'src -f @home/nets.lst',
    'hdr(host) -f @home/hosts.lst',
    'path,map_beg(@home/paths.map,no) -m str yes',
  ],
  ...[
    'var(txn.p) -m beg /a',
    'var(txn.p) -m end .php',
    'var(txn.m) -m str POST',
    'var(txn.x) -m str 1',
    'var(req.no) -m found',
  ],
)
const term = fc
  .tuple(
    fc.boolean(),
    fc.oneof(
      { weight: 3, arbitrary: test.map(each => `{ ${each} }`) },
      { weight: 2, arbitrary: of('n0', 'n1', 'n2', 'METH_POST', 'METH_GET') },
    ),
  )
  .map(([not, text]) => (not ? `!${text}` : text))
const condition = fc
  .tuple(
    fc.constantFrom('if', 'if', 'if', 'unless'),
    fc.array(fc.array(term, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 2 }),
  )
  .map(([word, any]) => `${word} ${any.map(all => all.join(' ')).join(' or ')}`)
const maybeNot = fc.oneof({ weight: 3, arbitrary: fc.constant('') }, { weight: 1, arbitrary: condition })
const maybe = fc.oneof({ weight: 1, arbitrary: fc.constant('') }, { weight: 4, arbitrary: condition })

/** Conditions on the answer of a server, and those that it can still be judged by. */
const ofAnswer = fc
  .tuple(
    of('if', 'if', 'unless'),
    of(
      ...['status 200', 'res.hdr(X-A) -m found', 'hdr(X-A) 1', 'path_beg /a', 'src 127.0.0.1'],
      ...['var(txn.p) -m beg /a', 'method GET', 'always_true'],
    ),
  )
  .map(([word, test]) => `${word} { ${test} }`)
const answerRule = fc
  .tuple(
    of(
      ...['set-header X-C c', 'set-header X-B own', 'add-header X-A more', 'del-header X-B'],
      ...['replace-header X-A of of', 'set-header X-C %[src]', 'deny deny_status 403', 'set-status 203'],
    ),
    fc.oneof({ weight: 1, arbitrary: fc.constant('') }, { weight: 1, arbitrary: ofAnswer }),
  )
  .map(([action, when]) => `http-response ${action} ${when}`)
const ofConnections = fc
  .tuple(
    of('connection', 'session', 'content'),
    of('if', 'unless'),
    of('src 127.0.0.1', 'src -f @home/nets.lst'),
  )
  .map(([kind, word, of]) => `tcp-request ${kind} reject ${word} { ${of} }`)

const refusal = of(
  ...[
    'http-request deny',
    'http-request deny deny_status 405',
    'http-request reject',
    'http-request tarpit',
    'http-request auth',
    'http-request return status 403',
  ],
  ...['tcp-request content reject', 'http-request auth realm x'],
)
const answer = of(
  ...[
    'http-request redirect location https://moved.test/',
    'http-request redirect prefix https://moved.test code 301',
    'redirect scheme https code 301',
    'http-request redirect location /else',
    'redirect location /else code 308',
    'redirect prefix /v1 code 307',
    'redirect prefix https://moved.test drop-query',
    'redirect prefix https://moved.test append-slash',
    'http-request redirect scheme https code 303 set-cookie s=1',
    'http-request redirect location https://%[hdr(host)]/x',
    'http-request redirect code 301 location https://moved.test%[path]',
  ],
  ...['http-request return status 200 content-type text/plain string own', 'http-request allow'],
)
const change = of(
  ...[
    'http-request set-header X-B own',
    'http-request set-header X-B %[src]',
    'http-request del-header X-B',
    'http-request set-header X-B %[hdr(host)]',
  ],
  ...['http-request add-header X-B more', 'http-response set-header X-C c', 'http-response del-header X-B'],
)
/** Changes of what later conditions read. */
const changeOfParts = of(
  ...[
    'http-request replace-path /a/(.*) /\\1',
    'http-request replace-path ^/a/(.*) /\\1',
    'http-request replace-path ^/a(/)?(.*) /v1/\\2',
    'http-request set-path /v1%[path]',
    'http-request set-path /d',
    'http-request replace-uri ^/d/(.*) /\\1',
    'http-request set-uri /a?t=s',
  ],
  ...[
    'http-request set-query t=s',
    'http-request set-method POST',
    'http-request set-header X-A 1',
    'http-request del-header X-A',
    'http-request replace-header X-A 1 2',
    'http-request set-header Host b.test',
    'http-request del-header Cookie',
    'http-request set-src hdr(x-forwarded-for)',
  ],
)
const variable = of(
  ...[
    'http-request set-var(txn.p) path',
    'http-request set-var(txn.m) method',
    'http-request set-var(txn.x) hdr(X-A)',
  ],
  'http-request set-var(txn.p) path,lower',
)
const rule = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(refusal, maybe).map(all => all.join(' ')) },
  { weight: 2, arbitrary: fc.tuple(answer, condition).map(all => all.join(' ')) },
  { weight: 2, arbitrary: change },
  { weight: 1, arbitrary: fc.tuple(change, condition).map(all => all.join(' ')) },
  { weight: 1, arbitrary: fc.tuple(changeOfParts, maybeNot).map(all => all.join(' ')) },
  { weight: 1, arbitrary: fc.tuple(variable, maybeNot).map(all => all.join(' ')) },
  { weight: 1, arbitrary: answerRule },
  { weight: 1, arbitrary: ofConnections },
  {
    weight: 1,
    arbitrary: of(
      ...['monitor-uri /x', 'http-after-response set-header X-C after'],
      'use_backend %[req.hdr(host),lower,map(@home/hosts.map,two)]',
      'use_backend %[path,map_beg(@home/backends.map)] if METH_GET',
    ),
  },
  {
    weight: 5,
    arbitrary: fc
      .tuple(of('use_backend one', 'use_backend two', 'use_backend three'), condition)
      .map(all => all.join(' ')),
  },
)
const ofBackend = fc.oneof(
  {
    weight: 2,
    arbitrary: fc
      .tuple(
        refusal.filter(each => !/connection/.test(each)),
        maybe,
      )
      .map(all => all.join(' ')),
  },
  { weight: 1, arbitrary: fc.tuple(answer, condition).map(all => all.join(' ')) },
  { weight: 2, arbitrary: change },
  { weight: 1, arbitrary: fc.tuple(change, condition).map(all => all.join(' ')) },
  { weight: 1, arbitrary: fc.tuple(changeOfParts, maybeNot).map(all => all.join(' ')) },
  { weight: 1, arbitrary: answerRule },
  { weight: 1, arbitrary: fc.tuple(of('use-server s', 'use-server t'), condition).map(all => all.join(' ')) },
  {
    weight: 1,
    arbitrary: of('balance leastconn', 'balance source', 'balance roundrobin', 'cookie s insert'),
  },
)
const acl = (name: string) =>
  fc.array(test, { minLength: 1, maxLength: 2 }).map(all => all.map(each => `acl ${name} ${each}`))

const section = (name: string, lines: readonly string[]) =>
  `${name}\n${lines.map(each => `  ${each}\n`).join('')}`
const servers = of(
  '  server s @N weight 10',
  '  server s @N',
  '  server s @N maxconn 50',
  '  server s @N check inter 2s rise 1 fall 2',
  '  default-server check inter 5s weight 3\n  server s @N',
  '  option httpchk GET /\n  server s @N check',
  '  server s @N\n  server t 127.0.0.1:1 disabled',
  '  server s @N weight 1\n  server t @N backup',
  '  default-server disabled\n  server t 127.0.0.1:1\n  server s @N enabled',
  '  default-server backup\n  server t @N no-backup\n  server s @N',
  '  default-server weight 0\n  server t 127.0.0.1:1\n  server s @N weight 1',
)
/** A backend, or a section of both kinds, which frontends can use too. */
const backend = (name: string, kinds: Arbitrary<string>) =>
  fc
    .tuple(
      kinds,
      fc.tuple(acl('n0'), acl('n1'), acl('n2')),
      fc.oneof({ weight: 2, arbitrary: fc.constant([] as string[]) }, fc.array(ofBackend, { maxLength: 2 })),
      servers,
    )
    .map(([kind, named, lines, of]) => (from: string) => {
      const kept = lines.filter(each => kind === 'backend' || !each.startsWith('use-server'))
      return `${section(`${kind} ${name}${from}`, [...named.flat(), ...kept])}${of.replaceAll('@N', `@${name}`)}\n`
    })

const DEFAULTS = [
  'mode http',
  'timeout connect 2s',
  'timeout client 5s',
  'timeout server 5s',
  'timeout tarpit 1',
]
const common = of(
  ...['', '', 'option forwardfor', 'http-request deny if METH_POST', 'http-request set-header X-B d'],
  ...['http-request deny if { path,lower -m beg /d }', 'http-response set-header X-C d'],
  ...['default-server disabled', 'default-server weight 3', 'http-request set-path /v1%[path]'],
)

const whole = fc
  .record({
    named: fc.tuple(acl('n0'), acl('n1'), acl('n2')),
    rules: fc.array(rule, { minLength: 1, maxLength: 5 }),
    last: of('default_backend one', 'default_backend one', 'default_backend two', '', 'server s @three'),
    backends: fc.tuple(
      backend('one', fc.constant('backend')),
      backend('two', fc.constant('backend')),
      backend('three', of('backend', 'backend', 'listen')),
    ),
    ofWeb: common,
    ofBackends: common,
    form: of('in order', 'named', 'inherited'),
    second: of('', '', 'bind', 'frontend'),
    secure: fc.nat(2).map(each => each === 0),
    others: fc.tuple(
      fc.tuple(acl('n0'), acl('n1'), acl('n2')),
      fc.array(rule, { minLength: 1, maxLength: 2 }),
    ),
  })
  .map(({ named, rules, last, backends, ofWeb, ofBackends, form, second, secure, others }) => {
    const from = (name: string) => (form === 'in order' ? '' : ` from ${name}`)
    const web = section(`${last.startsWith('server') ? 'listen' : 'frontend'} web${from('d')}`, [
      'bind 127.0.0.1:@port',
      ...(second === 'bind' ? ['bind 127.0.0.1:@second'] : []),
      ...(secure ? ['bind 127.0.0.1:@tls ssl crt @home/edge.pem'] : []),
      ...named.flat(),
      ...rules,
      ...(last === '' ? [] : [last]),
    ])
    const other =
      second === 'frontend'
        ? section(`frontend other${from('d')}`, [
            'bind 127.0.0.1:@second',
            ...others[0].flat(),
            ...others[1],
            'default_backend two',
          ])
        : ''
    const defaults = (name: string, line: string) => section(`defaults ${name}`, [...DEFAULTS, line])
    const all = {
      'in order': [
        defaults('d', ofWeb),
        web,
        other,
        defaults('e', ofBackends),
        ...backends.map(each => each('')),
      ],
      named: [
        ...[defaults('d', ofWeb), defaults('e', ofBackends)],
        ...[web, other, ...backends.map(each => each(from('e')))],
      ],
      // Each has the lines of the first, and those of its own.
      inherited: [
        ...[section('defaults c', DEFAULTS), section('defaults d from c', [ofWeb])],
        ...[section('defaults e from c', [ofBackends]), web, other, ...backends.map(each => each(from('e')))],
      ],
    }
    return all[form as keyof typeof all].join('')
  })

/** Lines that have no counterpart, or a difference that each request may show. */
const UNSAID =
  /auth|lower|hdr_cnt|hdr_beg\(host|hdr\(host\) -m|nbsrv|rand|url_beg|-m end|-i |replace-path|set-path|add-header|backup|cookie|tarpit|reject|replace-header|set-status|after-response|\.lst|\.map|use-server|res\.hdr/

const onlySaid = (text: string) => {
  const isKept = (line: string) => /^\s*acl/.test(line) || !UNSAID.test(line)
  const known = (line: string) => (UNSAID.test(line) ? line.replace(/(acl \w+) .*/, '$1 always_false') : line)
  return text.split('\n').filter(isKept).map(known).join('\n')
}

/** A configuration of HAProxy, with names in place of ports. */
export const haproxyFiles: Arbitrary<string> = fc.oneof(whole, whole.map(onlySaid))

const PATHS = [
  ...PLAIN_PATHS,
  ...[
    '/a.php',
    '/x.php',
    '/a/x.php',
    '/a/b/x.css',
    '/X.PHP',
    '/.e',
    '/a/.e',
    '/a?t=s',
    '/a/x?t=s&u=1',
    '/else',
    '/A/b',
    '/A/B',
    '/a.php/x',
    '/axphp',
    '/x.php?t=s',
    '/b/x',
    '/x/b/y',
  ],
]

export const haproxyRequests = requestsOf(HOSTS, PATHS)
