import { type Balancing, type Candidate, leastBusy, randomOf, rendezvous } from './balancing.js'

interface Server {
  readonly address: string
  readonly backup: boolean
  health: ServerHealth
  /** The active checks of the server fail. */
  failing: boolean
  /** The share of the requests now, which is smaller than `fullWeight` while the server starts slowly. */
  weight: number
  readonly fullWeight: number
  /** Until when the server starts slowly; null: it does not. */
  slowUntil: number | null
  /** How far the server is behind its share; see `Balancer.#pickByWeight`. */
  credit: number
}

/** The servers that take requests together: the backup servers, or all others. */
interface Tier {
  readonly servers: readonly Server[]
  readonly hasWeights: boolean
  next: number
}

const tierOf = (servers: readonly Server[], next = 0): Tier => ({
  servers,
  hasWeights: servers.some(({ fullWeight }) => fullWeight !== servers[0]!.fullWeight),
  next: next < servers.length ? next : 0,
})

/** How a {@link Balancer} chooses among the servers that may be used. */
export interface BalancerOptions {
  readonly balancing: Balancing
  /** Returns how many connections of this process to the server are in use. */
  readonly busy: (address: string) => number
  /** Called when {@link Balancer.usable} may return other servers than before, except by {@link Balancer.configure}. */
  readonly changed?: () => void
}

/** The share of a server that begins to start slowly. */
const FIRST_SHARE = 0.1

const IN_TURN: BalancerOptions = { balancing: { kind: 'round-robin' }, busy: () => 0 }

/**
 * Picks the servers of one upstream, in turn or as `balancing` says. After `failures` consecutive failures a server is out for `coolDown`; then one request tries it. A server
 * whose active checks fail is out until they pass. A backup server is picked if none of the others may be. If all servers are out, picks them anyway, first
 * those whose checks pass. Times are in milliseconds, on the caller's clock.
 */
export class Balancer {
  #servers: Server[] = []
  #rules: HealthRules
  #main: Tier = tierOf([])
  /** Null without backup servers, and if there are no others. */
  #backup: Tier | null = null
  #options: BalancerOptions
  #inTurn = true
  /** The number of servers that are down, probing or failing. */
  #outCount = 0
  #failingCount = 0
  /** The server that the last pick has made a trial of; null: the pick was no trial. */
  #probed: string | null = null
  /** Whether a server starts slowly. */
  #hasSlow = false
  #slowMs = 0

  constructor(servers: readonly Candidate[], rules: HealthRules, options = IN_TURN) {
    this.#rules = rules
    this.#options = options
    this.configure(servers, rules, options)
  }

  /** Replaces the servers and the rules. A server that stays keeps its health, unless `rules.failures` is null. */
  configure(servers: readonly Candidate[], rules: HealthRules, options = IN_TURN): void {
    this.#options = options
    this.#inTurn = options.balancing.kind === 'round-robin'
    const before = new Map(this.#servers.map(server => [server.address, server]))
    this.#servers = servers.map(({ address, weight, backup = false }) => {
      const { health, failing = false, credit = 0 } = before.get(address) ?? {}
      return {
        address,
        backup,
        weight,
        fullWeight: weight,
        slowUntil: null,
        health: (isNeverOut(rules) ? undefined : health) ?? UP,
        failing,
        credit,
      }
    })
    this.#hasSlow = false
    const [backups, others] = [true, false].map(each => this.#servers.filter(({ backup }) => backup === each))
    const isDivided = backups!.length > 0 && others!.length > 0
    this.#main = tierOf(isDivided ? others! : this.#servers, this.#main.next)
    this.#backup = isDivided ? tierOf(backups!, this.#backup?.next) : null
    this.#count()
    this.#rules = rules
  }

  #count(): void {
    this.#outCount = this.#servers.filter(server => !isUp(server)).length
    this.#failingCount = this.#servers.filter(({ failing }) => failing).length
  }

  /** Call if the active checks of the server have begun to fail, or pass again. */
  setFailing(address: string, failing: boolean): void {
    const server = this.#find(address)
    if (server === undefined || server.failing === failing) return
    server.failing = failing
    this.#healthChanged()
  }

  /** Lets the share of the server rise to its whole weight within `ms`, which end at `until`. {@link configure} ends it. */
  startSlowly(address: string, until: number, ms: number): void {
    const server = this.#find(address)
    if (server === undefined) return
    server.slowUntil = until
    this.#slowMs = ms
    this.#hasSlow = true
  }

  #updateSlow(now: number): void {
    this.#hasSlow = false
    for (const server of this.#servers) {
      if (server.slowUntil === null) continue
      const left = (server.slowUntil - now) / this.#slowMs
      if (left <= 0) server.slowUntil = null
      else this.#hasSlow = true
      server.weight = left <= 0 ? server.fullWeight : server.fullWeight * Math.max(FIRST_SHARE, 1 - left)
    }
  }

  /** If true, {@link pick} ignores `now`. */
  get allUp(): boolean {
    return this.#outCount === 0 && !this.#hasSlow
  }

  /** Returns the next server that is not in `tried`, or undefined. `key`: the text to hash; without it a hash takes the servers in turn. `wanted`: the server that gets the request if it is up. Prefers a server whose trial is due; for a request that another server has failed, one that is up. */
  pick(now: number, tried?: ReadonlySet<string>, key?: string, wanted?: string): string | undefined {
    if (wanted !== undefined && !tried?.has(wanted)) {
      const server = this.#find(wanted)
      if (server !== undefined && isUp(server) && !this.#isHeldBack(server, now)) return wanted
    }
    if (this.#hasSlow) this.#updateSlow(now)
    const [main, backup] = [this.#main, this.#backup]
    if (this.#outCount === 0) {
      const found = this.#pick(main, tried, isUp, now, key)
      return found === undefined && backup !== null ? this.#pick(backup, tried, isUp, now, key) : found
    }
    const [first, second] = tried === undefined || tried.size === 0 ? [isDue, isUp] : [isUp, isDue]
    const last = this.#failingCount < this.#servers.length ? isPassing : isAny
    const good = (tier: Tier) =>
      this.#pick(tier, tried, first, now, key) ?? this.#pick(tier, tried, second, now, key)
    return (
      good(main) ??
      (backup === null ? undefined : good(backup)) ??
      this.#pick(main, tried, last, now, key) ??
      (backup === null ? undefined : this.#pick(backup, tried, last, now, key))
    )
  }

  /** Reports whether this is a backup server, and another one may be picked. */
  #isHeldBack({ backup }: Server, now: number): boolean {
    return backup && this.#backup !== null && this.#main.servers.some(each => isGood(each, now))
  }

  /** The servers of the best state among those that are not in `tried`. */
  usable(now: number, tried?: ReadonlySet<string>): string[] {
    const tiers = this.#backup === null ? [this.#main] : [this.#main, this.#backup]
    for (const eligible of [isGood, this.#failingCount < this.#servers.length ? isPassing : isAny])
      for (const { servers } of tiers) {
        const found = servers.filter(server => !tried?.has(server.address) && eligible(server, now))
        if (found.length > 0) return found.map(({ address }) => address)
      }
    return []
  }

  /** A request that has waited for this server goes to it: if the server is out, as its trial. */
  take(address: string, now: number): void {
    const server = this.#find(address)
    if (server !== undefined) this.#picked(server, now)
  }

  /** Returns the time until the next trial of a server that is out; null if none is to come. */
  untilDue(now: number): number | null {
    let until = Number.POSITIVE_INFINITY
    for (const { health, failing } of this.#servers)
      if (health.kind !== 'up' && !failing && health.until > now) until = Math.min(until, health.until)
    return until === Number.POSITIVE_INFINITY ? null : until - now
  }

  #find(address: string): Server | undefined {
    return this.#servers.find(server => server.address === address)
  }

  #pick(
    tier: Tier,
    tried: ReadonlySet<string> | undefined,
    eligible: (server: Server, now: number) => boolean,
    now: number,
    key: string | undefined,
  ): string | undefined {
    if (!this.#inTurn && (key !== undefined || this.#options.balancing.kind !== 'hash'))
      return this.#choose(
        tier,
        tier.servers.filter(server => !tried?.has(server.address) && eligible(server, now)),
        now,
        key,
      )
    if (tier.hasWeights || this.#hasSlow) return this.#pickByWeight(tier.servers, tried, eligible, now)
    const { length } = tier.servers
    for (let i = 0; i < length; i++) {
      let at = tier.next + i
      if (at >= length) at -= length
      const server = tier.servers[at]!
      if (tried?.has(server.address) || !eligible(server, now)) continue
      tier.next = at + 1 === length ? 0 : at + 1
      return this.#picked(server, now)
    }
    return undefined
  }

  /** Picks the server that is furthest behind its share of the requests, so that the requests of a heavy server are spread between those of the others. */
  #pickByWeight(
    servers: readonly Server[],
    tried: ReadonlySet<string> | undefined,
    eligible: (server: Server, now: number) => boolean,
    now: number,
  ): string | undefined {
    let best: Server | undefined
    let total = 0
    for (const server of servers) {
      if (tried?.has(server.address) || !eligible(server, now)) continue
      total += server.weight
      server.credit += server.weight
      if (best === undefined || server.credit > best.credit) best = server
    }
    if (best === undefined) return undefined
    best.credit -= total
    return this.#picked(best, now)
  }

  /** `key`: the text to hash. */
  #choose(
    tier: Tier,
    candidates: readonly Server[],
    now: number,
    key: string | undefined,
  ): string | undefined {
    if (candidates.length === 0) return undefined
    const { balancing, busy } = this.#options
    switch (balancing.kind) {
      case 'hash':
        return this.#picked(rendezvous(candidates, key ?? ''), now)
      case 'least-connections':
        return this.#picked(leastBusy(candidates, busy, tier.next++ % candidates.length), now)
      case 'two-choices': {
        const one = randomOf(candidates, Math.random())
        const others = candidates.filter(each => each !== one)
        const two = others.length === 0 ? [one] : [one, randomOf(others, Math.random())]
        return this.#picked(leastBusy(two, busy, 0), now)
      }
      default:
        return this.#picked(randomOf(candidates, Math.random()), now)
    }
  }

  #picked(server: Server, now: number): string {
    this.#probed = null
    if (server.health.kind !== 'up') {
      const before = server.health
      this.#setHealth(server, afterEvent(before, 'picked', this.#rules, now))
      if (server.health !== before) this.#probed = server.address
    }
    return server.address
  }

  #setHealth(server: Server, health: ServerHealth): void {
    const before = server.health
    server.health = health
    if (health !== before && !(health.kind === 'up' && before.kind === 'up')) this.#healthChanged()
  }

  #healthChanged(): void {
    this.#count()
    this.#options.changed?.()
  }

  /** Call for any response of the server. Returns whether the server was out until now. */
  recordSuccess(address: string, now: number): boolean {
    return this.#applyEvent(address, 'succeeded', now) === 'in'
  }

  /** Call if the server refused, timed out or broke the connection. Returns whether the server is out from now on. */
  recordFailure(address: string, now: number): boolean {
    return this.#applyEvent(address, 'failed', now) === 'out'
  }

  /** Call if the server answered, with a status that shows an error of its own. Returns whether the server is out from now on. */
  recordError(address: string, now: number): boolean {
    return this.#applyEvent(address, 'erred', now) === 'out'
  }

  recordUndecided(address: string, now: number): void {
    this.#applyEvent(address, 'undecided', now)
  }

  /** The server that was picked last gets nothing. Ends its trial if the pick was one: another request may be the trial. */
  passOver(address: string, now: number): void {
    if (this.#probed === address) this.recordUndecided(address, now)
  }

  /** Returns when a server that is down is tried again, or null. */
  downUntil(address: string): number | null {
    const health = this.#find(address)?.health
    return health?.kind === 'down' ? health.until : null
  }

  /** Applies the finding of another process: `until` is the time of the next trial, or null for a server that is up. */
  apply(address: string, until: number | null, now: number): void {
    const server = this.#find(address)
    if (server === undefined || isNeverOut(this.#rules)) return
    if (until !== null)
      this.#setHealth(server, { kind: 'down', until: Math.min(until, now + this.#rules.coolDown) })
    else if (server.health.kind !== 'up') this.#setHealth(server, UP)
  }

  #applyEvent(address: string, event: HealthEvent, now: number): 'in' | 'out' | null {
    const server = this.#find(address)
    if (server === undefined) return null
    const wasUp = server.health.kind === 'up'
    this.#setHealth(server, afterEvent(server.health, event, this.#rules, now))
    const up = server.health.kind === 'up'
    if (up === wasUp) return null
    return up ? 'in' : 'out'
  }

  /** Returns the servers that are out. `ms`: the time until the next trial; null: as long as the active checks fail. */
  out(
    now: number,
  ): { readonly address: string; readonly kind: ServerOutState; readonly ms: number | null }[] {
    const out: ReturnType<Balancer['out']> = []
    for (const { address, health, failing } of this.#servers)
      if (failing) out.push({ address, kind: 'failing', ms: null })
      else if (health.kind !== 'up')
        out.push({ address, kind: health.kind, ms: Math.max(0, health.until - now) })
    return out
  }
}

/** `down`, `probing`: see {@link ServerHealth}. `failing`: the active checks of the server fail. */
export type ServerOutState = 'down' | 'probing' | 'failing'

const isUp = ({ health, failing }: Server): boolean => health.kind === 'up' && !failing
const isDue = ({ health, failing }: Server, now: number): boolean => !failing && isRetryDue(health, now)
const isGood = (server: Server, now: number): boolean => isUp(server) || isDue(server, now)
const isPassing = ({ failing }: Server): boolean => !failing
const isAny = (): boolean => true

interface HealthRules {
  /** Consecutive failures after which a server is out; null: never. */
  readonly failures: number | null
  /** The same for consecutive answers that show an error of the server; default: null. */
  readonly errors?: number | null
  /** How long a server stays out before a trial, and how long a trial may take before the next one. */
  readonly coolDown: number
}

const isNeverOut = ({ failures, errors = null }: HealthRules): boolean => failures === null && errors === null

/** `up`: gets requests in turn. `down`: gets no request before `until`. `probing`: one request is its trial; if the trial has no outcome before `until`, another request is. */
export type ServerHealth =
  | { readonly kind: 'up'; readonly failures: number; readonly errors?: number }
  | { readonly kind: 'down'; readonly until: number }
  | { readonly kind: 'probing'; readonly until: number }

/** `erred`: the server has answered, with an error of its own. `undecided`: the trial shows nothing about the server, for example because the client has disconnected. */
export type HealthEvent = 'picked' | 'succeeded' | 'failed' | 'erred' | 'undecided'

export const UP: ServerHealth = { kind: 'up', failures: 0 }

function isRetryDue(health: ServerHealth, now: number): boolean {
  return health.kind !== 'up' && health.until <= now
}

/** Returns the health after an event. `now` is the time of any monotonic clock. */
export function afterEvent(
  health: ServerHealth,
  event: HealthEvent,
  rules: HealthRules,
  now: number,
): ServerHealth {
  const { failures, errors = null, coolDown } = rules
  switch (event) {
    case 'picked':
      // If all servers are out, a server may be picked before its trial is due.
      return isRetryDue(health, now) ? { kind: 'probing', until: now + coolDown } : health
    case 'succeeded':
      return health.kind === 'up' && health.failures === 0 && !health.errors ? health : UP
    case 'undecided':
      return health.kind === 'probing' ? { kind: 'down', until: now } : health
    case 'erred':
      if (errors === null) return afterEvent(health, 'succeeded', rules, now)
      if (health.kind === 'up') {
        const count = (health.errors ?? 0) + 1
        return count < errors
          ? { kind: 'up', failures: 0, errors: count }
          : { kind: 'down', until: now + coolDown }
      }
      return afterEvent(health, 'failed', rules, now)
    case 'failed':
      if (isNeverOut(rules)) return UP
      if (failures === null && health.kind === 'up') return health
      // Failures of requests that were sent before the server was out do not keep it out longer.
      if (health.kind === 'down')
        return isRetryDue(health, now) ? { kind: 'down', until: now + coolDown } : health
      if (health.kind === 'up' && failures !== null && health.failures + 1 < failures)
        return { ...health, failures: health.failures + 1 }
      return { kind: 'down', until: now + coolDown }
  }
}
