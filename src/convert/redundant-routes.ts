/** Routes whose requests get the same without them. */
import { allOf, mayMeet, thingOf } from './conditions.js'
import type { Action, Match } from './draft.js'
import { commonHost, commonPath, holds, intersection } from './matches.js'
import { narrowness } from './networks.js'
import { RouteIndex } from './route-index.js'

export interface Ranked {
  readonly match: Match
  readonly action: Action
  /** The place of its rule. */
  readonly rank: number
}

const MOST_COMPARED = 3_000

/** Leaves out routes whose requests get the same without them. */
export function withoutRedundant(routes: readonly Ranked[]): readonly Ranked[] {
  if (routes.length > MOST_COMPARED) return routes
  const facts = new Facts(routes)
  const sorted = routes.map(each => facts.of(each)).sort((a, b) => a.ranked.rank - b.ranked.rank)
  const kept = new Set(sorted)
  const index = new RouteIndex<Known>(sorted.map(({ match }) => match))
  for (const each of sorted) index.add(each)
  for (const each of sorted.toReversed()) {
    const others = index
      .near(each.match)
      .filter(other => other !== each && kept.has(other) && facts.overlap(other, each))
    const general = others.filter(other => facts.covers(other, each))
    // The proxy may take any of these instead: between equals it has rules of its own.
    const first = general.reduce<Known | null>(
      (one, other) => (one === null || precedence(other, one) < 0 ? other : one),
      null,
    )
    if (first === null) continue
    const next = general.filter(one => precedence(one, first) === 0)
    if (!next.every(one => one.action === each.action)) continue
    // Between them in the order there may be another route, for a part of these requests.
    const between = others.some(
      other => other.action !== each.action && precedence(each, other) <= 0 && precedence(other, first) <= 0,
    )
    if (!between) kept.delete(each)
  }
  return [...kept].map(({ ranked }) => ranked)
}

/** A route, with all that comparisons ask about it. */
interface Known {
  readonly ranked: Ranked
  readonly match: Match
  /** The numbers of its conditions. */
  readonly when: readonly number[]
  /** The text of its action. */
  readonly action: string
  /** The higher comes first; behind the third, stars of paths are compared. */
  readonly order: readonly number[]
}

/** The proxy's order: negative if a request that both match gets the first, 0 if it may get either. */
function precedence(a: Known, b: Known): number {
  for (const [at, value] of a.order.entries()) {
    if (at === STARS) {
      const stars = compareStars(a.match.path, b.match.path)
      if (stars !== 0) return stars
    }
    if (value !== b.order[at]) return b.order[at]! - value
  }
  return 0
}

const STARS = 3

function orderOf({ listener, host, path, when }: Match): number[] {
  const asked = when.filter(each => !each.startsWith('!'))
  return [
    Number(listener !== undefined),
    host === '*' ? 0 : host.startsWith('*.') ? host.length : 1_000,
    path === '/' ? 0 : path.split('/').length - 1,
    when.length,
    // Conditions that are not negated: their number, that of exact ones, and the length of their values.
    asked.length,
    asked.filter(each => /=.*[^*]$/.test(each) && !/^i?path=.*\*/.test(each)).length,
    asked.reduce((sum, each) => sum + lengthOf(each), 0),
  ]
}

/** The path that has a name where the other one first has `*` comes first. */
function compareStars(a: string, b: string): number {
  const others = b.split('/')
  for (const [at, segment] of a.split('/').entries())
    if ((segment === '*') !== (others[at] === '*')) return segment === '*' ? 1 : -1
  return 0
}

function lengthOf(condition: string): number {
  const value = condition.replace(/^[^=]*=?/, '')
  if (condition.startsWith('address=')) return narrowness(value.split('|'))
  return /^i?path=/.test(condition) ? value.length : value.replace(/\*$/, '').length
}

/** The answers about each two conditions, and about a path and a condition: routes that overlap ask the same many times. */
class Facts {
  readonly #conditions: string[] = []
  readonly #numbers = new Map<string, number>()
  readonly #pairs: (Uint8Array | undefined)[] = []
  readonly #implied: (Uint8Array | undefined)[] = []
  readonly #paths = new Map<string, Uint8Array>()

  constructor(routes: readonly Ranked[]) {
    for (const condition of new Set(routes.flatMap(({ match }) => match.when)))
      this.#numbers.set(condition, this.#conditions.push(condition) - 1)
  }

  of(ranked: Ranked): Known {
    const { match } = ranked
    const when = match.when.map(each => this.#numbers.get(each)!)
    return { ranked, match, when, action: JSON.stringify(ranked.action), order: orderOf(match) }
  }

  /** Whether a request may match both. */
  overlap(a: Known, b: Known): boolean {
    const [one, other] = [a.match, b.match]
    if (one.listener !== undefined && other.listener !== undefined && one.listener !== other.listener)
      return false
    if (commonHost(one.host, other.host) === null) return false
    const path = commonPath(one.path, other.path)
    if (path === null) return false
    let isNarrower = false
    for (const x of a.when)
      for (const y of b.when) {
        const pair = this.#pair(x, y)
        if (pair === APART) return false
        if (pair === NARROWER) isNarrower = true
      }
    if (isNarrower) return intersection(one, other) !== null
    const met = this.#paths.get(path) ?? new Uint8Array(this.#conditions.length)
    this.#paths.set(path, met)
    const mayBe = (condition: number) => {
      if (met[condition] === UNKNOWN) met[condition] = mayMeet(path, this.#conditions[condition]!) ? YES : NO
      return met[condition] === YES
    }
    return a.when.every(mayBe) && b.when.every(mayBe)
  }

  /** Whether the first matches all requests that the second matches. */
  covers(a: Known, b: Known): boolean {
    const [one, other] = [a.match, b.match]
    return (
      (one.listener === undefined || one.listener === other.listener) &&
      commonHost(one.host, other.host) === other.host &&
      commonPath(one.path, other.path) === other.path &&
      a.when.every(wanted => b.when.some(given => this.#holds(given, wanted)))
    )
  }

  #pair(x: number, y: number): number {
    const row = (this.#pairs[x] ??= new Uint8Array(this.#conditions.length))
    if (row[y] === UNKNOWN) row[y] = pairOf(this.#conditions[x]!, this.#conditions[y]!)
    return row[y]!
  }

  #holds(given: number, wanted: number): boolean {
    const row = (this.#implied[given] ??= new Uint8Array(this.#conditions.length))
    if (row[wanted] === UNKNOWN)
      row[wanted] = holds(this.#conditions[given]!, this.#conditions[wanted]!) ? YES : NO
    return row[wanted] === YES
  }
}

const UNKNOWN = 0
const YES = 1
const NO = 2
const TOGETHER = 1
const APART = 2
/** Together they make a third condition, about which others must be asked. */
const NARROWER = 3

function pairOf(x: string, y: string): number {
  const both = allOf([x, y])
  if (both === null) return APART
  const areAsked = !x.startsWith('!') && !y.startsWith('!') && thingOf(x) === thingOf(y)
  return areAsked && both.some(each => each !== x && each !== y) ? NARROWER : TOGETHER
}
