import { expect, it } from 'vitest'
import { convert } from '../../../src/convert/convert.js'
import { answersOf } from '../../convert-support/answers.js'

const from = (text: string) =>
  convert(text, { file: 'sozu.toml', language: 'sozu', service: 'edge', included: () => [] })

it('clusters become upstreams, their frontends routes, and tcp ones listeners that forward', () => {
  const { document, counts, yaml } = from(`
worker_count = 2
saved_state = "./state.json"
[[listeners]]
protocol = "http"
address = "0.0.0.0:8080"
[[listeners]]
protocol = "https"
address = "0.0.0.0:8443"
tls_versions = ["TLS_V13"]
[clusters.shop]
protocol = "http"
https_redirect = true
sticky_session = true
load_balancing = "POWER_OF_TWO"
frontends = [
  { address = "0.0.0.0:8080", hostname = "shop.test" },
  { address = "0.0.0.0:8443", hostname = "shop.test", path = "/api", method = "GET", certificate = "/c.pem", key = "/k.pem" },
  { address = "0.0.0.0:8443", hostname = "shop.test", path = "^/a[0-9]+$", path_type = "REGEX" },
]
backends = [{ address = "127.0.0.1:1026", weight = 5 }, { address = "127.0.0.1:1027", backup = true }]
[clusters.db]
protocol = "tcp"
send_proxy = true
frontends = [{ address = "0.0.0.0:5432" }]
backends = [{ address = "127.0.0.1:5433" }]
`)
  expect(document).toEqual({
    service: 'edge',
    workers: 2,
    listeners: [
      { name: 'port-8080', address: 'tcp://*:8080' },
      { name: 'port-8443', address: 'tcp://*:8443', tls: true },
      { name: 'port-5432', address: 'tcp://*:5432', forward: 'db' },
    ],
    upstreams: {
      shop: {
        servers: [
          { address: 'http://127.0.0.1:1026', weight: 5 },
          { address: 'http://127.0.0.1:1027', backup: true },
        ],
        balance: 'two-choices',
        sticky: { cookie: 'SOZUBALANCEID' },
      },
      db: { servers: ['tcp://127.0.0.1:5433'], proxyProtocol: 'v2' },
    },
    routes: [
      {
        host: 'shop.test',
        listener: 'port-8080',
        respond: { status: 301, headers: { Location: 'https://$host$request_uri' } },
      },
      { host: 'shop.test', listener: 'port-8443', when: ['method=GET', 'path=/api*'], upstream: 'shop' },
    ],
    tls: { certificates: [{ cert: '/c.pem', key: '/k.pem', names: ['shop.test'] }], minVersion: 'TLSv1.3' },
  })
  expect(counts.missing).toBe(1)
  expect(yaml).toContain('clusters.shop.frontends[2]')
})

it('applications are clusters, and tables without a counterpart are named', () => {
  const { document, counts } = from(`
[[listeners]]
protocol = "https"
address = "0.0.0.0:443"
tls_versions = ["TLSv1.3"]
[routers]
name = "own"
[applications.git]
protocol = "http"
frontends = [{ address = "0.0.0.0:443", hostname = "git.test", certificate = "/c.pem", key = "/k.pem", certificate_chain = "/i.pem" }]
backends = [{ address = "127.0.0.1:3000" }]
`)
  expect(document).toMatchObject({
    routes: [{ host: 'git.test', upstream: 'git' }],
    tls: { minVersion: 'TLSv1.3' },
  })
  expect(counts).toMatchObject({ near: 1, missing: 1 })
})

it('a mistake is named with its line', () => {
  expect(() => from('[[listeners]]\naddress = ')).toThrow(
    expect.objectContaining({ code: 'ERR_FDB_CONFIG', message: expect.stringMatching(/^sozu\.toml:2: /) }),
  )
})

it('a backend that is given twice has one entry', () => {
  const { document } = from(`
[clusters.shop]
protocol = "http"
frontends = [{ address = "0.0.0.0:8080", hostname = "a.test" }]
backends = [{ address = "127.0.0.1:1026", backup = true }, { address = "127.0.0.1:1026" }]
`)
  expect(document.upstreams).toEqual({ shop: { servers: ['http://127.0.0.1:1026'] } })
})

const places = (frontends: readonly string[], more = '') =>
  from(
    `[[listeners]]\nprotocol = "http"\naddress = "0.0.0.0:80"\n${more}${frontends
      .map(
        (each, at) =>
          `[clusters.c${at}]\nprotocol = "http"\nfrontends = [{ address = "0.0.0.0:80", hostname = "a", ${each} }]\nbackends = [{ address = "127.0.0.1:1" }]\n`,
      )
      .join('')}`,
  )

it('expressions and whole paths come before the longest begin', () => {
  const conversion = places([
    'path = "/"',
    'path = "/api/v1"',
    'path = "/.*\\\\.php", path_type = "REGEX"',
    'path = "/api/v1/x", path_type = "EQUALS"',
  ])
  const answers = answersOf(conversion)
  const paths = ['/x', '/api/v1', '/api/v1/y', '/api/v1/a.php', '/api/v1/x', '/api/v1/x/', '/api/v1/x/y']
  expect(paths.map(path => answers(path))).toEqual(['c0', 'c1', 'c1', 'c2', 'c3', 'c1', 'c1'])
  expect(conversion.counts.missing).toBe(0)
})

it('an expression without a counterpart is named, or refuses more paths if it refuses', () => {
  const open = places(['path = "/"', 'path = "^/u/[0-9]+$", path_type = "REGEX"'])
  expect([answersOf(open)('/u/7'), open.counts.missing]).toEqual(['c0', 1])
  const guarded = places(['path = "/"', 'path = "^/u/[0-9]+$", path_type = "REGEX", required_auth = true'])
  const answers = answersOf(guarded)
  expect(['/u/7', '/u/x', '/v'].map(path => answers(path))).toEqual([403, 403, 'c0'])
})

it('begins of paths are compared as sozu does, not by segments', () => {
  const answers = answersOf(places(['path = "/", required_auth = true', 'path = "/a/"', 'path = "/b"']))
  expect(['/a', '/a/', '/a/x', '/b', '/bx', '/x'].map(path => answers(path))).toEqual([
    403,
    'c1',
    'c1',
    'c2',
    'c2',
    403,
  ])
})

it('an expression takes whole paths, unless it refuses, and leaves queries out', () => {
  const answers = answersOf(
    places([
      'path = "/", required_auth = true',
      'path = "/pub(\\\\?.*)?", path_type = "REGEX"',
      'path = "/bar", path_type = "REGEX"',
    ]),
  )
  expect(['/pub', '/pub?x', '/x/pub', '/pubx', '/bar', '/bars'].map(path => answers(path))).toEqual([
    'c1',
    'c1',
    403,
    403,
    'c2',
    403,
  ])
  const guarded = answersOf(
    places(['path = "/"', 'path = "/a\\\\?x", path_type = "REGEX", required_auth = true']),
  )
  expect([guarded('/a?x'), guarded('/b')]).toEqual([403, 403])
  const within = answersOf(places(['path = "/"', 'path = "bar", path_type = "REGEX", required_auth = true']))
  expect([within('/x/bars'), within('/b')]).toEqual([403, 'c0'])
})

it('of equal paths the refusal comes first: clusters have no order', () => {
  const equal = answersOf(places(['path = "/a", method = "GET"', 'path = "/a", required_auth = true']))
  expect([equal('/a'), equal('/ax'), equal('/a', { method: 'POST' })]).toEqual([403, 403, 403])
  const whole = answersOf(
    places(['path = "/a", path_type = "EQUALS"', 'path = "/a", redirect = "unauthorized"']),
  )
  expect([whole('/a'), whole('/a/x')]).toEqual([403, 403])
})

const frontends = (...all: readonly string[]) =>
  from(
    `[[listeners]]\nprotocol = "http"\naddress = "0.0.0.0:80"\n${all
      .map(
        (each, at) =>
          `[clusters.c${at}]\nprotocol = "http"\nfrontends = [{ address = "0.0.0.0:80", ${each} }]\nbackends = [{ address = "127.0.0.1:1" }]\n`,
      )
      .join('')}`,
  )
const nearOf = ({ remarks }: ReturnType<typeof from>) =>
  remarks.filter(({ outcome }) => outcome !== 'said' && outcome !== 'own').map(({ why }) => why)

it('positions before and behind the tree of names count', () => {
  const conversion = frontends(
    'hostname = "a.test", path = "/"',
    'hostname = "*", path = "/admin", position = "PRE", redirect = "UNAUTHORIZED"',
    'hostname = "*", position = "POST"',
  )
  const answers = answersOf(conversion)
  const asked = [
    ['a.test', '/x'],
    ['a.test', '/admin'],
    ['b.test', '/admin'],
    ['b.test', '/x'],
  ] as const
  expect(asked.map(([host, path]) => answers(path, { host }))).toEqual(['c0', 403, 403, 'c2'])
})

it('names of more labels, and paths with queries, that sozu does not take are named', () => {
  expect(nearOf(frontends('hostname = "*.b.test", path = "/a", path_type = "EQUALS"'))).toEqual([
    'also for names of more labels, also with a query',
  ])
  expect(nearOf(frontends('hostname = "*"'))).toEqual(['for all names, not only those of one label'])
})

it('redirects answer, and policies that are not known close their routes', () => {
  const { document } = frontends(
    'hostname = "a", redirect = "permanent", redirect_scheme = "use-https"',
    'hostname = "b", redirect = "other"',
    'hostname = "c", redirect = "forward"',
  )
  expect(document.routes).toEqual([
    {
      host: 'a',
      listener: 'http',
      respond: { status: 301, headers: { Location: 'https://$host$request_uri' } },
    },
    { host: 'b', listener: 'http', respond: { status: 403 } },
    { host: 'c', listener: 'http', upstream: 'c2' },
  ])
})

it('conditions on headers come first, and a route is left out without one that cannot be said', () => {
  const predicate = (...all: string[]) => `header_predicates = [${all.map(each => `{ ${each} }`).join(', ')}]`
  const exact = predicate('name = "X-A", match = "exact", value = "1"', 'name = "X-B", match = "present"')
  const regex = predicate('name = "X-A", match = "regex", value = "1+"')
  const answers = answersOf(
    frontends('hostname = "a", path = "/a/b", path_type = "EQUALS"', `hostname = "a", ${exact}`),
  )
  expect(answers('/a/b', { fields: ['X-A: 1', 'X-B: 2'] })).toBe('c1')
  expect(answers('/a/b', { fields: ['X-A: 1'] })).toBe('c0')
  const left = frontends('hostname = "a", required_auth = true', `hostname = "a", path = "/a", ${regex}`)
  expect([answersOf(left)('/a'), nearOf(left)]).toEqual([
    403,
    ['no counterpart', 'no condition says it: the route is left out'],
  ])
  const guarded = frontends('hostname = "a"', `hostname = "a", path = "/a", required_auth = true, ${regex}`)
  expect(answersOf(guarded)('/a')).toBe(403)
})

it('a begin that refuses refuses names that begin so, too', () => {
  const conversion = places(['path = "/"', 'path = "/admin", required_auth = true'])
  const answers = answersOf(conversion)
  expect(['/admin', '/admin/x', '/adminx', '/x'].map(path => answers(path))).toEqual([403, 403, 403, 'c0'])
})
