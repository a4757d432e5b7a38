/** Ended entries are dropped when the list has twice as many entries as after the last drop, and this many more. */
const MOST_ENDED = 32
/** Ended entries are also dropped at this interval, because a response may hold a large body. */
const DROP_MS = 1_000

/**
 * Sockets or responses that have not ended, in the order of their arrival. Ended entries are dropped later: a 'close' listener for each
 * would cost 2 % of the CPU time of a short response.
 */
export class PendingSet<T> {
  readonly #hasEnded: (entry: T) => boolean
  #entries: T[] = []
  #dropAt = MOST_ENDED
  #timer: NodeJS.Timeout | undefined

  constructor(hasEnded: (entry: T) => boolean) {
    this.#hasEnded = hasEnded
  }

  add(entry: T): void {
    if (this.#entries.push(entry) >= this.#dropAt) this.all()
    this.#timer ??= setTimeout(this.#dropEnded, DROP_MS).unref()
  }

  /** Returns the entries that have not ended. */
  all(): readonly T[] {
    this.#entries = this.#entries.filter(entry => !this.#hasEnded(entry))
    this.#dropAt = 2 * this.#entries.length + MOST_ENDED
    return this.#entries
  }

  clear(): void {
    this.#entries = []
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  readonly #dropEnded = (): void => {
    this.#timer = this.all().length > 0 ? setTimeout(this.#dropEnded, DROP_MS).unref() : undefined
  }
}
