import type { Member, RetiredReason } from '../index.js'
import { activeResources } from '../member/shutdown.js'
import { keptByText } from '../operator/status-report.js'
import type { Placeholder } from './placeholder.js'
import { say } from './stderr.js'

/** Time for the program's SIGTERM handler to finish its work. */
export const HANDLER_MS = 30_000
/** Limit for closing the member at a signal. */
const CLOSE_MS = 2_000

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** Ends the program: at a signal while it serves, and after it has retired. */
export class ProgramShutdown {
  readonly #member: Member
  readonly #exitMs: number
  readonly #placeholder: Placeholder
  #ending = false

  constructor(member: Member, exitMs: number, placeholder: Placeholder) {
    this.#member = member
    this.#exitMs = exitMs
    this.#placeholder = placeholder
    void member.retired.then(why => this.#onRetired(why))
  }

  /** Called when this process serves: a signal that ends it also ends the service. */
  handleSignals(): void {
    for (const signal of SIGNALS)
      if (!process.listeners(signal).includes(this.#onSignal)) process.prependListener(signal, this.#onSignal)
  }

  /** Leaves signals to the program. */
  stopHandlingSignals(): void {
    for (const signal of SIGNALS) process.off(signal, this.#onSignal)
  }

  /** Called when another process or none will serve: leaves this one to the program. */
  leave(): void {
    this.#ending = true
    this.stopHandlingSignals()
  }

  readonly #onSignal = (signal: NodeJS.Signals): void => {
    const own = process.listenerCount(signal) > 1
    // A predecessor on standby would serve again as soon as this process ends.
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

  /** Ends a retired program through its own SIGTERM handlers, which close its resources. */
  async #onRetired(why: RetiredReason): Promise<void> {
    this.stopHandlingSignals()
    await this.#placeholder.decided
    if (why !== 'replaced') this.#placeholder.stop()
    if (this.#ending || why === 'lost') {
      this.#placeholder.stopForwarding()
      return
    }
    this.#ending = true
    if (this.#placeholder.endProgram()) return
    setTimeout(() => {
      const kept = activeResources()
      const what = Object.keys(kept).length === 0 ? 'something' : keptByText(kept)
      say(
        `process ${process.pid} no longer serves and its last connection has ended, but ${what} keeps it alive: fd-broker ends it. A SIGTERM handler that closes timers and pools would end it sooner`,
      )
      process.exit()
    }, this.#exitMs).unref()
  }
}
