import type { Daemon } from '../daemon/daemon.js'
import { FdbError } from '../errors.js'
import type { Logger } from '../logger.js'

/** For so long a first TERM counts, when it would take something away. */
const SECOND_MS = 60_000

export const HANDLED = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH'] as const
type Handled = (typeof HANDLED)[number]

/** What signals make a daemon do. Handled from the first moment. */
export class ServeSignals {
  readonly #logger: Logger
  readonly #drop: boolean
  readonly #reopen: () => void
  readonly #starting = new AbortController()
  readonly #handler = (signal: Handled) => this.#handle(signal)
  #daemon: Daemon | null = null
  #firstAt = Number.NEGATIVE_INFINITY

  /** `drop`: what it alone holds does not keep it from ending; `reopen` opens the file of the log anew. */
  constructor(logger: Logger, drop: boolean, reopen: () => void) {
    this.#logger = logger
    this.#reopen = reopen
    this.#drop = drop
    for (const signal of HANDLED) process.on(signal, this.#handler)
  }

  /** Aborted by a signal to end before the daemon listens. */
  get starting(): AbortSignal {
    return this.#starting.signal
  }

  attach(daemon: Daemon): void {
    this.#daemon = daemon
  }

  close(): void {
    for (const signal of HANDLED) process.off(signal, this.#handler)
  }

  #handle(signal: Handled): void {
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
        return
      default:
        if (daemon === null)
          this.#starting.abort(new FdbError('ERR_FDB_ABORTED', `ended by ${signal} before it listened`))
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
