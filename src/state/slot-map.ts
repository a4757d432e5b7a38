import { ALONE, DividingMap, PARTS } from '../base/large-collections.js'
import { type KeyBytes, keyBytesOf, keyText } from './key-bytes.js'
import { KeyTable } from './key-table.js'
import { inSteps } from './time-slices.js'

/** The slots of the keys that a bulk has put, and null for the keys that it has deleted. */
export type Layer = KeyMap<number | null>

/** A section's keys and slots. A large bulk is added as a layer in one step, and merged into the main map in slices; lookups see no difference. */
export class SlotMap {
  #main = new KeyMap<number>()
  #layer: Layer | null = null
  size = 0
  /** Counts changes of slots. If it has changed, a slot that was looked up before may be free or belong to another key. */
  changes = 0
  /** Counts replacements of many slots at once. If it has changed, a running iteration over {@link entries} yields old slots. */
  renewals = 0

  get empty(): boolean {
    return this.size === 0 && this.#layer === null
  }

  touch(hash: number): number {
    return this.#main.touch(hash)
  }

  get(key: string | KeyBytes): number | undefined {
    const slot = this.#layer?.get(key)
    return slot === undefined ? this.#main.get(key) : (slot ?? undefined)
  }

  has(key: string | KeyBytes): boolean {
    return this.get(key) !== undefined
  }

  set(key: string | KeyBytes, slot: number): void {
    if (this.has(key)) this.#put(key, slot)
    else this.add(key, slot)
  }

  /** The key must be new. */
  add(key: string | KeyBytes, slot: number): void {
    this.size++
    this.#put(key, slot)
  }

  #put(key: string | KeyBytes, slot: number): void {
    this.changes++
    // A key of the layer must stay in the layer, because the merge still has to free the key's slot in the main map.
    if (this.#layer?.has(key)) this.#layer.set(key, slot)
    else this.#main.set(key, slot)
  }

  delete(key: string | KeyBytes): void {
    if (!this.has(key)) return
    this.changes++
    this.size--
    if (this.#layer?.has(key)) this.#layer.set(key, null)
    else this.#main.delete(key)
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  /** Yields each key once, even during a merge. */
  entries(): IterableIterator<[string, number]> {
    // A generator that only delegates would slow an iteration over many keys.
    return this.#layer === null ? this.#main.entries() : this.#overlaid(this.#layer)
  }

  *#overlaid(layer: Layer): Generator<[string, number], undefined> {
    if (!layer.isDivided || !this.#main.isDivided)
      yield* this.#overlay(layer, layer.entries(), () => this.#main.entries())
    else
      for (let part = 0; part < PARTS; part++)
        yield* this.#overlay(layer, layer.run(part), () => this.#main.run(part))
  }

  *#overlay(
    layer: Layer,
    above: Iterable<[string, number | null]>,
    below: () => Iterable<[string, number]>,
  ): Generator<[string, number], void> {
    const done = new KeyMap()
    for (const [key, slot] of above) {
      done.set(key, 0)
      if (slot !== null) yield [key, slot]
    }
    for (const entry of below()) if (!done.has(entry[0]) && !layer.has(entry[0])) yield entry
  }

  /** Adds `layer`, which hides the same keys of the main map. The previous layer must be merged already. */
  setLayer(layer: Layer, size: number): void {
    this.changes++
    this.renewals++
    this.#layer = layer
    this.size = size
  }

  /** Replaces all slots. Returns the previous ones, which the caller frees. */
  replace(slots: KeyMap<number>): KeyMap<number> {
    const before = this.#main
    this.changes++
    this.renewals++
    this.#main = slots
    this.#layer = null
    this.size = slots.size
    return before
  }

  /** Merges the layer into the main map. Calls `merged` for each key of the layer; `below` is the key's previous slot in the main map. */
  *merge(merged: (key: string, put: boolean, below: number | undefined) => void): Generator<undefined, void> {
    const layer = this.#layer
    if (layer === null) return
    yield* inSteps(layer.entries(), ([key, slot]) => {
      const below = this.#main.get(key)
      if (slot === null) this.#main.delete(key)
      else this.#main.set(key, slot)
      layer.delete(key)
      merged(key, slot !== null, below)
    })
    this.#layer = null
  }
}

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

  protected keyText(key: string | KeyBytes): string {
    return keyText(key)
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
