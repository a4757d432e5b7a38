import { allOf, implies } from './conditions.js'
import type { Action, Match, RouteDraft } from './draft.js'

const MOST_ROUTES = 5_000

/**
 * Routes for rules of which the first that matches wins. The proxy takes the most specific route instead, so wherever a rule and a later one match the same
 * requests, a route for just these requests is added. Returns null if that makes too many routes.
 */
export function routesInOrder(rules: readonly RouteDraft[]): RouteDraft[] | null {
  const routes: Ranked[] = []
  const byKey = new Map<string, Ranked>()
  for (const [rank, { action, ...given }] of rules.entries()) {
    const when = allOf(given.when)
    // No request fulfils these.
    if (when === null) continue
    const match = { ...given, when }
    const added: Ranked[] = [{ match, action, rank }]
    for (const earlier of routes) {
      const both = intersection(earlier.match, match)
      if (both !== null) added.push({ match: both, action: earlier.action, rank: earlier.rank })
    }
    for (const each of added.sort((a, b) => a.rank - b.rank)) {
      const key = keyOf(each.match)
      if (byKey.has(key)) continue
      byKey.set(key, each)
      routes.push(each)
    }
    if (routes.length > MOST_ROUTES) return null
  }
  return pruned(routes).map(({ match, action }) => ({ ...match, action }))
}

interface Ranked {
  readonly match: Match
  readonly action: Action
  /** The place of its rule. */
  readonly rank: number
}

/** Leaves out routes whose requests get the same without them. */
function pruned(routes: readonly Ranked[]): Ranked[] {
  const kept = [...routes].sort((a, b) => a.rank - b.rank)
  for (const each of [...kept].reverse()) {
    const others = kept.filter(other => other !== each && overlaps(other.match, each.match))
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
    if (!between) kept.splice(kept.indexOf(each), 1)
  }
  return kept
}

const same = (a: Action, b: Action) => a === b || JSON.stringify(a) === JSON.stringify(b)

function keyOf({ listener = '', host, path, when }: Match): string {
  return JSON.stringify([listener, host, path, when])
}

/** Compares as the proxy does: negative if a request that both match gets the first. */
function precedence(a: Match, b: Match): number {
  return (
    Number(b.listener !== undefined) - Number(a.listener !== undefined) ||
    hostLength(b.host) - hostLength(a.host) ||
    segments(b.path) - segments(a.path) ||
    b.when.length - a.when.length ||
    negated(a.when) - negated(b.when) ||
    exact(b.when) - exact(a.when)
  )
}

function hostLength(host: string): number {
  return host === '*' ? 0 : host.startsWith('*.') ? host.length : 1_000
}

const segments = (path: string) => (path === '/' ? 0 : path.split('/').length - 1)
const negated = (when: readonly string[]) => when.filter(each => each.startsWith('!')).length
const exact = (when: readonly string[]) => when.filter(each => /=.*[^*]$/.test(each)).length

/** Reports whether the first matches all requests that the second matches. */
function covers(a: Match, b: Match): boolean {
  return (
    (a.listener === undefined || a.listener === b.listener) &&
    narrower(a.host, b.host) === b.host &&
    longer(a.path, b.path) === b.path &&
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

/** The requests that both match; null if there can be none. */
export function intersection(a: Match, b: Match): Match | null {
  if (a.listener !== undefined && b.listener !== undefined && a.listener !== b.listener) return null
  const host = narrower(a.host, b.host)
  const path = longer(a.path, b.path)
  const when = allOf([...a.when, ...b.when])
  if (host === null || path === null || when === null) return null
  const listener = a.listener ?? b.listener
  return { host, path, when, ...(listener !== undefined && { listener }) }
}

function narrower(a: string, b: string): string | null {
  if (a === b || b === '*') return a
  if (a === '*') return b
  if (a.startsWith('*.') && b.endsWith(a.slice(1))) return b
  return b.startsWith('*.') && a.endsWith(b.slice(1)) ? a : null
}

function longer(a: string, b: string): string | null {
  if (a === b || b === '/' || a.startsWith(`${b}/`)) return a
  return a === '/' || b.startsWith(`${a}/`) ? b : null
}
