import type { Logger } from '../base/logger.js'
import type { Supervisor } from '../run/supervisor.js'
import { SignalOrders } from './signal-orders.js'

const ENDING = ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const
const OTHERS = [
  'SIGHUP',
  'SIGUSR1',
  'SIGUSR2',
  'SIGWINCH',
  'SIGTTIN',
  'SIGTTOU',
  'SIGALRM',
  'SIGVTALRM',
  'SIGCONT',
] as const
const HANDLED: readonly NodeJS.Signals[] = [...ENDING, ...OTHERS]

/** Signals with which the next version may be started. */
export const UPGRADING: readonly NodeJS.Signals[] = OTHERS

/** What signals make a supervisor do. As PID 1 it gets only those that it has a handler for. */
export class RunSignals {
  readonly #logger: Logger
  readonly #upgradeSignal: NodeJS.Signals
  readonly #orders = new SignalOrders(HANDLED, signal => this.#handle(signal))
  readonly #early: NodeJS.Signals[] = []
  #supervisor: Supervisor | null = null

  constructor(logger: Logger, upgradeSignal: NodeJS.Signals) {
    this.#logger = logger
    this.#upgradeSignal = upgradeSignal
  }

  attach(supervisor: Supervisor): void {
    this.#supervisor = supervisor
    for (const signal of this.#early.splice(0)) this.#handle(signal)
  }

  close(): void {
    this.#orders.close()
  }

  #handle(signal: NodeJS.Signals): void {
    const supervisor = this.#supervisor
    if (supervisor === null) {
      // An order to end must not be lost; there is nothing to be upgraded yet.
      if (isEnding(signal)) this.#early.push(signal)
    } else if (isEnding(signal)) this.#end(supervisor, signal)
    else if (signal === this.#upgradeSignal) this.#upgrade(supervisor)
    else supervisor.forward(signal)
  }

  #end(supervisor: Supervisor, signal: NodeJS.Signals): void {
    const order = this.#orders.end()
    if (order === 'first') {
      this.#logger.info({ signal }, 'the program is ended')
      // The program's own signal stands for TERM; INT and QUIT mean what they say.
      supervisor.stop(signal === 'SIGTERM' ? {} : { signal })
    } else if (order === 'again') supervisor.stop({ now: true })
  }

  #upgrade(supervisor: Supervisor): void {
    // What became of it is in the log.
    supervisor.upgrade().catch(() => {})
  }
}

function isEnding(signal: NodeJS.Signals): boolean {
  return (ENDING as readonly NodeJS.Signals[]).includes(signal)
}
