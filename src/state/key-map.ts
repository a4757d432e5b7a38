import {
  CHANGE_FIELDS,
  createKeys,
  deleteKey,
  findKeys,
  getKey,
  type KeyIndex,
  keysIn,
  setKey,
  setKeys,
} from '../kernel/index.js'

/** A map of up to this many keys is a `Map`, whose calls cost less than those of the addon. */
const FEW = 4096
/** The addon divides the keys of a map with more than this many. */
const ALONE = 16_384
/** Number of parts of a divided map. */
export const PARTS = 256
/** The addon's values for null, and for a key that is not there. */
export const NULL = 0xffff_fffe
export const NONE = 0xffff_ffff
/** Positions in the result of `scanRuns()`. */
const KEY = 5
const KEY_END = 6

/** Encoded changes and their fields, as `scanRuns()` writes them; all keys are ASCII. */
export interface ScannedKeys {
  readonly buffer: Buffer
  readonly fields: Uint32Array
}

/**
 * A map from keys to numbers below 2^32 - 2 or null; a large one is outside the JavaScript heap. Up to 16,384 keys are in insertion order, more in 256 parts,
 * so that no step takes long. Iteration may miss keys that are added during it, and ends although more are added.
 */
export class KeyMap<V extends number | null = number> {
  /** All keys of a small map; null once it has become large. */
  #few: Map<string, V> | null = new Map()
  #index: KeyIndex | null = null
  #size = 0
  /** All keys are in parts. */
  isDivided = false
  /** Counts changes. If it has changed, a copy of keys and values is not current any more. */
  #changes = 0
  readonly #mostBytes: number

  /** `mostBytes`: the memory that a large map may use. A change that needs more throws ENOMEM. */
  constructor(mostBytes: number = Number.MAX_SAFE_INTEGER) {
    this.#mostBytes = mostBytes
  }

  get size(): number {
    return this.#few === null ? this.#size : this.#few.size
  }

  /** Returns undefined if the map does not have the key. */
  get(key: string): V | undefined {
    return this.#few === null ? (getKey(this.#index!, key) as V | undefined) : this.#few.get(key)
  }

  has(key: string): boolean {
    return this.get(key) !== undefined
  }

  /** Returns the previous value, or undefined. A large map throws a TypeError if `key` has half a surrogate pair. */
  set(key: string, value: V): V | undefined {
    const few = this.#few
    if (few !== null) {
      const before = few.get(key)
      if (before !== undefined || few.size < FEW) {
        few.set(key, value)
        return before
      }
      this.#enlarge(few)
    }
    const before = setKey(this.#index!, key, value) as V | undefined
    this.#changes++
    if (before === undefined) this.#added(1)
    return before
  }

  #enlarge(few: ReadonlyMap<string, V>): void {
    const index = createKeys(this.#mostBytes)
    for (const [key, value] of few) setKey(index, key, value)
    this.#index = index
    this.#size = few.size
    this.#few = null
  }

  #added(count: number): void {
    this.#size += count
    this.isDivided ||= this.#size > ALONE
  }

  delete(key: string): boolean {
    if (this.#few !== null) return this.#few.delete(key)
    if (!deleteKey(this.#index!, key)) return false
    this.#changes++
    this.#size--
    return true
  }

  /**
   * Sets the keys of `count` changes from number `first` on to `values`, and `before` to the values before; {@link NONE} for a new key. Returns how many are
   * set: fewer than `count` if there is not enough memory; throws if there is not enough for the first.
   */
  setAll(keys: ScannedKeys, first: number, count: number, values: Uint32Array, before: Uint32Array): number {
    const few = this.#few
    if (few !== null) {
      if (few.size + count <= FEW) {
        for (let i = 0; i < count; i++)
          before[i] = storedForm(this.set(keyAt(keys, first + i), numberOrNull(values[i]!) as V))
        return count
      }
      this.#enlarge(few)
    }
    const done = setKeys(this.#index!, keys.buffer, keys.fields, first, count, values, before)
    let added = 0
    for (let i = 0; i < done; i++) if (before[i] === NONE) added++
    this.#changes++
    this.#added(added)
    return done
  }

  /** Writes the values of the keys of `count` changes to `values`; {@link NONE} for a key that is not there. */
  findAll(keys: ScannedKeys, first: number, count: number, values: Uint32Array): void {
    if (this.#index !== null) findKeys(this.#index, keys.buffer, keys.fields, first, count, values)
    else for (let i = 0; i < count; i++) values[i] = storedForm(this.get(keyAt(keys, first + i)))
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  *entries(): IterableIterator<[string, V]> {
    if (this.#few !== null) {
      yield* this.#entriesOf(this.#few)
      return
    }
    // While these are not divided, the first part has all keys, also if they are divided during the iteration.
    const parts = this.isDivided ? PARTS : 1
    for (let part = 0; part < parts; part++) yield* this.run(part)
  }

  /** Yields at most as many entries as the map has now: a `Map` would also yield each key that is added, or deleted and added again, meanwhile. */
  *#entriesOf(few: ReadonlyMap<string, V>): Generator<[string, V], void> {
    let left = few.size
    for (const entry of few) {
      if (left-- === 0) return
      // The map may have become large since the iteration began.
      const value = this.#few === few ? entry[1] : this.get(entry[0])
      if (value !== undefined) yield [entry[0], value]
    }
  }

  /** Yields the entries of a part of a large map: the keys of now, with their current values. A key is in the part with the same number in all divided maps. */
  *run(part: number): Generator<[string, V], void> {
    const [entries, bytes] = keysIn(this.#index!, part)
    const changes = this.#changes
    for (let i = 0, start = 0; i < entries.length; i += 2) {
      const end = entries[i + 1]!
      const key = bytes.toString('utf8', start, end)
      start = end
      const stored = entries[i]!
      const value = changes === this.#changes ? (numberOrNull(stored) as V) : this.get(key)
      if (value !== undefined) yield [key, value]
    }
  }
}

function keyAt({ buffer, fields }: ScannedKeys, number: number): string {
  const at = CHANGE_FIELDS * number
  return buffer.toString('latin1', fields[at + KEY]!, fields[at + KEY_END]!)
}

function numberOrNull(stored: number): number | null {
  return stored === NULL ? null : stored
}

function storedForm(value: number | null | undefined): number {
  return value === undefined ? NONE : (value ?? NULL)
}
