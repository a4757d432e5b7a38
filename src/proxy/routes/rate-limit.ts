/** How many requests of a client a route lets pass: the key `routes[].rateLimit`. */
import { nodeCrypto } from '../../base/lazy.js'
import { shortJson } from '../../checks/place.js'
import { absent, optional, required } from '../../checks/shape.js'
import { duration, InvalidValue, integer, name, text } from '../../checks/values.js'
import type { Decision } from '../../relay/index.js'
import { balancingOf, type HashFacts, type HashSource, hashKey } from '../upstreams/balancing.js'
import type { RateBuckets } from './rate-buckets.js'

export interface RateLimit {
  /** This many requests in this time (milliseconds), evenly, after {@link burst} at once. */
  readonly requests: number
  readonly per: number
  readonly burst: number
  /** See {@link sourceOf}. */
  readonly by: string
  /** Limits with the same name count together. The name of the route, unless the configuration gives one; this has no slash. */
  readonly name: string
}

/** The reason in the access log. */
export const RATE_LIMITED = 'rate-limited'
const ALL = 'all'
const MOST = 1_000_000

/** Returns undefined for a text that this version does not know. */
function sourceOf(by: string): HashSource | typeof ALL | undefined {
  if (by === ALL) return ALL
  const balancing = balancingOf(`hash:${by}`)
  return 'source' in balancing ? balancing.source : undefined
}

function sourceText(given: string): string | InvalidValue {
  return sourceOf(given) === undefined
    ? new InvalidValue(
        `${shortJson(given)} is nothing to count by; write address, all, header:NAME or cookie:NAME`,
      )
    : given
}

export const rateLimitShape = {
  requests: required(integer(1, MOST), 'how many requests pass'),
  per: optional(duration(1), '1s', 'in this time'),
  burst: absent(integer(1, MOST), undefined, 'how many of them may come at once; default: `requests`'),
  by: optional(
    text('what to count by', sourceText),
    'address',
    'what has a count of its own: each `address` of a client (IPv6: each /64), `header:NAME` or `cookie:NAME`; `all`: one for all',
  ),
  name: absent(
    text('a name', name),
    undefined,
    'routes with the same name count together; default: each route by itself',
  ),
}

function digest(value: string): string {
  return nodeCrypto().createHash('sha256').update(value).digest('base64url').slice(0, 16)
}

/** A client with IPv6 has at least a /64, from which it may choose addresses. */
function networkOf(address: string): string {
  if (!address.includes(':') || address.includes('.')) return address
  const [head = '', tail] = address.split('::')
  const groups = head.split(':')
  if (tail !== undefined) for (let n = groups.length + tail.split(':').length; n < 8; n++) groups.push('0')
  return groups.slice(0, 4).join(':')
}

/** Refuses the requests beyond a limit. */
export class RateLimiter {
  readonly #buckets: RateBuckets
  readonly #source: HashSource | typeof ALL
  /** Milliseconds for which one request counts. */
  readonly #cost: number
  readonly #burst: number
  readonly #prefix: string

  /** Returns null for a limit that only newer versions know. */
  static of(limit: RateLimit | undefined, buckets: RateBuckets | null): RateLimiter | null {
    const source = limit && sourceOf(limit.by)
    return source === undefined || buckets === null ? null : new RateLimiter(limit!, source, buckets)
  }

  private constructor(
    { requests, per, burst, by, name }: RateLimit,
    source: HashSource | typeof ALL,
    buckets: RateBuckets,
  ) {
    this.#buckets = buckets
    this.#source = source
    this.#cost = per / requests
    this.#burst = burst
    this.#prefix = `${digest(`${by} ${name}`)} `
  }

  /** Returns the answer to a request beyond the limit, or null. */
  check(facts: HashFacts): Extract<Decision, { kind: 'refuse' }> | null {
    const wait = this.#buckets.take(this.#prefix + this.#keyOf(facts), this.#cost, this.#burst)
    if (wait <= 0) return null
    const headers = [['Retry-After', String(Math.ceil(wait / 1000))]] as const
    return { kind: 'refuse', status: 429, reason: RATE_LIMITED, headers }
  }

  /** Requests without the header or cookie have one key together. Values of clients are hashed: they may be secret, and long. */
  #keyOf(facts: HashFacts): string {
    if (this.#source === ALL) return ''
    const key = hashKey(this.#source, facts)
    if (key === undefined) return '-'
    return this.#source.by === 'address' ? networkOf(key) : digest(key)
  }
}
