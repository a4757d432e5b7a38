import type { Member, RetiredReason } from '../index.js'
import { whatKeeps } from '../member/shutdown.js'
import { keptText } from '../operator/status-report.js'
import type { Placeholder } from './placeholder.js'
import { say } from './stderr.js'

/** A handler of SIGTERM may wait for its jobs so long. */
export const HANDLER_MS = 30_000
/** A process that is ended without a drain. */
const CLOSE_MS = 2_000

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** The end of the program: by a signal while it serves, and when it has retired. */
export class ProgramShutdown {
  readonly #member: Member
  readonly #exitMs: number
  readonly #keeper: Placeholder
  #ending = false

  constructor(member: Member, exitMs: number, keeper: Placeholder) {
    this.#member = member
    this.#exitMs = exitMs
    this.#keeper = keeper
    void member.retired.then(why => this.#retired(why))
  }

  /** The program's process is the service: a signal that ends the one ends the other. */
  serves(): void {
    for (const signal of SIGNALS)
      if (!process.listeners(signal).includes(this.#onSignal)) process.prependListener(signal, this.#onSignal)
  }

  /** Signals are its own matter again. */
  stops(): void {
    for (const signal of SIGNALS) process.off(signal, this.#onSignal)
  }

  /** Another process is to serve, or none: what comes of this one is the program's own matter. */
  leave(): void {
    this.#ending = true
    this.stops()
  }

  readonly #onSignal = (signal: NodeJS.Signals): void => {
    const own = process.listenerCount(signal) > 1
    // A version that stands by would serve again as soon as this process ends.
    if (own && this.#member.incumbent !== null) {
      this.#ending = true
      void this.#member.close({ handBack: false })
    }
    if (own) return
    this.leave()
    const limit = setTimeout(() => process.kill(process.pid, signal), CLOSE_MS)
    void this.#member.close({ handBack: false, timeout: 0 }).finally(() => {
      clearTimeout(limit)
      process.kill(process.pid, signal)
    })
  }

  /** As if it was told to stop: its own handler closes what it has opened. */
  async #retired(why: RetiredReason): Promise<void> {
    this.stops()
    await this.#keeper.decided
    if (why !== 'replaced') this.#keeper.stop()
    if (this.#ending || why === 'lost') {
      this.#keeper.stopPassing()
      return
    }
    this.#ending = true
    if (this.#keeper.endProgram()) return
    setTimeout(() => {
      const kept = whatKeeps()
      const what = Object.keys(kept).length === 0 ? 'something' : keptText(kept)
      say(
        `process ${process.pid} does not serve any more and its last connection has ended; ${what} kept it: it is ended (a handler of SIGTERM that closes timers and pools ends it sooner)`,
      )
      process.exit()
    }, this.#exitMs).unref()
  }
}
