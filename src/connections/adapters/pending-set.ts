/** Entries that have ended are dropped when so many more are kept than were there the last time, */
const MOST_ENDED = 32
/** or after this time: a large body may hang on them. */
const DROP_MS = 1_000

/**
 * The sockets, or answers, that are under way, in the order in which they came. A server that serves pays for an entry of a list; to listen to the
 * 'close' of each costs 2 % of the processor time of a short answer.
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

  /** Those that have not ended. */
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
