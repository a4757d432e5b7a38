/** The conditions of a route, as `header:X-A=1*`. */

/**
 * The conditions that hold if all of these do, sorted: one about each thing, besides negated ones. Null if no request fulfils them. Keeps negations that others
 * imply: with each condition more the proxy prefers a route.
 */
export function allOf(conditions: readonly string[]): readonly string[] | null {
  const about = new Map<string, string>()
  const negated = new Map<string, string>()
  for (const each of conditions) {
    if (each.startsWith('!')) {
      const excluded = each.slice(1)
      negated.set(thingOf(excluded) + excluded.replace(/^[^=]*/, ''), each)
      continue
    }
    const what = thingOf(each)
    const known = about.get(what)
    const both = known === undefined ? each : narrower(known, each)
    if (both === null) return null
    about.set(what, both)
  }
  for (const each of negated.values()) {
    const known = about.get(thingOf(each.slice(1)))
    if (known !== undefined && implies(known, each.slice(1))) return null
  }
  return [...about.values(), ...negated.values()].sort()
}

/** `header:x-a` of `header:X-A=1`. */
function thingOf(condition: string): string {
  const what = /^[^=]*/.exec(condition)![0]
  return what.startsWith('header:') ? what.toLowerCase() : what
}

const wantedOf = (condition: string) =>
  condition.includes('=') ? condition.slice(condition.indexOf('=') + 1) : null

/** Whether each request that fulfils the first fulfils the second, about the same thing. */
export function implies(a: string, b: string): boolean {
  const [value, other] = [wantedOf(a), wantedOf(b)]
  if (other === null || value === other) return true
  if (value === null) return false
  if (thingOf(a) === 'method') return value.split('|').every(each => other.split('|').includes(each))
  return other.endsWith('*') && value.startsWith(other.slice(0, -1))
}

/** The condition that holds if both do, about the same thing; null if none can. */
function narrower(a: string, b: string): string | null {
  if (implies(a, b)) return a
  if (implies(b, a)) return b
  if (thingOf(a) !== 'method') return null
  const common = wantedOf(a)!
    .split('|')
    .filter(each => wantedOf(b)!.split('|').includes(each))
  return common.length === 0 ? null : `method=${common.join('|')}`
}
