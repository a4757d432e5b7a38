import { type KeyBytes, keyBytesOf, textOf } from './key-bytes.js'
import { KeyTable } from './key-table.js'

/** As many keys are in one `Map`. */
const ALONE = 16_384
/** Of them so many come to their tables with each key that is set then. */
const MOVED = 8
const TABLES = 256
const MASK = TABLES - 1
/** The bits of a hash that say the table; it looks at those below. */
const BITS = 24

/**
 * Keys of a section, with a number below 2^32 - 2 or null for each. While they are few they are in a `Map`, which needs no code that must be compiled first; of
 * many each is in one of 256 tables, outside the JavaScript heap, so that nothing stalls the event loop when they become more: a `Map` that passes
 * 524,288 keys is made anew for 20 ms in a single `set`. Keys can be asked for as a text, or where they lie in UTF-8.
 * Iteration is in order of insertion while they are few, and table by table later; keys that are added meanwhile may be seen or not, all others are seen once.
 */
export class KeyMap<V extends number | null = number> {
  /** All keys while they are few; then those of that time, until each is in its table too. Null: all are in tables. */
  #first: Map<string, V> | null = new Map()
  /** Of `#first`, what is not in its table yet; null: there are no tables, or nothing else. */
  #moving: IterableIterator<[string, V]> | null = null
  #tables: (KeyTable | undefined)[] = []
  /** Where there are tables. */
  #size = 0

  get size(): number {
    return this.#first !== null && this.#moving === null ? this.#first.size : this.#size
  }

  /** See {@link KeyTable.touch}. */
  touch(hash: number): number {
    return this.#tableOf(hash)?.touch(hash) ?? 0
  }

  /** Undefined: it is not there, as no text with half a surrogate pair is. */
  get(key: string | KeyBytes): V | undefined {
    if (this.#first !== null) {
      const value = this.#first.get(textOf(key))
      if (value !== undefined || this.#moving === null) return value
    }
    const bytes = keyBytesOf(key)
    return bytes === null ? undefined : this.#inTable(bytes)
  }

  #inTable(key: KeyBytes): V | undefined {
    return this.#tableOf(key.hash)?.get(key) as V | undefined
  }

  has(key: string | KeyBytes): boolean {
    return this.get(key) !== undefined
  }

  /** A text without half a surrogate pair. Returns what it had; undefined: it was not there. */
  set(key: string | KeyBytes, value: V): V | undefined {
    const first = this.#first
    if (first === null) return this.#setInTable(bytesOf(key), value)
    const text = textOf(key)
    const before = first.get(text)
    if (this.#moving !== null) {
      const had = this.#setMeanwhile(first, key, before, value)
      this.#moveSome(this.#moving)
      return had
    }
    first.set(text, value)
    if (first.size <= ALONE) return before
    this.#size = first.size
    this.#tables = new Array(TABLES).fill(undefined)
    this.#moving = first.entries()
    return before
  }

  #setInTable(key: KeyBytes, value: V): V | undefined {
    const before = this.#tableFor(key.hash).set(key, value)
    if (before === undefined) this.#size++
    return before as V | undefined
  }

  #tableOf(hash: number): KeyTable | undefined {
    return this.#tables[(hash >>> BITS) & MASK]
  }

  #tableFor(hash: number): KeyTable {
    return (this.#tables[(hash >>> BITS) & MASK] ??= new KeyTable((2 * ALONE) / TABLES))
  }

  /** What is in the first map stays there, and counts. */
  #setMeanwhile(
    first: Map<string, V>,
    key: string | KeyBytes,
    before: V | undefined,
    value: V,
  ): V | undefined {
    const bytes = bytesOf(key)
    if (before === undefined) return this.#setInTable(bytes, value)
    first.set(textOf(key), value)
    if (this.#inTable(bytes) !== undefined) this.#tableFor(bytes.hash).set(bytes, value)
    return before
  }

  #moveSome(moving: IterableIterator<[string, V]>): void {
    for (let moved = 0; moved < MOVED; moved++) {
      const step = moving.next()
      if (step.done) {
        this.#first = this.#moving = null
        return
      }
      const [key, value] = step.value
      const bytes = bytesOf(key)
      this.#tableFor(bytes.hash).set(bytes, value)
    }
  }

  /** Whether it was there. */
  delete(key: string | KeyBytes): boolean {
    if (this.#first !== null && this.#moving === null) return this.#first.delete(textOf(key))
    const wasFirst = this.#first?.delete(textOf(key)) ?? false
    const bytes = keyBytesOf(key)
    const deleted = (bytes !== null && this.#tableOf(bytes.hash)?.delete(bytes)) || wasFirst
    if (deleted) this.#size--
    return deleted
  }

  /** How many tables all keys are in; 0: they are few, or not all of them have come there. Maps that have tables have a key in those of the same number. */
  get tables(): number {
    return this.#first === null ? TABLES : 0
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  *entries(): IterableIterator<[string, V]> {
    for (const run of this.runs()) yield* run
  }

  /** The same, map by map and table by table. */
  *runs(): IterableIterator<Iterable<[string, V]>> {
    const first = this.#first
    if (first !== null) yield this.#entriesOf(first)
    for (let table = 0; table < this.#tables.length; table++)
      yield first === null ? this.run(table) : entriesBut(first, this.run(table))
  }

  /** What is in a table now. */
  run(table: number): Iterable<[string, V]> {
    const entries = this.#tables[table]?.entries(key => this.#inTable(bytesOf(key)))
    return (entries ?? []) as Iterable<[string, V]>
  }

  *#entriesOf(first: Map<string, V>): Generator<[string, V], void> {
    for (const entry of first) {
      if (this.#first === first) yield entry
      // All are in tables since.
      else if (this.has(entry[0])) yield [entry[0], this.get(entry[0])!]
    }
  }
}

function bytesOf(key: string | KeyBytes): KeyBytes {
  const bytes = keyBytesOf(key)
  if (bytes === null) throw new TypeError('a key is Unicode text')
  return bytes
}

function* entriesBut<V>(
  left: ReadonlyMap<string, V>,
  table: Iterable<[string, V]>,
): Generator<[string, V], void> {
  for (const entry of table) if (!left.has(entry[0])) yield entry
}
