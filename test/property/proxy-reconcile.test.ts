import { describe, expect, it } from 'vitest'
import { changesOf } from '../../src/proxy/entries/difference.js'
import { parseRouteKey, type RouteId, routeKey, routeName } from '../../src/proxy/routes/path-tree.js'
import { reconcile } from '../../src/proxy/routes/reconcile.js'
import { addRoutes, removeRoutes } from '../../src/proxy/routes/runtime.js'
import { type RouteChange, type RouteMessage, targetOf } from '../../src/proxy/routes/section.js'
import { RouteTable } from '../../src/proxy/routes/table.js'
import type { RouteTarget } from '../../src/proxy/routes/target.js'
import { runAtOnce } from '../../src/state/time-slices.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const STAMP = { generation: 1, created: 1 }
const NO_LISTENERS: ReadonlySet<string> = new Set()
const upstreams = new Set(['one', 'two'])
const places = fc.uniqueArray(fc.constantFrom('a/', 'a/x', 'b/', '*/', '*.c/y'), { maxLength: 5 })
const upstream = fc.constantFrom('one', 'two')
const routes = places.chain(names =>
  fc.array(upstream, { minLength: names.length, maxLength: names.length }).map(targets =>
    names.map((name, i) => {
      const slash = name.indexOf('/')
      return { host: name.slice(0, slash), path: name.slice(slash), upstream: targets[i]! }
    }),
  ),
)
type Written = { host: string; path: string; upstream: string }[]
const step = fc.oneof(
  fc.record({ kind: fc.constant('file' as const), routes }),
  fc.record({ kind: fc.constant('add' as const), routes }),
  fc.record({ kind: fc.constant('remove' as const), routes }),
)

function apply(state: Map<string, RouteMessage>, changes: Iterable<RouteChange>): void {
  for (const change of changes) {
    if ('delete' in change) state.delete(change.key)
    else state.set(change.key, change.value)
  }
}
const rules = (written: Written) =>
  written.map(({ host, path, upstream }) => ({
    host,
    path,
    target: { kind: 'upstream' as const, upstream, connect: false },
  }))

describe('files and changes at run time, in any order', () => {
  it('give the file’s routes under those made at run time', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), steps => {
        const state = new Map<string, RouteMessage>()
        let file = new Map<string, string>()
        const runtime = new Map<string, string>()
        for (const { kind, routes } of steps) {
          if (kind !== 'file' && routes.length === 0) continue
          if (kind === 'file') {
            file = new Map(routes.map(route => [routeName(route), route.upstream]))
            const served = new Map<string, RouteTarget>()
            const note = (id: RouteId, target: RouteTarget) => void served.set(routeKey(id), target)
            const result = runAtOnce(
              reconcile(state, { routes: rules(routes), upstreams, former: new Set() }, STAMP, note),
            )
            apply(state, changesOf(result))
            const targets = [...state].map(([key, message]) => [key, targetOf(message)] as const)
            expect(served).toEqual(new Map(targets))
            expect(new Set(result.conflicts)).toEqual(
              new Set([...file.keys()].filter(name => runtime.has(name))),
            )
            expect(
              runAtOnce(reconcile(state, { routes: rules(routes), upstreams, former: new Set() }, STAMP)),
            ).toMatchObject({
              puts: [],
              deletes: [],
            })
          } else if (kind === 'add') {
            apply(
              state,
              runAtOnce(
                addRoutes(state, routes, { ...STAMP, upstreams, listeners: NO_LISTENERS, replace: true }),
              ).changes,
            )
            for (const route of routes) runtime.set(routeName(route), route.upstream)
          } else {
            const given = routes.map(({ host, path }) => ({ host, path }))
            const possible = given.every(route => runtime.has(routeName(route)))
            if (possible) {
              apply(state, runAtOnce(removeRoutes(state, given)).changes)
              for (const route of given) runtime.delete(routeName(route))
            } else expect(() => runAtOnce(removeRoutes(state, given))).toThrow(/^no route was changed/)
          }
        }
        expect(state.size).toBe(file.size + runtime.size)
        const table = new RouteTable<string>()
        for (const [key, message] of state) {
          const target = targetOf(message)
          if (target?.kind === 'upstream') table.put(parseRouteKey(key)!, target.upstream)
        }
        const merged = new Map([...file, ...runtime])
        expect(table.size).toBe(merged.size)
        for (const [name, upstream] of merged) {
          const { host, path } = parseRouteKey(`file:${name}`)!
          expect(table.lookup(host.replace('*', 'any'), path)).toBe(upstream)
          expect(state.has(routeKey({ origin: runtime.has(name) ? 'runtime' : 'file', host, path }))).toBe(
            true,
          )
        }
      }),
      { seed: 41, numRuns: perLane(125, 1000) },
    )
  })
})
