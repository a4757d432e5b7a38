/** The requests that matches of routes have in common. */
import { allOf, implies, mayMeet } from './conditions.js'
import type { Match } from './draft.js'

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

/** Reports whether the first matches all requests that the second matches. */
export function covers(a: Match, b: Match): boolean {
  return (
    (a.listener === undefined || a.listener === b.listener) &&
    commonHost(a.host, b.host) === b.host &&
    commonPath(a.path, b.path) === b.path &&
    a.when.every(each => b.when.some(other => holds(other, each)))
  )
}

/** Whether a condition holds wherever the other does. */
export function holds(given: string, wanted: string): boolean {
  if (given === wanted) return true
  const [a, b] = [given.replace(/^!/, ''), wanted.replace(/^!/, '')]
  if (a.replace(/=.*/, '') !== b.replace(/=.*/, '')) return false
  if (!given.startsWith('!')) return !wanted.startsWith('!') && implies(a, b)
  return wanted.startsWith('!') && implies(b, a)
}
