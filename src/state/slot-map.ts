import { PARTS } from '../base/large-collections.js'
import type { KeyBytes } from './key-bytes.js'
import { KeyMap } from './key-map.js'
import { inSteps } from './slices.js'

/** Keys that a bulk has put, with their slots, and keys that it has deleted (null). */
export type Layer = KeyMap<number | null>

/** Keys of a section and their slots. A large bulk comes in as a layer in one step, and is merged bit by bit: a look finds the same. */
export class SlotMap {
  #main = new KeyMap<number>()
  #layer: Layer | null = null
  #size = 0
  #changes = 0
  #renewals = 0

  get size(): number {
    return this.#size
  }

  /** Counts the changes of slots: when the count has changed, a slot that was looked up before may be another key's, or free. */
  get changes(): number {
    return this.#changes
  }

  /** Counts the times at which many keys got other slots at once: an iteration over {@link runs} that began before goes through the former slots. */
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

  /** A key that is not there. */
  add(key: string | KeyBytes, slot: number): void {
    this.#size++
    this.#put(key, slot)
  }

  #put(key: string | KeyBytes, slot: number): void {
    this.#changes++
    // The merge still has to free the entry below, in the main map.
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

  /** When a merge goes on meanwhile, still each key once. */
  *entries(): IterableIterator<[string, number]> {
    for (const run of this.runs()) yield* run
  }

  /** The same, part by part where both maps are divided: what the layer has is passed over in short runs. */
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

  /** All keys of `layer` at once, over what there is. The layer before must be merged. */
  setLayer(layer: Layer, size: number): void {
    this.#changes++
    this.#renewals++
    this.#layer = layer
    this.#size = size
  }

  /** `slots` in place of all there is. Returns what there was, to be freed. */
  replace(slots: KeyMap<number>): KeyMap<number> {
    const before = this.#main
    this.#changes++
    this.#renewals++
    this.#main = slots
    this.#layer = null
    this.#size = slots.size
    return before
  }

  /** `merged`: told of each key of the layer, when it is, and of the slot that lay below. */
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
