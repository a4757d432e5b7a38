export interface HealthRules {
  /** Failures in a row after which a server is down; null: never. */
  failures: number | null
  /** For how long, milliseconds. */
  coolDown: number
}

interface Server {
  readonly address: string
  failures: number
  downUntil: number
}

/**
 * Takes the servers of one upstream in turn, passing over those that are down. Times are the caller's, in milliseconds
 * of any clock that does not go back.
 *
 * A server that failed `failures` times in a row is down for `coolDown`; then it takes its turn again, and one more
 * failure brings it down again, until a success. When all servers are down they are tried nevertheless: refusing for
 * the rest of a cool-down would make a short outage longer.
 */
export class Balancer {
  #servers: Server[] = []
  #rules: HealthRules
  #next = 0
  /** None is down from then on, if none fails again; 0: none is. */
  #downUntil = 0

  constructor(addresses: readonly string[], rules: HealthRules) {
    this.#rules = rules
    this.configure(addresses, rules)
  }

  /** Servers that stay keep their health. */
  configure(addresses: readonly string[], rules: HealthRules): void {
    const before = new Map(this.#servers.map(server => [server.address, server]))
    this.#servers = addresses.map(address => before.get(address) ?? { address, failures: 0, downUntil: 0 })
    this.#rules = rules
    if (this.#next >= this.#servers.length) this.#next = 0
  }

  /** None is down, whatever the time. */
  get allUp(): boolean {
    return this.#downUntil === 0
  }

  /** The next server that was not tried yet; undefined: all were. */
  pick(now: number, tried?: ReadonlySet<string>): string | undefined {
    if (this.#downUntil <= now) this.#downUntil = 0
    return this.#pick(tried, now) ?? this.#pick(tried, Number.POSITIVE_INFINITY)
  }

  #pick(tried: ReadonlySet<string> | undefined, now: number): string | undefined {
    const { length } = this.#servers
    for (let i = 0; i < length; i++) {
      let at = this.#next + i
      if (at >= length) at -= length
      const server = this.#servers[at]!
      if (tried?.has(server.address) || server.downUntil > now) continue
      this.#next = at + 1 === length ? 0 : at + 1
      return server.address
    }
    return undefined
  }

  /** It answered, whatever the status. */
  succeeded(address: string): void {
    const server = this.#find(address)
    if (!server) return
    server.failures = 0
    server.downUntil = 0
  }

  /** It refused, timed out or broke off. True: it is down from now on, and was not before. */
  failed(address: string, now: number): boolean {
    const server = this.#find(address)
    const { failures, coolDown } = this.#rules
    if (!server || failures === null) return false
    server.failures++
    if (server.failures < failures || server.downUntil > now) return false
    server.downUntil = now + coolDown
    this.#downUntil = Math.max(this.#downUntil, server.downUntil)
    return true
  }

  /** Addresses that are not down. */
  healthy(now: number): string[] {
    return this.#servers.filter(server => server.downUntil <= now).map(server => server.address)
  }

  #find(address: string): Server | undefined {
    for (const server of this.#servers) if (server.address === address) return server
    return undefined
  }
}
