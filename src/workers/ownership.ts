import { FdbError } from '../errors.js'

/**
 * The right of a main process to start and replace workers, which ends when another main process takes over, and comes back if that process
 * fails; it ends for good when this process is closed. Work that continues after a wait, and each timer, checks it again.
 */
export class Ownership {
  #ended = new AbortController()
  #isLost = false
  #isClosed = false

  /** Whether no other main process has taken over. A closed main process still ends its workers. */
  get isHeld(): boolean {
    return !this.#isLost
  }

  get mayStart(): boolean {
    return !this.#ended.signal.aborted
  }

  /** Aborted, with the error of {@link demand}, when the right ends. After {@link regain} this is another signal. */
  get signal(): AbortSignal {
    return this.#ended.signal
  }

  /** Throws ERR_FDB_CLOSED if the right has ended. */
  demand(): void {
    this.#ended.signal.throwIfAborted()
  }

  /** Another main process has taken over. Cancels all work under this right. Idempotent. */
  lose(): void {
    this.#isLost = true
    this.#end('another one has taken over; send the order again to the one that serves')
  }

  /** The other main process has failed. Idempotent. */
  regain(): void {
    if (!this.#isLost) return
    this.#isLost = false
    if (!this.#isClosed) this.#ended = new AbortController()
  }

  /** This main process ends. Cancels all work under this right. Idempotent. */
  close(): void {
    this.#isClosed = true
    this.#end('it was closed; send the order again if another one serves')
  }

  #end(why: string): void {
    const reason = `process ${process.pid} is no longer the main process of the workers: ${why}`
    this.#ended.abort(new FdbError('ERR_FDB_CLOSED', reason, { retryable: true }))
  }
}
