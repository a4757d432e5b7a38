/**
 * How many connections may go by now, where so many may go in a second, evenly. Those that may and did not are not kept for long: what
 * comes after is no faster for it.
 */
export class Pace {
  readonly #perMs: number
  readonly #most: number
  readonly #atOnce: number
  #allowed: number
  #countedAt = performance.now()

  /** `most`: that may go without a pause, the first ones too; `atOnce`: it is worth a turn to send so many. */
  constructor({ perSecond, most, atOnce }: { perSecond: number; most: number; atOnce: number }) {
    this.#perMs = perSecond / 1000
    this.#most = most
    this.#atOnce = Math.min(atOnce, most)
    this.#allowed = most
  }

  /** May go now. */
  get allowed(): number {
    return this.#allowed
  }

  spend(connections: number): void {
    this.#allowed -= connections
  }

  /** When {@link allowed} is worth a turn, of `performance.now()`; in the past or now: it is. */
  ready(): number {
    const now = performance.now()
    if (!Number.isFinite(this.#perMs)) return now
    this.#allowed = Math.min(this.#most, this.#allowed + (now - this.#countedAt) * this.#perMs)
    this.#countedAt = now
    return now + Math.max(0, this.#atOnce - this.#allowed) / this.#perMs
  }
}
