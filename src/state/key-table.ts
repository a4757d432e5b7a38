import { areEqual, Bytes, copyKey, emptyKey, type KeyBytes } from './key-bytes.js'

/** Contents of an index entry: never used, deleted key, or the key's place (its ordinal in the table) plus {@link FIRST_PLACE}. */
const EMPTY = 0
const REMOVED = 1
const FIRST_PLACE = 2
/** Stored values of a deleted key, and of null. */
const DELETED = 0xffff_ffff
const NULL = 0xffff_fffe

const LEAST = 8
const KEY_BYTES = 16

/** A hash table from keys to numbers below 2^32 - 2 or null, outside the JavaScript heap. Grows in one step: {@link KeyMap} keeps tables small. */
export class KeyTable {
  size = 0
  /** Open addressing: hash and place of each key. At most half full. */
  #index: Uint32Array
  /** Number of used index entries, including deleted keys. */
  #indexed = 0
  /** By place: the value, and the offset of the key's end in {@link #bytes}. The key begins at the end of the previous one. */
  #places: Uint32Array
  #count = 0
  #bytes: Bytes
  #deleted = 0
  /** The index position at which the last lookup ended. */
  #foundAt = 0

  /** `room` is the initial capacity in keys, a power of two. */
  constructor(room: number) {
    this.#index = new Uint32Array(2 * 2 * room)
    this.#places = new Uint32Array(2 * room)
    this.#bytes = new Bytes(Buffer.allocUnsafeSlow(room * KEY_BYTES))
  }

  /** Reads the index position of a hash, so that the processor's cache has it when the key is looked up. */
  touch(hash: number): number {
    const index = this.#index
    return index[(2 * hash) & (index.length - 1)]!
  }

  /** Returns undefined if the table does not have the key. */
  get(key: KeyBytes): number | null | undefined {
    const place = this.#find(key)
    if (place < 0) return undefined
    const value = this.#places[2 * place]!
    return value === NULL ? null : value
  }

  /** Returns the previous value, or undefined. */
  set(key: KeyBytes, value: number | null): number | null | undefined {
    const stored = value ?? NULL
    const place = this.#find(key)
    if (place < 0) {
      this.#add(key, stored)
      return undefined
    }
    const before = this.#places[2 * place]!
    this.#places[2 * place] = stored
    return before === NULL ? null : before
  }

  /** The key must be new. */
  #add(key: KeyBytes, stored: number): void {
    if (4 * (this.#indexed + 1) > this.#index.length) this.#rebuild()
    const index = this.#index
    const mask = index.length - 1
    let at = (2 * key.hash) & mask
    while (index[at + 1] !== EMPTY) at = (at + 2) & mask
    index[at] = key.hash
    index[at + 1] = this.#count + FIRST_PLACE
    this.#indexed++
    this.#append(key, stored)
  }

  delete(key: KeyBytes): boolean {
    const place = this.#find(key)
    if (place < 0) return false
    this.#index[this.#foundAt + 1] = REMOVED
    this.#places[2 * place] = DELETED
    this.#deleted += key.end - key.start
    this.size--
    return true
  }

  /** Returns the place of a key, or a negative number. Sets `#foundAt` to the key's index position. */
  #find(key: KeyBytes): number {
    const { hash } = key
    const index = this.#index
    const mask = index.length - 1
    for (let at = (2 * hash) & mask; ; at = (at + 2) & mask) {
      const place = index[at + 1]!
      if (
        place !== EMPTY &&
        (index[at] !== hash || place === REMOVED || !this.#keyIsAt(place - FIRST_PLACE, key))
      )
        continue
      this.#foundAt = at
      return place - FIRST_PLACE
    }
  }

  #keyIsAt(place: number, { bytes, start, end }: KeyBytes): boolean {
    const from = this.#keyStart(place)
    return (
      this.#places[2 * place + 1]! - from === end - start && areEqual(this.#bytes, from, bytes, start, end)
    )
  }

  #keyStart(place: number): number {
    return place === 0 ? 0 : this.#places[2 * place - 1]!
  }

  #append({ bytes, start, end }: KeyBytes, stored: number): void {
    const from = this.#keyStart(this.#count)
    const to = from + end - start
    if (to > this.#bytes.buffer.length) this.#bytes = larger(this.#bytes, from, to)
    copyKey(bytes, start, end, this.#bytes, from)
    this.#places[2 * this.#count] = stored
    this.#places[2 * this.#count + 1] = to
    this.#count++
    this.size++
  }

  /** Doubles the capacity and drops deleted keys: adds all others again, in their order. */
  #rebuild(): void {
    const index = this.#index
    const places = this.#places
    const count = this.#count
    const key = emptyKey()
    key.bytes = this.#bytes
    const hashes = new Uint32Array(count)
    for (let at = 0; at < index.length; at += 2) {
      const place = index[at + 1]!
      if (place >= FIRST_PLACE) hashes[place - FIRST_PLACE] = index[at]!
    }
    let room = LEAST
    while (room < 2 * this.size) room *= 2
    const keyBytes = this.#keyStart(count) - this.#deleted
    this.#index = new Uint32Array(2 * 2 * room)
    this.#places = new Uint32Array(2 * room)
    this.#bytes = new Bytes(Buffer.allocUnsafeSlow(Math.max(LEAST * KEY_BYTES, 2 * keyBytes)))
    this.size = this.#indexed = this.#count = this.#deleted = 0
    for (let place = 0; place < count; place++) {
      key.start = key.end
      key.end = places[2 * place + 1]!
      key.hash = hashes[place]!
      if (places[2 * place] !== DELETED) this.#add(key, places[2 * place]!)
    }
  }

  /** Iterates over the keys at the time of the call, with their current values; skips deleted keys. `lookUp` returns the value of a key after the table was rebuilt. */
  entries(lookUp: (key: string) => number | null | undefined): IterableIterator<[string, number | null]> {
    return this.#entries(this.#places, this.#bytes.buffer, this.#count, lookUp)
  }

  *#entries(
    places: Uint32Array,
    bytes: Buffer,
    count: number,
    lookUp: (key: string) => number | null | undefined,
  ): Generator<[string, number | null], undefined> {
    for (let place = 0, start = 0, end = 0; place < count; place++, start = end) {
      const stored = places[2 * place]!
      end = places[2 * place + 1]!
      if (stored === DELETED) continue
      const key = bytes.toString('utf8', start, end)
      const value = places !== this.#places ? lookUp(key) : stored === NULL ? null : stored
      if (value !== undefined) yield [key, value]
    }
  }
}

function larger({ buffer }: Bytes, used: number, least: number): Bytes {
  const copy = Buffer.allocUnsafeSlow(Math.max(least, 2 * buffer.length))
  buffer.copy(copy, 0, 0, used)
  return new Bytes(copy)
}
