import type { ServiceManager } from './service-manager.js'

/** Time that one EXTEND_TIMEOUT_USEC adds. */
const EXTENSION_MS = 30_000
const EXTEND_AGAIN_MS = 10_000

type WatchedManager = Pick<ServiceManager, 'extendTimeout' | 'lives' | 'watchdogMs'>

/** Sends the service manager, at intervals, WATCHDOG=1 while this process is healthy, and EXTEND_TIMEOUT_USEC during long operations. */
export class Watchdog {
  readonly #manager: WatchedManager | null
  readonly #healthy: () => boolean
  #timer: NodeJS.Timeout | undefined
  #extension: NodeJS.Timeout | undefined

  constructor(manager: WatchedManager | null, healthy: () => boolean) {
    this.#manager = manager
    this.#healthy = healthy
  }

  /** Starts to send WATCHDOG=1: the manager now watches this process. Idempotent. */
  start(): void {
    const manager = this.#manager
    if (manager === null || manager.watchdogMs === null || this.#timer !== undefined) return
    const feed = () => {
      if (this.#healthy()) manager.lives()
    }
    this.#timer = setInterval(feed, Math.max(1, manager.watchdogMs / 2)).unref()
    feed()
  }

  /** Stops sending WATCHDOG=1: the manager now watches another process. */
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Extends the manager's timeout for a start, a change or an end until {@link endExtension}. Idempotent. */
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
