import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { RouteDraft } from '../../src/convert/draft.js'
import { routesInOrder } from '../../src/convert/order.js'
import { RequestReader } from '../../src/http1/index.js'
import { configFrom, type ProxyDocument } from '../../src/proxy/index.js'
import { RouteTable } from '../../src/proxy/routes/table.js'

const HOSTS = ['*', 'a.x', 'b.x', '*.x', 'y']
const PATHS = ['/', '/p', '/p/q', '/r', '/*', '/p/*', '/*/q']
const CONDITIONS = [
  ...['header:h', 'header:h=1', 'header:h=1*', 'header:h=12*', 'cookie:c=1', 'cookie:c=1*'],
  ...['method=GET', 'method=GET|POST', 'method=PUT', 'method=POST|PUT'],
  ...[
    '!header:h',
    '!header:h=1',
    '!header:h=2*',
    '!cookie:c=1',
    '!cookie:c',
    '!method=GET',
    '!method=GET|PUT',
  ],
]
const ADDRESSES = [
  'address=10.0.0.0/8',
  'address=10.1.0.0/16|::1',
  'address=10.1.2.3|::/120',
  '!address=10.1.0.0/16',
]
const PATTERNS = [
  'path=*q',
  'path=/p*',
  'path=/p/q',
  'path=*/',
  'ipath=*/S',
  '!path=*/q',
  '!path=/p/*',
  'path=*',
]
const LISTENERS = ['one', 'two']

/** The clients of each network. */
const NETWORKS: Readonly<Record<string, readonly string[]>> = {
  '10.0.0.0/8': ['10.1.2.3', '10.1.9.9', '10.9.9.9'],
  '10.1.0.0/16': ['10.1.2.3', '10.1.9.9'],
  '10.1.2.3': ['10.1.2.3'],
  '::1': ['::1'],
  '::/120': ['::1'],
}

interface Asked {
  readonly host: string
  readonly path: string
  readonly listener: string
  readonly method: string
  readonly h: string | null
  readonly c: string | null
  readonly client: string
}

/** The first rule that matches, as another server finds it. */
function firstOf(
  rules: readonly RouteDraft[],
  { host, path: sent, listener, method, h, c, client }: Asked,
): string | null {
  const path = sent.replace(/(.)\/$/, '$1')
  const holds = (when: string): boolean => {
    if (when.startsWith('!')) return !holds(when.slice(1))
    const [about = '', wanted] = when.split('=')
    if (about === 'method') return wanted!.split('|').includes(method)
    if (about === 'address') return wanted!.split('|').some(each => NETWORKS[each]!.includes(client))
    if (about === 'path' || about === 'ipath') {
      const pattern = wanted!.replaceAll('*', '.*')
      const matches = new RegExp(`^${pattern}$`, about === 'path' ? '' : 'i')
      return (wanted!.endsWith('/') ? [sent] : [path, sent]).some(text => matches.test(text))
    }
    const found = about === 'header:h' ? h : c
    if (found === null || wanted === undefined) return found !== null
    return wanted.endsWith('*') ? found.startsWith(wanted.slice(0, -1)) : found === wanted
  }
  const isBelow = (begin: string) => {
    const segments = path.split('/')
    return (
      begin === '/' ||
      begin.split('/').every((each, at) => each === segments[at] || (each === '*' && segments[at]))
    )
  }
  const rule = rules.find(
    each =>
      (each.listener === undefined || each.listener === listener) &&
      (each.host === '*' ||
        each.host === host ||
        (each.host.startsWith('*.') && host.endsWith(each.host.slice(1)))) &&
      isBelow(each.path) &&
      each.when.every(holds),
  )
  return rule === undefined ? null : String(rule.action.upstream)
}

/** The upstream that the proxy takes. */
function tableOf(routes: readonly RouteDraft[]): (asked: Asked) => string | null {
  const document = {
    service: 's',
    listeners: LISTENERS.map((name, at) => ({ name, address: `tcp://127.0.0.1:${9_000 + at}` })),
    upstreams: Object.fromEntries(
      routes.map(({ action }) => [action.upstream, { servers: ['http://127.0.0.1:1'] }]),
    ),
    routes: routes.map(({ action, when, ...match }) => ({
      ...match,
      ...(when.length > 0 && { when }),
      ...action,
    })),
  }
  const table = new RouteTable<{ upstream: string }>()
  for (const { host, path, target } of configFrom(document as ProxyDocument).routes)
    table.put({ origin: 'file', host, path }, target as never)
  return ({ host, path, listener, method, h, c, client }) => {
    const fields = [
      `Host: ${host}`,
      ...(h === null ? [] : [`H: ${h}`]),
      ...(c === null ? [] : [`Cookie: c=${c}`]),
    ]
    const bytes = Buffer.from(`${[`${method} ${path} HTTP/1.1`, ...fields].join('\r\n')}\r\n\r\n`)
    const found = table.lookup(
      host,
      path,
      listener,
      new RequestReader().read(bytes, 0, bytes.length)!,
      client,
    )
    return typeof found === 'symbol' ? null : found.upstream
  }
}

it('routes lead each request to the rule that is first, whatever the order of the rules', () => {
  const rule = fc.record({
    listener: fc.option(fc.constantFrom(...LISTENERS), { nil: undefined, freq: 3 }),
    host: fc.constantFrom(...HOSTS),
    path: fc.constantFrom(...PATHS),
    when: fc
      .uniqueArray(fc.constantFrom(...CONDITIONS, ...ADDRESSES, ...PATTERNS), { maxLength: 3 })
      .map(all => all.sort()),
    action: fc.integer({ min: 0, max: 3 }).map(number => ({ upstream: `u${number}` })),
  })
  const asked = fc.record({
    host: fc.constantFrom('a.x', 'b.x', 'c.x', 'y', 'z'),
    path: fc.constantFrom('/', '/p', '/p/', '/p/q', '/p/q/', '/p/q/s', '/r/s', '/t', '/pq'),
    client: fc.constantFrom('10.1.2.3', '10.1.9.9', '10.9.9.9', '::1', '192.0.2.1'),
    listener: fc.constantFrom(...LISTENERS),
    method: fc.constantFrom('GET', 'POST', 'PUT'),
    h: fc.constantFrom(null, '1', '12', '2'),
    c: fc.constantFrom(null, '1', '2'),
  })
  fc.assert(
    fc.property(
      fc.array(rule, { minLength: 1, maxLength: 5 }),
      fc.array(asked, { minLength: 20, maxLength: 20 }),
      (rules, all) => {
        const plain = rules.map(({ listener, ...each }) =>
          listener === undefined ? each : { ...each, listener },
        )
        const found = tableOf(routesInOrder(plain)!)
        for (const each of all) expect([each, found(each)]).toEqual([each, firstOf(plain, each)])
      },
    ),
    { numRuns: 100 },
  )
})

it('there are no more routes than needed', () => {
  const route = (host: string, path: string, upstream: string): RouteDraft => ({
    host,
    path,
    when: [],
    action: { upstream },
  })
  // As most files have them: names first, the rest last.
  const rules = [
    route('a.x', '/', 'a'),
    route('b.x', '/', 'b'),
    route('*', '/api', 'api'),
    route('*', '/', 'rest'),
  ]
  expect(routesInOrder(rules)).toEqual(rules)
  // A rule that is never reached.
  expect(routesInOrder([route('*', '/', 'rest'), route('a.x', '/', 'a')])).toEqual([route('*', '/', 'rest')])
  // A path before a name: the name would win.
  expect(routesInOrder([route('*', '/api', 'api'), route('a.x', '/', 'a')])).toEqual([
    route('*', '/api', 'api'),
    route('a.x', '/api', 'api'),
    route('a.x', '/', 'a'),
  ])
})
