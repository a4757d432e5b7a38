import { requireFunction } from '../checks/place.js'
import { FdbError } from '../errors.js'
import { Bulk, type BulkChange, checkChanges, type EntryChange, opOf } from './bulk.js'
import type { LogCore } from './core.js'
import { type DraftSection, REMOVE, refuseThenable, type StateDraft } from './draft.js'
import { inFileOrder } from './in-file-order.js'
import { checkKey, checkNewKey, checkRequest, limitError, mostBodyBytes } from './limits.js'
import type { Location } from './locations.js'
import { CLEAR, DELETE, encodeBody, type NewChange, PUT } from './records.js'
import { addPrint, checkWrite, rejecting, type WriteOptions } from './requests.js'
import type { SectionSchema } from './schema.js'
import { AppliedChange, type ChangeListener, type SectionStore, type StoredChange } from './section-store.js'
import type { Store } from './store.js'
import { Slice } from './time-slices.js'
import { Values } from './values.js'
import type { Writer } from './writer.js'

/** A bulk checks after this many encoded changes whether its time slice is used up. */
const CHANGES_PER_CHECK = 256

export interface IterationOptions {
  /**
   * Called for each entry that cannot be decoded, with the ERR_FDB_STATE_VALUE that `get` throws; the iteration skips the entry. An
   * exception of `invalid` ends the iteration. Default: the iteration throws that error; after `ready({ skipInvalid: true })` it skips the
   * entry, with one warning per key.
   */
  invalid?: (key: string, error: FdbError) => void
}

const MOST_WARNED_KEYS = 1024

/**
 * A named, unordered map in the log. Reads see every change of this process that was appended, and no change that is still {@link waiting} (writing
 * is paused, fenced or not started, or the change is being forwarded). Each `get` decodes the value from the segment and returns a new object: the
 * caller may change it, and the state changes only when the caller puts it back. (With protobuf, putting back the same object preserves fields of
 * newer versions.) With `frozen: true` in the schema all callers get the same frozen object.
 */
export class Section<T> {
  readonly name: string
  readonly #core: LogCore
  readonly #writer: Writer
  readonly #section: SectionStore
  readonly #schema: SectionSchema<T> | null
  readonly #values: Values<T>
  /** Decoded primitive values, and frozen objects if the schema has `frozen`. */
  readonly #cache = new Map<string, T>()
  readonly #cacheSize: number
  readonly #warned = new Set<string>()

  /** @internal Use {@link StateLog.section}. */
  constructor(core: LogCore, writing: Writer, section: SectionStore, schema: SectionSchema<T> | null) {
    this.name = section.name
    this.#core = core
    this.#writer = writing
    this.#values = new Values(section, schema)
    this.#section = section
    this.#schema = schema
    this.#cacheSize = schema?.cache ?? 0
    // Changes of a section without listeners take less time.
    if (this.#cacheSize === 0) return
    section.listeners.add(change => {
      if (change.op === 'clear') this.#cache.clear()
      else this.#cache.delete(change.key)
    })
    section.resets.add(() => this.#cache.clear())
  }

  /** The schema version of the section in the log, or 0. */
  get version(): number {
    return this.#section.stored?.version ?? 0
  }

  get secret(): boolean {
    return this.#values.secret
  }

  get size(): number {
    this.#core.flush()
    return this.#section.slots.size
  }

  /** The digest of this section's encoded entries, independent of their order and history. */
  get digest(): string {
    this.#core.flush()
    return this.#section.digest.toString()
  }

  /**
   * Number of changes of this process, in all sections, that wait to be made. Reads do not see them, because each may still be refused; an `update`
   * runs on the state that all earlier changes have produced. The number is 0 while this process writes and appends no large bulk: a read then sees each
   * previous put.
   */
  get waiting(): number {
    return this.#writer.waiting
  }

  /**
   * Resolves when every change that waits now was made or refused; reads then see those that were made. If changes wait before `ready()`, rejects with
   * ERR_FDB_NOT_READY, as `put` does.
   */
  settled(): Promise<void> {
    return this.#writer.settled()
  }

  has(key: string): boolean {
    checkKey(key, this.name)
    this.#core.flush()
    return this.#section.slots.has(key)
  }

  /** Returns the value in the log, without {@link waiting} changes. Throws ERR_FDB_STATE_VALUE if the value cannot be decoded. */
  get(key: string): T | undefined {
    checkKey(key, this.name)
    this.#core.flush()
    const cached = this.#cache.get(key)
    if (cached !== undefined) return cached
    const slot = this.#section.slots.get(key)
    return slot === undefined ? undefined : this.#decode(key, slot)
  }

  /** @internal Whether the entry exists and `is` returns true for its encoded value, which is valid during the call. */
  isStored_(key: string, is: (bytes: Uint8Array, start: number, end: number) => boolean): boolean {
    checkKey(key, this.name)
    this.#core.flush()
    const slot = this.#section.slots.get(key)
    return slot !== undefined && this.#core.store.entries.testValue(this.#section, key, slot, is)
  }

  #decode(key: string, slot: number): T {
    const decoded = this.#values.decode(key, this.#core.store.entries.read(this.#section, key, slot))
    if (this.#cacheSize === 0 || !mayBeShared(decoded, this.#schema?.frozen ?? false)) return decoded
    if (this.#cache.size >= this.#cacheSize) this.#cache.clear()
    this.#cache.set(key, decoded)
    return decoded
  }

  /** Keys in no particular order. */
  keys(): IterableIterator<string> {
    this.#core.flush()
    return this.#section.slots.keys()
  }

  /** Iterates over the entries in no particular order, without pauses: for many entries use `for await` on the section. Throws at an entry that cannot be decoded, unless `invalid` is given. */
  *entries(options: IterationOptions = {}): IterableIterator<[string, T]> {
    for (const entry of this.#readEntries(options)) if (entry !== null) yield entry
  }

  /** Yields null where the caller may pause. */
  #readEntries(options: IterationOptions): Generator<[string, T] | null, undefined> {
    this.#core.flush()
    return inFileOrder(this.#section, this.#core.store, (key, slot) => this.#decodeEntry(key, slot, options))
  }

  /** Returns null, after reporting, if the entry cannot be decoded. */
  #decodeEntry(key: string, slot: number, { invalid }: IterationOptions): [string, T] | null {
    try {
      return [key, this.#decode(key, slot)]
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_STATE_VALUE') throw error
      if (invalid) invalid(key, error)
      else if (this.#core.owner.skipInvalid) this.#warn(key, error)
      else throw error
      return null
    }
  }

  #warn(key: string, error: FdbError): void {
    if (this.#warned.has(key) || this.#warned.size >= MOST_WARNED_KEYS) return
    this.#warned.add(key)
    this.#core.warn({ err: error, section: this.name, key }, 'an entry that cannot be decoded was skipped')
  }

  [Symbol.iterator](): IterableIterator<[string, T]> {
    return this.entries()
  }

  /** Iterates in time slices. May return the old or the new value of an entry that changes during the iteration; may miss new entries. */
  [Symbol.asyncIterator](): AsyncIterableIterator<[string, T]> {
    return new SlicedIterator(this.#readEntries({}), this.#core.sliceMs)
  }

  /** @internal As the iteration in time slices, but always skips entries that cannot be decoded, with one warning per key. */
  readable_(): AsyncIterableIterator<[string, T]> {
    const invalid = (key: string, error: FdbError) => this.#warn(key, error)
    return new SlicedIterator(this.#readEntries({ invalid }), this.#core.sliceMs)
  }

  /** @internal */
  warn_(error: unknown, message: string): void {
    this.#core.warn({ err: error, section: this.name }, message)
  }

  /**
   * Resolves when the whole change is in the log. Changes are appended in the order of the calls; those of one turn of the event loop in one write.
   * If this process stands by or drains, it forwards the change to the process that writes, and the promise resolves when this process sees the
   * change. Rejects, without effect, with ERR_FDB_FENCED (this process lost the right to write, or no process accepted the change in time),
   * ERR_FDB_STATE_BACKPRESSURE, ERR_FDB_STATE_LIMIT, ERR_FDB_STATE_FULL or ERR_FDB_STATE_REQUEST; with a TypeError (ERR_FDB_STATE_KEY,
   * ERR_FDB_STATE_VALUE) for a key that is not a string or a value that the codec refuses. Rejects with ERR_FDB_DEADLINE if the process that writes
   * did not answer: the change may have been made.
   *
   * A change that a successor makes before `ready()` waits until the successor serves. Awaiting it before `ready()` would block forever, so such
   * an `await` rejects with ERR_FDB_NOT_READY: await it after `ready()`. While a check of `ready()` runs, which may ask a handler that writes, the
   * promise resolves when the change waits, with its result for the present state. This applies to all changes.
   */
  put(key: string, value: T, options: WriteOptions = {}): Promise<void> {
    return this.#change('put()', options, () => this.#encodePut(key, value), nothing)
  }

  /** @internal Puts an encoded value that an operator gave. Rejects with ERR_FDB_STATE_VALUE if the codec or `validate` refuses it. */
  putBytes_(key: string, value: Uint8Array, options: WriteOptions): Promise<void> {
    const encode = () => {
      const change = this.#encode(PUT, key)
      change.version ||= this.version
      this.#values.decode(key, { value, version: change.version ?? 0 }, 'nothing was put')
      change.value = value
      return change
    }
    return this.#change('put()', options, encode, nothing)
  }

  /**
   * Deletes an entry. Resolves, when the change is in the log, with whether the entry existed; true if a change with the same `request` id
   * was made before. Deleting an entry that does not exist is a change too.
   */
  delete(key: string, options: WriteOptions = {}): Promise<boolean> {
    const existed = () => this.#section.slots.has(key)
    return this.#change('delete()', options, () => this.#encode(DELETE, key), isNotFalse, existed)
  }

  /**
   * Changes an entry depending on its value. Calls `change` with the value, or with undefined if the entry does not exist, after all earlier changes
   * were made; no other change comes in between. If another process writes, `change` may be called again, because the entry may have changed
   * before that process makes the change. `change` must be synchronous and without side effects, and may change the value in place; it returns the
   * new value, {@link REMOVE} to delete the entry, or undefined to leave the entry unchanged.
   *
   * Resolves, when the change is in the log, with the entry's new value. Rejects as `put` does, and with the error that `change` throws; then nothing has changed.
   */
  update(
    key: string,
    change: (value: T | undefined) => T | typeof REMOVE | undefined,
    options: WriteOptions = {},
  ): Promise<T | undefined> {
    return rejecting(() => {
      requireFunction('change', change)
      checkWrite('update()', options)
      checkNewKey(key, this.name, this.#core.limits)
      const request = checkRequest(options.request, this.#core.limits)
      const prints = request === '' ? [] : [PUT, DELETE].map(op => this.#section.printOf(op, key) || 1)
      const update = (state: StateDraft) => this.#updateIn(state, key, change)
      const result = (answer: unknown) =>
        answer === undefined ? this.get(key) : (answer as { value: T | undefined }).value
      return this.#writer.change({ update, request, prints }, options, this.#schema?.durable, result)
    })
  }

  #updateIn(
    state: StateDraft,
    key: string,
    change: (value: T | undefined) => T | typeof REMOVE | undefined,
  ): { value: T | undefined } {
    const next = change(state.get(this, key))
    refuseThenable(next)
    if (next === undefined) return { value: state.get(this, key) }
    if (next !== REMOVE) state.put(this, key, next)
    else state.delete(this, key)
    return { value: next === REMOVE ? undefined : next }
  }

  /** Deletes all entries, in one change. */
  clear(options: WriteOptions = {}): Promise<void> {
    return this.#change('clear()', options, () => this.#encode(CLEAR, ''), nothing)
  }

  /**
   * Makes all of the changes or none; readers see them all at once. Resolves when the listeners were notified of each change. More than 256 changes
   * are encoded in slices, and the bulk is queued after that: await it before a change that depends on it. Other changes wait while the bulk is
   * appended. A bulk that a handoff interrupts has no effect until the next writing process has appended the whole bulk; if that is another process
   * and the bulk is larger than `waitingBytes`, rejects with ERR_FDB_STATE_LIMIT.
   */
  bulk(changes: Iterable<BulkChange<T> | EntryChange<T>>, options: WriteOptions = {}): Promise<void> {
    return rejecting(() => {
      checkWrite('bulk()', options)
      checkChanges(changes, this.name)
      const { limits } = this.#core
      const bulk = new Bulk(this.#section, limits, checkRequest(options.request, limits))
      const encoded = this.#encodeBulk(bulk, changes)
      // A small bulk is encoded now, and queued before this call returns.
      const write = bulk.isFinished ? bulk.write : encoded.then(() => bulk.write)
      return this.#writer.change(write, options, this.#schema?.durable, nothing)
    })
  }

  /** @internal As {@link bulk}. Rejects with ERR_FDB_FENCED, and changes nothing, if another process writes before all of it is made. */
  ownBulk_(changes: Iterable<BulkChange<T> | EntryChange<T>>): Promise<void> {
    return rejecting(() => {
      const bulk = new Bulk(this.#section, this.#core.limits, '')
      const encoded = this.#encodeBulk(bulk, changes)
      const own = () => bulk.write && { ...bulk.write, own: true }
      return this.#writer.change(
        bulk.isFinished ? own() : encoded.then(own),
        {},
        this.#schema?.durable,
        nothing,
      )
    })
  }

  async #encodeBulk(bulk: Bulk, changes: Iterable<BulkChange<T> | EntryChange<T>>): Promise<void> {
    const slice = new Slice(this.#core.sliceMs)
    for (const change of changes) {
      bulk.add(this.#encodeChange(change))
      if (bulk.count % CHANGES_PER_CHECK === 0 && slice.over) await slice.next()
    }
    bulk.finish()
  }

  /** Calls `listener` after each applied change of this or another process. Returns a function that removes the listener. */
  onChange(listener: ChangeListener<T>): () => void {
    requireFunction('listener', listener)
    const own = (change: StoredChange) => {
      const read = (at: Location) =>
        this.#values.decode(change.key, this.#core.store.entries.readAt(this.#section, change.key, at))
      AppliedChange.notify(listener, change, read)
    }
    this.#section.listeners.add(own)
    return () => void this.#section.listeners.delete(own)
  }

  /** @internal Decodes entries that this version may be unable to decode: those of other schema versions, or all if the schema has `validate`. Returns the errors and the number of the others. */
  *invalidEntries_(): Generator<FdbError | null, void> {
    const schema = this.#schema
    if (schema === null) return
    const { versions } = this.#section
    // A start with 100,000 entries of this version would take twice the processor time if it read each of them.
    if (schema.validate === undefined && [...versions].every(version => version === schema.version)) return
    const { entries } = this.#core.store
    yield* inFileOrder(this.#section, this.#core.store, (key, slot) => {
      const raw = entries.read(this.#section, key, slot)
      if (raw.version === schema.version && schema.validate === undefined) return null
      try {
        this.#values.decode(key, raw)
        return null
      } catch (error) {
        return FdbError.from(error)
      }
    })
  }

  /**
   * @internal Yields the keys of entries that `migrate` converts at each read; null where the caller may pause. Yields none as long as only this
   * schema has the higher `minReader`: to write them would keep the older versions, which can still read the section, from coming back.
   */
  *outdatedKeys_(): Generator<string | null, undefined> {
    const { entries } = this.#core.store
    const { schema, stored, versions } = this.#section
    if (schema === null || ![...versions].some(version => this.#values.isOutdated({ version }))) return
    if (stored !== null && schema.minReader > stored.minReader) return
    yield* inFileOrder(this.#section, this.#core.store, (key, slot) => {
      const raw = entries.read(this.#section, key, slot)
      return this.#values.isOutdated(raw) ? key : null
    })
  }

  /** @internal Puts these entries as `migrate` converts them, in one change. Leaves out those that cannot be decoded. */
  async putMigrated_(keys: readonly string[]): Promise<void> {
    const write = (state: StateDraft) => {
      for (const key of keys) {
        try {
          const value = state.get(this, key)
          if (value !== undefined) state.put(this, key, value as NoInfer<T>)
        } catch (error) {
          if (!FdbError.is(error) || error.code !== 'ERR_FDB_STATE_VALUE') throw error
        }
      }
    }
    const options = { durable: false }
    await this.#writer.change({ update: write, request: '', prints: [] }, options, false, nothing)
  }

  /** @internal */
  draft_(store: Store): DraftSection<T> {
    if (store !== this.#core.store) {
      throw new FdbError(
        'ERR_FDB_OPTION',
        `section "${this.name}" belongs to another member: an update changes the state of one member`,
      )
    }
    const section = this.#section
    return {
      store: section,
      durable: this.#schema?.durable ?? false,
      has: key => {
        checkKey(key, this.name)
        return section.slots.has(key)
      },
      read: key => {
        checkKey(key, this.name)
        const slot = section.slots.get(key)
        return slot === undefined
          ? undefined
          : this.#values.decode(key, store.entries.read(section, key, slot))
      },
      put: (key, value) => this.#encodePut(key, value),
      delete: key => this.#encode(DELETE, key),
    }
  }

  /** Encodes and makes a change, see {@link Writer.change}. `readResult`: called right before the change is applied. */
  #change<R>(
    call: string,
    options: WriteOptions,
    encode: () => NewChange,
    result: (made: unknown) => R,
    readResult?: () => unknown,
  ): Promise<R> {
    return rejecting(() => {
      checkWrite(call, options)
      const change = encode()
      const { limits } = this.#core
      const body = encodeBody([change])
      const most = mostBodyBytes(limits)
      if (body.length > most) throw limitError('a change', body.length, 'recordBytes', most)
      const request = checkRequest(options.request, limits)
      const prints = [addPrint(0, this.#section.printOf(change.op, change.key))]
      const write = { sections: [this.#section], parts: [body], request, prints, readResult }
      return this.#writer.change(write, options, this.#schema?.durable, result)
    })
  }

  #encodeChange(change: BulkChange<T> | EntryChange<T>): NewChange {
    const op = opOf(change as { op?: unknown; delete?: unknown } | null)
    if (op === 'clear') return this.#encode(CLEAR, '')
    const { key, value } = change as { key: string; value: T }
    return op === 'delete' ? this.#encode(DELETE, key) : this.#encodePut(key, value)
  }

  #encodePut(key: string, value: T): NewChange {
    const change = this.#encode(PUT, key)
    change.value = this.#values.encode(key, value)
    return change
  }

  #encode(op: number, key: string): NewChange {
    checkNewKey(key, this.name, this.#core.limits)
    return { section: this.name, op, key, version: this.#schema?.version ?? 0 }
  }
}

function nothing(): void {}

/** An entry whose delete was made before, with the same request id, counts as existing. */
function isNotFalse(existed: unknown): boolean {
  return existed !== false
}

/** Returns whether the value is immutable. Freezes it first if `frozen`. */
function mayBeShared(value: unknown, frozen: boolean): boolean {
  if (typeof value === 'object' && value !== null) return frozen && deepFreeze(value)
  return typeof value !== 'function'
}

type Step<T> = IteratorResult<T | null, undefined>

/** Iterates in time slices; cheaper than an async generator. Where `all` yields null it may pause. */
class SlicedIterator<T extends object> implements AsyncIterableIterator<T, undefined, undefined> {
  readonly #all: Iterator<T | null, undefined, undefined>
  readonly #sliceMs: number
  #slice: Slice | null = null

  constructor(all: Iterator<T | null, undefined, undefined>, sliceMs: number) {
    this.#all = all
    this.#sliceMs = sliceMs
  }

  next(): Promise<IteratorResult<T, undefined>> {
    this.#slice ??= new Slice(this.#sliceMs)
    try {
      while (!this.#slice.over) {
        const step = this.#all.next()
        if (isValueOrEnd(step)) return Promise.resolve(step)
      }
    } catch (error) {
      return Promise.reject(error)
    }
    return this.#nextInLaterTurn(this.#slice)
  }

  async #nextInLaterTurn(slice: Slice): Promise<IteratorResult<T, undefined>> {
    await slice.next()
    const step = this.#all.next()
    return isValueOrEnd(step) ? step : this.next()
  }

  return(): Promise<IteratorResult<T, undefined>> {
    this.#all.return?.()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

function isValueOrEnd<T>(step: Step<T>): step is IteratorResult<T, undefined> {
  return step.done === true || step.value !== null
}

/** Freezes a value with all its contents. Returns false if a part cannot be frozen (bytes, a Date, a Map); other parts may be frozen then. */
function deepFreeze(value: unknown, visited = new Set<object>()): boolean {
  if (typeof value !== 'object' || value === null) return typeof value !== 'function'
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return false
  if (value instanceof Date || value instanceof Map || value instanceof Set) return false
  if (visited.has(value)) return true
  visited.add(Object.freeze(value))
  let frozen = true
  for (const field of Object.values(value)) frozen = deepFreeze(field, visited) && frozen
  return frozen
}
