import type { StateFileStatus } from './status.js'

const FIRST_MS = 100
export const MOST_MS = 10_000

/** Whether the state file can be written, why not, and when it is tried again. */
export class Failures {
  ok = true
  last: StateFileStatus['lastError'] = null
  #timer: NodeJS.Timeout | undefined
  #ms = FIRST_MS

  /** It is tried again later, not before. */
  get waiting(): boolean {
    return this.#timer !== undefined
  }

  /** Returns whether it could not be written before. */
  succeeded(): boolean {
    const before = this.ok
    this.ok = true
    return !before
  }

  /** A try came to its end, with or without a file. */
  calm(): void {
    this.#ms = FIRST_MS
  }

  /** Calls `again` after a while, longer each time. Returns whether this is news. */
  failed(error: NodeJS.ErrnoException, again: () => void): boolean {
    const code = error.code ?? 'ERR_FDB_INTERNAL'
    const news = this.ok || this.last?.code !== code
    this.ok = false
    this.last = { code, message: error.message, at: new Date().toISOString() }
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      again()
    }, this.#ms).unref()
    this.#ms = Math.min(2 * this.#ms, MOST_MS)
    return news
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.ok = true
  }
}
