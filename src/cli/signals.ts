import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'

/** Signals that control a process that serves. */
export const ORDERS = ['SIGUSR1', 'SIGUSR2', 'SIGHUP', 'SIGWINCH', 'SIGTERM', 'SIGINT', 'SIGQUIT'] as const
export type Order = (typeof ORDERS)[number]

/** A second order to end that comes sooner is the same one: systemd sends it to the whole unit, and again to what is left of it. */
const IMPATIENT_MS = 2_000

/** The action of a command for each signal. `target`: the running thing, null until {@link Signals.attach}. */
export type SignalTable<T> = {
  readonly [Signal in NodeJS.Signals]?: (target: T | null, signal: Signal) => void
}

/** Handles the signals of a table from its construction to its close: one that comes early must not end the process by default. */
export class Signals<T> {
  readonly #handlers: (readonly [NodeJS.Signals, (signal: NodeJS.Signals) => void])[]
  readonly #starting = new AbortController()
  #target: T | null = null
  #endingSince: number | null = null

  /** `logger` is told of each signal. */
  constructor(logger: Logger, table: SignalTable<T>) {
    this.#handlers = Object.entries(table).map(([signal, act]) => [
      signal as NodeJS.Signals,
      () => {
        logger.info({ signal }, 'signal')
        ;(act as (target: T | null, signal: string) => void)(this.#target, signal)
      },
    ])
    for (const [signal, handler] of this.#handlers) process.on(signal, handler)
  }

  attach(target: T): void {
    this.#target = target
  }

  /** Aborted by {@link abandon}. */
  get starting(): AbortSignal {
    return this.#starting.signal
  }

  /** `before` what was under way: it `served`, say. */
  abandon(signal: NodeJS.Signals, before: string): void {
    this.#starting.abort(new FdbError('ERR_FDB_ABORTED', `ended by ${signal} before ${before}`))
  }

  /** The meaning of an order to end that has come now. */
  end(): 'first' | 'same' | 'again' {
    const since = this.#endingSince
    if (since !== null) return performance.now() - since < IMPATIENT_MS ? 'same' : 'again'
    this.#endingSince = performance.now()
    return 'first'
  }

  close(): void {
    for (const [signal, handler] of this.#handlers) process.off(signal, handler)
  }
}

/** Does what an order asks for; its outcome is a line of the log. */
export async function obey<R>(
  logger: Logger,
  work: () => Promise<R>,
  { done, failed }: { readonly done?: (result: R) => void; readonly failed: string },
): Promise<void> {
  try {
    const result = await work()
    done?.(result)
  } catch (error) {
    logger.error({ err: error }, failed)
  }
}

/** Does something with V8's flags as they were when the process was started. */
type WithUsualFlags = <T>(work: () => T) => T

/** The state of a server: it serves, as the first or after another; or it is about to end, and another serves in its place. */
type Turn = 'served' | 'joined' | 'left'

export type OnTurn = (turn: Turn, withUsualFlags: WithUsualFlags) => void

let told: OnTurn = () => {}

export function onTurn(tell: OnTurn): void {
  told = tell
}

/** A command says each once. */
export function tellTurn(turn: Turn, withUsualFlags: WithUsualFlags = work => work()): void {
  told(turn, withUsualFlags)
}
