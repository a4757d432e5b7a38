/**
 * The client request ids whose changes are in the log, at most `most`: when a new one comes the oldest is forgotten.
 * Kept by count alone, so that every reader of a log remembers the same ones.
 */
export class RequestMemory {
  readonly #most: number
  readonly #sequences = new Map<string, number>()
  /** In order of arrival; a ring once it is full (a `Map` is slow at finding its oldest key among deleted ones). */
  readonly #ring: string[] = []
  #oldest = 0

  constructor(most: number) {
    this.#most = most
  }

  get size(): number {
    return this.#sequences.size
  }

  has(id: string): boolean {
    return this.#sequences.has(id)
  }

  add(id: string, sequence: number): void {
    if (this.#sequences.has(id)) return
    this.#sequences.set(id, sequence)
    if (this.#ring.length < this.#most) {
      this.#ring.push(id)
      return
    }
    this.#sequences.delete(this.#ring[this.#oldest]!)
    this.#ring[this.#oldest] = id
    this.#oldest = (this.#oldest + 1) % this.#most
  }

  /** Those of changes up to and including a sequence, oldest first. */
  upTo(sequence: number): string[] {
    const ids: string[] = []
    for (let i = 0; i < this.#ring.length; i++) {
      const id = this.#ring[(this.#oldest + i) % this.#ring.length]!
      if (this.#sequences.get(id)! <= sequence) ids.push(id)
    }
    return ids
  }
}
