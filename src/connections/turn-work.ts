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

  /** What is left for moves of so many milliseconds of this turn. */
  budget(ms: number): TurnBudget {
    const running = this.#running ? performance.now() - this.#begun : 0
    return new TurnBudget(ms - running - this.#spent)
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

/**
 * A part of one turn. It is used up when the clock and the processor say so: on a busy machine this process has the
 * processor for a part of the time, and would otherwise do next to nothing in each turn.
 */
export class TurnBudget {
  readonly #ms: number
  readonly #begun = performance.now()
  readonly #cpu = process.cpuUsage()

  constructor(ms: number) {
    this.#ms = ms
  }

  get usedUp(): boolean {
    if (performance.now() - this.#begun < this.#ms) return false
    const { user, system } = process.cpuUsage(this.#cpu)
    return (user + system) / 1000 >= this.#ms
  }
}
