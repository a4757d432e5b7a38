interface Server {
  readonly address: string
  health: ServerHealth
}

/**
 * Picks the servers of one upstream in turn, except those that are out: after `failures` in a row, for `coolDown`; then one request tries each. When all are out
 * they are used anyway. Times in milliseconds, on the caller's clock.
 */
export class Balancer {
  #servers: Server[] = []
  #rules: HealthRules
  #next = 0
  /** Servers that are down or probing. */
  #outCount = 0

  constructor(addresses: readonly string[], rules: HealthRules) {
    this.#rules = rules
    this.configure(addresses, rules)
  }

  /** Remaining servers keep their health, unless `rules` takes no server out. */
  configure(addresses: readonly string[], rules: HealthRules): void {
    const before = new Map(this.#servers.map(({ address, health }) => [address, health]))
    this.#servers = addresses.map(address => ({
      address,
      health: (rules.failures === null ? undefined : before.get(address)) ?? UP,
    }))
    this.#outCount = this.#servers.filter(({ health }) => health.kind !== 'up').length
    this.#rules = rules
    if (this.#next >= this.#servers.length) this.#next = 0
  }

  /** {@link pick} then ignores the time. */
  get allUp(): boolean {
    return this.#outCount === 0
  }

  /** The next server not in `tried`: a due trial (unless this request failed before and another server is up), else one that is up, else any; undefined: none. */
  pick(now: number, tried?: ReadonlySet<string>): string | undefined {
    if (this.#outCount === 0) return this.#pick(tried, isUp, now)
    const [first, second] = tried === undefined || tried.size === 0 ? [retryDue, isUp] : [isUp, retryDue]
    return this.#pick(tried, first, now) ?? this.#pick(tried, second, now) ?? this.#pick(tried, isAny, now)
  }

  #pick(
    tried: ReadonlySet<string> | undefined,
    eligible: (health: ServerHealth, now: number) => boolean,
    now: number,
  ): string | undefined {
    const { length } = this.#servers
    for (let i = 0; i < length; i++) {
      let at = this.#next + i
      if (at >= length) at -= length
      const server = this.#servers[at]!
      if (tried?.has(server.address) || !eligible(server.health, now)) continue
      this.#next = at + 1 === length ? 0 : at + 1
      if (server.health.kind !== 'up') server.health = afterEvent(server.health, 'picked', this.#rules, now)
      return server.address
    }
    return undefined
  }

  /** Any answer counts. Returns whether the server was out. */
  succeeded(address: string, now: number): boolean {
    return this.#applyEvent(address, 'succeeded', now) === 'in'
  }

  /** The server refused, timed out or broke off. Returns whether it has just gone out. */
  failed(address: string, now: number): boolean {
    return this.#applyEvent(address, 'failed', now) === 'out'
  }

  undecided(address: string, now: number): void {
    this.#applyEvent(address, 'undecided', now)
  }

  #applyEvent(address: string, event: HealthEvent, now: number): 'in' | 'out' | null {
    const server = this.#servers.find(server => server.address === address)
    if (server === undefined) return null
    const wasUp = server.health.kind === 'up'
    server.health = afterEvent(server.health, event, this.#rules, now)
    const up = server.health.kind === 'up'
    if (up === wasUp) return null
    this.#outCount += up ? -1 : 1
    return up ? 'in' : 'out'
  }

  /** Servers that are out, with the milliseconds until their next trial. */
  out(now: number): { readonly address: string; readonly kind: 'down' | 'probing'; readonly ms: number }[] {
    return this.#servers.flatMap(({ address, health }) =>
      health.kind === 'up' ? [] : [{ address, kind: health.kind, ms: Math.max(0, health.until - now) }],
    )
  }

  healthy(): string[] {
    return this.#servers.filter(({ health }) => health.kind === 'up').map(({ address }) => address)
  }
}

const isUp = ({ kind }: ServerHealth): boolean => kind === 'up'
const isAny = (): boolean => true

/** Times in milliseconds. */
interface HealthRules {
  /** Failures in a row that take a server out; null: never. */
  readonly failures: number | null
  /** How long a server stays out before a trial, and how long a trial may take before the next one. */
  readonly coolDown: number
}

/** `up`: gets its share. `down`: no request before `until`. `probing`: one request is its trial; without an outcome by `until`, another is. */
export type ServerHealth =
  | { readonly kind: 'up'; readonly failures: number }
  | { readonly kind: 'down'; readonly until: number }
  | { readonly kind: 'probing'; readonly until: number }

/** `undecided`: the trial says nothing about the server, as when its client left. */
export type HealthEvent = 'picked' | 'succeeded' | 'failed' | 'undecided'

export const UP: ServerHealth = { kind: 'up', failures: 0 }

function retryDue(health: ServerHealth, now: number): boolean {
  return health.kind !== 'up' && health.until <= now
}

/** Returns the health after an event. Pure: `now` is on any monotonic clock. */
export function afterEvent(
  health: ServerHealth,
  event: HealthEvent,
  { failures, coolDown }: HealthRules,
  now: number,
): ServerHealth {
  switch (event) {
    case 'picked':
      // When all servers are out, one may be picked early: no trial.
      return retryDue(health, now) ? { kind: 'probing', until: now + coolDown } : health
    case 'succeeded':
      return health.kind === 'up' && health.failures === 0 ? health : UP
    case 'undecided':
      return health.kind === 'probing' ? { kind: 'down', until: now } : health
    case 'failed':
      if (failures === null) return UP
      // Requests sent before the server went out do not prolong it.
      if (health.kind === 'down')
        return retryDue(health, now) ? { kind: 'down', until: now + coolDown } : health
      if (health.kind === 'up' && health.failures + 1 < failures)
        return { kind: 'up', failures: health.failures + 1 }
      return { kind: 'down', until: now + coolDown }
  }
}
