const CHUNK_BITS = 14
const CHUNK = 1 << CHUNK_BITS
const MASK = CHUNK - 1
const FIELDS = 3

/** Where the encoded change of an entry lies. */
export interface Location {
  /** The segment's ordinal in its log: never used twice. */
  segment: number
  offset: number
  length: number
}

/**
 * Where each live entry lies, in typed arrays outside the JavaScript heap: a million entries are 12 MB and no
 * work for the garbage collector. An entry is a slot number; freed slots are used again.
 */
export class Locations {
  readonly #chunks: Uint32Array[] = []
  readonly #free: number[] = []
  #next = 0

  /** Slots ever used: all slot numbers are below it. */
  get end(): number {
    return this.#next
  }

  add(segment: number, offset: number, length: number): number {
    const slot = this.#free.pop() ?? this.#next++
    if (slot >> CHUNK_BITS >= this.#chunks.length) this.#chunks.push(new Uint32Array(CHUNK * FIELDS))
    this.set(slot, segment, offset, length)
    return slot
  }

  set(slot: number, segment: number, offset: number, length: number): void {
    const chunk = this.#chunks[slot >> CHUNK_BITS]!
    const at = (slot & MASK) * FIELDS
    chunk[at] = segment
    chunk[at + 1] = offset
    chunk[at + 2] = length
  }

  /** Reads into an object of the caller, so that nothing is allocated. A free slot has length 0. */
  get(slot: number, into: Location): Location {
    const chunk = this.#chunks[slot >> CHUNK_BITS]!
    const at = (slot & MASK) * FIELDS
    into.segment = chunk[at]!
    into.offset = chunk[at + 1]!
    into.length = chunk[at + 2]!
    return into
  }

  remove(slot: number): void {
    this.set(slot, 0, 0, 0)
    this.#free.push(slot)
  }

  /** A copy that later changes do not touch (12 bytes a slot). */
  copy(): Locations {
    const copy = new Locations()
    for (const chunk of this.#chunks) copy.#chunks.push(chunk.slice())
    copy.#next = this.#next
    return copy
  }

  /**
   * Slots that still are where they were `before` (a copy) move to where they are in `after`, in segment `ordinal`;
   * slots that were changed meanwhile stay. About 4 ms for a million.
   */
  move(before: Locations, after: Locations, ordinal: number): void {
    for (let c = 0; c < before.#chunks.length; c++) {
      const now = this.#chunks[c]!
      const old = before.#chunks[c]!
      const to = after.#chunks[c]!
      for (let i = 0; i < now.length; i += FIELDS) {
        if (to[i + 2] === 0 || now[i] !== old[i] || now[i + 1] !== old[i + 1]) continue
        now[i] = ordinal
        now[i + 1] = to[i + 1]!
      }
    }
  }
}
