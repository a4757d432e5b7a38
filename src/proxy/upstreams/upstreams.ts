import type { Destination, ExchangeReport } from '../../relay/index.js'
import type { Names } from '../names/names.js'
import type { CheckedServer } from '../server-checks/server-checks.js'
import { kindOf } from './address.js'
import type { UpstreamConfig } from './shape.js'
import { type ServerOut, type ServerOverride, type ServerWatch, Upstream } from './upstream.js'

export class Upstreams {
  readonly #upstreams = new Map<string, Upstream>()
  readonly #watch: ServerWatch
  readonly #hosts: Pick<Names, 'hostOf'> | null
  readonly #busy: (server: string) => number
  /** The names of the configured upstreams. */
  names: ReadonlySet<string> = new Set()
  /** The names of the configured upstreams that take requests. */
  forRequests: ReadonlySet<string> = new Set()
  readonly #failing = new Set<string>()
  /** Whether an upstream counts answers with a status from 500. */
  #countsErrors = false

  /** `busy`: how many connections of this process to the server are in use. `hosts` looks up the host names of servers; if `hosts` is null, Node does it. */
  constructor(
    watch: Omit<ServerWatch, 'onFailure'>,
    hosts: Pick<Names, 'hostOf'> | null = null,
    busy: (server: string) => number = () => 0,
  ) {
    this.#hosts = hosts
    this.#busy = busy
    this.#watch = { ...watch, onFailure: server => this.#failing.add(server) }
  }

  /** The names of upstreams that take requests but are not in the current configuration. */
  get former(): ReadonlySet<string> {
    const former = new Set<string>()
    for (const { name, takesRequests } of this.#upstreams.values()) {
      if (takesRequests && !this.names.has(name)) former.add(name)
    }
    return former
  }

  /** Adds and changes upstreams. Removed upstreams are kept until {@link prune}, because routes may still lead to them. */
  configure(configs: readonly UpstreamConfig[]): void {
    this.names = new Set(configs.map(({ name }) => name))
    this.forRequests = new Set(
      configs.filter(({ servers }) => kindOf(servers) === 'requests').map(({ name }) => name),
    )
    for (const config of configs) this.get(config.name).configure(config)
    this.#countsErrors = [...this.#upstreams.values()].some(each => each.countsErrors)
  }

  /**
   * Adds or changes an upstream of a store before the configuration is read again. {@link prune} removes one that the configuration lacks unless a route needs it.
   * Keeps an upstream whose servers are of another kind: routes of the file lead to it.
   */
  adopt(config: UpstreamConfig): void {
    const present = this.get(config.name)
    if (!present.configured || present.kind === kindOf(config.servers)) present.configure(config)
    this.#countsErrors ||= present.countsErrors
  }

  prune(needed: ReadonlySet<string>): void {
    for (const [name, upstream] of this.#upstreams) {
      if (!this.names.has(name) && !needed.has(name)) upstream.configure(null)
    }
    for (const key of this.#failing) if (this.destination(key) === undefined) this.#failing.delete(key)
  }

  /** Returns the same object for a name each time, even for an upstream that is not `configured`. */
  get(name: string): Upstream {
    let upstream = this.#upstreams.get(name)
    if (upstream === undefined) {
      upstream = new Upstream(name, this.#watch, this.#hosts, this.#busy)
      this.#upstreams.set(name, upstream)
    }
    return upstream
  }

  findConfigured(name: string): Upstream | undefined {
    const upstream = this.#upstreams.get(name)
    return upstream?.configured ? upstream : undefined
  }

  /** Applies the finding of another process about a server. `ms`: the time until the next trial; null: the server is up. */
  applyHealth(upstream: string, server: string, ms: number | null): void {
    this.#upstreams.get(upstream)?.applyHealth(server, ms)
  }

  /** The servers of all configured upstreams that have active checks. */
  get checked(): CheckedServer[] {
    return [...this.names].flatMap(name => this.#upstreams.get(name)?.checked ?? [])
  }

  /** See {@link Upstream.override}. Also for an upstream that is not configured. */
  override(upstream: string, overrides: ReadonlyMap<string, ServerOverride>): void {
    this.get(upstream).override(overrides)
  }

  isChecked(upstream: string, server: string): boolean {
    return (this.#upstreams.get(upstream)?.verdict(server) ?? null) !== null
  }

  hasServer(upstream: string, server: string): boolean {
    return this.#upstreams.get(upstream)?.destination(server) !== undefined
  }

  /** All servers, also those of upstreams that are not in the current configuration. */
  *servers(): Generator<{ upstream: string; server: string }> {
    for (const upstream of this.#upstreams.values())
      for (const { server } of upstream.servers) yield { upstream: upstream.name, server }
  }

  /** The host names, not addresses, of all servers. */
  get hosts(): ReadonlySet<string> {
    return new Set([...this.#upstreams.values()].flatMap(upstream => upstream.hosts))
  }

  /** How many requests of this process wait, by upstream; only upstreams with a queue. */
  get queued(): [upstream: string, count: number][] {
    return [...this.#upstreams.values()].flatMap(upstream =>
      upstream.forward.queue === undefined ? [] : [[upstream.name, upstream.queued] as [string, number]],
    )
  }

  get out(): ServerOut[] {
    return [...this.names].flatMap(name => this.#upstreams.get(name)?.out ?? [])
  }

  destination(key: string): Destination | undefined {
    for (const upstream of this.#upstreams.values()) {
      const found = upstream.destination(key)
      if (found !== undefined) return found
    }
    return undefined
  }

  /** Updates the health of a server at the end of an exchange. Failed attempts to connect were recorded before, see `Destination.failed`. */
  recordOutcome({ subject, destination, serverFailed, reason, status }: ExchangeReport): void {
    // The end of a forwarded TCP connection or flow shows nothing about the server; `Destination.opened` has recorded the start.
    if (destination === undefined || subject === 'tcp' || subject === 'udp') return
    if (serverFailed) {
      for (const upstream of this.#upstreams.values()) upstream.recordFailure(destination)
    } else if ((this.#countsErrors && status >= 500) || this.#failing.has(destination)) {
      const answered = status !== 0 && reason === undefined
      if (answered) this.#failing.delete(destination)
      for (const upstream of this.#upstreams.values()) {
        if (
          answered &&
          status >= 500 &&
          upstream.countsErrors &&
          upstream.destination(destination) !== undefined
        )
          upstream.recordError(destination, status)
        else if (answered) upstream.recordSuccess(destination)
        else upstream.recordUndecided(destination)
      }
    }
  }
}
