import { performance } from 'node:perf_hooks'

/** The longest that moves held up one turn of this process's event loop. */
export class TurnWork {
  #longestMs = 0
  #turn = -1
  #spentMs = 0
  #running = false
  #begun = 0

  /** In milliseconds, rounded to hundredths. Other processes may have had the processor meanwhile. */
  get longestMs(): number {
    return Math.round(this.#longestMs * 100) / 100
  }

  /** Work for moves. Several of them in one turn count together; one within another counts once. */
  run<T>(work: () => T): T {
    if (this.#running) return work()
    this.#running = true
    this.#begun = performance.now()
    try {
      return work()
    } finally {
      this.#running = false
      this.#add(performance.now() - this.#begun)
    }
  }

  /** When moves will have had so many milliseconds of this turn, by `performance.now()`. */
  until(ms: number): number {
    const now = performance.now()
    const running = this.#running ? now - this.#begun : 0
    return now + ms - running - this.#spent
  }

  get #spent(): number {
    const turn = performance.nodeTiming.uvMetricsInfo.loopCount
    if (turn !== this.#turn) this.#spentMs = 0
    this.#turn = turn
    return this.#spentMs
  }

  #add(ms: number): void {
    this.#spentMs = this.#spent + ms
    if (this.#spentMs > this.#longestMs) this.#longestMs = this.#spentMs
  }
}
