import type { Logger } from '../base/logger.js'
import type { Daemon } from '../daemon/daemon.js'
import { ORDERS, type Order, SignalOrders } from './signal-orders.js'

/** For so long a first TERM counts, when it would take something away. */
const SECOND_MS = 60_000

/** What signals make a daemon do. */
export class ServeSignals {
  readonly #logger: Logger
  readonly #drop: boolean
  readonly #reopen: () => void
  readonly #orders = new SignalOrders(ORDERS, signal => this.#handle(signal))
  #daemon: Daemon | null = null
  #firstAt = Number.NEGATIVE_INFINITY

  /** `drop`: what it alone holds does not keep it from ending; `reopen` opens the file of the log anew. */
  constructor(logger: Logger, drop: boolean, reopen: () => void) {
    this.#logger = logger
    this.#reopen = reopen
    this.#drop = drop
  }

  /** Aborted by a signal to end before the daemon listens. */
  get starting(): AbortSignal {
    return this.#orders.starting
  }

  attach(daemon: Daemon): void {
    this.#daemon = daemon
  }

  close(): void {
    this.#orders.close()
  }

  #handle(signal: Order): void {
    this.#logger.info({ signal }, 'signal')
    const daemon = this.#daemon
    switch (signal) {
      case 'SIGUSR1':
        this.#reopen()
        return
      case 'SIGUSR2':
        if (daemon !== null && !daemon.staysForOthers) void this.#upgrade(daemon)
        return
      case 'SIGWINCH':
        daemon?.pause()
        this.#logger.warn({}, 'who comes to join waits until HUP')
        return
      case 'SIGHUP':
        daemon?.resume()
        if (daemon !== null) void this.#reload(daemon)
        return
      default:
        if (daemon === null) this.#orders.abandon(signal, 'it listened')
        else if (this.#mayEnd(daemon)) {
          this.#logger.info({ signal }, 'the daemon ends')
          void daemon.close()
        }
    }
  }

  async #upgrade(daemon: Daemon): Promise<void> {
    try {
      const { pid, generation } = await daemon.upgrade()
      this.#logger.info({ successor: pid, generation }, 'upgraded')
    } catch (error) {
      this.#logger.error({ err: error }, 'the upgrade failed; this daemon goes on')
    }
  }

  async #reload(daemon: Daemon): Promise<void> {
    try {
      await daemon.reload()
    } catch (error) {
      this.#logger.error({ err: error }, 'the configuration is wrong: what counted before counts on')
    }
  }

  #mayEnd(daemon: Daemon): boolean {
    const alone = daemon.heldAlone
    const again = performance.now() - this.#firstAt < SECOND_MS
    this.#firstAt = performance.now()
    for (const holding of alone)
      this.#logger.warn(
        holding,
        this.#drop || again
          ? 'what the daemon holds alone is dropped'
          : `the daemon holds alone what no living member has, and it would be lost: start a member, or send the signal again within ${SECOND_MS / 1000} s (--drop: the first one ends it)`,
      )
    return this.#drop || again || alone.length === 0
  }
}
