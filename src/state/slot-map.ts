import { KeyMap, NONE, NULL, PARTS, type ScannedKeys } from './key-map.js'
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

  get(key: string): number | undefined {
    const slot = this.#layer?.get(key)
    return slot === undefined ? this.#main.get(key) : (slot ?? undefined)
  }

  has(key: string): boolean {
    return this.get(key) !== undefined
  }

  set(key: string, slot: number): void {
    if (this.has(key)) this.#put(key, slot)
    else this.add(key, slot)
  }

  /** The key must be new. */
  add(key: string, slot: number): void {
    this.size++
    this.#put(key, slot)
  }

  #put(key: string, slot: number): void {
    this.changes++
    // A key of the layer must stay in the layer, because the merge still has to free the key's slot in the main map.
    if (this.#layer?.has(key)) this.#layer.set(key, slot)
    else this.#main.set(key, slot)
  }

  /** Whether a bulk is being merged: until then {@link setAll} must not be called. */
  get isMerging(): boolean {
    return this.#layer !== null
  }

  /** Sets many keys, as {@link KeyMap.setAll} does. */
  setAll(keys: ScannedKeys, first: number, count: number, slots: Uint32Array, before: Uint32Array): number {
    this.changes++
    const { size } = this.#main
    const done = this.#main.setAll(keys, first, count, slots, before)
    this.size += this.#main.size - size
    return done
  }

  /** Writes the slots of many keys to `slots`; {@link NONE} for a key that is not there. */
  findAll(keys: ScannedKeys, first: number, count: number, slots: Uint32Array): void {
    this.#main.findAll(keys, first, count, slots)
    if (this.#layer === null) return
    const above = new Uint32Array(count)
    this.#layer.findAll(keys, first, count, above)
    for (let i = 0; i < count; i++) if (above[i] !== NONE) slots[i] = above[i] === NULL ? NONE : above[i]!
  }

  delete(key: string): void {
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
