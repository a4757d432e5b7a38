/** A {@link ShardedMap} of up to this many keys is one `Map`. */
const ALONE = 16_384
/** While a map is being divided, each put moves this many keys from the first map to their parts. */
const MOVED = 8
/** Number of parts, a power of two. */
const PARTS = 256

/**
 * A map that never stalls the event loop: a large `Map` rehashes all its keys when it grows. Small ones are one `Map` in insertion order,
 * larger ones 256 parts. Iteration may miss keys that are added during it, and ends although more are added. Values must not be undefined.
 */
export class ShardedMap<V> {
  /** All keys of a small map. While the map is being divided: the keys from before the division. Null when all keys are in parts. */
  #first: Map<string, V> | null = new Map()
  /** The keys of `#first` that are not yet in parts. Null before and after the division. */
  #moving: IterableIterator<[string, V]> | null = null
  #size = 0
  readonly #shards: (Map<string, V> | undefined)[] = []

  get size(): number {
    return this.#first !== null && this.#moving === null ? this.#first.size : this.#size
  }

  get(key: string): V | undefined {
    if (this.#first !== null) {
      const value = this.#first.get(key)
      if (value !== undefined || this.#moving === null) return value
    }
    return this.#shards[shardOf(key)]?.get(key)
  }

  has(key: string): boolean {
    return this.get(key) !== undefined
  }

  set(key: string, value: V): void {
    const first = this.#first
    if (first === null) {
      this.#putInPart(key, value)
      return
    }
    const before = first.get(key)
    if (this.#moving === null) {
      first.set(key, value)
      if (first.size > ALONE) {
        this.#size = first.size
        this.#moving = first.entries()
      }
      return
    }
    if (before === undefined) {
      this.#putInPart(key, value)
      this.#moveSome(this.#moving)
      return
    }
    // get() reads this key from the first map until all keys are in parts.
    first.set(key, value)
    const shard = this.#shards[shardOf(key)]
    if (shard?.has(key)) shard.set(key, value)
    this.#moveSome(this.#moving)
  }

  #putInPart(key: string, value: V): void {
    if (this.#setInPart(key, value)) this.#size++
  }

  /** Returns whether the part did not have the key. */
  #setInPart(key: string, value: V): boolean {
    const shard = (this.#shards[shardOf(key)] ??= new Map())
    const before = shard.size
    shard.set(key, value)
    return shard.size > before
  }

  #moveSome(moving: IterableIterator<[string, V]>): void {
    for (let moved = 0; moved < MOVED; moved++) {
      const step = moving.next()
      if (step.done) {
        this.#first = this.#moving = null
        return
      }
      this.#setInPart(step.value[0], step.value[1])
    }
  }

  delete(key: string): boolean {
    if (this.#first !== null && this.#moving === null) return this.#first.delete(key)
    const wasFirst = this.#first?.delete(key) ?? false
    const deleted = this.#shards[shardOf(key)]?.delete(key) || wasFirst
    if (deleted) this.#size--
    return deleted
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  *values(): IterableIterator<V> {
    for (const [, value] of this.entries()) yield value
  }

  *entries(): IterableIterator<[string, V]> {
    const first = this.#first
    if (first !== null) yield* this.#entriesOf(first)
    if (this.#first !== null && this.#moving === null) return
    for (let part = 0; part < PARTS; part++) {
      const shard = this.#shards[part]
      if (shard === undefined) continue
      const entries = presentEntries(shard)
      yield* first === null ? entries : entriesBut(first, entries)
    }
  }

  *#entriesOf(first: Map<string, V>): Generator<[string, V], void> {
    for (const entry of presentEntries(first)) {
      if (this.#first === first) {
        yield entry
        continue
      }
      // All keys have moved to parts since the iteration began.
      const value = this.get(entry[0])
      if (value !== undefined) yield [entry[0], value]
    }
  }
}

/** Yields at most as many entries as the map has now: a `Map` would also yield each key that is added, or deleted and added again, meanwhile. */
function* presentEntries<V>(map: ReadonlyMap<string, V>): Generator<[string, V], void> {
  let left = map.size
  for (const entry of map) {
    if (left-- === 0) return
    yield entry
  }
}

function* entriesBut<V>(
  left: ReadonlyMap<string, V>,
  part: Iterable<[string, V]>,
): Generator<[string, V], void> {
  for (const entry of part) if (!left.has(entry[0])) yield entry
}

const MASK = PARTS - 1

/** Cache of the last hash: callers usually look a key up several times in a row, also in several maps. */
let lastKey = ''
let lastShard = hashed(lastKey)

function shardOf(key: string): number {
  if (key === lastKey) return lastShard
  lastKey = key
  return (lastShard = hashed(key))
}

/** Returns the part of a key by FNV-1a over UTF-16 units, which is cheap and distributes keys well enough. */
function hashed(key: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193)
  return (hash ^ (hash >>> 15)) & MASK
}

const CHUNK = 4096

/** A list that never stalls the event loop while it grows: a growing array of a million items copies all of them, which takes 30 ms. */
export class GrowingList<T> implements Iterable<T> {
  readonly #chunks: T[][] = []
  #length = 0

  get length(): number {
    return this.#length
  }

  push(item: T): void {
    if (this.#length % CHUNK === 0) this.#chunks.push([])
    this.#chunks.at(-1)!.push(item)
    this.#length++
  }

  /** Iteration includes items that are added during it. */
  *[Symbol.iterator](): IterableIterator<T> {
    for (const chunk of this.#chunks) yield* chunk
  }
}
