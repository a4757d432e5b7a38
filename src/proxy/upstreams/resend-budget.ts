/** A burst of this many requests may be sent again even if hardly any succeed. */
const FIRST = 100
/** A server with few requests may lose this many in a second. */
const PER_SECOND = 10
/** The most that a long time without a failure saves up. */
const MOST = 1000

/**
 * Limits how many requests of an upstream are sent again because their servers died: a request that kills its server must not kill the others, as often as
 * clients repeat it. Counts only in this process; a request is sent to at most one other server, also if it moves.
 */
export class ResendBudget {
  /** Requests since the last call of {@link take}. */
  requests = 0
  #left = FIRST
  #at: number | null = null

  /** Takes one, and returns true, if one is left. `percent` of the requests are added, and some for each second. `now` is the time of any monotonic clock in milliseconds. */
  take(percent: number, now: number): boolean {
    const seconds = this.#at === null ? 0 : (now - this.#at) / 1000
    const earned = (this.requests * percent) / 100 + seconds * PER_SECOND
    this.#left = Math.min(MOST, this.#left + earned)
    this.requests = 0
    this.#at = now
    if (percent === 0 || this.#left < 1) return false
    this.#left--
    return true
  }
}
