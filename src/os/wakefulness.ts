/** What a timer may be late by on a busy machine. */
const LATE_MS = 250

/**
 * Since when this process has been able to hear others, as its own regular ticks show: its own stall (a busy event loop,
 * a SIGSTOP, a machine that was paused) is not the silence of others.
 */
export class Wakefulness {
  #tickedAt = performance.now()
  #since = this.#tickedAt

  /** Called every `everyMs`. Answers when, of performance.now(), the last stall ended, or the watch began. */
  tick(everyMs: number, now: number = performance.now()): number {
    if (now - this.#tickedAt > 2 * everyMs + LATE_MS) this.#since = now
    this.#tickedAt = now
    return this.#since
  }

  /** The watch begins anew. */
  restart(): void {
    this.#tickedAt = this.#since = performance.now()
  }
}
