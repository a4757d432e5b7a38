import type { Logger } from '../base/logger.js'

const EVERY_MS = 5_000

/** What a daemon holds of the state of one service. */
export interface StateSize {
  readonly service: string
  readonly bytes: number
  /** The most that its configuration lets it have. */
  readonly most: number
}

/**
 * Says in the log when the state of a service has come to be larger than its limit, and when it is not any more. No more can be done:
 * members write in memory that they share with the daemon.
 */
export class StateSizes {
  readonly #sizes: () => readonly StateSize[]
  readonly #logger: Logger
  readonly #larger = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(sizes: () => readonly StateSize[], logger: Logger) {
    this.#sizes = sizes
    this.#logger = logger
  }

  /** Looks every few seconds. */
  open(): void {
    clearInterval(this.#timer)
    this.#timer = setInterval(() => this.look(), EVERY_MS).unref()
  }

  look(): void {
    const sizes = this.#sizes()
    for (const size of sizes) this.#judge(size)
    const present = new Set(sizes.map(({ service }) => service))
    for (const service of this.#larger) if (!present.has(service)) this.#larger.delete(service)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #judge(size: StateSize): void {
    const { service, bytes, most } = size
    if (bytes > most === this.#larger.has(service)) return
    if (bytes > most) {
      this.#larger.add(service)
      const why = 'the state of a service is larger than limits.state: its members are to delete entries'
      this.#logger.warn({ ...size }, why)
    } else {
      this.#larger.delete(service)
      this.#logger.info({ ...size }, 'the state of a service is within limits.state again')
    }
  }
}
