import { describe, expect, it } from 'vitest'
import { AMBIGUOUS_PATH, NO_ROUTE, RouteTable } from '../../../src/proxy/routes/table.js'
import { collectGarbage } from '../../processes/garbage.js'

function table(...routes: [host: string, path: string][]): RouteTable<string> {
  const built = new RouteTable<string>()
  for (const [host, path] of routes) built.put({ origin: 'file', host, path }, `${host}${path}`)
  return built
}

describe('a lookup', () => {
  const routes = table(
    ['example.com', '/'],
    ['example.com', '/api'],
    ['example.com', '/api/v1/users'],
    ['*.example.com', '/'],
    ['*.deep.example.com', '/'],
    ['*', '/'],
    ['*', '/health'],
  )

  it.each([
    ['example.com', '/', 'example.com/'],
    ['example.com', '/x/y', 'example.com/'],
    ['example.com', '/api', 'example.com/api'],
    ['example.com', '/api/', 'example.com/api'],
    ['example.com', '/api?x', 'example.com/api'],
    ['example.com', '/apis', 'example.com/'],
    ['example.com', '/API', 'example.com/'],
    ['example.com', '/api/v1', 'example.com/api'],
    ['example.com', '/api/v1/users/7', 'example.com/api/v1/users'],
    ['EXAMPLE.com.:8080', '/api', 'example.com/api'],
    ['a.example.com', '/', '*.example.com/'],
    ['a.b.example.com', '/', '*.example.com/'],
    ['deep.example.com', '/', '*.example.com/'],
    ['a.deep.example.com', '/', '*.deep.example.com/'],
    ['notexample.com', '/', '*/'],
    ['.example.com', '/', '*/'],
    ['', '/', '*/'],
    ['example.org', '/health/x', '*/health'],
    ['example.org', '*', '*/'],
  ])('of %s %s finds %s', (host, target, expected) => {
    expect(routes.lookup(host, target)).toBe(expected)
  })

  it('has no part of a route whose conditions are not known', () => {
    const known = table()
    const unknown = { origin: 'file', host: 'a.example.com', path: '/a?time=noon' } as const
    expect(() => known.put(unknown, 'x')).toThrow(/does not know the conditions/)
    expect([known.size, known.lookup('a.example.com', '/a')]).toEqual([0, NO_ROUTE])
  })

  it('takes the most specific host that has a path for it', () => {
    const partial = table(['a.example.com', '/a'], ['*.example.com', '/b'], ['*', '/c'])
    const found = ['/a', '/b', '/c', '/d'].map(path => partial.lookup('a.example.com', path))
    expect(found).toEqual(['a.example.com/a', '*.example.com/b', '*/c', NO_ROUTE])
  })

  it.each([
    '/admin%2fusers',
    '/admin%5Cusers',
    '/%2fadmin',
    '/admin%3bx',
    '/%2561dmin',
    '/admin%252fx',
    '/a%2f..%2fadmin',
  ])('of %s is refused where a server may take it for a path of another route', path => {
    const guarded = table(['*', '/'], ['*', '/admin'])
    expect(guarded.lookup('a', path)).toBe(AMBIGUOUS_PATH)
    expect(table(['*', '/admin']).lookup('a', path)).toBe(AMBIGUOUS_PATH)
  })

  it.each(['/api/group%2fproject', '/api/100%25', '/api/a%3bb', '/api/a%252Fb', '/x%2fy', '/caf%C3%A9'])(
    'of %s finds what all readings have',
    path => {
      const found = path.startsWith('/api') ? '*/api' : '*/'
      expect(table(['*', '/'], ['*', '/api'], ['*', '/admin']).lookup('a', path)).toBe(found)
    },
  )

  it('refuses a path that servers disagree about, whatever the routes are', () => {
    const paths = [
      '/../api',
      '/api/..;/x',
      '/api/%2e%2e/',
      '/x/..%2fapi',
      '/x\\api',
      'http://example.com/api',
    ]
    for (const path of paths) {
      expect(routes.lookup('example.com', path), path).toBe(AMBIGUOUS_PATH)
      expect(new RouteTable().lookup('example.com', path), path).toBe(AMBIGUOUS_PATH)
    }
  })

  it('cannot be led past a route by another spelling', () => {
    for (const path of ['/%61pi', '//api', '/api;x', '/api;x/y', '/ap%69/', '/;/api']) {
      expect(routes.lookup('example.com', path), path).toBe('example.com/api')
    }
  })

  it('of an empty table finds nothing', () => {
    expect(new RouteTable().lookup('example.com', '/')).toBe(NO_ROUTE)
  })

  it('of a hostile host or path is soon over', () => {
    const long = 100_000
    const hosts = ['a.'.repeat(long), '.'.repeat(long), 'a.'.repeat(126)]
    const paths = ['/a'.repeat(long), `/${'%41'.repeat(long)}`, '/;'.repeat(long), '/.a'.repeat(long)]
    // CPU time, because other processes do not matter: 0.3 s. A step for each pair of characters makes it a hundred times as long.
    const before = process.cpuUsage()
    for (const host of hosts) for (const path of paths) routes.lookup(host, path)
    const { user, system } = process.cpuUsage(before)
    expect((user + system) / 1e6).toBeLessThan(5)
  })
})

describe('a path with *', () => {
  const routes = table(
    ['*', '/'],
    ['*', '/users'],
    ['*', '/users/me'],
    ['*', '/users/*/orders'],
    ['*', '/users/*/orders/*'],
    ['*', '/users/me/*'],
    ['*', '/*/me/orders'],
    ['a', '/*'],
  )

  it.each([
    ['/users/7', '/users'],
    ['/users/', '/users'],
    ['/users/7/orders', '/users/*/orders'],
    ['/users//7/orders/', '/users/*/orders'],
    ['/users/*/orders', '/users/*/orders'],
    ['/users/7/orders/8/items', '/users/*/orders/*'],
    ['/users/me', '/users/me'],
    // The first different segment decides.
    ['/users/me/orders', '/users/me/*'],
    ['/users/me/orders/8', '/users/*/orders/*'],
    ['/guests/me/orders', '/*/me/orders'],
    ['/%2A/me', '/'],
  ])('takes one segment of %s: finds %s', (target, expected) => {
    expect(routes.lookup('b', target)).toBe(`*${expected}`)
  })

  it('belongs to its host', () => {
    expect([routes.lookup('a', '/'), routes.lookup('a', '/users/7/orders')]).toEqual(['*/', 'a/*'])
  })

  it.each(['/users/7%2f8/orders', '/users/%2f/orders', '/users/7/orders%2f8'])(
    'refuses %s, which servers read as paths of different routes',
    target => expect(routes.lookup('b', target)).toBe(AMBIGUOUS_PATH),
  )

  it('no longer counts when all such routes are gone', () => {
    const changed = table(['*', '/'], ['*', '/*/x'])
    changed.delete({ origin: 'file', host: '*', path: '/*/x' })
    expect(changed.lookup('a', '/b/x')).toBe('*/')
    changed.put({ origin: 'file', host: '*', path: '/*/x' }, 'again')
    expect(changed.lookup('a', '/b/x')).toBe('again')
    changed.clear()
    expect(changed.lookup('a', '/b/x')).toBe(NO_ROUTE)
  })

  it('costs a look-up for each of its segments, also among 10,000 of them and hostile paths', () => {
    const many = table(['*', '/'])
    for (let i = 0; i < 10_000; i++) {
      const [even, star] = [i % 2 === 0, i % 3 === 0]
      const path = `/${even ? '*' : `a${i % 50}`}/b${i % 100}/${star ? '*' : 'c'}/d${i}`
      many.put({ origin: 'file', host: '*', path }, path)
    }
    const worst = table(...Array.from({ length: 256 }, (_, bits): [string, string] => ['*', pathOf(bits)]))
    const before = process.cpuUsage()
    for (let i = 0; i < 20_000; i++) many.lookup('a', `/a${i % 50}/b${i % 100}/c/d${i % 10_000}/e`)
    for (let i = 0; i < 100; i++) worst.lookup('a', '/a'.repeat(4_000))
    const { user, system } = process.cpuUsage(before)
    // 0.1 s. A look at all routes for each request takes more than a minute.
    expect((user + system) / 1e6).toBeLessThan(5)
  })

  /** One of all paths of eight segments that are `a` or `*`. */
  function pathOf(bits: number): string {
    return Array.from({ length: 8 }, (_, at) => ((bits >> at) % 2 === 0 ? '/a' : '/*')).join('')
  }
})

describe('a change', () => {
  it('shows in the next lookup', () => {
    const routes = table(['a', '/x/y'])
    expect(routes.lookup('a', '/x')).toBe(NO_ROUTE)
    routes.put({ origin: 'file', host: 'a', path: '/x' }, 'new')
    expect([routes.lookup('a', '/x'), routes.lookup('a', '/x/y')]).toEqual(['new', 'a/x/y'])
    expect(routes.delete({ origin: 'file', host: 'a', path: '/x/y' })).toBe(true)
    expect(routes.delete({ origin: 'file', host: 'a', path: '/x/y' })).toBe(false)
    expect(routes.lookup('a', '/x/y')).toBe('new')
    expect(routes.size).toBe(1)
  })

  it('of a missing host, path or origin changes nothing', () => {
    const routes = table(['a', '/x/y'])
    const missing = [
      { origin: 'file', host: 'b', path: '/x/y' },
      { origin: 'file', host: '*.b', path: '/' },
      { origin: 'file', host: '*', path: '/' },
      { origin: 'file', host: 'a', path: '/x' },
      { origin: 'file', host: 'a', path: '/x/y/z' },
      { origin: 'runtime', host: 'a', path: '/x/y' },
    ] as const
    expect(missing.map(id => routes.delete(id))).toEqual(missing.map(() => false))
    expect(routes.lookup('a', '/x/y')).toBe('a/x/y')
  })

  it('made at run time is in force until it is removed, whichever came first', () => {
    const file = { origin: 'file', host: 'a', path: '/x' } as const
    const runtime = { ...file, origin: 'runtime' } as const
    const both: ((routes: RouteTable<string>) => void)[] = [
      routes => routes.put(file, 'file'),
      routes => routes.put(runtime, 'runtime'),
    ]
    for (const order of [both, both.toReversed()]) {
      const routes = new RouteTable<string>()
      for (const put of order) put(routes)
      expect([routes.lookup('a', '/x'), routes.size, routes.shadowed]).toEqual(['runtime', 1, 1])
      routes.put(file, 'newer file')
      expect(routes.lookup('a', '/x')).toBe('runtime')
      routes.delete(runtime)
      expect([routes.lookup('a', '/x'), routes.size, routes.shadowed]).toEqual(['newer file', 1, 0])
      routes.put(runtime, 'again')
      routes.delete(file)
      expect([routes.lookup('a', '/x'), routes.shadowed]).toEqual(['again', 0])
      routes.delete(runtime)
      expect([routes.lookup('a', '/x'), routes.size]).toEqual([NO_ROUTE, 0])
    }
  })
})

describe('many routes', () => {
  it('has the source between the file and commands, in any order of puts and deletes', () => {
    const origins = ['file', 'source', 'runtime'] as const
    const id = (origin: (typeof origins)[number]) => ({ origin, host: 'a', path: '/x' })
    const orders = [
      [0, 1, 2],
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0],
    ].map(order => order.map(at => origins[at]!))
    for (const puts of orders)
      for (const deletes of orders) {
        const routes = new RouteTable<string>()
        const present = new Set<string>()
        const check = () => {
          const top = origins.findLast(origin => present.has(origin))
          expect([routes.lookup('a', '/x'), routes.shadowed]).toEqual([
            top ?? NO_ROUTE,
            Math.max(0, present.size - 1),
          ])
        }
        for (const origin of puts) {
          routes.put(id(origin), origin)
          present.add(origin)
          check()
        }
        for (const origin of deletes) {
          expect(routes.delete(id(origin))).toBe(true)
          present.delete(origin)
          check()
        }
        expect(routes.size).toBe(0)
      }
  })

  it('below one path are all found, and all can be removed', () => {
    const routes = new RouteTable<number>()
    const id = (i: number) => ({ origin: 'runtime', host: 'a', path: `/p/${i}/q` }) as const
    for (let i = 0; i < 3000; i++) routes.put(id(i), i + 1)
    for (let i = 0; i < 3000; i++) expect(routes.lookup('a', `/p/${i}/q/r`)).toBe(i + 1)
    expect(routes.lookup('a', '/p/3000/q')).toBe(NO_ROUTE)
    for (let i = 0; i < 3000; i++) routes.delete(id(i))
    expect([routes.size, routes.lookup('a', '/p/1/q')]).toEqual([0, NO_ROUTE])
  })

  it('leave no memory behind when they are removed', () => {
    const routes = table(['*', '/'])
    const id = (round: number, i: number) =>
      ({ origin: 'runtime', host: i % 2 ? `h${round}-${i}` : 'one', path: `/p${round}-${i}/q/r` }) as const
    const churn = (round: number) => {
      for (let i = 0; i < 5000; i++) routes.put(id(round, i), 'x')
      for (let i = 0; i < 5000; i++) routes.delete(id(round, i))
      collectGarbage()
      return process.memoryUsage().heapUsed
    }
    churn(0)
    const before = churn(1)
    for (let round = 2; round < 12; round++) churn(round)
    // 50,000 routes came and went; if their nodes stayed it would be above 5 MB.
    expect(churn(12) - before).toBeLessThan(1_000_000)
  })
})
