import { setImmediate as nextTurn } from 'node:timers/promises'
import { types } from 'node:util'
import { FdbError, FdbTypeError } from '../errors.js'
import { checkKey, checkNewKey, checkRequest } from './arguments.js'
import { bytes, type Codec } from './codec.js'
import { REMOVE, refuseThenable, type StateDraft } from './draft.js'
import { type Disk, type Durability, made } from './durable.js'
import { deepFreeze } from './frozen.js'
import { mostBodyBytes, overLimit, type StateLimits } from './limits.js'
import type { Location } from './locations.js'
import { PART_CHANGES } from './parts.js'
import { CLEAR, DELETE, encodeBody, type NewChange, PUT } from './records.js'
import { addPrint } from './requests.js'
import type { SectionSchema } from './schema.js'
import type { SectionStore, StoredChange } from './section-store.js'
import type { Store } from './store.js'
import { ToldChange } from './told-change.js'
import { checkWrite, type WriteOptions } from './write-options.js'
import type { NewWrite } from './write-queue.js'

/** Changes of a bulk that are encoded in one go, whatever time it takes. */
const AT_ONCE = 256
/** The most bytes of changes that are encoded as one part, unless it is a single change. */
const PART_BYTES = 16 * 1024

/** A change that was applied. */
export interface SectionChange<T = unknown> {
  readonly op: 'put' | 'delete' | 'clear'
  /** Empty for `clear`. */
  readonly key: string
  /** 'local': appended by this process; 'replay': read from what another one wrote. */
  readonly origin: 'local' | 'replay'
  /**
   * What the entry was before; undefined: there was none, or it is a `clear`. Read from the log when it is asked for, which
   * must be before the listener returns. Throws as `get` does where it cannot be decoded.
   */
  readonly previous: T | undefined
}

export type ChangeListener<T = unknown> = (change: SectionChange<T>) => void

/** What an update may do with a section. */
export interface DraftSection<T> {
  readonly store: SectionStore
  has(key: string): boolean
  /** A value that nobody else has. */
  read(key: string): T | undefined
  put(key: string, value: T): NewChange
  delete(key: string): NewChange
}

export type BulkChange<T> = { key: string; value: T } | { key: string; delete: true }

export interface IterationOptions {
  /**
   * Called with each entry that cannot be decoded (ERR_FDB_STATE_VALUE, as `get` throws it), which is left out; may throw, which ends
   * the iteration. Default: a warning in the log, once for each key.
   */
  invalid?: (key: string, error: FdbError) => void
}

const RAW = bytes()

/** The most keys that are remembered to have been warned of. */
const WARNED = 1024

/** Told as it is: the value was readable. */
class MigrationError extends FdbError {}

/** What a section needs of its log. */
export interface SectionHost {
  readonly store: Store
  readonly limits: Readonly<StateLimits>
  readonly sliceMs: number
  flush(): void
  write(write: NewWrite): Promise<unknown>
  /** `prints`: of what it may come to. */
  update<R>(
    change: (state: StateDraft) => R,
    request: string,
    prints: readonly number[],
    durability: Durability | null,
  ): Promise<R | undefined>
  warn(facts: object, message: string): void
  /** Null: there is none. */
  disk(): Disk | null
  /** What a caller gets of a change. */
  told<R>(change: Promise<R>, options: WriteOptions): Promise<R>
}

/**
 * A named map in the log, without an order. Reads see every change of this process that could be appended, and none that
 * waits (paused, fenced, or not writing yet). Values come from the segment and are decoded when they are read: each `get` returns
 * an object of the caller's own, which may be changed and put back (protobuf: so fields of newer versions survive) and changes
 * nothing before that. With `frozen: true` in the schema it is one object for all, decoded once and frozen.
 */
export class Section<T> {
  readonly name: string
  readonly #host: SectionHost
  readonly #section: SectionStore
  readonly #schema: SectionSchema<T> | null
  /** Values that nobody can change: primitive ones, and frozen ones where the schema says so. */
  readonly #cache = new Map<string, T>()
  readonly #cacheSize: number
  readonly #warned = new Set<string>()

  /** @internal Use {@link StateLog.section}. */
  constructor(host: SectionHost, section: SectionStore, schema: SectionSchema<T> | null) {
    this.name = section.name
    this.#host = host
    this.#section = section
    this.#schema = schema
    this.#cacheSize = schema?.cache ?? 0
    section.listeners.add(change => {
      if (change.op === 'clear') this.#cache.clear()
      else this.#cache.delete(change.key)
    })
    section.resets.add(() => this.#cache.clear())
  }

  /** The schema version of the log's section; 0 when the log has none. */
  get version(): number {
    return this.#section.stored?.version ?? 0
  }

  get secret(): boolean {
    return (this.#schema?.secret ?? false) || (this.#section.stored?.secret ?? false)
  }

  get size(): number {
    this.#host.flush()
    return this.#section.slots.size
  }

  /** Of this section alone; independent of order, codec and history. */
  get digest(): string {
    this.#host.flush()
    return this.#section.digest.toString()
  }

  has(key: string): boolean {
    checkKey(key, this.name)
    this.#host.flush()
    return this.#section.slots.has(key)
  }

  /** Throws ERR_FDB_STATE_VALUE when what lies there cannot be decoded. */
  get(key: string): T | undefined {
    checkKey(key, this.name)
    this.#host.flush()
    const cached = this.#cache.get(key)
    if (cached !== undefined) return cached
    const slot = this.#section.slots.get(key)
    return slot === undefined ? undefined : this.#decode(key, slot)
  }

  #decode(key: string, slot: number): T {
    const decoded = this.#decoded(key, this.#host.store.entries.read(this.#section, key, slot))
    const schema = this.#schema
    if (!schema || this.#cacheSize === 0 || !mayBeShared(decoded, schema)) return decoded
    if (this.#cache.size >= this.#cacheSize) this.#cache.clear()
    this.#cache.set(key, decoded)
    return decoded
  }

  /** A value that nobody else has. */
  #decoded(key: string, { value, version }: { value: Buffer; version: number }): T {
    const schema = this.#schema
    if (!schema) return value as T
    let decoded: T
    try {
      decoded = this.#migrated(schema, schema.codec.decode(value), key, version)
      schema.validate?.(decoded)
    } catch (error) {
      if (error instanceof MigrationError) throw error
      throw new FdbError(
        'ERR_FDB_STATE_VALUE',
        `section "${this.name}", key "${key}": ${value.length} bytes of schema version ${version} are no valid value for ` +
          `codec "${schema.codec.name}" at version ${schema.version}; put a valid one, or delete the key`,
        { cause: this.secret ? undefined : error, details: { section: this.name, key, version } },
      )
    }
    return decoded
  }

  #migrated(schema: SectionSchema<T>, value: T, key: string, from: number): T {
    const { migrate, version: to } = schema
    if (migrate === undefined || from === 0 || from >= to) return value
    const failed = (why: string, cause?: unknown) =>
      new MigrationError(
        'ERR_FDB_STATE_VALUE',
        `section "${this.name}", key "${key}": migrate() from schema version ${from} to ${to} ${why}; correct it, put a value ` +
          `of version ${to}, or delete the key`,
        { cause: this.secret ? undefined : cause, details: { section: this.name, key, from, to } },
      )
    let migrated: T
    try {
      migrated = migrate(value, from, to)
    } catch (error) {
      throw failed('threw', error)
    }
    if (migrated === undefined) throw failed('returned undefined, not the value')
    return migrated
  }

  /** Keys in no particular order. */
  keys(): IterableIterator<string> {
    this.#host.flush()
    return this.#section.slots.keys()
  }

  /**
   * In no particular order. In one go: use `for await` on the section itself for many entries. An entry that cannot be decoded is left
   * out, and told of.
   */
  *entries(options: IterationOptions = {}): IterableIterator<[string, T]> {
    this.#host.flush()
    for (const [key, slot] of this.#section.slots.entries()) {
      const entry = this.#entry(key, slot, options)
      if (entry) yield entry
    }
  }

  /** Null: it cannot be decoded, which was told. */
  #entry(key: string, slot: number, { invalid }: IterationOptions): [string, T] | null {
    try {
      return [key, this.#decode(key, slot)]
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_STATE_VALUE') throw error
      if (invalid) invalid(key, error)
      else this.#warn(key, error)
      return null
    }
  }

  #warn(key: string, error: FdbError): void {
    if (this.#warned.has(key) || this.#warned.size >= WARNED) return
    this.#warned.add(key)
    this.#host.warn({ err: error, section: this.name, key }, 'an entry that cannot be decoded was left out')
  }

  [Symbol.iterator](): IterableIterator<[string, T]> {
    return this.entries()
  }

  /** In turns bounded in time. Entries that change meanwhile may be seen as before, as after, or (new ones) not. */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<[string, T]> {
    this.#host.flush()
    let started = performance.now()
    for (const [key, slot] of this.#section.slots.entries()) {
      const entry = this.#entry(key, slot, {})
      if (entry) yield entry
      if (performance.now() - started >= this.#host.sliceMs) {
        await nextTurn()
        started = performance.now()
      }
    }
  }

  /**
   * Resolves once the whole change is in the log. Changes are appended in the order they were made, all those of
   * one turn of the event loop in one write. In a process that stands by or drains they are
   * made by the one that writes, and it resolves when this one sees them. Rejects, and has no effect, with ERR_FDB_FENCED (this process
   * was cut off, or nobody took it in time), ERR_FDB_STATE_BACKPRESSURE, ERR_FDB_STATE_LIMIT, ERR_FDB_STATE_FULL, ERR_FDB_STATE_REQUEST; with a TypeError
   * (ERR_FDB_STATE_KEY, ERR_FDB_STATE_VALUE) for a key that is no string and a value that the codec does not take. ERR_FDB_DEADLINE:
   * whoever writes did not answer, and it may have been made.
   *
   * In a successor a change waits, before `ready()`, until it serves: then it is made. To await it before that would be to wait for
   * oneself: it rejects, at once, with ERR_FDB_NOT_READY. Await it after `ready()`. That goes for all changes.
   */
  put(key: string, value: T, options: WriteOptions = {}): Promise<void> {
    return this.#host.told(this.#put(key, value, options), options)
  }

  async #put(key: string, value: T, options: WriteOptions): Promise<void> {
    checkWrite('put()', options)
    await this.#write([this.#encodePut(key, value)], options)
  }

  /**
   * Resolves, once it is in the log, with whether there was an entry. Deleting what is not there is a change too. Where a change
   * with this `request` id was made before, it is not known any more: true.
   */
  delete(key: string, options: WriteOptions = {}): Promise<boolean> {
    return this.#host.told(this.#delete(key, options), options)
  }

  async #delete(key: string, options: WriteOptions): Promise<boolean> {
    checkWrite('delete()', options)
    const look = () => this.#section.slots.has(key)
    return (await this.#write([this.#encode(DELETE, key)], options, look)) !== false
  }

  /**
   * Changes an entry by what it is. `change` is called with the value (undefined: there is none) when it is this change's turn, so
   * that none before it is overlooked and no other comes between, also where another process writes: then perhaps more than
   * once, as the entry may have changed meanwhile. It must not wait, and should do nothing else. It may change
   * the value in place; what it returns is the new value; {@link REMOVE} deletes the entry, undefined leaves it as it is.
   *
   * Resolves, once that is in the log, with the value that the entry has then. Rejects as `put` does, and with what `change`
   * throws, without effect.
   */
  update(
    key: string,
    change: (value: T | undefined) => T | typeof REMOVE | undefined,
    options: WriteOptions = {},
  ): Promise<T | undefined> {
    return this.#host.told(this.#update(key, change, options), options)
  }

  async #update(
    key: string,
    change: (value: T | undefined) => T | typeof REMOVE | undefined,
    options: WriteOptions,
  ): Promise<T | undefined> {
    checkWrite('update()', options)
    checkNewKey(key, this.name, this.#host.limits)
    const write = (state: StateDraft): { value: T | undefined } => {
      const next = change(state.get(this, key))
      refuseThenable(next)
      if (next === undefined) return { value: state.get(this, key) }
      if (next !== REMOVE) state.put(this, key, next)
      else state.delete(this, key)
      return { value: next === REMOVE ? undefined : next }
    }
    const request = checkRequest(options.request, this.#host.limits)
    const prints = request === '' ? [] : [PUT, DELETE].map(op => this.#section.printOf(op, key) || 1)
    const update = (durability: Durability | null) => this.#host.update(write, request, prints, durability)
    const answer = await made(update, options, this.#host.disk())
    return answer === undefined ? this.get(key) : answer.value
  }

  /** Deletes all entries, in one change. */
  clear(options: WriteOptions = {}): Promise<void> {
    return this.#host.told(this.#clear(options), options)
  }

  async #clear(options: WriteOptions): Promise<void> {
    checkWrite('clear()', options)
    await this.#write([this.#encode(CLEAR, '')], options)
  }

  /**
   * All of the changes or none, however many; readers see them all at once too. It resolves when listeners have been told
   * of each. More than 256 changes are encoded in slices: such a bulk takes its place in the order of changes when that is
   * done, so await it before a change that depends on it. Other changes wait while it is appended. Interrupted by a
   * handoff it counts for nothing: it is appended anew, whole, by the process that writes then (ERR_FDB_STATE_LIMIT where that
   * is another, and it is larger than `waitingBytes`).
   */
  bulk(changes: Iterable<BulkChange<T>>, options: WriteOptions = {}): Promise<void> {
    return this.#host.told(this.#bulk(changes, options), options)
  }

  async #bulk(changes: Iterable<BulkChange<T>>, options: WriteOptions): Promise<void> {
    checkWrite('bulk()', options)
    const parts: Uint8Array[] = []
    let group: NewChange[] = []
    let groupBytes = 0
    let count = 0
    let bytes = 0
    let print = 0
    const request = checkRequest(options.request, this.#host.limits)
    const { limits, sliceMs } = this.#host
    const most = mostBodyBytes(limits)
    const close = () => {
      const part = encodeBody(group)
      if (part.length > most) throw overLimit('a change of a bulk', part.length, 'recordBytes', most)
      bytes += part.length
      if (bytes > limits.segmentBytes) {
        throw overLimit(`a bulk of at least ${count} changes`, bytes, 'segmentBytes', limits.segmentBytes)
      }
      parts.push(part)
      group = []
      groupBytes = 0
    }
    let started = performance.now()
    for (const change of this.#checked(changes)) {
      const encoded = isDeletion(change)
        ? this.#encode(DELETE, change.key)
        : this.#encodePut(change.key, change.value)
      if (request !== '') print = addPrint(print, this.#section.printOf(encoded.op, encoded.key))
      const size = encoded.key.length + (encoded.value?.length ?? 0)
      if (group.length > 0 && groupBytes + size > Math.min(PART_BYTES, most / 4)) close()
      group.push(encoded)
      groupBytes += size
      count++
      if (group.length < Math.min(PART_CHANGES, limits.changesPerRecord)) continue
      close()
      if (count >= AT_ONCE && performance.now() - started >= sliceMs) {
        await nextTurn()
        started = performance.now()
      }
    }
    if (group.length > 0) close()
    if (count === 0) return
    const write = { sections: [this.#section], parts, request, prints: [print] }
    const make = (durability: Durability | null) => this.#host.write({ ...write, durability })
    await made(make, options, this.#host.disk())
  }

  #checked(changes: Iterable<BulkChange<T>>): Iterable<BulkChange<T>> {
    if (typeof (changes as { [Symbol.iterator]?: unknown } | null)?.[Symbol.iterator] === 'function')
      return changes
    const what = `section "${this.name}": the changes of a bulk are ${typeof changes}`
    throw new FdbTypeError(
      'ERR_FDB_STATE_VALUE',
      `${what}; give what can be iterated, of { key, value } and { key, delete: true }`,
    )
  }

  /** Called after each change is applied, whether it was made here or read from a segment. Returns how to stop it. */
  onChange(listener: ChangeListener<T>): () => void {
    const own = (change: StoredChange) => {
      const read = (at: Location) =>
        this.#decoded(change.key, this.#host.store.entries.readAt(this.#section, change.key, at))
      ToldChange.tell(listener, change, read)
    }
    this.#section.listeners.add(own)
    return () => void this.#section.listeners.delete(own)
  }

  /** @internal */
  draft_(store: Store): DraftSection<T> {
    if (store !== this.#host.store) {
      throw new FdbError(
        'ERR_FDB_OPTION',
        `section "${this.name}" is of another member: an update changes the state of one`,
      )
    }
    const section = this.#section
    return {
      store: section,
      has: key => {
        checkKey(key, this.name)
        return section.slots.has(key)
      },
      read: key => {
        checkKey(key, this.name)
        const slot = section.slots.get(key)
        return slot === undefined ? undefined : this.#decoded(key, store.entries.read(section, key, slot))
      },
      put: (key, value) => this.#encodePut(key, value),
      delete: key => this.#encode(DELETE, key),
    }
  }

  #write(changes: NewChange[], options: WriteOptions, look?: () => unknown): Promise<unknown> {
    const body = encodeBody(changes)
    const most = mostBodyBytes(this.#host.limits)
    if (body.length > most) throw overLimit('a change', body.length, 'recordBytes', most)
    const request = checkRequest(options.request, this.#host.limits)
    let print = 0
    for (const { op, key } of changes) print = addPrint(print, this.#section.printOf(op, key))
    const write = { sections: [this.#section], parts: [body], request, prints: [print] }
    const make = (durability: Durability | null) =>
      this.#host.write({ ...write, durability, ...(look && { look }) })
    return made(make, options, this.#host.disk())
  }

  #encodePut(key: string, value: T): NewChange {
    const change = this.#encode(PUT, key)
    this.#schema?.validate?.(value)
    change.value = this.#encodeValue(key, value)
    return change
  }

  #encodeValue(key: string, value: T): Uint8Array {
    const codec = this.#schema?.codec ?? RAW
    const details = { section: this.name, key }
    const refused = (why: string, cause?: unknown) =>
      new FdbTypeError(
        'ERR_FDB_STATE_VALUE',
        `section "${this.name}", key "${key}": the value is none that codec "${codec.name}" takes${why}`,
        { cause, details },
      )
    let encoded: Uint8Array
    try {
      encoded = (codec as Codec<unknown>).encode(value)
    } catch (error) {
      throw this.secret ? refused('') : refused(`: ${(error as Error).message}`, error)
    }
    if (types.isUint8Array(encoded)) return encoded
    throw refused(`: encode() returned ${typeof encoded}, not a Uint8Array`)
  }

  #encode(op: number, key: string): NewChange {
    checkNewKey(key, this.name, this.#host.limits)
    return { section: this.name, op, key, version: this.#schema?.version ?? 0 }
  }
}

/** Nobody can change it. Freezes it where the schema says so. */
function mayBeShared(value: unknown, schema: { readonly frozen: boolean }): boolean {
  return typeof value === 'object' && value !== null
    ? schema.frozen && deepFreeze(value)
    : typeof value !== 'function'
}

function isDeletion(
  change: { key: string; delete?: unknown } | null,
): change is { key: string; delete: true } {
  if (typeof change === 'object' && change !== null) return change.delete === true
  throw new FdbTypeError(
    'ERR_FDB_STATE_VALUE',
    `a change of a bulk is ${String(change)}; give { key, value } or { key, delete: true }`,
  )
}
