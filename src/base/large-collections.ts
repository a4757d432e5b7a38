/** A {@link DividingMap} of up to this many keys is one `Map`. */
export const ALONE = 16_384
/** While a map is being divided, each put moves this many keys from the first map to their parts. */
const MOVED = 8
/** Number of parts, a power of two. */
export const PARTS = 256

/**
 * A map that never stalls the event loop: a large `Map` rehashes all its keys when it grows. Small ones are one `Map` in insertion order,
 * larger ones 256 parts. Iteration may miss keys that are added during it, and ends although more are added. Values must not be undefined.
 */
export abstract class DividingMap<K, V> {
  /** All keys of a small map. While the map is being divided: the keys from before the division. Null when all keys are in parts. */
  #first: Map<string, V> | null = new Map()
  /** The keys of `#first` that are not yet in parts. Null before and after the division. */
  #moving: IterableIterator<[string, V]> | null = null
  #size = 0

  protected abstract keyText(key: string | K): string
  protected abstract getInPart(key: string | K): V | undefined
  /** Returns undefined if the key was missing, else what `set` returns. */
  protected abstract setInPart(key: string | K, value: V): V | undefined
  protected abstract deleteInPart(key: string | K): boolean
  /** Returns the entries of a part. A key is in the part with the same number in all maps. */
  abstract run(part: number): Iterable<[string, V]>

  get size(): number {
    return this.#first !== null && this.#moving === null ? this.#first.size : this.#size
  }

  /** Whether all keys are in parts. */
  get isDivided(): boolean {
    return this.#first === null
  }

  get(key: string | K): V | undefined {
    if (this.#first !== null) {
      const value = this.#first.get(this.keyText(key))
      if (value !== undefined || this.#moving === null) return value
    }
    return this.getInPart(key)
  }

  has(key: string | K): boolean {
    return this.get(key) !== undefined
  }

  protected put(key: string | K, value: V): V | undefined {
    const first = this.#first
    if (first === null) return this.#putInPart(key, value)
    const text = this.keyText(key)
    const before = first.get(text)
    if (this.#moving === null) {
      first.set(text, value)
      if (first.size > ALONE) {
        this.#size = first.size
        this.#moving = first.entries()
      }
      return before
    }
    if (before === undefined) {
      const had = this.#putInPart(key, value)
      this.#moveSome(this.#moving)
      return had
    }
    // get() reads this key from the first map until all keys are in parts.
    first.set(text, value)
    if (this.getInPart(key) !== undefined) this.setInPart(key, value)
    this.#moveSome(this.#moving)
    return before
  }

  #putInPart(key: string | K, value: V): V | undefined {
    const before = this.setInPart(key, value)
    if (before === undefined) this.#size++
    return before
  }

  #moveSome(moving: IterableIterator<[string, V]>): void {
    for (let moved = 0; moved < MOVED; moved++) {
      const step = moving.next()
      if (step.done) {
        this.#first = this.#moving = null
        return
      }
      this.setInPart(step.value[0], step.value[1])
    }
  }

  delete(key: string | K): boolean {
    if (this.#first !== null && this.#moving === null) return this.#first.delete(this.keyText(key))
    const wasFirst = this.#first?.delete(this.keyText(key)) ?? false
    const deleted = this.deleteInPart(key) || wasFirst
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
    for (let part = 0; part < PARTS; part++)
      yield* first === null ? this.run(part) : entriesBut(first, this.run(part))
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

/** A {@link DividingMap} with text keys, whose parts are maps. */
export class ShardedMap<V> extends DividingMap<never, V> {
  readonly #shards: (Map<string, V> | undefined)[] = []

  set(key: string, value: V): void {
    this.put(key, value)
  }

  protected keyText(key: string): string {
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

  run(part: number): Iterable<[string, V]> {
    const shard = this.#shards[part]
    return shard === undefined ? [] : presentEntries(shard)
  }
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
