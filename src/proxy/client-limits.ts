import type { Logger } from '../index.js'
import type { Accepted } from '../node/accepted.js'
import { ClientTally, type DescriptorRoom, descriptorRoom, takesSpare } from '../relay/index.js'
import type { ProxyConfig } from './config/schema.js'

/** The limit that a new client exceeds: connections of all clients, connections of the client's address, or free descriptors. */
export type ExceededLimit = 'connections' | 'connectionsPerClient' | 'descriptors'

const MAX_LINGERING = 256

/** `descriptor` is null if the connection has closed, or if this version of Node hides it. */
export type IncomingConnection = Pick<Accepted, 'remoteAddress'> & {
  readonly descriptor: Accepted['descriptor'] | null
}

export interface ClientLimitOptions {
  limits: () => ProxyConfig['limits']
  open: () => number
  logger: Logger
  room?: DescriptorRoom
}

/** Decides whether a new client is within the configured limits. */
export class ClientLimits {
  /** Counts the connections of each client that were accepted while `connectionsPerClient` was set. */
  readonly tally = new ClientTally()
  readonly #options: ClientLimitOptions
  readonly #room: DescriptorRoom
  readonly #warnings: RateLimitedWarnings

  constructor(options: ClientLimitOptions) {
    this.#options = options
    this.#room = options.room ?? descriptorRoom()
    this.#warnings = new RateLimitedWarnings(options.logger)
  }

  /** How many refused clients may wait for their 503 at the same time. */
  get maxLingering(): number {
    return Math.min(MAX_LINGERING, this.#room.spare / 2)
  }

  /** Returns null for a client within all limits. `connectionsPerClient` does not apply to clients that are proxies (`trusts`). */
  exceededLimit(
    { descriptor, remoteAddress }: IncomingConnection,
    trusts: (client: string) => boolean,
  ): ExceededLimit | null {
    if (takesSpare(descriptor, this.#room)) return 'descriptors'
    const { connectionsPerClient } = this.#options.limits()
    if (this.#options.open() >= this.#maxConnections) return 'connections'
    if (connectionsPerClient === null || trusts(remoteAddress)) return null
    return this.tally.of(remoteAddress) >= connectionsPerClient ? 'connectionsPerClient' : null
  }

  /** Reports whether an accepted client uses the descriptors in reserve. */
  exceededReserve({ descriptor }: Pick<IncomingConnection, 'descriptor'>): ExceededLimit | null {
    return takesSpare(descriptor, this.#room) ? 'descriptors' : null
  }

  warnRefused(listener: string, excess: ExceededLimit, client: string | undefined): void {
    const { connectionsPerClient } = this.#options.limits()
    const limit = { connections: this.#maxConnections, connectionsPerClient, descriptors: this.#room.limit }[
      excess
    ]
    const facts = { listener, excess, limit, connections: this.#options.open(), client }
    this.#warnings.warn(`away ${excess}`, facts, 'clients were turned away')
  }

  /** A connection on `listener` did not begin with the PROXY header that `client` sends. */
  warnNoHeader(listener: string, client: string, why: string): void {
    this.#warnings.warn(
      `header ${listener}`,
      { listener, client, why },
      'connections without a valid PROXY header were closed',
    )
  }

  get #maxConnections(): number {
    const { connections } = this.#options.limits()
    return connections === 'auto' ? this.#room.clients : (connections ?? Number.POSITIVE_INFINITY)
  }
}

const REPEAT_MS = 1_000

/** Logs the first warning of a kind at once, then one line a second with the number of further warnings. */
export class RateLimitedWarnings {
  readonly #logger: Pick<Logger, 'warn'>
  /** Warnings since the last line, by kind. */
  readonly #repeats = new Map<string, { count: number; facts: object }>()

  constructor(logger: Pick<Logger, 'warn'>) {
    this.#logger = logger
  }

  warn(kind: string, facts: object, message: string): void {
    const pending = this.#repeats.get(kind)
    if (pending === undefined) {
      this.#log(kind, { count: 1, facts }, message)
      return
    }
    pending.count++
    pending.facts = facts
  }

  #log(kind: string, { count, facts }: { count: number; facts: object }, message: string): void {
    this.#logger.warn({ ...facts, count }, message)
    const repeats = { count: 0, facts }
    this.#repeats.set(kind, repeats)
    setTimeout(() => {
      if (repeats.count > 0) this.#log(kind, repeats, message)
      else this.#repeats.delete(kind)
    }, REPEAT_MS).unref()
  }
}
