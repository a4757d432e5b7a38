import { describe, expect, it } from 'vitest'
import { describeRoute } from '../../../src/proxy/routes/live-routes.js'
import { parseRouteKey, routeKey } from '../../../src/proxy/routes/path-tree.js'
import { reconcile } from '../../../src/proxy/routes/reconcile.js'
import { addRoutes, removeRoutes } from '../../../src/proxy/routes/runtime.js'
import {
  type RouteChange,
  type RouteMessage,
  routeMessage,
  routesSection,
  targetOf,
} from '../../../src/proxy/routes/section.js'
import type { RouteTarget } from '../../../src/proxy/routes/target.js'
import { runAtOnce } from '../../../src/state/time-slices.js'

const STAMP = { generation: 7, created: 1_700_000_000_000 }
const NO_LISTENERS: ReadonlySet<string> = new Set()
const app: RouteTarget = { kind: 'upstream', upstream: 'app', connect: false }
const other: RouteTarget = { kind: 'upstream', upstream: 'other', connect: true }
const answer: RouteTarget = {
  kind: 'respond',
  status: 503,
  body: 'later\n',
  headers: [['Retry-After', '30']],
}
const upstreams = new Set(['app', 'other'])

const rule = (name: string, target: RouteTarget = app) => {
  const slash = name.indexOf('/')
  return { host: name.slice(0, slash), path: name.slice(slash), target }
}
function state(entries: Record<string, RouteTarget>): Map<string, RouteMessage> {
  return new Map(Object.entries(entries).map(([key, target]) => [key, routeMessage(target, STAMP)]))
}
const listOf = (all: Map<string, RouteMessage>) =>
  [...all.keys()].map(key => describeRoute(all, key)).filter(each => each !== null)
function apply(to: Map<string, RouteMessage>, changes: Iterable<RouteChange>): void {
  for (const change of changes) {
    if ('delete' in change) to.delete(change.key)
    else to.set(change.key, change.value)
  }
}
const reconciled = (
  current: Map<string, RouteMessage>,
  routes: ReturnType<typeof rule>[],
  former = new Set<string>(),
) => runAtOnce(reconcile(current, { routes, upstreams, former }, STAMP))

describe('a key', () => {
  it('names origin, host and path', () => {
    for (const id of [
      { origin: 'file', host: '*', path: '/' },
      { origin: 'runtime', host: '*.a.com', path: '/x/y' },
      { origin: 'runtime', host: '[::1]', path: '/x:y' },
    ] as const) {
      expect(parseRouteKey(routeKey(id))).toEqual(id)
    }
  })

  it('of a kind that this version does not know is none', () => {
    expect(['tcp:a/', 'file:', 'file:/x', 'runtime:a', ''].map(parseRouteKey)).toEqual([
      null,
      null,
      null,
      null,
      null,
    ])
    expect(parseRouteKey('files:a/')).toBeNull()
  })
})

describe('a stored route', () => {
  const { codec } = routesSection

  it('comes back as it was', () => {
    for (const target of [app, other, answer, { ...answer, body: '', headers: [] }]) {
      const stored = codec.decode(codec.encode(routeMessage(target, STAMP)))
      expect(targetOf(stored)).toEqual(target)
      expect([stored.created, stored.generation]).toEqual([STAMP.created, STAMP.generation])
    }
  })

  it('with a target of a newer version is kept, not served, and not lost by a reload', () => {
    // Field 9, a message: what a later version may add beside "upstream" and "respond".
    const newer = Uint8Array.of(0x4a, 3, 0x0a, 1, 0x78)
    const stored = codec.decode(newer)
    expect(targetOf(stored)).toBeNull()
    expect([...codec.encode(stored)]).toEqual([...newer])
    const current = new Map([['runtime:a/', stored]])
    expect(reconciled(current, [])).toMatchObject({ puts: [], deletes: [], dangling: [] })
    expect(listOf(current)).toMatchObject([{ host: 'a', path: '/', target: null }])
  })
})

describe('a route that an older version changes', () => {
  const { codec } = routesSection
  /** Field 9, a target of a newer version; field 40, a text, and field 41, a number, that are none. */
  const newerTarget = [0x4a, 3, 0x0a, 1, 0x78]
  const newerFacts = [0xc2, 2, 1, 0x79, 0xc8, 2, 7]

  it('keeps what newer versions said of it, and loses its newer target', () => {
    const known = codec.encode(routeMessage(app, STAMP))
    for (const before of [known, Uint8Array.from(newerTarget)]) {
      const stored = codec.decode(Buffer.concat([before, Uint8Array.from(newerFacts)]))
      const current = new Map([['runtime:a/', stored]])
      const given = [{ host: 'a', path: '/', upstream: 'other', connect: true }]
      const { changes } = runAtOnce(
        addRoutes(current, given, { upstreams, listeners: NO_LISTENERS, replace: true, ...STAMP }),
      )
      const [change] = changes
      const value = (change as { value: RouteMessage }).value
      const bytes = [...codec.encode(value)]
      expect(bytes).toEqual([...codec.encode(routeMessage(other, STAMP)), ...newerFacts])
    }
  })

  it('does so too where the file of the older version replaces it', () => {
    const stored = codec.decode(
      Buffer.concat([codec.encode(routeMessage(app, STAMP)), Uint8Array.from(newerFacts)]),
    )
    const { puts } = reconciled(new Map([['file:a/', stored]]), [rule('a/', answer)])
    expect([...codec.encode(puts[0]!.value)]).toEqual([
      ...codec.encode(routeMessage(answer, STAMP)),
      ...newerFacts,
    ])
  })
})

describe('a stored route that cannot be read', () => {
  class Damaged extends Map<string, RouteMessage> {
    override get(key: string): RouteMessage | undefined {
      if (key.includes('bad')) throw new Error(`${key} cannot be decoded`)
      return super.get(key)
    }
  }
  const damaged = () => new Damaged(state({ 'file:bad/': app, 'runtime:bad/x': app, 'runtime:r/': app }))

  it('keeps no file from being used, which replaces its own', () => {
    expect(reconciled(damaged(), [rule('bad/'), rule('a/')])).toMatchObject({
      puts: [{ key: 'file:bad/' }, { key: 'file:a/' }],
      deletes: [],
      unchanged: 0,
    })
    expect(reconciled(damaged(), [rule('a/')])).toMatchObject({ deletes: ['file:bad/'] })
  })

  it('stands in the list without a target, and may be replaced', () => {
    expect(listOf(damaged()).map(({ host, path, target }) => [`${host}${path}`, target])).toEqual([
      ['bad/', null],
      ['bad/x', null],
      ['r/', app],
    ])
    const given = [{ host: 'bad', path: '/x', upstream: 'other', connect: true }]
    const { changes, added } = runAtOnce(
      addRoutes(damaged(), given, { ...STAMP, upstreams, listeners: NO_LISTENERS }),
    )
    expect([added, changes.map(({ key }) => key)]).toEqual([1, ['runtime:bad/x']])
  })
})

describe('a new file', () => {
  it('replaces the routes of the file before and leaves those made at run time', () => {
    const current = state({
      'file:a/': app,
      'file:b/': app,
      'file:gone/': app,
      'runtime:r/x': other,
      'future:z/': app,
    })
    const result = reconciled(current, [rule('a/'), rule('b/', answer), rule('new/')])
    expect(result).toMatchObject({
      puts: [{ key: 'file:b/' }, { key: 'file:new/' }],
      deletes: ['file:gone/'],
      unchanged: 1,
      conflicts: [],
      dangling: [],
    })
    apply(current, result.puts)
    for (const key of result.deletes) current.delete(key)
    expect([...current.keys()].sort()).toEqual([
      'file:a/',
      'file:b/',
      'file:new/',
      'future:z/',
      'runtime:r/x',
    ])
    expect(reconciled(current, [rule('a/'), rule('b/', answer), rule('new/')])).toMatchObject({
      puts: [],
      deletes: [],
      unchanged: 3,
    })
  })

  it('with a route that was made at run time too is a conflict by name; both are kept, the latter in force', () => {
    const current = state({ 'runtime:a/x': answer })
    const result = reconciled(current, [rule('a/x'), rule('a/')])
    expect(result.conflicts).toEqual(['a/x'])
    apply(current, result.puts)
    for (const key of result.deletes) current.delete(key)
    const listed = listOf(current).map(({ host, path, origin, shadowed }) => [host + path, origin, shadowed])
    expect(listed).toEqual([
      ['a/x', 'runtime', false],
      ['a/x', 'file', true],
      ['a/', 'file', false],
    ])
    expect(reconciled(current, [rule('a/x'), rule('a/')]).conflicts).toEqual(['a/x'])
  })

  it('without the upstream of a route made at run time names that route', () => {
    const current = state({
      'runtime:a/x': { ...app, upstream: 'old' },
      'runtime:a/y': answer,
      'runtime:a/z': other,
    })
    expect(reconciled(current, []).dangling).toEqual(['a/x'])
    const needed = new Set(['old'])
    const former = new Set(['old', 'older'])
    expect(reconciled(current, [], former)).toMatchObject({ former: ['a/x'], needed, dangling: [] })
  })

  it('without the upstream of a service of authorization names the routes that ask it', () => {
    const forwardAuth = {
      upstream: 'old',
      path: '/',
      timeout: 1,
      requestHeaders: null,
      responseHeaders: [],
    }
    const current = state({
      'runtime:a/x': { ...answer, forwardAuth },
      'runtime:a/y': { ...app, upstream: 'gone', forwardAuth },
    })
    const needed = new Set(['old', 'gone'])
    const former = new Set(['old'])
    expect(reconciled(current, [], former)).toMatchObject({ former: ['a/x'], needed, dangling: ['a/y'] })
  })

  it('takes effect in slices', () => {
    const current = state(Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`file:h${i}/`, app])))
    let steps = 0
    const work = reconcile(current, { routes: [rule('a/')], upstreams, former: new Set() }, STAMP)
    while (!work.next().done) steps++
    expect(steps).toBeGreaterThan(20)
  })
})

describe('routes at run time', () => {
  const add = (current: Map<string, RouteMessage>, given: unknown, replace = false) =>
    runAtOnce(addRoutes(current, given, { ...STAMP, upstreams, listeners: NO_LISTENERS, replace }))
  const refused = (work: () => unknown): string[] => {
    try {
      work()
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_FDB_ROUTES' })
      return (error as Error).message.split('\n')
    }
    throw new Error('was accepted')
  }

  it('get their canonical name, with the routes that they keep out of force', () => {
    const current = state({ 'file:a.com/x': app })
    const result = add(current, [
      { host: 'A.com', path: '/x/', upstream: 'other', connect: true },
      { host: '*', respond: { status: 404 } },
    ])
    expect(result).toMatchObject({ added: 2, replaced: 0, unchanged: 0, shadows: ['a.com/x'] })
    apply(current, result.changes)
    expect([...current.keys()]).toEqual(['file:a.com/x', 'runtime:a.com/x', 'runtime:*/'])
    expect(targetOf(current.get('runtime:a.com/x')!)).toEqual(other)
  })

  it('may be added again, and replaced when that is asked for', () => {
    const current = state({ 'runtime:a/': app, 'runtime:b/': app })
    expect(add(current, [{ host: 'a', upstream: 'app' }])).toMatchObject({ changes: [], unchanged: 1 })
    const changed = [
      { host: 'a', upstream: 'app' },
      { host: 'b', upstream: 'other' },
    ]
    expect(refused(() => add(current, changed))).toEqual([
      'no route was changed:',
      'routes[1]: b/ was made at run time before, with another target; replace it, or remove it first',
    ])
    expect(add(current, changed, true)).toMatchObject({
      unchanged: 1,
      replaced: 1,
      changes: [{ key: 'runtime:b/' }],
    })
  })

  it('fail all together, with the name of every wrong one', () => {
    const current = state({})
    expect(
      refused(() =>
        add(current, [
          { host: 'fine', upstream: 'app' },
          { host: 'a:80', upstream: 'app' },
          { host: 'b', path: 'x', upstream: 'app' },
          { host: 'c', upstream: 'ap' },
          { host: 'd' },
          { host: 'Fine.', path: '/', respond: {} },
          { host: 'e', upstrem: 'app' },
          'f',
        ]),
      ),
    ).toEqual([
      'no route was changed:',
      'routes[1].host: "a:80" is not a host: leave the port out, a route is for all ports',
      'routes[2].path: "x" is not a path: it must begin with /',
      'routes[3].upstream: there is no upstream "ap" (did you mean "app"?)',
      'routes[4]: the route has no target: give "upstream" or "respond"',
      'routes[5]: fine/ is given twice, first by routes[0]',
      'routes[6].upstrem: unknown key (did you mean "upstream"?); the keys here are: host, path, listener, when, upstream, respond, connect, basicAuth, forwardAuth, cors, rateLimit, accessLog, request, response',
      'routes[7]: "f" is a string, not a map; its keys are: host, path, listener, when, upstream, respond, connect, basicAuth, forwardAuth, cors, rateLimit, accessLog, request, response',
    ])
    expect(refused(() => add(current, []))).toContain('routes: the list is empty')
    expect(refused(() => add(current, {}))).toContain('routes: {} is not a list of routes')
    const many = Array.from({ length: 30 }, () => ({}))
    expect(refused(() => add(current, many))).toHaveLength(22)
  })

  it('go by name, all or none', () => {
    const current = state({ 'runtime:a/': app, 'file:a/': app, 'file:b/': app, 'runtime:c/x': app })
    const result = runAtOnce(removeRoutes(current, [{ host: 'A' }, { host: 'c', path: '/x/' }]))
    expect(result).toEqual({
      changes: [
        { key: 'runtime:a/', delete: true },
        { key: 'runtime:c/x', delete: true },
      ],
      removed: 2,
      uncovers: ['a/'],
    })
    expect(
      refused(() =>
        runAtOnce(
          removeRoutes(current, [
            { host: 'a' },
            { host: 'b' },
            { host: 'c' },
            { host: 'a' },
            { upstream: 'x' },
          ]),
        ),
      ).slice(1, 4),
    ).toEqual([
      'routes[1]: b/ comes from the configuration file: change the file and reload it',
      'routes[2]: c/ does not exist: see `fd-broker routes list`',
      'routes[3]: a/ is given twice, first by routes[0]',
    ])
  })
})
