export interface BackoffBounds {
  readonly firstMs: number
  readonly longestMs: number
}

/** Longest delay before a failing process is restarted. The operator configures the first delay. */
export const LONGEST_RESTART_MS = 30_000
/** Delays for background work, which delays no client. */
export const IN_BACKGROUND: BackoffBounds = { firstMs: 1_000, longestMs: 60_000 }

/** Enough doublings to exceed every bound. Without this limit a first delay of 0 ms would become 0 * Infinity, which is NaN. */
const MOST_DOUBLINGS = 60

/** Returns the delay after a number of failures in a row (at least 1). Each failure doubles it, up to the longest. */
export function backoffMs({ firstMs, longestMs }: BackoffBounds, failures: number): number {
  return Math.min(firstMs * 2 ** Math.min(failures - 1, MOST_DOUBLINGS), longestMs)
}

export class Backoff {
  readonly #bounds: BackoffBounds
  #failures = 0

  constructor(bounds: BackoffBounds) {
    this.#bounds = bounds
  }

  next(): number {
    return backoffMs(this.#bounds, ++this.#failures)
  }

  reset(): void {
    this.#failures = 0
  }
}
