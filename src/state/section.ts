import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { mostBodyBytes, overLimit, type StateLimits } from './limits.js'
import { PART_CHANGES } from './parts.js'
import { CLEAR, DELETE, encodeBody, type NewChange, PUT } from './records.js'
import type { SectionSchema } from './schema.js'
import type { ChangeListener, SectionStore } from './section-store.js'
import type { Store } from './store.js'

/** Changes of a bulk that are encoded in one go, whatever time it takes. */
const AT_ONCE = 256
/** The most bytes of changes that are encoded as one part, unless it is a single change. */
const PART_BYTES = 16 * 1024

export interface WriteOptions {
  /** A client's request id: the same change tried again with the same id applies once. */
  request?: string
}

export type BulkChange<T> = { key: string; value: T } | { key: string; delete: true }

/** Told as it is: the value was readable. */
class MigrationError extends FdbError {}

/** What a section needs of its log. */
export interface SectionHost {
  readonly store: Store
  readonly limits: Readonly<StateLimits>
  readonly sliceMs: number
  flush(): void
  write(section: SectionStore, parts: Uint8Array[], request: string): Promise<void>
}

/**
 * A named map in the log, without an order. Reads see every change of this process that could be appended, and none that
 * waits (paused, fenced, or not writing yet). Values come from the segment and are decoded when they are read, then
 * cached: treat what `get` returns as frozen, and put a new value to change it. An object that is changed in place is
 * to be put back in the same turn (protobuf: so fields of newer versions survive).
 */
export class Section<T> {
  readonly name: string
  readonly #host: SectionHost
  readonly #section: SectionStore
  readonly #schema: SectionSchema<T> | null
  readonly #cache = new Map<string, T>()
  readonly #cacheSize: number

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
    this.#host.flush()
    return this.#section.slots.has(key)
  }

  get(key: string): T | undefined {
    this.#host.flush()
    const cached = this.#cache.get(key)
    if (cached !== undefined) return cached
    const slot = this.#section.slots.get(key)
    return slot === undefined ? undefined : this.#decode(key, slot)
  }

  #decode(key: string, slot: number): T {
    const { value, version } = this.#host.store.read(this.#section, key, slot)
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
    if (this.#cacheSize > 0) {
      if (this.#cache.size >= this.#cacheSize) this.#cache.clear()
      this.#cache.set(key, decoded)
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

  /** In no particular order. In one go: use `for await` on the section itself for many entries. */
  *entries(): IterableIterator<[string, T]> {
    this.#host.flush()
    for (const [key, slot] of this.#section.slots.entries()) yield [key, this.#decode(key, slot)]
  }

  [Symbol.iterator](): IterableIterator<[string, T]> {
    return this.entries()
  }

  /** In turns bounded in time. Entries that change meanwhile may be seen as before, as after, or (new ones) not. */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<[string, T]> {
    this.#host.flush()
    let started = performance.now()
    for (const [key, slot] of this.#section.slots.entries()) {
      yield [key, this.#decode(key, slot)]
      if (performance.now() - started >= this.#host.sliceMs) {
        await nextTurn()
        started = performance.now()
      }
    }
  }

  /**
   * Resolves once the whole change is in the log. Changes are appended in the order they were made, all those of
   * one turn of the event loop in one write. Rejects, and has no effect, with ERR_FDB_FENCED (this process may not
   * write any more), ERR_FDB_STATE_BACKPRESSURE, ERR_FDB_STATE_LIMIT, ERR_FDB_STATE_FULL.
   */
  async put(key: string, value: T, options: WriteOptions = {}): Promise<void> {
    return this.#write([this.#encodePut(key, value)], options)
  }

  /** Deleting what is not there is a change too: it resolves once it is in the log. */
  async delete(key: string, options: WriteOptions = {}): Promise<void> {
    return this.#write([this.#encode(DELETE, key)], options)
  }

  /** Deletes all entries, in one change. */
  async clear(options: WriteOptions = {}): Promise<void> {
    return this.#write([this.#encode(CLEAR, '')], options)
  }

  /**
   * All of the changes or none, however many; readers see them all at once too. It resolves when listeners have been told
   * of each. More than 256 changes are encoded in slices: such a bulk takes its place in the order of changes when that is
   * done, so await it before a change that depends on it. Other changes wait while it is appended. Interrupted by a
   * handoff it counts for nothing: it is appended anew, whole, when this process goes on writing, else rejected
   * with ERR_FDB_FENCED.
   */
  async bulk(changes: Iterable<BulkChange<T>>, options: WriteOptions = {}): Promise<void> {
    const parts: Uint8Array[] = []
    let group: NewChange[] = []
    let groupBytes = 0
    let count = 0
    let bytes = 0
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
    for (const change of changes) {
      const encoded =
        'delete' in change ? this.#encode(DELETE, change.key) : this.#encodePut(change.key, change.value)
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
    return this.#host.write(this.#section, parts, this.#request(options))
  }

  /** Called after each change is applied, whether it was made here or read from a segment. Returns how to stop it. */
  onChange(listener: ChangeListener): () => void {
    const own: ChangeListener = change => listener(change)
    this.#section.listeners.add(own)
    return () => void this.#section.listeners.delete(own)
  }

  #write(changes: NewChange[], options: WriteOptions): Promise<void> {
    const body = encodeBody(changes)
    const most = mostBodyBytes(this.#host.limits)
    if (body.length > most) throw overLimit('a change', body.length, 'recordBytes', most)
    return this.#host.write(this.#section, [body], this.#request(options))
  }

  #request(options: WriteOptions): string {
    const request = options.request ?? ''
    const { requestBytes } = this.#host.limits
    const length = Buffer.byteLength(request)
    if (length > requestBytes)
      throw overLimit('the length of a request id', length, 'requestBytes', requestBytes)
    return request
  }

  #encodePut(key: string, value: T): NewChange {
    const schema = this.#schema
    // It was changed in place: until it is in the log, reads find what is there.
    if (this.#cache.get(key) === value) this.#cache.delete(key)
    schema?.validate?.(value)
    const change = this.#encode(PUT, key)
    change.value = schema ? schema.codec.encode(value) : (value as Uint8Array)
    return change
  }

  #encode(op: number, key: string): NewChange {
    const { keyBytes } = this.#host.limits
    if (key.length > keyBytes || (key.length * 3 > keyBytes && Buffer.byteLength(key) > keyBytes)) {
      throw overLimit('the length of a key', Buffer.byteLength(key), 'keyBytes', keyBytes)
    }
    if (/\p{Surrogate}/u.test(key)) {
      throw new FdbError('ERR_FDB_STATE_VALUE', 'a key with half a surrogate pair; keys are Unicode text')
    }
    return { section: this.name, op, key, version: this.#schema?.version ?? 0 }
  }
}
