import { describe, expect, it } from 'vitest'
import type { Origin } from '../../src/proxy/entries/overlay.js'
import { canonicalHost, requestHost } from '../../src/proxy/routes/host.js'
import { canonicalPath, plainEnd, readings, segmentOf } from '../../src/proxy/routes/path.js'
import { parseRouteKey, type RouteId, routeKey } from '../../src/proxy/routes/path-tree.js'
import { AMBIGUOUS_PATH, NO_ROUTE, RouteTable } from '../../src/proxy/routes/table.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const label = fc.constantFrom('a', 'b', 'com')
const name = fc.array(label, { minLength: 1, maxLength: 4 }).map(labels => labels.join('.'))
const hostPattern = fc.oneof(
  { weight: 4, arbitrary: name },
  { weight: 3, arbitrary: name.map(suffix => `*.${suffix}`) },
  { weight: 1, arbitrary: fc.constant('*') },
)
const segment = fc.constantFrom('x', 'y', 'xy', '.w', '%20')
const pathPattern = fc
  .array(fc.oneof({ weight: 3, arbitrary: segment }, { weight: 1, arbitrary: fc.constant('*') }), {
    maxLength: 4,
  })
  .map(segments => (segments.length === 0 ? '/' : segments.map(each => `/${each}`).join('')))
const id = fc.record({
  origin: fc.constantFrom<Origin>('file', 'runtime'),
  host: hostPattern,
  path: pathPattern,
})

type Operation = { kind: 'put' | 'delete'; id: RouteId } | { kind: 'clear' }
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 12, arbitrary: id.map(id => ({ kind: 'put' as const, id })) },
  { weight: 5, arbitrary: id.map(id => ({ kind: 'delete' as const, id })) },
  { weight: 1, arbitrary: fc.constant({ kind: 'clear' as const }) },
)

function naive(routes: Map<string, number>, host: string, target: string): unknown {
  const paths = readings(target)
  if (paths === null) return AMBIGUOUS_PATH
  const found = new Set(paths.map(path => naiveOf(routes, host, path)))
  return found.size === 1 ? [...found][0] : AMBIGUOUS_PATH
}

/** All that matches, sorted by what wins. */
function naiveOf(routes: Map<string, number>, host: string, path: string): unknown {
  const asked = requestHost(host)
  const matching: { rank: [specificity: number, path: string, origin: number]; value: number }[] = []
  for (const [key, value] of routes) {
    const { origin, host: pattern, path: prefix } = parseRouteKey(key)!
    let specificity: number
    if (pattern === '*') specificity = 0
    else if (pattern === asked) specificity = 1000
    else if (pattern.startsWith('*.') && asked.endsWith(pattern.slice(1)) && asked.length >= pattern.length) {
      specificity = pattern.length
    } else continue
    const wanted = segmentsOf(prefix)
    const given = segmentsOf(path)
    if (wanted.length > given.length || wanted.some((each, i) => each !== '*' && each !== given[i])) continue
    // A longer text wins, then one with a name in place of the first star that differs.
    const rank = wanted.map(each => (each === '*' ? '1' : '2')).join('')
    matching.push({ rank: [specificity, rank, origin === 'runtime' ? 1 : 0], value })
  }
  matching.sort(
    (a, b) =>
      b.rank[0] - a.rank[0] ||
      b.rank[1].length - a.rank[1].length ||
      Number(b.rank[1]) - Number(a.rank[1]) ||
      b.rank[2] - a.rank[2],
  )
  return matching[0]?.value ?? NO_ROUTE
}

function segmentsOf(path: string): string[] {
  return path.split('/').filter(each => each !== '')
}

const target = fc
  .array(
    fc.oneof(
      segment,
      fc.constantFrom('', '.', '..', '%78', 'x;p', ';', '%2e', 'z', 'x%2Fy', '%2578', 'x%3by', '*'),
    ),
    { maxLength: 5 },
  )
  .chain(segments =>
    fc.constantFrom('', '?q', '?/../x', '/', '#f').map(end => `/${segments.join('/')}${end}`),
  )
const requestedHost = fc
  .tuple(name, fc.constantFrom('', '.', ':80', '.:80'), fc.boolean())
  .map(([host, end, upper]) => `${upper ? host.toUpperCase() : host}${end}`)

describe('the table', () => {
  it('finds what a search through all routes finds, after any changes', () => {
    fc.assert(
      fc.property(
        fc.array(operation, { minLength: 1, maxLength: 60 }),
        fc.array(fc.tuple(requestedHost, target), { minLength: 1, maxLength: 40 }),
        (operations, requests) => {
          const table = new RouteTable<number>()
          const model = new Map<string, number>()
          for (const [at, step] of operations.entries()) {
            if (step.kind === 'clear') {
              table.clear()
              model.clear()
              continue
            }
            const key = routeKey(step.id)
            if (step.kind === 'put') {
              table.put(step.id, at + 1)
              model.set(key, at + 1)
            } else expect(table.delete(step.id)).toBe(model.delete(key))
          }
          const names = new Set([...model.keys()].map(key => key.slice(key.indexOf(':'))))
          expect(table.size).toBe(names.size)
          expect(table.shadowed).toBe(model.size - names.size)
          for (const [host, path] of requests) expect(table.lookup(host, path)).toBe(naive(model, host, path))
        },
      ),
      { seed: 31, numRuns: perLane(187, 1500) },
    )
  })

  it('becomes empty again when all entries are deleted', () => {
    fc.assert(
      fc.property(fc.array(id, { maxLength: 40 }), fc.nat(), (ids, rotation) => {
        const table = new RouteTable<string>()
        for (const each of ids) table.put(each, routeKey(each))
        const at = ids.length === 0 ? 0 : rotation % ids.length
        for (const each of [...ids.slice(at), ...ids.slice(0, at)]) table.delete(each)
        expect([table.size, table.shadowed]).toEqual([0, 0])
        for (const { host, path } of ids) expect(table.lookup(host, path)).toBe(NO_ROUTE)
      }),
      { seed: 32, numRuns: perLane(125, 500) },
    )
  })
})

describe('spellings', () => {
  const odd = fc.string({
    unit: fc.constantFrom('/', '.', '%', ';', '2', 'e', 'E', 'f', 'F', '5', 'c', 'x', '\\', '?', '#', '*'),
    maxLength: 14,
  })

  it('of a path: what is compared is a fixed point, clean, and not changed by a second reading', () => {
    fc.assert(
      fc.property(odd, tail => {
        const path = readings(`/${tail}`)?.[0]
        if (path === undefined) return
        expect(path).toMatch(/^\/(?!.*\/\/)[^?#;\\]*$/)
        expect(path === '/' || !path.endsWith('/')).toBe(true)
        expect(path.split('/').some(each => each === '.' || each === '..')).toBe(false)
        // A decoded letter may complete an escape ("%2%65"), which a second reading would decode: it is read once.
        if (!/%(?![0-9A-Fa-f]{2})/.test(tail)) expect(readings(path)?.[0]).toBe(path)
      }),
      { seed: 33, numRuns: perLane(1_000, 20_000) },
    )
  })

  it('of a path: a segment is as sent, where a comparison without escapes has it', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('a', '', ';p', 'b;p=1', 'cc'), { maxLength: 6 }), segments => {
        const sent = `/${segments.join('/')}?x/y`
        const path = readings(sent)![0]!
        const all = Array.from({ length: 9 }, (_, i) => segmentOf(sent, i + 1))
        expect(`/${all.filter(each => each !== '').join('/')}`).toBe(path)
      }),
      { seed: 38, numRuns: perLane(250, 5_000) },
    )
  })

  it('of a path: the fast way agrees with the slow one', () => {
    fc.assert(
      fc.property(odd, tail => {
        const raw = `/${tail}`
        const end = plainEnd(raw)
        if (end < 0) return
        const fast = raw.slice(0, end)
        expect(fast.length > 1 && fast.endsWith('/') ? fast.slice(0, -1) : fast).toBe(readings(raw)?.[0])
      }),
      { seed: 34, numRuns: perLane(1_000, 20_000) },
    )
  })

  it('of a dot segment never reach a route', () => {
    const dot = fc.constantFrom('.', '%2e', '%2E')
    const dots = fc.oneof(
      dot,
      fc.tuple(dot, dot).map(pair => pair.join('')),
    )
    const edge = fc.constantFrom('/', '%2f', '%2F', '%5c', '%5C', ';', '%3b', ';x=1/')
    const word = fc.constantFrom('a', 'b%20', 'c;d', '')
    fc.assert(
      fc.property(
        word,
        fc.constantFrom('/', '%2f', '%5C'),
        dots,
        edge,
        word,
        (before, left, dots, right, after) => {
          // Parameters end at a slash: what follows ";" there is no path segment of its own.
          const raw = `/${before}${before.includes(';') ? '/' : left}${dots}${right}${after}`
          expect(readings(raw)).toBeNull()
        },
      ),
      { seed: 35, numRuns: perLane(250, 2000) },
    )
  })

  it('of patterns are canonical: reading them again changes nothing', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          odd,
          fc.webUrl().map(url => new URL(url).pathname.slice(1)),
        ),
        tail => {
          const path = canonicalPath(`/${tail}`)
          if (typeof path === 'string') {
            expect(canonicalPath(path)).toBe(path)
            expect(readings(path)?.[0]).toBe(path)
          }
        },
      ),
      { seed: 36, numRuns: perLane(500, 10_000) },
    )
    const host = fc.oneof(
      fc.domain(),
      fc.ipV4(),
      fc.ipV6().map(ip => `[${ip}]`),
      fc.string({ maxLength: 12 }),
    )
    fc.assert(
      fc.property(host, fc.boolean(), (given, wild) => {
        const pattern = canonicalHost(wild ? `*.${given}` : given)
        if (typeof pattern !== 'string') return
        expect(canonicalHost(pattern)).toBe(pattern)
        if (!pattern.startsWith('*')) expect(requestHost(`${pattern.toUpperCase()}:80`)).toBe(pattern)
      }),
      { seed: 37, numRuns: perLane(500, 10_000) },
    )
  })
})
