import { PARTS } from '../base/large-collections.js'
import type { KeyBytes } from './key-bytes.js'
import { KeyMap } from './key-map.js'
import { inSteps } from './time-slices.js'

/** The slots of keys that a bulk has put; null: deleted. */
export type Layer = KeyMap<number | null>

/** A section's keys and slots. A large bulk arrives as a layer, in one step, and is merged in slices; lookups see no difference. */
export class SlotMap {
  #main = new KeyMap<number>()
  #layer: Layer | null = null
  #size = 0
  #changes = 0
  #renewals = 0

  get size(): number {
    return this.#size
  }

  /** Counts changes of slots: after one, a slot that was looked up may be free, or another key's. */
  get changes(): number {
    return this.#changes
  }

  /** Counts replacements of many slots at once: an iteration over {@link runs} from before one yields former slots. */
  get renewals(): number {
    return this.#renewals
  }

  get empty(): boolean {
    return this.#size === 0 && this.#layer === null
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
    this.#size++
    this.#put(key, slot)
  }

  #put(key: string | KeyBytes, slot: number): void {
    this.#changes++
    // The merge must still free the main map's entry.
    if (this.#layer?.has(key)) this.#layer.set(key, slot)
    else this.#main.set(key, slot)
  }

  delete(key: string | KeyBytes): void {
    if (!this.has(key)) return
    this.#changes++
    this.#size--
    if (this.#layer?.has(key)) this.#layer.set(key, null)
    else this.#main.delete(key)
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  /** Each key once, even during a merge. */
  *entries(): IterableIterator<[string, number]> {
    for (const run of this.runs()) yield* run
  }

  /** The entries in parts, if both maps are divided, so that skipped keys make short runs. */
  *runs(): IterableIterator<Iterable<[string, number]>> {
    const layer = this.#layer
    if (layer === null) {
      yield* this.#main.runs()
      return
    }
    if (!layer.divided || !this.#main.divided) {
      yield this.#overlay(layer, layer.entries(), () => this.#main.entries())
      return
    }
    for (let part = 0; part < PARTS; part++)
      yield this.#overlay(layer, layer.run(part), () => this.#main.run(part))
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

  /** Puts `layer` over the present keys. The layer before must be merged. */
  setLayer(layer: Layer, size: number): void {
    this.#changes++
    this.#renewals++
    this.#layer = layer
    this.#size = size
  }

  /** Replaces all slots. Returns the former ones, to be freed. */
  replace(slots: KeyMap<number>): KeyMap<number> {
    const before = this.#main
    this.#changes++
    this.#renewals++
    this.#main = slots
    this.#layer = null
    this.#size = slots.size
    return before
  }

  /** `merged`: called for each key of the layer, with the slot below it. */
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
