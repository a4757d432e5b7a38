import { allOf, mayMeet } from './conditions.js'
import type { Match, RouteDraft } from './draft.js'
import { covers, intersection } from './matches.js'
import { bitsOf } from './networks.js'
import { type Ranked, withoutRedundant } from './redundant-routes.js'
import { RouteIndex } from './route-index.js'

export const MOST_ROUTES = 20_000

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
  return withoutRedundant(routes.all).map(({ match, action }) => ({ ...match, action }))
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

const lower = (text: string) => text.toLowerCase()

function keyOf({ listener = '', host, path, when }: Match): string {
  return JSON.stringify([
    listener,
    host,
    path,
    when.map(each => each.replace(/^!?header:[^=]*/, lower)).sort(),
  ])
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
