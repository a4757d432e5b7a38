import { ShardedMap } from '../sharded-map.js'

/** In a layer: the key is deleted. */
const GONE = -1
/** Steps between two yields. */
const STEP = 32

/**
 * Keys of a section and their slots. A large bulk comes in as a layer over what was there, in one step whatever its size;
 * it is then merged bit by bit, and at every moment a look finds the same.
 */
export class SlotMap {
  #main = new ShardedMap<number>()
  #layer: ShardedMap<number> | null = null
  #size = 0

  get size(): number {
    return this.#size
  }

  get(key: string): number | undefined {
    const slot = this.#layer?.get(key) ?? this.#main.get(key)
    return slot === GONE ? undefined : slot
  }

  has(key: string): boolean {
    return this.get(key) !== undefined
  }

  set(key: string, slot: number): void {
    if (!this.has(key)) this.#size++
    // What lies below in the main map is still to be freed by the merge.
    if (this.#layer?.has(key)) this.#layer.set(key, slot)
    else this.#main.set(key, slot)
  }

  delete(key: string): void {
    if (!this.has(key)) return
    this.#size--
    if (this.#layer?.has(key)) this.#layer.set(key, GONE)
    else this.#main.delete(key)
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  /** When a merge goes on meanwhile, still each key once. */
  *entries(): IterableIterator<[string, number]> {
    const layer = this.#layer
    if (layer === null) {
      yield* this.#main.entries()
      return
    }
    const done = new ShardedMap<true>()
    for (const [key, slot] of layer.entries()) {
      done.set(key, true)
      if (slot !== GONE) yield [key, slot]
    }
    for (const entry of this.#main.entries()) if (!done.has(entry[0]) && !layer.has(entry[0])) yield entry
  }

  /** All keys of `layer` at once, over what there is. The layer before must be merged. */
  lay(layer: Layer, size: number): void {
    this.#layer = layer.slots
    this.#size = size
  }

  /** `layer` in place of all there is. Returns what there was, to be freed. */
  replace(layer: Layer): ShardedMap<number> {
    const before = this.#main
    this.#main = layer.slots
    this.#layer = null
    this.#size = layer.slots.size
    return before
  }

  /** `freed`: slots that lay below; `told`: each key of the layer, when it is merged. */
  *merge(
    freed: (slot: number) => void,
    told: (key: string, put: boolean) => void,
  ): Generator<undefined, void> {
    const layer = this.#layer
    if (layer === null) return
    let done = 0
    for (const [key, slot] of layer.entries()) {
      const below = this.#main.get(key)
      if (slot === GONE) this.#main.delete(key)
      else this.#main.set(key, slot)
      layer.delete(key)
      if (below !== undefined) freed(below)
      told(key, slot !== GONE)
      if (++done % STEP === 0) yield
    }
    this.#layer = null
  }
}

/** Changes of a bulk to one section, before they count. */
export class Layer {
  readonly slots = new ShardedMap<number>()

  /** The slot that the bulk gave the key; null: it deleted it; undefined: it has not touched it. */
  get(key: string): number | null | undefined {
    const slot = this.slots.get(key)
    return slot === GONE ? null : slot
  }

  set(key: string, slot: number | null): void {
    this.slots.set(key, slot ?? GONE)
  }

  forget(key: string): void {
    this.slots.delete(key)
  }

  *entries(): Generator<[string, number | null]> {
    for (const [key, slot] of this.slots.entries()) yield [key, slot === GONE ? null : slot]
  }

  /** Slots that the bulk made. */
  *made(): Generator<number> {
    for (const [, slot] of this.slots.entries()) if (slot !== GONE) yield slot
  }
}
