export interface BackoffBounds {
  readonly firstMs: number
  readonly longestMs: number
}

/** A process that keeps failing is started again after at most this time. The operator gives the first wait. */
export const LONGEST_RESTART_MS = 30_000
/** Work in the background, for which no client waits. */
export const IN_BACKGROUND: BackoffBounds = { firstMs: 1_000, longestMs: 60_000 }

/** More doublings exceed every bound; without the limit 0 ms times infinity would be no number. */
const MOST_DOUBLINGS = 60

/** Returns the wait after `failures` (at least 1) failures in a row: each one doubles it, up to the longest. */
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
