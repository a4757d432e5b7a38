import type { promises as dns } from 'node:dns'
import { setTimeout as delay } from 'node:timers/promises'
import { afterReading, type Limit } from '../../base/after-reading.js'
import { ParsedFile } from './hosts-file.js'

/** How long the answer for one address family waits for the other family, whose answer is used when it comes. */
const OTHER_FAMILY_MS = 50
/** c-ares repeats a query after this time, and then after longer times. */
const QUERY_RETRY_MS = 1_000
const TRIES = 3

export interface FoundAddresses {
  readonly kind: 'addresses'
  readonly addresses: readonly string[]
  readonly ttlMs: number
  /** The address family about which no name server gave an answer; the name may have addresses of it too. */
  readonly missing?: 4 | 6
  /** The answer with that family, which is late. Never rejects. */
  readonly late?: Promise<DnsAnswer>
}

/** `nothing`: the name has no address. `failed`: no name server gave an answer; `code` is the reason. */
export type DnsAnswer =
  | FoundAddresses
  | { readonly kind: 'nothing'; readonly code: string }
  | { readonly kind: 'failed'; readonly code: string }

export interface NameServersOptions {
  /** `IP`, `IP:PORT` or `[IPv6]:PORT`; empty: the name servers of `resolvConf`. */
  servers: readonly string[]
  /** Time limit for the lookup of one name, in milliseconds. */
  timeout: number
}

/** Looks up names with DNS. A slow lookup does not delay other lookups. */
export class NameServers {
  readonly #file: ParsedFile<SearchList>
  #options: NameServersOptions
  #resolver: dns.Resolver | null = null
  /** The search list of {@link #resolver}. */
  #searchList = NO_SEARCH

  constructor(resolvConf: string, options: NameServersOptions) {
    this.#file = new ParsedFile(resolvConf, searchList)
    this.#options = options
  }

  /** Sets the options of new lookups. Returns whether the name servers have changed. */
  configure(options: NameServersOptions): boolean {
    const changed = options.servers.join() !== this.#options.servers.join()
    this.#options = options
    if (changed) this.#resolver = null
    return changed
  }

  /** Never rejects. Resolves within the timeout. */
  async resolve(name: string, now: number): Promise<DnsAnswer> {
    const finished = new AbortController()
    const { timeout } = this.#options
    let limit: Limit | undefined
    // An answer may have arrived while this process was stopped.
    const late = new Promise<DnsAnswer>(resolve => {
      limit = afterReading(timeout, () => resolve(TIMED_OUT), { unref: true })
    })
    try {
      return await Promise.race([this.#search(name, this.#currentResolver(now), finished.signal), late])
    } catch (error) {
      return failureOf(error)
    } finally {
      limit?.clear()
      finished.abort()
    }
  }

  close(): void {
    this.#resolver?.cancel()
    this.#resolver = null
  }

  #currentResolver(now: number): dns.Resolver {
    const list = this.#file.value(now)
    if (list !== this.#searchList) {
      this.#searchList = list
      this.#resolver = null
    }
    if (this.#resolver !== null) return this.#resolver
    const { Resolver } = process.getBuiltinModule('node:dns').promises
    const { servers } = this.#options
    this.#resolver = new Resolver({ timeout: QUERY_RETRY_MS, tries: TRIES })
    if (servers.length > 0) this.#resolver.setServers(servers)
    return this.#resolver
  }

  async #search(name: string, resolver: dns.Resolver, signal: AbortSignal): Promise<DnsAnswer> {
    let answer: DnsAnswer = NOT_FOUND
    for (const candidate of candidates(name, this.#searchList)) {
      answer = await resolveBothFamilies(candidate, resolver)
      if (answer.kind !== 'nothing' || signal.aborted) return answer
    }
    return answer
  }
}

const TIMED_OUT: DnsAnswer = { kind: 'failed', code: 'ETIMEOUT' }
const NOT_FOUND: DnsAnswer = { kind: 'nothing', code: 'ENOTFOUND' }

async function resolveBothFamilies(name: string, resolver: dns.Resolver): Promise<DnsAnswer> {
  const known: { v4: DnsAnswer | null; v6: DnsAnswer | null } = { v4: null, v6: null }
  const families = [
    resolver
      .resolve4(name, { ttl: true })
      .then(answerOf, failureOf)
      .then(answer => (known.v4 = answer)),
    resolver
      .resolve6(name, { ttl: true })
      .then(answerOf, failureOf)
      .then(answer => (known.v6 = answer)),
  ] as const
  const both = Promise.all(families).then(([v4, v6]) => joined(v4, v6))
  const first = await Promise.race(families)
  if (first.kind !== 'addresses') return await both
  const waits = new AbortController()
  const slow = delay(OTHER_FAMILY_MS, null, { ref: false, signal: waits.signal }).catch(() => null)
  const whole = await Promise.race([both, slow])
  waits.abort()
  return whole ?? { ...(joined(known.v4, known.v6) as FoundAddresses), late: both }
}

/** Joins the answers about both address families. An answer that has not come yet is null. */
function joined(v4: DnsAnswer | null, v6: DnsAnswer | null): DnsAnswer {
  const answers = [v4, v6].filter(answer => answer !== null)
  const found = answers.filter(answer => answer.kind === 'addresses')
  if (found.length === 0) return answers.find(({ kind }) => kind === 'failed') ?? answers[0] ?? NOT_FOUND
  const lacks = (answer: DnsAnswer | null) => answer === null || answer.kind === 'failed'
  return {
    kind: 'addresses',
    addresses: found.flatMap(({ addresses }) => addresses),
    ttlMs: Math.min(...found.map(({ ttlMs }) => ttlMs)),
    ...(lacks(v4) ? { missing: 4 as const } : lacks(v6) && { missing: 6 as const }),
  }
}

function answerOf(records: readonly { address: string; ttl: number }[]): DnsAnswer {
  if (records.length === 0) return { kind: 'nothing', code: 'ENODATA' }
  const ttlMs = Math.min(...records.map(({ ttl }) => ttl)) * 1_000
  return { kind: 'addresses', addresses: records.map(({ address }) => address), ttlMs }
}

function failureOf(error: unknown): DnsAnswer {
  const { code = 'EUNKNOWN' } = error as Partial<NodeJS.ErrnoException>
  return { kind: code === 'ENOTFOUND' || code === 'ENODATA' ? 'nothing' : 'failed', code }
}

interface SearchList {
  readonly domains: readonly string[]
  /** A name with at least this many dots is first tried without a search domain. */
  readonly dots: number
}

const NO_SEARCH: SearchList = { domains: [], dots: 1 }
const MAX_DOMAINS = 6

export function searchList(text: string): SearchList {
  let domains: string[] = []
  let dots = 1
  for (const line of text.split('\n')) {
    const [key, ...values] = line
      .replace(/[#;].*/, '')
      .trim()
      .split(/\s+/)
    // The last of the `search` and `domain` lines counts.
    if (key === 'search') domains = values
    else if (key === 'domain') domains = values.slice(0, 1)
    else if (key === 'options') {
      const given = values.map(value => /^ndots:(\d+)$/.exec(value)?.[1]).find(value => value !== undefined)
      if (given !== undefined) dots = Math.min(15, Number(given))
    }
  }
  const spelled = domains
    .map(domain => domain.toLowerCase().replace(/\.$/, ''))
    .filter(domain => domain !== '')
  return { domains: spelled.slice(0, MAX_DOMAINS), dots }
}

/** Returns the names to try, in order, until one has an address. */
export function candidates(name: string, { domains, dots }: SearchList): string[] {
  const searched = domains.map(domain => `${name}.${domain}`)
  return name.split('.').length - 1 >= dots ? [name, ...searched] : [...searched, name]
}
