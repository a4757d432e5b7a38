import type { Logger } from '../../index.js'
import type { Destination, ExchangeReport } from '../../relay/index.js'
import type { Names } from '../names/names.js'
import { takesRequests } from './address.js'
import { type ServerOut, type ServerWatch, Upstream, type UpstreamConfig } from './upstream.js'

export function serverLog(logger: Pick<Logger, 'info' | 'warn'>): Pick<ServerWatch, 'out' | 'in'> {
  return {
    out: (upstream, server) =>
      logger.warn({ upstream, server }, 'a server failed and is passed over for a while'),
    in: (upstream, server) => logger.info({ upstream, server }, 'a server answers and gets requests again'),
  }
}

export class Upstreams {
  readonly #upstreams = new Map<string, Upstream>()
  readonly #watch: ServerWatch
  readonly #names: Pick<Names, 'named'> | null
  #configured: ReadonlySet<string> = new Set()
  #forRequests: ReadonlySet<string> = new Set()
  readonly #troubled = new Set<string>()

  /** `names` null: Node resolves names. */
  constructor(watch: Pick<ServerWatch, 'out' | 'in'>, names: Pick<Names, 'named'> | null = null) {
    this.#names = names
    this.#watch = { ...watch, failed: server => this.#troubled.add(server) }
  }

  get names(): ReadonlySet<string> {
    return this.#configured
  }

  /** Names of upstreams that take requests and are not in the configuration (any more). */
  get former(): ReadonlySet<string> {
    const former = new Set<string>()
    for (const { name, takesRequests } of this.#upstreams.values()) {
      if (takesRequests && !this.#configured.has(name)) former.add(name)
    }
    return former
  }

  /** Names of the configuration's upstreams that take requests. */
  get forRequests(): ReadonlySet<string> {
    return this.#forRequests
  }

  /** Adds and changes. Removed upstreams stay until {@link prune}: routes may still lead to them. */
  configure(configs: readonly UpstreamConfig[]): void {
    this.#configured = new Set(configs.map(({ name }) => name))
    this.#forRequests = new Set(
      configs.filter(({ servers }) => takesRequests(servers)).map(({ name }) => name),
    )
    for (const config of configs) this.get(config.name).configure(config)
  }

  /** Adds an upstream beside the configuration, until {@link prune}. */
  adopt(config: UpstreamConfig): void {
    if (!this.#configured.has(config.name)) this.get(config.name).configure(config)
  }

  prune(needed: ReadonlySet<string>): void {
    for (const [name, upstream] of this.#upstreams) {
      if (!this.#configured.has(name) && !needed.has(name)) upstream.configure(null)
    }
    for (const key of this.#troubled) if (this.destination(key) === undefined) this.#troubled.delete(key)
  }

  /** Always returns the same object; without a configuration it is not `configured`. */
  get(name: string): Upstream {
    let upstream = this.#upstreams.get(name)
    if (upstream === undefined) {
      upstream = new Upstream(name, this.#watch, this.#names)
      this.#upstreams.set(name, upstream)
    }
    return upstream
  }

  configured(name: string): Upstream | undefined {
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

  /** Judges a server's health by the end of an exchange. (Failed connections are reported at once.) */
  recordOutcome({ subject, destination, serverFailed, reason, status }: ExchangeReport): void {
    // The end of a TCP connection says nothing about the server; connecting did.
    if (destination === undefined || subject === 'tcp') return
    if (serverFailed) {
      for (const upstream of this.#upstreams.values()) upstream.failed(destination)
    } else if (this.#troubled.has(destination)) {
      const answered = status !== 0 && reason === undefined
      if (answered) this.#troubled.delete(destination)
      for (const upstream of this.#upstreams.values()) {
        if (answered) upstream.succeeded(destination)
        else upstream.undecided(destination)
      }
    }
  }
}
