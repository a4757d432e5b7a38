import type { Destination, ExchangeReport } from '../../relay/index.js'
import type { Names } from '../names/names.js'
import { takesRequests } from './address.js'
import { type ServerOut, type ServerWatch, Upstream, type UpstreamConfig } from './upstream.js'

export class Upstreams {
  readonly #upstreams = new Map<string, Upstream>()
  readonly #watch: ServerWatch
  readonly #names: Pick<Names, 'hostOf'> | null
  #configured: ReadonlySet<string> = new Set()
  #forRequests: ReadonlySet<string> = new Set()
  readonly #failing = new Set<string>()

  /** If `names` is null, Node resolves names. */
  constructor(watch: Pick<ServerWatch, 'onOut' | 'onIn'>, names: Pick<Names, 'hostOf'> | null = null) {
    this.#names = names
    this.#watch = { ...watch, onFailure: server => this.#failing.add(server) }
  }

  get names(): ReadonlySet<string> {
    return this.#configured
  }

  /** The names of upstreams that take requests but are not in the current configuration. */
  get former(): ReadonlySet<string> {
    const former = new Set<string>()
    for (const { name, takesRequests } of this.#upstreams.values()) {
      if (takesRequests && !this.#configured.has(name)) former.add(name)
    }
    return former
  }

  /** The names of the configured upstreams that take requests. */
  get forRequests(): ReadonlySet<string> {
    return this.#forRequests
  }

  /** Adds and changes upstreams. Removed ones are kept until {@link prune}, because routes may still lead to them. */
  configure(configs: readonly UpstreamConfig[]): void {
    this.#configured = new Set(configs.map(({ name }) => name))
    this.#forRequests = new Set(
      configs.filter(({ servers }) => takesRequests(servers)).map(({ name }) => name),
    )
    for (const config of configs) this.get(config.name).configure(config)
  }

  /** Adds an upstream that is not in the configuration, until {@link prune}. */
  adopt(config: UpstreamConfig): void {
    if (!this.#configured.has(config.name)) this.get(config.name).configure(config)
  }

  prune(needed: ReadonlySet<string>): void {
    for (const [name, upstream] of this.#upstreams) {
      if (!this.#configured.has(name) && !needed.has(name)) upstream.configure(null)
    }
    for (const key of this.#failing) if (this.destination(key) === undefined) this.#failing.delete(key)
  }

  /** Returns the same object for a name each time, even for an upstream that is not `configured`. */
  get(name: string): Upstream {
    let upstream = this.#upstreams.get(name)
    if (upstream === undefined) {
      upstream = new Upstream(name, this.#watch, this.#names)
      this.#upstreams.set(name, upstream)
    }
    return upstream
  }

  findConfigured(name: string): Upstream | undefined {
    const upstream = this.#upstreams.get(name)
    return upstream?.configured ? upstream : undefined
  }

  get out(): ServerOut[] {
    return [...this.#configured].flatMap(name => this.#upstreams.get(name)?.out ?? [])
  }

  destination(key: string): Destination | undefined {
    for (const upstream of this.#upstreams.values()) {
      const found = upstream.destination(key)
      if (found !== undefined) return found
    }
    return undefined
  }

  /** Updates the health of a server at the end of an exchange. Failed connection attempts are recorded at once instead. */
  recordOutcome({ subject, destination, serverFailed, reason, status }: ExchangeReport): void {
    // Only the start of a TCP connection shows something about the server, not its end.
    if (destination === undefined || subject === 'tcp') return
    if (serverFailed) {
      for (const upstream of this.#upstreams.values()) upstream.recordFailure(destination)
    } else if (this.#failing.has(destination)) {
      const answered = status !== 0 && reason === undefined
      if (answered) this.#failing.delete(destination)
      for (const upstream of this.#upstreams.values()) {
        if (answered) upstream.recordSuccess(destination)
        else upstream.recordUndecided(destination)
      }
    }
  }
}
