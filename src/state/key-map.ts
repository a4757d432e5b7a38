import { type KeyBytes, keyBytesOf } from './key-bytes.js'
import { KeyTable } from './key-table.js'

/** So many keys are in one table, if they have so few bytes: then it takes a millisecond to divide it. */
const ALONE = 16_384
const ALONE_BYTES = 2 ** 20
const TABLES = 256
/** In each of them, at first. */
const ROOM = (4 * ALONE) / TABLES
/** Of a hash, behind those that a table looks at. */
const BITS = 24

/**
 * Keys of a section, with a number below 2^32 - 2 or null for each. A million of them never stall the event loop while they become more: what
 * grows is one of many small tables. They can be asked for as a text, or where they lie in UTF-8. Iteration is in order of insertion
 * while they are few, and table by table later; keys that are added meanwhile may be seen or not, all others are seen once.
 */
export class KeyMap<V extends number | null = number> {
  #tables: KeyTable[] = [new KeyTable()]
  /** Of the first bits of a hash, those that say the table: none while there is one. */
  #mask = 0
  #size = 0

  get size(): number {
    return this.#size
  }

  /** See {@link KeyTable.touch}. */
  touch(hash: number): number {
    return this.#tableOf(hash).touch(hash)
  }

  get(key: string | KeyBytes): V | undefined {
    const bytes = typeof key === 'string' ? keyBytesOf(key) : key
    return bytes === null ? undefined : (this.#tableOf(bytes.hash).get(bytes) as V | undefined)
  }

  has(key: string | KeyBytes): boolean {
    return this.get(key) !== undefined
  }

  /** A text without half a surrogate pair. */
  set(key: string | KeyBytes, value: V): void {
    const bytes = typeof key === 'string' ? keyBytesOf(key) : key
    if (bytes === null) throw new TypeError('a key is Unicode text')
    const table = this.#tableOf(bytes.hash)
    if (!table.set(bytes, value)) return
    this.#size++
    if (this.#mask === 0 && (table.size > ALONE || table.bytes > ALONE_BYTES)) this.#divide(table)
  }

  #tableOf(hash: number): KeyTable {
    return this.#tables[(hash >>> BITS) & this.#mask]!
  }

  #divide(table: KeyTable): void {
    this.#tables = Array.from({ length: TABLES }, () => new KeyTable(ROOM))
    this.#mask = TABLES - 1
    table.moveTo(hash => this.#tableOf(hash))
  }

  delete(key: string | KeyBytes): boolean {
    const bytes = typeof key === 'string' ? keyBytesOf(key) : key
    const deleted = bytes !== null && this.#tableOf(bytes.hash).delete(bytes)
    if (deleted) this.#size--
    return deleted
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  *entries(): IterableIterator<[string, V]> {
    for (const run of this.runs()) yield* run
  }

  /** The same, table by table. */
  runs(): Iterable<[string, V]>[] {
    return this.#tables.map((_, table) => this.run(table))
  }

  /** How many tables there are. Maps that have as many have a key in tables of the same number. */
  get tables(): number {
    return this.#tables.length
  }

  /** What is in one of them now. */
  run(table: number): Iterable<[string, V]> {
    return this.#tables[table]!.entries(key => this.get(key)) as IterableIterator<[string, V]>
  }
}
