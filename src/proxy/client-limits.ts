import type { Logger } from '../index.js'
import type { Accepted } from '../node/accepted.js'
import { ClientTally, type DescriptorRoom, descriptorRoom, takesSpare } from '../relay/index.js'
import type { LimitConfig } from './config/config.js'

/** The limit that a client exceeds: all clients, those of its address, or free descriptors. */
export type Excess = 'connections' | 'connectionsPerClient' | 'descriptors'

const MOST_LINGERING = 256

/** A connection that asks for admission. No descriptor: it has closed, or this Node hides it. */
export type IncomingConnection = Pick<Accepted, 'remoteAddress'> & {
  readonly descriptor: Accepted['descriptor'] | null
}

export interface AdmissionOptions {
  limits: () => LimitConfig
  open: () => number
  logger: Logger
  room?: DescriptorRoom
}

export class Admission {
  /** Connections accepted while a limit for each client was set. */
  readonly clients = new ClientTally()
  readonly #options: AdmissionOptions
  readonly #room: DescriptorRoom
  readonly #warnings: RateLimitedWarnings

  constructor(options: AdmissionOptions) {
    this.#options = options
    this.#room = options.room ?? descriptorRoom()
    this.#warnings = new RateLimitedWarnings(options.logger)
  }

  /** Most refused clients that may wait for their 503 at a time. */
  get mostLingering(): number {
    return Math.min(MOST_LINGERING, this.#room.spare / 2)
  }

  /** Null: admitted. A trusted client is a proxy, and has no limit of its own. */
  excess({ descriptor, remoteAddress }: IncomingConnection, trusted: boolean): Excess | null {
    if (takesSpare(descriptor, this.#room)) return 'descriptors'
    const { connectionsPerClient } = this.#options.limits()
    if (this.#options.open() >= this.#maxConnections) return 'connections'
    if (connectionsPerClient === null || trusted) return null
    return this.clients.of(remoteAddress) >= connectionsPerClient ? 'connectionsPerClient' : null
  }

  warnRefused(listener: string, excess: Excess, client: string | undefined): void {
    const { connectionsPerClient } = this.#options.limits()
    const limit = { connections: this.#maxConnections, connectionsPerClient, descriptors: this.#room.limit }[
      excess
    ]
    const facts = { listener, excess, limit, connections: this.#options.open(), client }
    this.#warnings.warn(`away ${excess}`, facts, 'clients were turned away')
  }

  get #maxConnections(): number {
    const { connections } = this.#options.limits()
    return connections === 'auto' ? this.#room.clients : (connections ?? Number.POSITIVE_INFINITY)
  }
}

const REPEAT_MS = 1_000

/** Logs each kind of warning at once, then at most once a second, with a count. */
export class RateLimitedWarnings {
  readonly #logger: Pick<Logger, 'warn'>
  /** By kind: the warnings since the last line. */
  readonly #repeats = new Map<string, { count: number; facts: object }>()

  constructor(logger: Pick<Logger, 'warn'>) {
    this.#logger = logger
  }

  warn(kind: string, facts: object, message: string): void {
    const waiting = this.#repeats.get(kind)
    if (waiting !== undefined) {
      waiting.count++
      waiting.facts = facts
      return
    }
    this.#logger.warn({ ...facts, count: 1 }, message)
    this.#repeats.set(kind, { count: 0, facts })
    setTimeout(() => this.#repeat(kind, message), REPEAT_MS).unref()
  }

  warnShortage(shortage: string, server: string): void {
    this.warn(
      shortage,
      { shortage, server },
      'this process could not connect to a server for want of its own means',
    )
  }

  #repeat(kind: string, message: string): void {
    const { count, facts } = this.#repeats.get(kind)!
    if (count === 0) {
      this.#repeats.delete(kind)
      return
    }
    this.#logger.warn({ ...facts, count }, message)
    this.#repeats.set(kind, { count: 0, facts })
    setTimeout(() => this.#repeat(kind, message), REPEAT_MS).unref()
  }
}
