/** How an upstream's servers share the requests: the key `balance` of the configuration. */
import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'

/** The part of a request on which a hash depends. */
export type HashSource =
  | { readonly by: 'address' }
  | { readonly by: 'header' | 'cookie'; readonly name: string }

export type Balancing =
  | { readonly kind: 'round-robin' | 'random' | 'two-choices' | 'least-connections' }
  | { readonly kind: 'hash'; readonly source: HashSource }

const KINDS = ['round-robin', 'random', 'two-choices', 'least-connections'] as const

/** Reads a value of the key `balance`. */
export function balancingOf(text: string): Balancing | InvalidValue {
  const kind = KINDS.find(each => each === text)
  if (kind !== undefined) return { kind }
  if (text === 'hash:address') return { kind: 'hash', source: { by: 'address' } }
  const [, by, name] = /^hash:(header|cookie):([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64})$/.exec(text) ?? []
  if (by !== undefined && name !== undefined)
    return { kind: 'hash', source: { by: by as 'header' | 'cookie', name } }
  return new InvalidValue(
    `${shortJson(text)} is no way to balance; write ${KINDS.join(', ')}, hash:address, hash:header:NAME or hash:cookie:NAME`,
  )
}

export function balanceText(given: string): string | InvalidValue {
  const balancing = balancingOf(given)
  return balancing instanceof InvalidValue ? balancing : given
}

/** The facts of a request that a hash can depend on. `header` returns the value of a header. */
export interface HashFacts {
  readonly client: string
  header(name: string): string | undefined
}

/** Returns the text to hash; undefined if the request lacks it. */
export function hashKey(source: HashSource, facts: HashFacts): string | undefined {
  if (source.by === 'address') return facts.client || undefined
  if (source.by === 'header') return facts.header(source.name) || undefined
  return cookieOf(facts.header('cookie'), source.name)
}

export function cookieOf(cookies: string | undefined, name: string): string | undefined {
  // Several lines are joined by commas.
  for (const pair of cookies?.split(/[;,]/) ?? []) {
    const at = pair.indexOf('=')
    if (at >= 0 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim() || undefined
  }
  return undefined
}

export interface Candidate {
  readonly address: string
  readonly weight: number
  /** Gets requests only if none of the others may. */
  readonly backup?: boolean
}

/** Chooses by weight. `random`: from 0 to less than 1. */
export function randomOf<T extends Candidate>(candidates: readonly T[], random: number): T {
  let left = random * candidates.reduce((sum, { weight }) => sum + weight, 0)
  for (const candidate of candidates) {
    left -= candidate.weight
    if (left < 0) return candidate
  }
  return candidates.at(-1)!
}

/** Chooses the candidate with the fewest connections for its weight; of equals the first one from `start` on. */
export function leastBusy<T extends Candidate>(
  candidates: readonly T[],
  busy: (address: string) => number,
  start: number,
): T {
  let best: T | undefined
  let least = Number.POSITIVE_INFINITY
  for (let n = 0; n < candidates.length; n++) {
    const candidate = candidates[(start + n) % candidates.length]!
    // With the request to come, so that an idle heavy server is before an idle light one.
    const load = (busy(candidate.address) + 1) / candidate.weight
    if (load >= least) continue
    least = load
    best = candidate
  }
  return best!
}

/**
 * Chooses by rendezvous hashing, in proportion to the weights: if a candidate leaves, only its keys go to others. All processes and versions must choose
 * alike, so the function never changes.
 */
export function rendezvous<T extends Candidate>(candidates: readonly T[], key: string): T {
  let best: T | undefined
  let highest = Number.NEGATIVE_INFINITY
  for (const candidate of candidates) {
    const unit = (hash32(`${candidate.address} ${key}`) + 0.5) / 2 ** 32
    const score = -candidate.weight / Math.log(unit)
    if (score <= highest && best !== undefined) continue
    highest = score
    best = candidate
  }
  return best!
}

/** FNV-1a over UTF-16 code units, finished as MurmurHash3. */
function hash32(text: string): number {
  let hash = 0x811c9dc5
  for (let n = 0; n < text.length; n++) {
    const unit = text.charCodeAt(n)
    hash = Math.imul(hash ^ (unit & 0xff), 0x01000193)
    hash = Math.imul(hash ^ (unit >>> 8), 0x01000193)
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
