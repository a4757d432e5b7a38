import { ALONE, DividingMap, PARTS } from '../base/large-collections.js'
import { type KeyBytes, keyBytesOf, textOf } from './key-bytes.js'
import { KeyTable } from './key-table.js'

const MASK = PARTS - 1
/** The bits from here on select the part; the tables use lower bits of the hash. */
const PART_SHIFT = 24

function partOf(hash: number): number {
  return (hash >>> PART_SHIFT) & MASK
}

/** A {@link DividingMap} from a section's keys, given as text or bytes, to numbers below 2^32 - 2 or null. Its tables are outside the JavaScript heap. */
export class KeyMap<V extends number | null = number> extends DividingMap<KeyBytes, V> {
  readonly #tables: (KeyTable | undefined)[] = []

  /** Returns the previous value, or undefined. Throws a TypeError if `key` has half a surrogate pair. */
  set(key: string | KeyBytes, value: V): V | undefined {
    return this.put(key, value)
  }

  touch(hash: number): number {
    return this.#tableOf(hash)?.touch(hash) ?? 0
  }

  #tableOf(hash: number): KeyTable | undefined {
    return this.#tables[partOf(hash)]
  }

  protected textOf(key: string | KeyBytes): string {
    return textOf(key)
  }

  protected getInPart(key: string | KeyBytes): V | undefined {
    const bytes = keyBytesOf(key)
    return bytes === null ? undefined : (this.#tableOf(bytes.hash)?.get(bytes) as V | undefined)
  }

  protected setInPart(key: string | KeyBytes, value: V): V | undefined {
    const bytes = keyBytesOf(key)
    if (bytes === null) throw new TypeError('a key is Unicode text')
    const table = (this.#tables[partOf(bytes.hash)] ??= new KeyTable((2 * ALONE) / PARTS))
    return table.set(bytes, value) as V | undefined
  }

  protected deleteInPart(key: string | KeyBytes): boolean {
    const bytes = keyBytesOf(key)
    return bytes !== null && (this.#tableOf(bytes.hash)?.delete(bytes) ?? false)
  }

  run(part: number): Iterable<[string, V]> {
    const entries = this.#tables[part]?.entries(key => this.getInPart(key))
    return (entries ?? []) as Iterable<[string, V]>
  }
}
