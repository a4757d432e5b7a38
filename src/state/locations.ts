const CHUNK_BITS = 14
const CHUNK = 1 << CHUNK_BITS
const MASK = CHUNK - 1
const FIELDS = 3

export interface Location {
  /** Ordinal of the segment, unique in its log. */
  segment: number
  offset: number
  length: number
}

/** The location of each live entry, by slot number: 12 bytes per slot outside the JavaScript heap. Reuses freed slots. Copies share unchanged chunks. */
export class Locations {
  readonly #chunks: Uint32Array[] = []
  /** Whether this object alone uses the chunk. A chunk shared with a copy is duplicated before a change. */
  readonly #own: boolean[] = []
  /** One more than the highest slot number. */
  end = 0
  /** Head of the free list, or -1. A free slot stores the next free slot plus 1 in the field of the segment. */
  #free = -1

  add(segment: number, offset: number, length: number): number {
    const slot = this.#free >= 0 ? this.#unfree() : this.end++
    if (slot >> CHUNK_BITS >= this.#chunks.length) {
      this.#chunks.push(new Uint32Array(CHUNK * FIELDS))
      this.#own.push(true)
    }
    this.set(slot, segment, offset, length)
    return slot
  }

  /** Adds the entries at `count` ranges (start, end) from number `first` on, and writes their slots to `slots`. `base` is the offset of 0 in the segment. */
  addAll(
    segment: number,
    base: number,
    ranges: ArrayLike<number>,
    first: number,
    count: number,
    slots: Uint32Array,
  ): void {
    for (let i = 0; i < count; i++) {
      const start = ranges[2 * (first + i)]!
      slots[i] = this.add(segment, base + start, ranges[2 * (first + i) + 1]! - start)
    }
  }

  #unfree(): number {
    const slot = this.#free
    this.#free = this.#chunks[slot >> CHUNK_BITS]![(slot & MASK) * FIELDS]! - 1
    return slot
  }

  set(slot: number, segment: number, offset: number, length: number): void {
    const chunk = this.#writable(slot >> CHUNK_BITS)
    const at = (slot & MASK) * FIELDS
    chunk[at] = segment
    chunk[at + 1] = offset
    chunk[at + 2] = length
  }

  /** Fills `into` and returns it. A free slot has length 0 and no valid segment. */
  get(slot: number, into: Location): Location {
    const chunk = this.#chunks[slot >> CHUNK_BITS]!
    const at = (slot & MASK) * FIELDS
    into.segment = chunk[at]!
    into.offset = chunk[at + 1]!
    into.length = chunk[at + 2]!
    return into
  }

  remove(slot: number): void {
    this.set(slot, this.#free + 1, 0, 0)
    this.#free = slot
  }

  #writable(index: number): Uint32Array {
    const chunk = this.#chunks[index]!
    if (this.#own[index]) return chunk
    this.#own[index] = true
    return (this.#chunks[index] = chunk.slice())
  }

  copy(): Locations {
    const copy = new Locations()
    for (const [index, chunk] of this.#chunks.entries()) {
      copy.#chunks.push(chunk)
      this.#own[index] = copy.#own[index] = false
    }
    copy.end = this.end
    return copy
  }

  /**
   * Applies a merge of segments. `before` is a copy of these locations from the start of the merge; `after` has the locations of the same slots in
   * the merged segment. Each slot that has not changed since `before` gets its location in `after`. Takes over chunks of `after`, which must not be
   * used afterwards.
   */
  move(before: Locations, after: Locations): void {
    for (let c = 0; c < before.#chunks.length; c++) {
      const now = this.#chunks[c]!
      const old = before.#chunks[c]!
      const to = after.#chunks[c]!
      if (to === old) continue
      if (now === old) {
        this.#chunks[c] = to
        this.#own[c] = true
        continue
      }
      for (let i = 0; i < now.length; i += FIELDS) {
        if (now[i] !== old[i] || now[i + 1] !== old[i + 1]) continue
        now[i] = to[i]!
        now[i + 1] = to[i + 1]!
      }
    }
  }
}
