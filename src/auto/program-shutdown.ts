import { DEFAULT_TIMES } from '../base/default-times.js'
import type { Member, RetiredReason } from '../index.js'
import { type SignalWatch, watchSignal } from '../kernel/index.js'
import { activeResources } from '../node/active-resources.js'
import { keptByText } from '../operator/status-report.js'
import { endBy } from './end-by.js'
import type { KeptProcess } from './kept-process.js'
import type { AutoSettings } from './settings.js'
import { StartingProcesses } from './starting.js'
import { print } from './stderr.js'

/** Time for the program's SIGTERM handler to finish its work. */
export const HANDLER_MS = 30_000
/** Time limit for closing the member at a signal. */
const CLOSE_MS = 2_000

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** Ends the program at a signal while it serves, and after it has retired. */
export class ProgramShutdown {
  readonly #member: Member
  readonly #exitMs: number
  readonly #drainMs: number
  readonly #starting: StartingProcesses
  readonly #keptProcess: KeptProcess
  /** While this process serves. */
  readonly #watches = new Map<NodeJS.Signals, SignalWatch>()
  /** A signal waits for a next version that is starting. */
  #isWaiting = false
  #ending = false
  /** The program's SIGTERM handlers were called before its last connections were closed. */
  #called = false

  constructor(
    member: Member,
    { exitMs, drainMs = DEFAULT_TIMES.drain.ms }: AutoSettings,
    keptProcess: KeptProcess,
  ) {
    this.#member = member
    this.#exitMs = exitMs
    this.#drainMs = drainMs
    this.#starting = new StartingProcesses(member)
    this.#keptProcess = keptProcess
    member.draining.onLastCall = () => void this.#onLastCall()
    void member.retired.then(why => this.#onRetired(why))
  }

  /** Called when this process serves. A signal then ends the service with the process. */
  handleSignals(): void {
    for (const signal of SIGNALS)
      if (!this.#watches.has(signal))
        this.#watches.set(
          signal,
          watchSignal(signal, () => this.#onSignal(signal)),
        )
  }

  /** Leaves signals to the program. */
  stopHandlingSignals(): void {
    for (const watch of this.#watches.values()) watch.close()
    this.#watches.clear()
  }

  /** Called when this process will not serve (again). The program then decides about signals and its end. */
  leave(): void {
    this.#ending = true
    this.stopHandlingSignals()
  }

  /**
   * Called before the program's handlers of a signal; returns whether they get it now. While a next version is starting, they get it only when
   * that version serves or has failed: they may close the server, or end the process, while no other one listens.
   */
  passes(signal: NodeJS.Signals): boolean {
    // A second signal does not wait.
    if (this.#watches.size === 0 || this.#isWaiting || this.#member.isStoodBy || !this.#starting.any)
      return true
    this.#isWaiting = true
    void this.#afterStart(signal)
    return false
  }

  async #afterStart(signal: NodeJS.Signals): Promise<void> {
    if (await this.#isHandedOver(signal, true)) return
    // The handlers of a program that has been replaced are called after its last connection.
    if (this.#watches.size > 0) process.emit(signal, signal)
    this.#isWaiting = false
  }

  #onSignal(signal: NodeJS.Signals): void {
    const handled = process.listenerCount(signal) > 0
    // Closes the member first: otherwise a predecessor on standby would serve again when this process ends.
    if (handled && this.#member.isStoodBy) {
      this.#ending = true
      void this.#member.close({ handBack: false })
    }
    if (handled) return
    // Not watched any more: a second signal ends this process at once.
    this.stopHandlingSignals()
    void this.#end(signal)
  }

  /** Ends the service, or only this process if a next version that is starting serves in time. */
  async #end(signal: NodeJS.Signals): Promise<void> {
    if (await this.#isHandedOver(signal, false)) return
    this.leave()
    const limit = setTimeout(() => endBy(signal), CLOSE_MS)
    await this.#member.close({ handBack: false, timeout: 0 }).catch(() => {})
    clearTimeout(limit)
    endBy(signal)
  }

  /** Waits for a next version that is starting. Resolves with whether it serves; this process is then leaving. */
  async #isHandedOver(signal: NodeJS.Signals, handled: boolean): Promise<boolean> {
    await this.#starting.settled(this.#drainMs)
    if (!(await this.#member.handedOver())) return false
    await this.#member.close({ handBack: false })
    await this.#keptProcess.passOn(signal, handled)
    return true
  }

  /** Lets the SIGTERM handlers of a replaced program end its connections themselves, as by a close frame with code 1001. */
  async #onLastCall(): Promise<void> {
    await this.#keptProcess.decided
    if (this.#ending || this.#called) return
    this.stopHandlingSignals()
    this.#called = this.#keptProcess.endProgram()
  }

  /** Ends a retired program through its own SIGTERM handlers, which close its resources. */
  async #onRetired(why: RetiredReason): Promise<void> {
    this.stopHandlingSignals()
    await this.#keptProcess.decided
    if (why !== 'replaced') this.#keptProcess.stop()
    if (this.#ending || why === 'lost') {
      this.#keptProcess.stopForwarding()
      return
    }
    this.#ending = true
    if (this.#called || this.#keptProcess.endProgram()) return
    setTimeout(() => {
      const kept = activeResources()
      print(
        `process ${process.pid} no longer serves and its last connection has ended, but ${keptByText(kept, 'keep')} it alive: fd-broker ends it. A SIGTERM handler that closes timers and pools would end it sooner`,
      )
      process.exit()
    }, this.#exitMs).unref()
  }
}
