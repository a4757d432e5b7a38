import { FdbError } from '../errors.js'

/**
 * The right of a main process to start, replace and end workers. It ends when another main process takes over, and comes back if that process
 * fails. Work that continues after a wait, and each timer, checks it again.
 */
export class Ownership {
  #lost = new AbortController()

  get isHeld(): boolean {
    return !this.#lost.signal.aborted
  }

  /** Aborted, with the error of {@link demand}, when the right ends. After {@link regain} this is another signal. */
  get signal(): AbortSignal {
    return this.#lost.signal
  }

  /** Throws ERR_FDB_CLOSED if the right has ended. */
  demand(): void {
    this.#lost.signal.throwIfAborted()
  }

  /** Cancels all work under this right. Idempotent. */
  lose(): void {
    if (!this.isHeld) return
    const reason = `process ${process.pid} is no longer the main process of the workers: another one has taken over, or it was closed; send the order again to the one that serves`
    this.#lost.abort(new FdbError('ERR_FDB_CLOSED', reason, { retryable: true }))
  }

  /** The other main process has failed. Idempotent. */
  regain(): void {
    if (!this.isHeld) this.#lost = new AbortController()
  }
}
