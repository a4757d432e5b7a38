import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'

export const CONTROL_SIGNALS = [
  'SIGUSR1',
  'SIGUSR2',
  'SIGHUP',
  'SIGWINCH',
  'SIGTERM',
  'SIGINT',
  'SIGQUIT',
] as const
export type ControlSignal = (typeof CONTROL_SIGNALS)[number]

/** Signals that cancel a command that waits for a new version. */
export const CANCEL_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Signals that can be configured to start the next version. */
export const UPGRADE_SIGNALS: readonly NodeJS.Signals[] = [
  'SIGHUP',
  'SIGUSR1',
  'SIGUSR2',
  'SIGWINCH',
  'SIGTTIN',
  'SIGTTOU',
  'SIGALRM',
  'SIGVTALRM',
  'SIGCONT',
]

/** A repeated signal within this time counts as the same order: systemd signals the whole unit, then the remaining processes again. */
const SAME_ORDER_MS = 2_000

/** A command's action for each signal. `target` is the running server; null until {@link Signals.attach}. */
type SignalTable<T> = {
  readonly [Signal in NodeJS.Signals]?: (target: T | null, signal: Signal) => void
}

/** Handles the signals of a table until close(), so that an early signal does not end the process by default. */
export class Signals<T> {
  readonly #table: SignalTable<T>
  readonly #handlers: (readonly [NodeJS.Signals, () => void])[]
  readonly #starting = new AbortController()
  #target: T | null = null
  /** The signal that has aborted the start. */
  #aborted: NodeJS.Signals | null = null
  #endingSince: number | null = null

  /** Logs each signal. */
  constructor(logger: Logger, table: SignalTable<T>) {
    this.#table = table
    this.#handlers = (Object.keys(table) as NodeJS.Signals[]).map(signal => [
      signal,
      () => {
        logger.info({ signal }, 'signal')
        this.#act(signal)
      },
    ])
    for (const [signal, handler] of this.#handlers) process.on(signal, handler)
  }

  #act(signal: NodeJS.Signals): void {
    const act = this.#table[signal] as (target: T | null, signal: NodeJS.Signals) => void
    act(this.#target, signal)
  }

  /** A signal that has aborted the start too late is an order to the target. */
  attach(target: T): void {
    this.#target = target
    if (this.#aborted !== null) this.#act(this.#aborted)
  }

  get starting(): AbortSignal {
    return this.#starting.signal
  }

  /** Aborts the start. `before` completes "ended by TERM before …". */
  abortStart(signal: NodeJS.Signals, before: string): void {
    this.#aborted ??= signal
    this.#starting.abort(new FdbError('ERR_FDB_ABORTED', `ended by ${signal} before ${before}`))
  }

  /** Returns whether a signal to end is the first one, a repetition of it, or a second order. */
  endOrder(): 'first' | 'same' | 'again' {
    const since = this.#endingSince
    if (since !== null) return performance.now() - since < SAME_ORDER_MS ? 'same' : 'again'
    this.#endingSince = performance.now()
    return 'first'
  }

  close(): void {
    for (const [signal, handler] of this.#handlers) process.off(signal, handler)
  }
}

/** Runs the work of a signal, and logs its failure. Never rejects. */
export async function runLogged<R>(
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
