import type { ServiceManager } from './service-manager.js'

/** Length of one extension (EXTEND_TIMEOUT_USEC). */
const EXTENSION_MS = 30_000
const EXTEND_AGAIN_MS = 10_000

type WatchedManager = Pick<ServiceManager, 'extendTimeout' | 'lives' | 'watchdogMs'>

/** Tells the service manager in time that this process lives (WATCHDOG=1), and that an operation takes longer (EXTEND_TIMEOUT_USEC). */
export class Watchdog {
  readonly #manager: WatchedManager | null
  readonly #healthy: () => boolean
  #timer: NodeJS.Timeout | undefined
  #extension: NodeJS.Timeout | undefined

  constructor(manager: WatchedManager | null, healthy: () => boolean) {
    this.#manager = manager
    this.#healthy = healthy
  }

  /** Starts feeding the watchdog: the manager watches this process. Idempotent. */
  start(): void {
    const manager = this.#manager
    if (manager === null || manager.watchdogMs === null || this.#timer !== undefined) return
    const feed = () => {
      if (this.#healthy()) manager.lives()
    }
    this.#timer = setInterval(feed, Math.max(1, manager.watchdogMs / 2)).unref()
    feed()
  }

  /** Stops feeding: the manager watches another process. */
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Extends the manager's timeout until {@link endExtension}, because the operation may take longer than the manager's timeout allows. Idempotent. */
  extendTimeout(): void {
    const manager = this.#manager
    if (manager === null || this.#extension !== undefined) return
    const extend = () => manager.extendTimeout(EXTENSION_MS)
    extend()
    this.#extension = setInterval(extend, EXTEND_AGAIN_MS).unref()
  }

  endExtension(): void {
    clearInterval(this.#extension)
    this.#extension = undefined
  }

  close(): void {
    this.stop()
    this.endExtension()
  }
}
