import { FdbError } from '../errors.js'

/** What a process that serves is ordered by. */
export const ORDERS = ['SIGUSR1', 'SIGUSR2', 'SIGHUP', 'SIGWINCH', 'SIGTERM', 'SIGINT', 'SIGQUIT'] as const
export type Order = (typeof ORDERS)[number]

/**
 * A second order to end that comes sooner is the same one: systemd, for one, sends it to the whole unit, and again to what is
 * left when the main process has ended.
 */
const IMPATIENT_MS = 2_000

/** Handles signals from its construction to its close: one that comes early must not end the process by default. */
export class SignalOrders<S extends NodeJS.Signals> {
  readonly #signals: readonly S[]
  readonly #obey: (signal: S) => void
  readonly #starting = new AbortController()
  #endingSince: number | null = null

  constructor(signals: readonly S[], obey: (signal: S) => void) {
    this.#signals = signals
    this.#obey = obey
    for (const signal of signals) process.on(signal, obey)
  }

  /** Aborted by {@link abandon}. */
  get starting(): AbortSignal {
    return this.#starting.signal
  }

  /** `before` what was under way: it `served`, say. */
  abandon(signal: S, before: string): void {
    this.#starting.abort(new FdbError('ERR_FDB_ABORTED', `ended by ${signal} before ${before}`))
  }

  /** What an order to end that has come now says. */
  end(): 'first' | 'same' | 'again' {
    const since = this.#endingSince
    if (since !== null) return performance.now() - since < IMPATIENT_MS ? 'same' : 'again'
    this.#endingSince = performance.now()
    return 'first'
  }

  close(): void {
    for (const signal of this.#signals) process.off(signal, this.#obey)
  }
}

/** Does something with V8's flags as they were when the process was started. */
type WithUsualFlags = <T>(work: () => T) => T

/** What has become of a server: it serves, as the first or after another; or it is about to end, and another serves in its place. */
type Turn = 'served' | 'joined' | 'left'

export type OnTurn = (turn: Turn, withUsualFlags: WithUsualFlags) => void

let told: OnTurn = () => {}

/** Has somebody told what becomes of a server that this process is. */
export function onTurn(tell: OnTurn): void {
  told = tell
}

/** A command says each once. */
export function tellTurn(turn: Turn, withUsualFlags: WithUsualFlags = work => work()): void {
  told(turn, withUsualFlags)
}
