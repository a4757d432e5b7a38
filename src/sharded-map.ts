/** As many keys are in one map, which costs no hash of ours. */
const ALONE = 16_384
/** Of them so many come to their shards with each key that is set then. */
const MOVED = 8
const SHARDS = 256
const MASK = SHARDS - 1

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

/**
 * A map of strings that never stalls the event loop while it grows: one `Map` that passes 524,288 keys rehashes for
 * 20 ms in a single `set`, 256 small ones do not. While it has few keys it is one. Iteration is in order of insertion then, and
 * shard by shard later; keys that are added meanwhile may be seen or not.
 */
export class ShardedMap<V> {
  /** All keys while they are few; then those of that time, until each is in its shard too. Null: all are in shards. */
  #first: Map<string, V> | null = new Map()
  /** Of `#first`, what is not in its shard yet; null: there are no shards, or nothing else. */
  #moving: IterableIterator<[string, V]> | null = null
  #shards: (Map<string, V> | undefined)[] = []
  /** Where there are shards. */
  #size = 0

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
    if (this.#first !== null) {
      const has = this.#first.has(key)
      if (has || this.#moving === null) return has
    }
    return this.#shards[shardOf(key)]?.has(key) ?? false
  }

  set(key: string, value: V): void {
    const first = this.#first
    if (first === null) this.#setInShard(key, value)
    else if (this.#moving !== null) {
      this.#setMeanwhile(first, key, value)
      this.#moveSome(this.#moving)
    } else {
      first.set(key, value)
      if (first.size <= ALONE) return
      this.#size = first.size
      this.#shards = new Array(SHARDS).fill(undefined)
      this.#moving = first.entries()
    }
  }

  #setInShard(key: string, value: V): void {
    const shard = this.#shardFor(key)
    const before = shard.size
    shard.set(key, value)
    this.#size += shard.size - before
  }

  #shardFor(key: string): Map<string, V> {
    return (this.#shards[shardOf(key)] ??= new Map())
  }

  /** What is in the first map stays there, and counts. */
  #setMeanwhile(first: Map<string, V>, key: string, value: V): void {
    if (!first.has(key)) {
      this.#setInShard(key, value)
      return
    }
    first.set(key, value)
    const shard = this.#shardFor(key)
    if (shard.has(key)) shard.set(key, value)
  }

  #moveSome(moving: IterableIterator<[string, V]>): void {
    for (let moved = 0; moved < MOVED; moved++) {
      const step = moving.next()
      if (step.done) {
        this.#first = this.#moving = null
        return
      }
      const [key, value] = step.value
      this.#shardFor(key).set(key, value)
    }
  }

  delete(key: string): boolean {
    if (this.#first !== null && this.#moving === null) return this.#first.delete(key)
    const wasFirst = this.#first?.delete(key) ?? false
    const deleted = (this.#shards[shardOf(key)]?.delete(key) ?? false) || wasFirst
    if (deleted) this.#size--
    return deleted
  }

  clear(): void {
    this.#first = new Map()
    this.#moving = null
    this.#shards = []
    this.#size = 0
  }

  /** Its shards, each with the keys that a shard of this number has in any map; null: while it has few keys, or moves them. */
  get shards(): readonly (ReadonlyMap<string, V> | undefined)[] | null {
    return this.#first === null ? this.#shards : null
  }

  *keys(): IterableIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  *values(): IterableIterator<V> {
    for (const [, value] of this.entries()) yield value
  }

  *entries(): IterableIterator<[string, V]> {
    for (const run of this.runs()) yield* run
  }

  /** The same, map by map: a step of a `Map` costs less than one of a generator. */
  *runs(): IterableIterator<Iterable<[string, V]>> {
    const first = this.#first
    if (first !== null) yield this.#entriesOf(first)
    for (const shard of this.#shards) yield first === null ? (shard ?? []) : entriesBut(first, shard ?? [])
  }

  *#entriesOf(first: Map<string, V>): Generator<[string, V], void> {
    for (const entry of first) {
      if (this.#first === first) yield entry
      // All are in shards since, or it was cleared.
      else if (this.has(entry[0])) yield [entry[0], this.get(entry[0])!]
    }
  }
}

function* entriesBut<V>(
  left: ReadonlyMap<string, V>,
  shard: Iterable<[string, V]>,
): Generator<[string, V], void> {
  for (const entry of shard) if (!left.has(entry[0])) yield entry
}
