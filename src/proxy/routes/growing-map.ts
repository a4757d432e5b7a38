const ALONE = 1024
const SHARDS = 256

/**
 * A map of strings that is small when it has few keys, and never stalls the event loop when it gets many: a `Map` that
 * passes 524,288 keys rehashes for 20 ms in a single `set`, so above 1,024 keys there are 256 of them.
 */
export class GrowingMap<V> {
  #map: Map<string, V> | null = new Map()
  #shards: Map<string, V>[] | null = null
  #size = 0

  get size(): number {
    return this.#map === null ? this.#size : this.#map.size
  }

  get(key: string): V | undefined {
    return this.#map === null ? this.#shards![shardOf(key)]!.get(key) : this.#map.get(key)
  }

  set(key: string, value: V): void {
    if (this.#map !== null) {
      this.#map.set(key, value)
      if (this.#map.size > ALONE) this.#split(this.#map)
      return
    }
    const shard = this.#shards![shardOf(key)]!
    const before = shard.size
    shard.set(key, value)
    this.#size += shard.size - before
  }

  delete(key: string): boolean {
    if (this.#map !== null) return this.#map.delete(key)
    const deleted = this.#shards![shardOf(key)]!.delete(key)
    if (deleted) this.#size--
    return deleted
  }

  *values(): IterableIterator<V> {
    if (this.#map !== null) yield* this.#map.values()
    else for (const shard of this.#shards!) yield* shard.values()
  }

  #split(map: Map<string, V>): void {
    const shards = Array.from({ length: SHARDS }, () => new Map<string, V>())
    for (const [key, value] of map) shards[shardOf(key)]!.set(key, value)
    this.#shards = shards
    this.#size = map.size
    this.#map = null
  }
}

/** FNV-1a over UTF-16 units: cheap, and good enough to spread keys over shards. */
function shardOf(key: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193)
  return (hash ^ (hash >>> 15)) & (SHARDS - 1)
}
