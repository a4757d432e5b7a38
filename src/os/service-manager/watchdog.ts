import type { ServiceManager } from './service-manager.js'

/** EXTEND_TIMEOUT_USEC: the extension, milliseconds. */
const EXTENSION_MS = 30_000
const EXTEND_AGAIN_MS = 10_000

type Watched = Pick<ServiceManager, 'extendTimeout' | 'lives' | 'watchdogMs'>

/** Tells the service manager in time that this process lives (WATCHDOG=1), and that an operation takes longer (EXTEND_TIMEOUT_USEC). */
export class Watchdog {
  readonly #manager: Watched | null
  readonly #healthy: () => boolean
  #timer: NodeJS.Timeout | undefined
  #extension: NodeJS.Timeout | undefined

  /** `manager` null: there is no service manager. */
  constructor(manager: Watched | null, healthy: () => boolean) {
    this.#manager = manager
    this.#healthy = healthy
  }

  /** The service manager watches this process. Idempotent. */
  start(): void {
    const manager = this.#manager
    if (manager === null || manager.watchdogMs === null || this.#timer !== undefined) return
    const feed = () => {
      if (this.#healthy()) manager.lives()
    }
    this.#timer = setInterval(feed, Math.max(1, manager.watchdogMs / 2)).unref()
    feed()
  }

  /** The service manager watches another process. */
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Extends the manager's timeout until {@link endExtension}: the operation has limits of its own, which may be longer. Idempotent. */
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
