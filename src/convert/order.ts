import { allOf, implies, mayMeet } from './conditions.js'
import type { Action, Match, RouteDraft } from './draft.js'
import { bitsOf, narrowness } from './networks.js'
import { RouteIndex } from './route-index.js'

export const MOST_ROUTES = 20_000
const MOST_PRUNED = 3_000

/**
 * Routes for rules of which the first that matches wins. The proxy takes the most specific route instead, so wherever a rule and a later one match the same
 * requests, a route for just these requests is added. Returns null if that makes too many routes.
 */
export function routesInOrder(rules: readonly RouteDraft[]): RouteDraft[] | null {
  const single = withSingleOnes(rules)
  const routes = new RouteIndex<Ranked>(single)
  const known = new Set<string>()
  for (const [rank, { action, ...given }] of single.entries()) {
    const when = allOf(given.when)
    // No request fulfils these.
    if (when === null) continue
    if (!when.every(each => mayMeet(given.path, each))) continue
    const match = { ...given, when }
    const added: Ranked[] = [{ match, action, rank }]
    for (const earlier of routes.near(match)) {
      const both = intersection(earlier.match, match)
      if (both !== null) added.push({ match: both, action: earlier.action, rank: earlier.rank })
    }
    for (const each of added.sort((a, b) => a.rank - b.rank)) {
      const key = keyOf(each.match)
      if (known.has(key)) continue
      known.add(key)
      routes.add(each)
    }
    if (routes.all.length > MOST_ROUTES) return null
  }
  return pruned(routes.all).map(({ match, action }) => ({ ...match, action }))
}

/** The proxy has rules of its own among lists of methods or networks, so lists that overlap become a rule for each item. */
function withSingleOnes(rules: readonly RouteDraft[]): RouteDraft[] {
  let all = [...rules]
  for (const [begin, textOf] of LISTS) {
    const lists = new Set(all.flatMap(({ when }) => when.filter(each => each.startsWith(begin))))
    const itemsOf = (condition: string) => condition.slice(begin.length).split('|')
    const overlapping = overlappingOnes(
      [...lists].flatMap(list => itemsOf(list).map(item => ({ list, text: textOf(item) }))),
    )
    all = all.flatMap(rule => {
      const list = rule.when.find(each => overlapping.has(each))
      if (list === undefined) return [rule]
      const others = rule.when.filter(each => each !== list)
      return itemsOf(list).map(item => ({ ...rule, when: [...others, `${begin}${item}`].sort() }))
    })
  }
  return all
}

/** Lists, by their begin, with the texts of their items: two items have something in common if the text of one begins with that of the other. */
const LISTS: readonly (readonly [string, (item: string) => string])[] = [
  ['method=', method => `${method} `],
  ['address=', bitsOf],
]

/** The lists of which an item has something in common with one of another list. */
function overlappingOnes(items: readonly { list: string; text: string }[]): Set<string> {
  const found = new Set<string>()
  // The items whose texts the one that is looked at begins with: they come before it.
  let begins: typeof items = []
  for (const item of items.toSorted((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : 0))) {
    begins = begins.filter(({ text }) => item.text.startsWith(text))
    for (const { list } of begins) if (list !== item.list) found.add(list).add(item.list)
    begins = [...begins, item]
  }
  return found
}

interface Ranked {
  readonly match: Match
  readonly action: Action
  /** The place of its rule. */
  readonly rank: number
}

/** Leaves out routes whose requests get the same without them. */
function pruned(routes: readonly Ranked[]): readonly Ranked[] {
  if (routes.length > MOST_PRUNED) return routes
  const sorted = [...routes].sort((a, b) => a.rank - b.rank)
  const kept = new Set(sorted)
  const index = new RouteIndex<Ranked>(sorted.map(({ match }) => match))
  for (const each of sorted) index.add(each)
  for (const each of sorted.toReversed()) {
    const others = index
      .near(each.match)
      .filter(other => other !== each && kept.has(other) && overlaps(other.match, each.match))
    const general = others.filter(other => covers(other.match, each.match))
    // The proxy may take any of these instead: between equals it has rules of its own.
    const next = general.filter(one => !general.some(other => precedence(other.match, one.match) < 0))
    if (next.length === 0 || !next.every(one => same(one.action, each.action))) continue
    // Between them in the order there may be another route, for a part of these requests.
    const between = others.some(
      other =>
        !same(other.action, each.action) &&
        precedence(each.match, other.match) <= 0 &&
        next.some(one => precedence(other.match, one.match) <= 0),
    )
    if (!between) kept.delete(each)
  }
  return [...kept]
}

const lower = (text: string) => text.toLowerCase()

const same = (a: Action, b: Action) => a === b || JSON.stringify(a) === JSON.stringify(b)

function keyOf({ listener = '', host, path, when }: Match): string {
  return JSON.stringify([
    listener,
    host,
    path,
    when.map(each => each.replace(/^!?header:[^=]*/, lower)).sort(),
  ])
}

/** Compares as the proxy does: negative if a request that both match gets the first, 0 if it may get either. */
function precedence(a: Match, b: Match): number {
  return (
    Number(b.listener !== undefined) - Number(a.listener !== undefined) ||
    hostLength(b.host) - hostLength(a.host) ||
    segments(b.path) - segments(a.path) ||
    compareStars(a.path, b.path) ||
    b.when.length - a.when.length ||
    compareAsked(asked(a.when), asked(b.when))
  )
}

function hostLength(host: string): number {
  return host === '*' ? 0 : host.startsWith('*.') ? host.length : 1_000
}

const segments = (path: string) => (path === '/' ? 0 : path.split('/').length - 1)

/** The path that has a name where the other one first has `*` comes first. */
function compareStars(a: string, b: string): number {
  const others = b.split('/')
  for (const [at, segment] of a.split('/').entries())
    if ((segment === '*') !== (others[at] === '*')) return segment === '*' ? 1 : -1
  return 0
}

const asked = (when: readonly string[]) => when.filter(each => !each.startsWith('!'))

/** Conditions that are not negated: their number, that of exact ones, and the length of their values. */
function compareAsked(a: readonly string[], b: readonly string[]): number {
  const exact = (all: readonly string[]) =>
    all.filter(each => /=.*[^*]$/.test(each) && !isPattern(each)).length
  const length = (all: readonly string[]) => all.reduce((sum, each) => sum + lengthOf(each), 0)
  return b.length - a.length || exact(b) - exact(a) || length(b) - length(a)
}

const isPattern = (condition: string) => /^i?path=.*\*/.test(condition)

function lengthOf(condition: string): number {
  const value = condition.replace(/^[^=]*=?/, '')
  if (condition.startsWith('address=')) return narrowness(value.split('|'))
  return /^i?path=/.test(condition) ? value.length : value.replace(/\*$/, '').length
}

/** Reports whether the first matches all requests that the second matches. */
function covers(a: Match, b: Match): boolean {
  return (
    (a.listener === undefined || a.listener === b.listener) &&
    commonHost(a.host, b.host) === b.host &&
    commonPath(a.path, b.path) === b.path &&
    a.when.every(each => b.when.some(other => holds(other, each)))
  )
}

/** Whether a condition holds wherever the other does. */
function holds(given: string, wanted: string): boolean {
  if (given === wanted) return true
  const [a, b] = [given.replace(/^!/, ''), wanted.replace(/^!/, '')]
  if (a.replace(/=.*/, '') !== b.replace(/=.*/, '')) return false
  if (!given.startsWith('!')) return !wanted.startsWith('!') && implies(a, b)
  return wanted.startsWith('!') && implies(b, a)
}

function overlaps(a: Match, b: Match): boolean {
  return intersection(a, b) !== null
}

/** Rules, of which each matches other requests: of those that match the same, the first counts. */
export class FirstRules {
  /** From the last one on. */
  readonly #byKey = new Map<string, RouteDraft>()

  get size(): number {
    return this.#byKey.size
  }

  get all(): RouteDraft[] {
    return [...this.#byKey.values()].reverse()
  }

  /** Puts rules before all others. */
  putBefore(rules: readonly RouteDraft[]): void {
    for (const rule of rules.toReversed()) {
      const key = keyOf(rule)
      this.#byKey.delete(key)
      this.#byKey.set(key, rule)
    }
  }
}

/** The rules for requests that `match` matches, of which the first that matches wins. */
export function reachedBy(match: Match, rules: readonly RouteDraft[]): RouteDraft[] {
  const reached: RouteDraft[] = []
  for (const { action, ...of } of rules) {
    const both = intersection(match, of)
    if (both === null) continue
    reached.push({ ...both, action })
    // No request gets to a later rule.
    if (covers(of, match)) break
  }
  return reached
}

/** The requests that both match; null if there can be none. */
export function intersection(a: Match, b: Match): Match | null {
  if (a.listener !== undefined && b.listener !== undefined && a.listener !== b.listener) return null
  const host = commonHost(a.host, b.host)
  const path = host === null ? null : commonPath(a.path, b.path)
  const when = path === null ? null : allOf([...a.when, ...b.when])
  if (host === null || path === null || when === null) return null
  if (!when.every(each => mayMeet(path, each))) return null
  const listener = a.listener ?? b.listener
  return { host, path, when, ...(listener !== undefined && { listener }) }
}

/** The hosts of both patterns; null if there is none. */
export function commonHost(a: string, b: string): string | null {
  if (a === b || b === '*') return a
  if (a === '*') return b
  if (a.startsWith('*.') && b.endsWith(a.slice(1))) return b
  return b.startsWith('*.') && a.endsWith(b.slice(1)) ? a : null
}

/** The paths below both, in which `*` stands for a segment; null if there is none. */
export function commonPath(a: string, b: string): string | null {
  if (a === b || b === '/') return a
  if (a === '/') return b
  const [one, other] = [a.split('/'), b.split('/')]
  const [longer, shorter] = one.length < other.length ? [other, one] : [one, other]
  const both = longer.map((segment, at) => {
    const another = shorter[at] ?? '*'
    return segment === '*' ? another : another === '*' || another === segment ? segment : null
  })
  return both.includes(null) ? null : both.join('/')
}
