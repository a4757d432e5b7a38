import { expect, it } from 'vitest'
import { type Conversion, convert } from '../../../src/convert/convert.js'
import { configFrom } from '../../../src/proxy/config/load.js'
import { answersOf } from '../../convert-support/answers.js'

const from = (text: string): Conversion =>
  convert(text, { file: 'haproxy.cfg', language: 'haproxy', service: 'edge', included: () => [] })
const HEAD =
  'defaults\n mode http\nbackend app\n server s 10.0.0.1:80\nbackend api\n server s 10.0.0.2:80\nbackend deny\n http-request deny\n'
const web = (lines: readonly string[], more = '') =>
  from(`${HEAD}${more}\nfrontend web\n bind :80\n ${[...lines, 'default_backend app'].join('\n ')}\n`)
/** The status or the upstream of each place. */
function gets(conversion: Conversion): Record<string, unknown> {
  configFrom(JSON.parse(JSON.stringify(conversion.document)))
  return Object.fromEntries(
    (conversion.document.routes as Record<string, unknown>[]).map(
      ({ host, path = '', when = [], respond, upstream }) => [
        [`${host}${path}`, ...(when as string[])].join(' '),
        (respond as { status?: number } | undefined)?.status ?? upstream,
      ],
    ),
  )
}

it.each([
  'http-request deny if { path_beg /admin/ } !internal',
  'http-request reject if { path_beg /admin/ } !internal',
  'http-request silent-drop if { path_beg /admin/ } !internal',
  'http-request return status 403 if { path_beg /admin/ } !internal',
  'block if { path_beg /admin/ } !internal',
  'tcp-request content reject if { path_beg /admin/ } !internal',
  'use_backend deny if { path_beg /admin/ } !internal',
  'http-request deny if bots or { path_beg /admin/ } !internal',
  'http-request auth if { path_beg /admin/ } { req.ssl_hello_type 1 }',
])('a refusal of what is not on a list closes its routes: %s', rule => {
  const conversion = web(['acl internal src -f /etc/lan.lst', 'acl bots hdr_sub(User-Agent) bot', rule])
  expect(gets(conversion)).toEqual({ '*/admin path=/admin/*': 403, '*': 'app' })
  expect(conversion.remarks.find(({ line }) => line.text === rule)?.outcome).toBe('missing')
})

it('connections from others are refused as a whole', () => {
  expect(gets(web(['tcp-request connection reject if !{ src -f /etc/lan.lst }']))).toEqual({ '*': 403 })
  expect(gets(web(['tcp-request connection reject if !{ src 10.0.0.0/8 ::1 }']))).toEqual({
    '* !address=10.0.0.0/8|::1': 403,
    '*': 'app',
  })
  const tcp = (rule: string) => () =>
    from(`listen db\n mode tcp\n bind :5432\n ${rule}\n server a 10.0.0.1:5432\n`).document.listeners
  expect(tcp('tcp-request content reject if { src 192.0.2.1 }')()).toHaveLength(1)
  expect(tcp('tcp-request connection reject unless { src 10.0.0.0/8 }')).toThrow(/no listener is left/)
  const ofDefaults = (rule: string) =>
    from(
      `defaults d\n mode tcp\nfrontend w from d\n bind :5432\n default_backend db\ndefaults e\n mode tcp\n ${rule}\nbackend db from e\n server a 10.0.0.1:5432\n`,
    )
  expect(ofDefaults('retries 2').document.listeners).toHaveLength(1)
  expect(() => ofDefaults('tcp-request content reject unless { src 10.0.0.0/8 }')).toThrow(
    /no listener is left/,
  )
})

it('the rules of a backend apply to its requests', () => {
  const admin = (rule: string) =>
    gets(
      web(
        ['use_backend admin if { path_beg /admin/ }'],
        `backend admin\n acl ok http_auth(u)\n ${rule}\n server s 10.0.0.9:80`,
      ),
    )
  expect(admin('http-request auth realm x if !ok')).toEqual({ '*/admin path=/admin/*': 403, '*': 'app' })
  expect(admin('http-request deny unless { src 10.0.0.0/8 }')).toEqual({
    '*/admin !address=10.0.0.0/8 path=/admin/*': 403,
    '*/admin path=/admin/*': 'admin',
    '*': 'app',
  })
  expect(admin('http-request deny if { path_beg /admin/keys/ }')).toEqual({
    '*/admin/keys path=/admin/* path=/admin/keys/*': 403,
    '*/admin path=/admin/*': 'admin',
    '*': 'app',
  })
  expect(
    gets(
      from(
        `defaults\n mode http\nbackend app\n http-request auth unless { http_auth(u) }\n server s 10.0.0.1:80\nfrontend w\n bind :80\n default_backend app\n`,
      ),
    ),
  ).toEqual({ '*': 403 })
})

it('alternatives that can be said are not lost with one that cannot', () => {
  expect(
    gets(
      web([
        'acl private path_beg /private/ /keys/',
        'acl private path_reg \\.env$',
        'http-request deny if private',
      ]),
    ),
  ).toEqual({
    '*/private path=/private/*': 403,
    '*/keys path=/keys/*': 403,
    '* !path=*/ path=*.env': 403,
    '*': 'app',
  })
  expect(gets(web(['http-request deny if { path_beg /a/ /b%2F/ }']))).toEqual({
    '*/a path=/a/*': 403,
    '*': 'app',
  })
})

it('the first rule wins also where the proxy would take a later one', () => {
  expect(
    gets(web(['http-request deny if { method DELETE }', 'use_backend api if { method GET DELETE }'])),
  ).toEqual({
    '* method=DELETE': 403,
    '* method=GET': 'api',
    '*': 'app',
  })
  expect(
    gets(
      web(['http-request deny if { method DELETE }', 'use_backend api if !{ method GET } !{ method POST }']),
    ),
  ).toMatchObject({ '* !method=GET !method=POST': 'api', '* !method=GET !method=POST method=DELETE': 403 })
})

it('a path without below is a path without below', () => {
  const redirect = answersOf(web(['http-request redirect location /app/ if { path / }']))
  expect([redirect('/'), redirect('/x')]).toEqual([302, 'app'])
  const open = answersOf(web(['http-request deny unless { path /health } or { path_beg /open/ }']))
  const paths = ['/health', '/health/', '/health/x', '/open/x', '/']
  expect(paths.map(path => open(path))).toEqual(['app', 403, 403, 'app', 403])
  const both = answersOf(web(['use_backend api if { path /a }', 'use_backend deny if { path_beg /a/b/ }']))
  expect(['/a', '/a/x', '/a/b/x', '/x'].map(path => both(path))).toEqual(['api', 'app', 403, 'app'])
})

it('a path is refused by its begin, its end, a part, or an expression', () => {
  const refused = (test: string, ...paths: string[]) => {
    const answers = answersOf(web([`http-request deny if { ${test} }`]))
    return paths.map(path => answers(path) === 403)
  }
  expect(refused('path_beg /admin', '/admin', '/administrator', '/x/admin')).toEqual([true, true, false])
  expect(refused('path_end -i .php', '/a.PHP', '/a.phpx')).toEqual([true, false])
  expect(refused('path_sub /.', '/.git/x', '/a.b')).toEqual([true, false])
  expect(refused('path_dir secret', '/a/secret/b', '/secret', '/secrets')).toEqual([true, true, false])
  expect(refused('path_reg ^/v[12]/', '/v1/x', '/v3/x')).toEqual([true, false])
  // More than HAProxy refuses, not less.
  expect(refused('path_reg ^/u/[0-9]+$', '/u/7', '/u/x', '/v/7')).toEqual([true, true, false])
  const lost = answersOf(web(['use_backend api if { path_reg ^/u/[0-9]+$ }']))
  expect(lost('/u/7')).toBe('app')
})

it('a begin of the path takes names that begin so, and no path that is shorter', () => {
  const rules = 'backend strict\n http-request deny if { path_end .php }\n server s 10.0.0.9:80'
  const into = answersOf(web(['use_backend strict if { path_beg /a }'], rules))
  expect(['/a', '/ax.php', '/ax', '/x.php'].map(path => into(path))).toEqual(['strict', 403, 'strict', 'app'])
  const before = answersOf(web(['use_backend api if { path_beg /a/ }', 'use_backend deny']))
  expect(['/a', '/a/', '/a/x'].map(path => before(path))).toEqual([403, 'api', 'api'])
  const all = web(['use_backend api if { path_beg / }'])
  expect([gets(all), all.counts.near]).toEqual([{ '*': 'api' }, 0])
})

it.each([
  'path_sub %2e',
  'path_sub ;',
  'path_sub //',
  'path_reg ;|%',
  'path_beg /a//b',
  'path /a//b',
  'base_beg a/x',
  'url_beg /a?b',
])('a refusal of paths that the proxy compares otherwise is named: %s', test => {
  const rule = `http-request deny if { ${test} }`
  expect(web([rule]).remarks.find(({ line }) => line.text === rule)).toMatchObject({
    outcome: 'missing',
    why: `no counterpart: ${test}`,
  })
  const open = web([`use_backend api unless { ${test} }`])
  expect(gets(open)).toEqual({ '*': 'app' })
})

it('a backend refuses its requests also where the condition that leads there cannot be said', () => {
  const lines = ['use_backend admin if { rand(2) gt 0 } { path_beg /x }']
  const answers = answersOf(
    web(lines, 'backend admin\n http-request deny if { path_end .php }\n server s 10.0.0.9:80'),
  )
  expect([answers('/x/a.php'), answers('/a.php'), answers('/x')]).toEqual([403, 'app', 'app'])
})

it('a variable stands for its sample, and an address that is changed is not known', () => {
  const named = answersOf(
    web(['http-request set-var(txn.p) path', 'http-request deny if { var(txn.p) -m end .php }']),
  )
  expect([named('/a.php'), named('/a')]).toEqual([403, 'app'])
  const changed = answersOf(
    web(['http-request set-src hdr(X-Real)', 'http-request deny unless { src 10.0.0.0/8 }']),
  )
  expect(changed('/', { client: '10.0.0.1' })).toBe(403)
})

it('rules about connections come before those about requests, and redirects after them', () => {
  const answers = answersOf(
    web([
      'redirect location /else if { path_beg /a/ }',
      'http-request return status 200 if { path_beg /a/b/ }',
      'tcp-request content reject if { path_beg /a/b/c/ }',
    ]),
  )
  expect(['/a/x', '/a/b/x', '/a/b/c/x'].map(path => answers(path))).toEqual([302, 200, 403])
})

it('a name stands for the names below it where HAProxy looks for parts of names', () => {
  expect(gets(web(['http-request deny if { hdr_dom(host) -i corp.test }']))).toEqual({
    'corp.test': 403,
    '*.corp.test': 403,
    '*': 'app',
  })
})

it('rules that overlap too much are refused, not put out of order', () => {
  const hosts = Array.from({ length: 160 }, (_, at) => `use_backend app if { hdr(host) h${at}.test }`)
  const denies = Array.from({ length: 140 }, (_, at) => `http-request deny if { path_beg /d${at}/ }`)
  expect(() => web([...denies, ...hosts])).toThrow(/overlap in more than 20000 ways/)
})

it.each([
  ['set-path /v1%[path]', 'path_beg /v1/admin'],
  ['set-uri /x', 'path_beg /x'],
  ['replace-path ^/a/(.*) /\\1', 'path_end .php'],
  ['set-query a=1', 'url_param(a) 1'],
  ['set-method POST', 'method POST'],
  ['set-header X-A 1', 'hdr(X-A) 1'],
  ['del-header x-a', 'hdr(X-A) 1'],
  ['del-header x- -m beg', 'hdr(X-A) 1'],
  ['set-header Host a', 'hdr(host) a'],
  ['del-header Cookie', 'cook(c) 1'],
])(
  'a condition on a part that an earlier rule changes is named, and closes its routes if it lets requests pass: %s',
  (change, test) => {
    const outcome = (word: string) => {
      const rule = `http-request deny ${word} { ${test} }`
      const conversion = web([`http-request ${change}`, rule])
      const answer = answersOf(conversion)('/')
      return [answer, conversion.remarks.find(({ line }) => line.text === rule)?.why]
    }
    expect(outcome('if')).toEqual(['app', `no counterpart: ${test} of the changed request`])
    expect(outcome('unless')[0]).toBe(403)
    // Before the change it is a condition on the request as it came.
    const before = web([`http-request deny if { ${test} }`, `http-request ${change}`])
    expect(before.remarks.some(({ why }) => /changed request/.test(why))).toBe(false)
  },
)

it('a condition of a backend sees the changes of the frontend and of its own rules, one of another backend does not', () => {
  const guarded = (rules: string) =>
    web(
      ['use_backend admin if { hdr(host) b }', 'use_backend api if { hdr(host) c }'],
      `backend admin\n ${rules}\n server s 10.0.0.9:80`,
    ).remarks.filter(({ why }) => /changed request/.test(why)).length
  expect(guarded('http-request set-path /x\n http-request deny if { path /x }')).toBe(1)
  expect(guarded('http-request deny if { path /x }\n http-request set-path /x')).toBe(0)
  const frontend = web(['http-request set-path /x', 'use_backend api if { path /x }'])
  expect(frontend.remarks.find(({ line }) => line.text.startsWith('use_backend'))?.outcome).toBe('missing')
})

it('a variable that is set again, or under a condition, stands for nothing', () => {
  const deny = 'http-request deny if { var(txn.p) -m end .php }'
  const missing = (...rules: string[]) =>
    web([...rules, deny]).remarks.find(({ line }) => line.text === deny)?.outcome === 'missing'
  expect(missing('http-request set-var(txn.p) path')).toBe(false)
  expect(missing('http-request set-var(txn.p) path', 'http-request set-path /x')).toBe(false)
  expect(missing('http-request set-path /x', 'http-request set-var(txn.p) path')).toBe(true)
  expect(missing('http-request set-var(txn.p) path', 'http-request set-var(txn.p) str(/) if METH_GET')).toBe(
    true,
  )
  expect(missing('http-request set-var(txn.p) path', 'http-request unset-var(txn.p)')).toBe(true)
})

it('a value with a part that an earlier rule changes is named', () => {
  const near = (...rules: string[]) =>
    web(rules).remarks.find(({ line }) => line.text === rules.at(-1))?.outcome === 'near'
  expect(near('http-request redirect scheme https')).toBe(false)
  expect(near('http-request set-path /x', 'http-request redirect scheme https')).toBe(true)
  const redirect = 'http-request redirect location https://b.test%[path]'
  const { remarks } = web(['http-request set-path /v1%[path]', redirect])
  expect(remarks.find(({ line }) => line.text === redirect)?.outcome).toBe('missing')
  expect(near('http-request set-header Host a', 'http-request set-header X-H %[hdr(host)]')).toBe(true)
})

it('each part of a refusal that cannot be said is named, beside those that close their routes', () => {
  const rule =
    'http-request deny if { hdr_sub(a) b } or { path_beg /x/ } !{ src -f /l } or { hdr_sub(c) d } or { path_beg /y/ }'
  const conversion = web([rule])
  expect(conversion.remarks.find(({ line }) => line.text === rule)?.why).toBe(
    'src -f /l: such routes answer 403 until they have a guard; no counterpart: hdr_sub(a) b or hdr_sub(c) d',
  )
  expect(gets(conversion)).toEqual({ '*/x path=/x/*': 403, '*/y path=/y/*': 403, '*': 'app' })
})

it('each part that a closed route does without is named', () => {
  const rule = 'http-request auth if { src -f /l } { path /a }'
  const conversion = web(['http-request set-path /v1%[path]', rule])
  expect(conversion.remarks.find(({ line }) => line.text === rule)?.why).toBe(
    'src -f /l or path /a of the changed request: such routes answer 403 until they have a guard',
  )
})

it.each(['hdr(X-A) 1', 'hdr_beg(X-A) 1', 'cook(c) 1', 'url_param(t) 1'])(
  'a refusal by one of several values is named, its negation refuses more: %s',
  test => {
    const outcome = (word: string) => {
      const rule = `http-request deny ${word} { ${test} }`
      const remark = web([rule]).remarks.find(({ line }) => line.text === rule)!
      return [remark.outcome, remark.why]
    }
    expect(outcome('if')).toEqual(['missing', 'of several values not each is compared: some requests pass'])
    expect(outcome('unless')).toEqual(['near', 'several values are compared as one'])
    const set = `http-request set-header X-B b if { ${test} }`
    expect(web([set]).remarks.find(({ line }) => line.text === set)?.outcome).toBe('near')
  },
)

it('each part that cannot be said of a negation is named, and a host beside it is said', () => {
  const rule = 'use_backend api unless { rand(2) gt 0 } { hdr(host) b } or { hdr_sub(a) c } { hdr(host) b }'
  const conversion = web([rule])
  expect(conversion.remarks.find(({ line }) => line.text === rule)?.why).toBe(
    'no counterpart: hdr_sub(a) c or rand(2) gt 0',
  )
  const answers = answersOf(conversion)
  expect([answers('/', { host: 'b' }), answers('/', { host: 'c' })]).toEqual(['app', 'api'])
})

it('rules of the defaults that a section names hold for it', () => {
  const text = (from: string) =>
    `defaults strict\n mode http\n http-request deny if { path_beg /x/ }\ndefaults open\n mode http\nbackend app\n server s 10.0.0.1:80\nfrontend w${from}\n bind :80\n default_backend app\n`
  expect(gets(from(text('')))).toEqual({ '*': 'app' })
  expect(gets(from(text(' from strict')))).toEqual({ '*/x path=/x/*': 403, '*': 'app' })
})

it('a backend has the rules of its defaults', () => {
  const conversion = from(
    'defaults open\n mode http\nfrontend w\n bind :80\n default_backend app\ndefaults strict\n mode http\n acl x path_beg /x/\n http-request deny if x\nbackend app\n server s 10.0.0.1:80\n',
  )
  expect(gets(conversion)).toEqual({ '*/x path=/x/*': 403, '*': 'app' })
})

it('a backend without a server that gets requests answers 503', () => {
  const app = (servers: string) =>
    gets(
      from(`defaults\n mode http\nfrontend w\n bind :80\n default_backend app\nbackend app\n ${servers}\n`),
    )
  expect(app('server s 10.0.0.1:80 disabled')).toEqual({ '*': 503 })
  expect(app('server s 10.0.0.1:80 disabled\n server t 10.0.0.2:80')).toEqual({ '*': 'app' })
  expect(() => from('listen l\n mode tcp\n bind :5432\n server s 10.0.0.1:80 disabled\n')).toThrow(
    /no listener is left/,
  )
})

it('the negation of several parts that cannot be said has each of them', () => {
  const rule = 'http-request deny unless !{ rand(2) gt 0 } { hdr_sub(a) b }'
  const conversion = web([rule])
  expect(answersOf(conversion)('/')).toBe(403)
  expect(conversion.remarks.find(({ line }) => line.text === rule)?.why).toBe(
    'hdr_sub(a) b: such routes answer 403 until they have a guard; no counterpart: rand(2) gt 0',
  )
})

it('a request that an earlier rule allows gets to no later rule about requests of the section', () => {
  const lines = ['http-request allow if { path_beg /open/ } or { src 10.0.0.0/8 }', 'http-request deny']
  const conversion = web([...lines, 'redirect location /else if { path_beg /open/old/ }'])
  const answers = answersOf(conversion)
  expect(['/open/x', '/open/old/x', '/x'].map(path => answers(path))).toEqual(['app', 302, 403])
  expect(answers('/x', { client: '10.0.0.1' })).toBe('app')
  expect(conversion.counts.missing).toBe(0)
  const ofBackend = answersOf(
    web(['use_backend admin'], `backend admin\n ${lines.join('\n ')}\n server s 10.0.0.9:80`),
  )
  expect(['/open/x', '/x'].map(path => ofBackend(path))).toEqual(['admin', 403])
  // Without the list all requests are refused.
  const unknown = answersOf(web(['http-request allow if { src -f /etc/lan.lst }', 'http-request deny']))
  expect(unknown('/')).toBe(403)
  // A part that is lost allows nothing, and the refusal is said as it is.
  const partly = web([
    'http-request allow if !{ src -f /etc/bad.lst } { path /a } or { path /b }',
    'http-request deny',
  ])
  expect(['/a', '/b', '/c'].map(path => answersOf(partly)(path))).toEqual([403, 'app', 403])
  expect(partly.counts.missing).toBe(1)
  const changed = web(['http-request allow if { path_beg /open/ }', 'http-request set-header X-A 1'])
  expect(changed.document.routes).toEqual([
    { host: '*', when: ['!path=/open/*'], upstream: 'app', request: { set: { 'X-A': '1' } } },
    { host: '*', upstream: 'app' },
  ])
})

it('a negation may be within another, also of hosts and ports', () => {
  const allowance = 'http-request allow unless !{ hdr_end(host) .b.test } or { hdr(host) x.b.test }'
  const allowed = web([allowance, 'http-request deny'])
  expect(['x.b.test', 'y.b.test', 'c.test'].map(host => answersOf(allowed)('/', { host }))).toEqual([
    403,
    'app',
    403,
  ])
  const ports = web([
    'use_backend api unless !{ dst_port 81 } { dst_port 80 } or { path /a } !{ dst_port 81 }',
  ])
  expect(['/', '/a'].map(path => answersOf(ports)(path))).toEqual(['app', 'app'])
  const other = web(['use_backend api unless !{ dst_port 80 } { dst_port 81 } or { path /a }'])
  expect(['/', '/a'].map(path => answersOf(other)(path))).toEqual(['api', 'app'])
  expect([allowed, ports, other].map(each => each.counts.missing)).toEqual([0, 0, 0])
})

it('lines of a backend that nothing uses are not missing', () => {
  const missing = (rule: string) =>
    web([rule], 'backend other\n filter compression\n server s 10.0.0.9:80').counts.missing
  expect(missing('use_backend api if { path_beg /a/ }')).toBe(0)
  expect(missing('use_backend other if { path_beg /a/ }')).toBe(1)
  expect(missing('use_backend %[req.hdr(host)]')).toBe(3)
  const byName = web(['use_backend %[req.hdr(host)]'])
  expect(byName.remarks.find(({ line }) => line.text.startsWith('use_backend'))?.why).toMatch(
    /what they refuse passes/,
  )
})

it('a condition with too many alternatives closes its routes, and is named', () => {
  const acls = ['a', 'b', 'c'].flatMap(name => [
    `acl ${name} path /${name}1 /${name}2 /${name}3`,
    `acl ${name} hdr(X-${name}) 1`,
  ])
  const rule = 'http-request deny unless !a !b !c or !a !c METH_GET or !b !c METH_PUT'
  const conversion = web([...acls, rule])
  const [remark] = conversion.remarks.filter(({ line }) => line.text === rule)
  expect(remark?.why).toMatch(/more than 200 alternatives: such routes answer 403/)
  expect(answersOf(conversion)('/')).toBe(403)
})

it('a condition that many changes tell apart leads no other requests to its backend', () => {
  const paths = Array.from({ length: 31 }, (_, at) => `/p${at}`).join(' ')
  const answer = answersOf(
    web([
      `http-request set-header X-B 1 if { path_beg ${paths} }`,
      'use_backend api if { hdr(X-A) a b c d e f g }',
      'use_backend deny if { path_beg /admin }',
    ]),
  )
  expect(['/admin', '/p1', '/'].map(path => answer(path))).toEqual([403, 'app', 'app'])
  expect(answer('/p1', { fields: ['X-A: a'] })).toBe('api')
})

it('a refusal in a backend with many conditions refuses no other requests', () => {
  const values = (count: number) => Array.from({ length: count }, (_, at) => `v${at}`).join(' ')
  const conversion = web(
    [`use_backend admin if { hdr(X-A) ${values(20)} }`],
    `backend admin\n http-request deny if { hdr(X-B) ${values(11)} }\n server s 10.0.0.9:80\n`,
  )
  const answer = answersOf(conversion)
  const of = (...fields: string[]) => answer('/', { fields })
  expect([of(), of('X-A: v1'), of('X-A: v1', 'X-B: v1'), of('X-B: v1')]).toEqual(['app', 'admin', 403, 'app'])
})

it.each([
  ['use_backend deny if', 403],
  ['use_backend deny unless', 403],
  ['http-request deny unless', 403],
  ['use_backend api if', 'app'],
  ['use_backend api unless', 'app'],
])('a condition with too many alternatives is named as a whole: %s', (rule, gets) => {
  const of = (header: string) =>
    `{ hdr(${header}) ${Array.from({ length: 8 }, (_, at) => `v${at}`).join(' ')} }`
  const conversion = web([
    `${rule} ${of('X-A')} ${of('X-B')} ${of('X-C')} ${of('X-D')} or { path_beg /a/ } { hdr_cnt(X-A) 0 }`,
  ])
  expect(answersOf(conversion)('/x')).toBe(gets)
  expect(conversion.remarks.find(({ line }) => line.text.startsWith(rule))).toMatchObject({
    outcome: 'missing',
    why:
      gets === 403
        ? 'a condition with more than 200 alternatives: such routes answer 403 until they have a guard'
        : 'no counterpart: a condition with more than 200 alternatives',
  })
})

it('a refusal of connections comes before the answer of monitor-uri', () => {
  for (const kind of ['connection', 'session', 'content']) {
    const answer = answersOf(
      web(['monitor-uri /x', `tcp-request ${kind} reject unless { src 10.0.0.1 }`, 'http-request deny']),
    )
    expect(['10.0.0.1', '10.0.0.2'].map(client => answer('/x', { client }))).toEqual([200, 403])
  }
})

it('a change of paths below another path concerns no request for the root', () => {
  const conversion = web(
    ['use_backend two if { path / }'],
    'backend two\n http-request replace-path /a/(.*) /\\1\n server s 10.0.0.9:80\n',
  )
  const answer = answersOf(conversion)
  expect(['/', '/a/x'].map(path => answer(path))).toEqual(['two', 'app'])
})

it('a change of one header under a condition with -m changes no other header', () => {
  const conversion = web([
    'http-request set-header X-B own if { var(req.no) -m found }',
    'http-request deny unless { hdr(X-A) 1 }',
  ])
  const answer = answersOf(conversion)
  expect([answer('/', { fields: ['X-A: 1'] }), answer('/')]).toEqual(['app', 403])
})
