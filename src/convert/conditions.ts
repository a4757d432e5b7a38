/** The conditions of a route, as `header:X-A=1*`. */

import { commonNetworks, contains } from './networks.js'

/**
 * The conditions that hold if all of these do, sorted: one about each thing, besides patterns of paths and negated ones. Null if no request fulfils them. Keeps
 * negations that others imply: with each condition more the proxy prefers a route.
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
    const what = isOfPath(each) ? each : thingOf(each)
    const known = about.get(what)
    const both = known === undefined ? each : narrower(known, each)
    if (both === null) return null
    about.set(what, both)
  }
  const asked = [...about.values()]
  for (const each of negated.values()) {
    const excluded = each.slice(1)
    if (asked.some(known => thingOf(known) === thingOf(excluded) && implies(known, excluded))) return null
  }
  const patterns = asked.filter(isOfPath).map(each => wantedOf(each)!)
  if (patterns.some((one, at) => patterns.slice(at + 1).some(other => areApart(one, other)))) return null
  return [...asked, ...negated.values()].sort()
}

/** `header:x-a` of `header:X-A=1`. */
export function thingOf(condition: string): string {
  const what = /^[^=]*/.exec(condition)![0]
  return what.startsWith('header:') ? what.toLowerCase() : what
}

export const isOfPath = (condition: string) => /^i?path=/.test(condition)

export const wantedOf = (condition: string) =>
  condition.includes('=') ? condition.slice(condition.indexOf('=') + 1) : null

/** Whether each request that fulfils the first fulfils the second, about the same thing. */
export function implies(a: string, b: string): boolean {
  const [value, other] = [wantedOf(a), wantedOf(b)]
  if (other === null || value === other) return true
  if (value === null) return false
  const thing = thingOf(a)
  if (thing === 'method') return value.split('|').every(each => other.split('|').includes(each))
  if (thing === 'address')
    return value.split('|').every(each => other.split('|').some(one => contains(one, each)))
  if (isOfPath(a)) return isWithin(value, other)
  return other.endsWith('*') && value.startsWith(other.slice(0, -1))
}

/** The condition that holds if both do, about the same thing; null if none can. */
function narrower(a: string, b: string): string | null {
  if (implies(a, b)) return a
  if (implies(b, a)) return b
  const [one, other] = [wantedOf(a)!.split('|'), wantedOf(b)!.split('|')]
  if (thingOf(a) === 'address') {
    const networks = commonNetworks(one, other)
    return networks.length === 0 ? null : `address=${networks.join('|')}`
  }
  if (thingOf(a) !== 'method') return null
  const common = one.filter(each => other.includes(each))
  return common.length === 0 ? null : `method=${common.join('|')}`
}

/** Whether each path of the first pattern has the second one; false also where that is not clear. */
function isWithin(one: string, other: string): boolean {
  if (one === other || other === '*') return true
  if (one.endsWith('/') !== other.endsWith('/')) return false
  const [begin = '', ...rest] = other.split('*')
  const end = rest.at(-1)
  if (end === undefined) return false
  const parts = one.split('*')
  if (rest.length === 1 && begin === '') return parts.at(-1)!.endsWith(end)
  if (rest.length === 1 && end === '') return parts[0]!.startsWith(begin)
  return rest.length === 2 && begin === '' && end === '' && parts.some(each => each.includes(rest[0]!))
}

/** Whether no path has both patterns; false also where that is not clear. */
function areApart(one: string, other: string): boolean {
  const alike = (a: string, b: string, of: (text: string, part: string) => boolean) => of(a, b) || of(b, a)
  const [a, b] = [one.toLowerCase().split('*'), other.toLowerCase().split('*')]
  const plain = (text: string) => text.replace(/(.)\/$/, '$1')
  const [beginA, beginB] = [plain(a[0]!), plain(b[0]!)]
  if (a.length === 1 && b.length === 1) return beginA !== beginB
  if (a.length === 1) return !takes(b, beginA)
  if (b.length === 1) return !takes(a, beginB)
  const begins = alike(beginA, beginB, (text, part) => text.startsWith(part))
  const [endA, endB] = [a, b].map(parts => parts.at(-1)!.replace(/\/$/, ''))
  const ends = alike(endA!, endB!, (text, part) => text.endsWith(part))
  return !begins || !ends
}

/** Whether a pattern, in parts between stars, may take a path, with or without a slash at its end. */
function takes(parts: readonly string[], path: string): boolean {
  const pattern = new RegExp(`^${parts.map(literal).join('.*')}$`)
  return [path, `${path}/`].some(each => pattern.test(each))
}

/** A text as an expression that matches just it. */
export const literal = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')

/** Whether a request for a path of the route `path`, or below it, can fulfil a condition about the path. */
export function mayMeet(path: string, condition: string): boolean {
  const excluded = /^!path=([^*]*)\*$/.exec(condition)?.[1]
  if (excluded !== undefined) return !path.startsWith(excluded)
  if (!isOfPath(condition)) return true
  const [begin = ''] = wantedOf(condition)!.toLowerCase().split('*')
  const plain = path.toLowerCase().replace(/\/?\*.*$/, '')
  const known = begin.replace(/(.)\/$/, '$1')
  if (wantedOf(condition)!.includes('*')) return known.startsWith(plain) || plain.startsWith(known)
  return plain === '' || plain === '/' || known === plain || known.startsWith(`${plain}/`)
}
