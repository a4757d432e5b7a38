/** Ended entries are dropped when the list has this many entries more than twice those that were left after the last drop. */
const MOST_ENDED = 32
/** The interval at which ended entries are dropped, because they may hold large bodies. */
const DROP_MS = 1_000

/**
 * Sockets or responses that have not ended, in the order of their arrival. Ended entries are dropped later: a 'close' listener for each
 * would cost 2 % of the CPU time of a short response. Most entries end in that order, and each addition drops those at the beginning: the
 * garbage collector would have to copy them.
 */
export class PendingSet<T> {
  readonly #hasEnded: (entry: T) => boolean
  /** From {@link #first} on. */
  #entries: (T | undefined)[] = []
  #first = 0
  #dropAt = MOST_ENDED
  #timer: NodeJS.Timeout | undefined

  constructor(hasEnded: (entry: T) => boolean) {
    this.#hasEnded = hasEnded
  }

  add(entry: T): void {
    const entries = this.#entries
    while (this.#first < entries.length && this.#hasEnded(entries[this.#first]!))
      entries[this.#first++] = undefined
    if (entries.push(entry) >= this.#dropAt) this.all()
    this.#timer ??= setTimeout(this.#dropEnded, DROP_MS).unref()
  }

  /** Returns the entries that have not ended. */
  all(): readonly T[] {
    const left = this.#entries.filter((entry): entry is T => entry !== undefined && !this.#hasEnded(entry))
    this.#entries = left
    this.#first = 0
    this.#dropAt = 2 * left.length + MOST_ENDED
    return left
  }

  clear(): void {
    this.#entries = []
    this.#first = 0
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  readonly #dropEnded = (): void => {
    this.#timer = this.all().length > 0 ? setTimeout(this.#dropEnded, DROP_MS).unref() : undefined
  }
}
