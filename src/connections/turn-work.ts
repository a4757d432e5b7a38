import { performance } from 'node:perf_hooks'

/**
 * The most CPU time that this process spent on moves in one turn of its event loop. CPU time, as the wall shows what other
 * processes take; of the whole process, so that what V8 does beside is in it.
 */
export class TurnWork {
  #longestUs = 0
  #turn = -1
  #spentUs = 0
  #running = false

  /** In milliseconds, rounded to microseconds. */
  get longestMs(): number {
    return this.#longestUs / 1000
  }

  /** Work for moves. Several of them in one turn count together; one within another counts once. */
  run<T>(work: () => T): T {
    if (this.#running) return work()
    this.#running = true
    const begun = cpuUs()
    try {
      return work()
    } finally {
      this.#running = false
      this.#add(cpuUs() - begun)
    }
  }

  #add(us: number): void {
    const turn = performance.nodeTiming.uvMetricsInfo.loopCount
    if (turn !== this.#turn) this.#spentUs = 0
    this.#turn = turn
    this.#spentUs += us
    if (this.#spentUs > this.#longestUs) this.#longestUs = this.#spentUs
  }
}

function cpuUs(): number {
  const { user, system } = process.cpuUsage()
  return user + system
}
