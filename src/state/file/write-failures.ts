import { Backoff } from '../../base/backoff.js'

export const LONGEST_BACKOFF_MS = 10_000

interface WriteFailure {
  readonly code: string
  readonly message: string
  readonly at: string
}

/** Tracks failed writes of the state file and schedules the next attempt. */
export class WriteFailures {
  ok = true
  last: WriteFailure | null = null
  readonly backoff = new Backoff({ firstMs: 100, longestMs: LONGEST_BACKOFF_MS })
  #timer: NodeJS.Timeout | undefined

  /** Whether the next attempt is scheduled. */
  get waiting(): boolean {
    return this.#timer !== undefined
  }

  /** Returns whether the previous attempt had failed. */
  recordSuccess(): boolean {
    const recovered = !this.ok
    this.ok = true
    return recovered
  }

  /** Schedules `retry` with exponential backoff. Returns whether this failure must be reported: it is the first, or has another code. */
  recordFailure(error: NodeJS.ErrnoException, retry: () => void): boolean {
    const code = error.code ?? 'ERR_FDB_INTERNAL'
    const isNew = this.ok || this.last?.code !== code
    this.ok = false
    this.last = { code, message: error.message, at: new Date().toISOString() }
    const delayMs = this.backoff.next()
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      retry()
    }, delayMs).unref()
    return isNew
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.ok = true
  }
}
