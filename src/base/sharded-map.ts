import { DividingMap, PARTS } from './dividing-map.js'

const MASK = PARTS - 1

/** Maps are mostly asked for a key several times in a row: whether it is there, in this map and in the next, and to set it. */
let asked = ''
let shardOfAsked = hashed(asked)

function shardOf(key: string): number {
  if (key === asked) return shardOfAsked
  asked = key
  return (shardOfAsked = hashed(key))
}

/** FNV-1a over UTF-16 units: cheap, and good enough to spread keys over shards. */
function hashed(key: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193)
  return (hash ^ (hash >>> 15)) & MASK
}

/** A {@link DividingMap} of texts with anything, whose parts are maps. */
export class ShardedMap<V> extends DividingMap<never, V> {
  #shards: (Map<string, V> | undefined)[] = []

  set(key: string, value: V): void {
    this.put(key, value)
  }

  protected textOf(key: string): string {
    return key
  }

  protected getInPart(key: string): V | undefined {
    return this.#shards[shardOf(key)]?.get(key)
  }

  protected setInPart(key: string, value: V): V | undefined {
    const shard = (this.#shards[shardOf(key)] ??= new Map())
    const before = shard.size
    shard.set(key, value)
    return shard.size > before ? undefined : value
  }

  protected deleteInPart(key: string): boolean {
    return this.#shards[shardOf(key)]?.delete(key) ?? false
  }

  protected clearParts(): void {
    this.#shards = []
  }

  run(part: number): Iterable<[string, V]> {
    return this.#shards[part] ?? []
  }
}
