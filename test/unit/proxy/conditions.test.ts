import { describe, expect, it } from 'vitest'
import { RequestReader } from '../../../src/http1/index.js'
import { describeRoute } from '../../../src/proxy/routes/live-routes.js'
import { parseRouteKey } from '../../../src/proxy/routes/path-tree.js'
import { addRoutes } from '../../../src/proxy/routes/runtime.js'
import { AMBIGUOUS_PATH, NO_ROUTE, RouteTable } from '../../../src/proxy/routes/table.js'

/** The change that adds a route with these conditions. */
function added(conditions: readonly string[]) {
  const stamp = { created: 1, generation: 1 }
  const route = { host: '*', when: conditions, respond: {} }
  const listeners = new Set(['here', 'l', 'm'])
  const steps = addRoutes(new Map(), [route], { upstreams: new Set(), listeners, ...stamp })
  for (;;) {
    const step = steps.next()
    if (step.done) return step.value.changes[0]!
  }
}

/** Returns how the path of a route with these conditions ends. */
const named = (...conditions: string[]) => added(conditions).key.slice('runtime:*/'.length)

/** Returns the conditions of the route with this end of its path, as they are listed. */
function listed(end: string): string[] {
  const { key, ...change } = added(['method=GET'])
  const there = `${key.slice(0, key.indexOf('?'))}${end}`
  return describeRoute(new Map('value' in change ? [[there, change.value]] : []), there)!.when!
}

/** The head of a request, as the relay reads it. */
function request(line: string, ...fields: string[]) {
  const bytes = Buffer.from(`${[`${line} HTTP/1.1`, 'Host: a', ...fields].join('\r\n')}\r\n\r\n`, 'latin1')
  return new RequestReader().read(bytes, 0, bytes.length)!
}

describe('conditions', () => {
  it('have one name, whatever their order and case', () => {
    const name = named('cookie:b', 'header:X-Version=2.*', 'query:q=a/b c', 'method=PUT|GET', 'header:A')
    expect(name).toBe('?method=GET|PUT&header:a&header:x-version=2.*&query:q=a%2Fb%20c&cookie:b')
    expect(named(...listed(name).reverse())).toBe(name)
    const negated = named('!cookie:a=2', '!listener=m|l', 'cookie:a', '!cookie:a=1*', '!method=GET')
    expect(negated).toBe('?!method=GET&cookie:a&!cookie:a=1*&!cookie:a=2&!listener=l|m')
    expect(named(...listed(negated).reverse())).toBe(negated)
  })

  it('survive as a name with any characters', () => {
    const all = [
      '!header:a*!=!*',
      "header:a*!#$%&'+^`|~",
      'header:b=?/&=%41*',
      'query:a&?/%41:',
      'cookie:c==&',
    ]
    expect(listed(named(...all))).toEqual(all)
  })

  it('have several patterns of paths, but no pattern that no path has', () => {
    const name = named('path=*.php', '!path=/a/b*', 'ipath=*C%C3*', 'path=/a*', 'address=::1|10.0.0.0/8')
    expect(name).toBe(
      '?path=%2A.php&path=%2Fa%2A&!path=%2Fa%2Fb%2A&ipath=%2Ac%25C3%2A&address=10.0.0.0%2F8|%3A%3A1',
    )
    expect(named(...listed(name).reverse())).toBe(name)
    for (const wrong of [
      '',
      'a*',
      '/a//',
      '/%61',
      '/a%2Fb',
      '/a;b',
      '/a?',
      '/**',
      '/a b',
      '/../*',
      '/*'.repeat(9),
    ])
      expect(() => named(`path=${wrong}`), wrong).toThrow(/is no condition/)
    expect(() => named('path=/a', 'path=/a')).toThrow('two conditions are about')
    for (const wrong of ['', '10.0.0.0/33', 'a', '::1|']) expect(() => named(`address=${wrong}`)).toThrow()
  })

  it('of a newer version make a key unknown', () => {
    for (const text of [
      '?claim:sub=a',
      '?!claim:a',
      '?!!header:a',
      '?listener=l',
      '?header:a&claim:b',
      '?',
      '?header:%ff',
    ])
      expect(parseRouteKey(`runtime:*/api${text}`)).toBe(null)
  })

  it.each([
    ['method=GET|HEAD', 'GET /', [], true],
    ['method=GET|HEAD', 'HEAD /', [], true],
    ['method=GET|HEAD', 'POST /', [], false],
    ['header:x-a', 'GET /', ['X-A: '], true],
    ['header:x-a', 'GET /', ['X-Ab: 1'], false],
    ['header:X-A=1', 'GET /', ['x-a: 1'], true],
    ['header:X-A=1', 'GET /', ['x-a: 1', 'x-a: 2'], false],
    ['header:X-A=1, 2', 'GET /', ['x-a: 1', 'x-a: 2'], true],
    ['header:X-A=1*', 'GET /', ['x-a: 12'], true],
    ['header:X-A=1*', 'GET /', ['x-a: 21'], false],
    ['query:a', 'GET /?a', [], true],
    ['query:a', 'GET /?b=a', [], false],
    ['query:a', 'GET /a', [], false],
    ['query:a=b c', 'GET /?c&%61=b+%63', [], true],
    ['query:a=1', 'GET /?a=2&a=1', [], false],
    ['query:a=%zz', 'GET /?a=%zz', [], true],
    ['query:a=1*', 'GET http://a/?a=123', [], true],
    ['cookie:a', 'GET /', ['Cookie: b=1; a=2'], true],
    ['cookie:a=2', 'GET /', ['Cookie: b=1', 'Cookie: a=2'], true],
    ['cookie:a=2', 'GET /', ['Cookie: a=1; a=2'], false],
    ['cookie:A', 'GET /', ['Cookie: a=1'], false],
    ['!method=GET|HEAD', 'GET /', [], false],
    ['!method=GET|HEAD', 'POST /', [], true],
    ['!header:x-a', 'GET /', [], true],
    ['!header:x-a', 'GET /', ['x-a: 1'], false],
    ['!header:x-a=1', 'GET /', ['x-a: 2'], true],
    ['!header:x-a=1', 'GET /', [], true],
    ['!query:a=1*', 'GET /?a=12', [], false],
    ['!cookie:a', 'GET /', ['Cookie: b=1'], true],
    ['path=/a', 'GET /a', [], true],
    ['path=/a', 'GET /a/?b', [], true],
    ['path=/a', 'GET /a/b', [], false],
    ['path=/', 'GET /?a', [], true],
    ['path=*.php', 'GET /a/b.php?c', [], true],
    ['path=*.php', 'GET /a/b.php/', [], true],
    ['path=*.php', 'GET /b.php;v=1', [], true],
    ['path=*.php', 'GET /b%2ephp', [], true],
    ['path=*.php', 'GET /b.PHP', [], false],
    ['path=/a/', 'GET /a/?b', [], true],
    ['path=/a/', 'GET /a//', [], true],
    ['path=/a/', 'GET /a', [], false],
    ['path=/a/*', 'GET /a/', [], true],
    ['path=/a/*', 'GET /a', [], false],
    ['path=/*', 'GET /', [], true],
    ['path=*a/*', 'GET /b/a/', [], true],
    ['path=*/', 'GET /', [], true],
    ['!path=*/', 'GET /a/b;c', [], true],
    ['!path=*/', 'GET /%61/;c', [], false],
    ['ipath=*B/', 'GET /a/b/', [], true],
    ['ipath=/caf%C3%A9', 'GET /CAF%c3%a9', [], true],
    ['ipath=*.pHp', 'GET /b.PhP', [], true],
    ['path=*/.*', 'GET /a//.env', [], true],
    ['path=*/.*', 'GET /.env/b', [], true],
    ['path=*/.*', 'GET /a.env', [], false],
    ['path=/a*c*e', 'GET /ace', [], true],
    ['path=/a*c*e', 'GET /accce/ce', [], true],
    ['path=/a*ce*e', 'GET /ace', [], false],
    ['path=/a*a', 'GET /a', [], false],
    ['path=/caf%C3%A9', 'GET /caf%c3%a9', [], true],
    ['!path=/a*', 'GET /ab', [], false],
    ['!path=/a*', 'GET /b', [], true],
    ['address=10.0.0.0/8|192.0.2.7', 'GET /', [], true],
    ['address=192.0.2.0/29', 'GET /', [], true],
    ['address=192.0.2.8|::1', 'GET /', [], false],
    ['!address=192.0.2.7', 'GET /', [], false],
    ['!listener=l', 'GET /', [], true],
    ['!listener=here|l', 'GET /', [], false],
  ])('%s: %s with %j fits: %s', (condition, line, fields, expected) => {
    const routes = new RouteTable<object>()
    routes.put({ origin: 'file', host: '*', path: `/${named(condition)}` }, {})
    const head = request(line, ...fields)
    const found = routes.lookup('a', head.resource, 'here', head, '192.0.2.7') !== NO_ROUTE
    expect(found).toBe(expected)
  })
})

describe('a table with conditions', () => {
  function table(...paths: string[]): RouteTable<string> {
    const built = new RouteTable<string>()
    for (const path of paths) built.put({ origin: 'file', host: '*', path }, path)
    return built
  }
  const two = named('method=GET', 'header:a')
  const [exact, longer, begin, any] = ['cookie:c=12', 'cookie:c=12*', 'cookie:c=1*', 'cookie:c'].map(each =>
    named(each),
  )

  it('takes the most conditions, then the most exact and longest ones, then the route without, then shorter paths', () => {
    const paths = ['/', '/x', `/x${any}`, `/x${begin}`, `/x${longer}`, `/x${exact}`, `/x${two}`]
    for (const order of [paths, paths.toReversed()]) {
      const routes = table(...order)
      const found = (cookie: string, ...fields: string[]) =>
        routes.lookup('a', '/x/y', '', request('GET /x/y', `Cookie: c=${cookie}`, ...fields))
      expect(found('12', 'A: 1')).toBe(`/x${two}`)
      expect(found('12')).toBe(`/x${exact}`)
      expect(found('123')).toBe(`/x${longer}`)
      expect(found('13')).toBe(`/x${begin}`)
      expect(found('2')).toBe(`/x${any}`)
      expect(found('')).toBe('/x')
      expect(routes.size).toBe(paths.length)
      routes.delete({ origin: 'file', host: '*', path: '/x' })
      expect(found('')).toBe('/')
    }
  })

  it('takes the others before negated ones, whatever their values', () => {
    const not = named('!header:a=12345')
    const routes = table('/', `/${not}`, `/${any}`, `/${named('!header:a', '!header:b')}`)
    const found = (...fields: string[]) => routes.lookup('a', '/', '', request('GET /', ...fields))
    expect(found()).toBe('/?!header:a&!header:b')
    expect(found('B: 1')).toBe(`/${not}`)
    expect(found('B: 1', 'Cookie: c=1')).toBe(`/${any}`)
    expect(found('A: 12345')).toBe('/')
  })

  it('takes narrower networks first, and refuses a path of which servers disagree about the pattern', () => {
    const [wide, narrow, other] = ['10.0.0.0/8|192.0.2.1', '10.1.0.0/16', '2001::/16'].map(each =>
      named(`address=${each}`),
    )
    const routes = table('/', `/${wide}`, `/${narrow}`, `/${other}`, `/${named('path=*/b')}`)
    const from = (client: string, path = '/') => routes.lookup('a', path, '', request(`GET ${path}`), client)
    expect(['10.1.2.3', '10.2.0.1', '2001::1', '192.0.2.2', ''].map(each => from(each))).toEqual([
      `/${narrow}`,
      `/${wide}`,
      `/${other}`,
      '/',
      '/',
    ])
    expect([from('', '/a/b'), from('', '/a%2fb'), from('', '/a%2fc')]).toEqual([
      `/${named('path=*/b')}`,
      AMBIGUOUS_PATH,
      '/',
    ])
  })

  it('finds none for a path that names one, nor without a request', () => {
    const routes = table(`/x${any}`, `/${any}`)
    for (const path of [`/x${any}`, `/x/${any}`, `/x/${encodeURIComponent(any!)}`, `/${any}`]) {
      expect(routes.lookup('a', path, '', request('GET /'))).toBe(NO_ROUTE)
      expect(routes.lookup('a', path)).toBe(NO_ROUTE)
    }
  })

  it('lets a route made at run time override one with the same conditions, until it is removed', () => {
    const routes = table('/', `/${any}`)
    const head = request('GET /', 'Cookie: c=1')
    const id = { origin: 'runtime', host: '*', path: `/${any}` } as const
    routes.put(id, 'own')
    expect(routes.lookup('a', '/', '', head)).toBe('own')
    routes.delete(id)
    expect(routes.lookup('a', '/', '', head)).toBe(`/${any}`)
    routes.delete({ ...id, origin: 'file' })
    expect(routes.lookup('a', '/', '', head)).toBe('/')
    expect(routes.size).toBe(1)
  })

  it('refuses a path that servers disagree about where conditions would lead elsewhere', () => {
    const routes = table('/', `/admin${any}`)
    const found = (cookie: string) =>
      typeof routes.lookup('a', '/admin%2fx', '', request('GET /', `Cookie: c=${cookie}`))
    expect([found('1'), found('')]).toEqual(['symbol', 'string'])
  })

  it('prefers a route of the listener, and asks its conditions', () => {
    const routes = table('/')
    routes.put({ origin: 'file', host: 'l@*', path: `/${any}` }, 'of l')
    expect(routes.lookup('a', '/', 'l', request('GET /', 'Cookie: c=1'))).toBe('of l')
    expect(routes.lookup('a', '/', 'l', request('GET /'))).toBe('/')
    expect(routes.lookup('a', '/', 'm', request('GET /', 'Cookie: c=1'))).toBe('/')
  })
})
