import { afterHearing, type Limit } from './limit.js'

export interface PendingOptions {
  /** When it aborts, it is rejected with the signal's reason. */
  signal?: AbortSignal | undefined
  /** Called once, when it is settled, before anybody who waits hears of it. */
  over?: () => void
}

/**
 * The answer to a request, while it is waited for: settled once, by what arrives, by its limit or by a signal. What comes
 * later is left out. A rejection that nobody waits for is swallowed, never unhandled.
 */
export class Pending<T> {
  readonly answer: Promise<T>
  readonly #signal: AbortSignal | undefined
  readonly #over: () => void
  readonly #aborted = () => this.reject(this.#signal?.reason)
  #resolve!: (value: T) => void
  #reject!: (error: unknown) => void
  #limit: Limit | undefined
  #settled = false

  constructor({ signal, over = () => {} }: PendingOptions = {}) {
    this.#signal = signal
    this.#over = over
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

  /**
   * From now on it has `ms` milliseconds; an earlier limit does not count any more. `late` settles it, as a rule: what had
   * arrived by then has been heard.
   */
  limit(ms: number, late: () => void, options: { unref?: boolean } = {}): this {
    this.#limit?.clear()
    if (!this.#settled) this.#limit = afterHearing(ms, late, options)
    return this
  }

  /** Whether it was waited for still. */
  resolve(value: T): boolean {
    if (!this.#end()) return false
    this.#resolve(value)
    return true
  }

  /** Whether it was waited for still. */
  reject(error: unknown): boolean {
    if (!this.#end()) return false
    this.#reject(error)
    return true
  }

  #end(): boolean {
    if (this.#settled) return false
    this.#settled = true
    this.#limit?.clear()
    this.#signal?.removeEventListener('abort', this.#aborted)
    this.#over()
    return true
  }
}
