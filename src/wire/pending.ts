import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'

export interface Limit {
  /** Idempotent. */
  clear(): void
  /** Whether it keeps the process alive (it does at first). */
  keepAlive(on: boolean): void
}

/**
 * Calls `late` when `ms` milliseconds have passed and what had arrived by then has been read: a process that was kept from
 * listening (a busy event loop, a SIGSTOP) hears the others out before it says that they are late.
 */
export function afterReading(ms: number, late: () => void, { unref = false } = {}): Limit {
  let reading: NodeJS.Immediate | undefined
  const timer = setTimeout(
    () => {
      // Timers come first in a turn of the event loop, then sockets are read, then this.
      reading = setImmediate(late)
    },
    Math.min(ms, LONGEST_MS),
  )
  if (unref) timer.unref()
  return {
    clear: () => {
      clearTimeout(timer)
      clearImmediate(reading)
    },
    keepAlive: on => {
      if (on) timer.ref()
      else timer.unref()
    },
  }
}

export interface PendingOptions {
  /** When it aborts, it is rejected with the signal's reason. */
  signal?: AbortSignal | undefined
  /** Called once, when it is settled, before anybody who waits hears of it. */
  onSettled?: () => void
}

/**
 * The answer to a request, while it is awaited: settled once, by an arrival, by its limit or by a signal. A later answer is ignored. A
 * rejection without a listener is swallowed, never unhandled.
 */
export class Pending<T> {
  readonly answer: Promise<T>
  readonly #signal: AbortSignal | undefined
  readonly #onSettled: () => void
  readonly #aborted = () => this.reject(this.#signal?.reason)
  #resolve!: (value: T) => void
  #reject!: (error: unknown) => void
  #limit: Limit | undefined
  #settled = false

  constructor({ signal, onSettled = () => {} }: PendingOptions = {}) {
    this.#signal = signal
    this.#onSettled = onSettled
    this.answer = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.answer.catch(() => {})
    if (signal?.aborted) this.#aborted()
    else signal?.addEventListener('abort', this.#aborted, { once: true })
  }

  get settled(): boolean {
    return this.#settled
  }

  /** Sets the time limit in place of an earlier one; `late`, as a rule, settles it, when all that has arrived by then was heard. */
  limit(ms: number, late: () => void, options: { unref?: boolean } = {}): this {
    this.#limit?.clear()
    if (!this.#settled) this.#limit = afterReading(ms, late, options)
    return this
  }

  /** Whether it was waited for still. */
  resolve(value: T): boolean {
    if (!this.#markSettled()) return false
    this.#resolve(value)
    return true
  }

  /** Whether it was waited for still. */
  reject(error: unknown): boolean {
    if (!this.#markSettled()) return false
    this.#reject(error)
    return true
  }

  #markSettled(): boolean {
    if (this.#settled) return false
    this.#settled = true
    this.#limit?.clear()
    this.#signal?.removeEventListener('abort', this.#aborted)
    this.#onSettled()
    return true
  }
}

interface DeadlineOptions {
  signal?: AbortSignal | undefined
  /** The awaited thing, as a noun: "the holder's Welcome". Stands in the message. */
  what: string
}

/**
 * Settles as `promise` does, unless `ms` milliseconds pass first (ERR_FDB_DEADLINE) or `signal` aborts (its
 * reason). The promise itself goes on; a late rejection of it is swallowed, never unhandled.
 */
export function withDeadline<T>(
  promise: Promise<T>,
  ms: number,
  { signal, what }: DeadlineOptions,
): Promise<T> {
  const pending = new Pending<T>({ signal })
  pending.limit(ms, () => pending.reject(deadlineError(what, ms)))
  promise.then(
    value => pending.resolve(value),
    error => pending.reject(error),
  )
  return pending.answer
}

export function deadlineError(what: string, ms: number): FdbError {
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `${what} did not happen within ${ms} ms: the other side is stuck, stopped or overloaded; raise the deadline if it is only slow`,
    { retryable: true, details: { what, ms } },
  )
}
