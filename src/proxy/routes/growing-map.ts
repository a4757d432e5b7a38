import { ShardedMap } from '../../sharded-map.js'

const ALONE = 1024

/** A map of strings that is small when it has few keys, and above 1,024 of them one that never stalls the event loop. */
export class GrowingMap<V> {
  #map: Map<string, V> | ShardedMap<V> = new Map()

  get size(): number {
    return this.#map.size
  }

  get(key: string): V | undefined {
    return this.#map.get(key)
  }

  set(key: string, value: V): void {
    this.#map.set(key, value)
    if (this.#map.size <= ALONE || this.#map instanceof ShardedMap) return
    const shards = new ShardedMap<V>()
    for (const [each, its] of this.#map) shards.set(each, its)
    this.#map = shards
  }

  delete(key: string): boolean {
    return this.#map.delete(key)
  }

  values(): IterableIterator<V> {
    return this.#map.values()
  }
}
