import { FdbError } from '../errors.js'
import { Bulk, type BulkChange, checkChanges, isDeletion } from './bulk.js'
import type { LogCore } from './core.js'
import { type DraftSection, REMOVE, refuseThenable, type StateDraft } from './draft.js'
import { type Durability, makeDurably } from './durable.js'
import { inFileOrder } from './in-file-order.js'
import { checkKey, checkNewKey, checkRequest, mostBodyBytes, overLimit } from './limits.js'
import type { Location } from './locations.js'
import { CLEAR, DELETE, encodeBody, type NewChange, PUT } from './records.js'
import { addPrint, checkWrite, type WriteOptions } from './requests.js'
import type { SectionSchema } from './schema.js'
import { AppliedChange, type ChangeListener, type SectionStore, type StoredChange } from './section-store.js'
import type { Store } from './store.js'
import { Slice } from './time-slices.js'
import { Values } from './values.js'
import type { Writing } from './writing.js'

/** Changes of a bulk encoded without a look at the clock. */
const CHANGES_PER_CHECK = 256

export interface IterationOptions {
  /**
   * Called with each entry that cannot be decoded (ERR_FDB_STATE_VALUE, as `get` throws it), which is left out; may throw, which ends
   * the iteration. Default: a warning in the log, once for each key.
   */
  invalid?: (key: string, error: FdbError) => void
}

const MOST_WARNED_KEYS = 1024

/**
 * A named map in the log, without an order. Reads see every change of this process that could be appended, and none that is
 * {@link waiting} (paused, fenced, not writing yet, or on its way to the process that writes). Values come from the segment and are decoded when they are read: each `get` returns
 * an object of the caller's own, which may be changed and put back (protobuf: so fields of newer versions survive) and changes
 * nothing before that. With `frozen: true` in the schema it is one object for all, decoded once and frozen.
 */
export class Section<T> {
  readonly name: string
  readonly #core: LogCore
  readonly #writing: Writing
  readonly #section: SectionStore
  readonly #schema: SectionSchema<T> | null
  readonly #values: Values<T>
  /** Primitive values, and frozen ones if the schema says so. */
  readonly #cache = new Map<string, T>()
  readonly #cacheSize: number
  readonly #warned = new Set<string>()

  /** @internal Use {@link StateLog.section}. */
  static create<T>(
    core: LogCore,
    writing: Writing,
    section: SectionStore,
    schema: SectionSchema<T> | null,
  ): Section<T> {
    return new Section(core, writing, section, schema)
  }

  private constructor(
    core: LogCore,
    writing: Writing,
    section: SectionStore,
    schema: SectionSchema<T> | null,
  ) {
    this.name = section.name
    this.#core = core
    this.#writing = writing
    this.#values = new Values(section, schema)
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
    return this.#values.secret
  }

  get size(): number {
    this.#core.flush()
    return this.#section.slots.size
  }

  /** The digest of this section alone; independent of order, codec and history. */
  get digest(): string {
    this.#core.flush()
    return this.#section.digest.toString()
  }

  /**
   * How many changes of this process wait, those of other sections too: reads do not see them, as each may still be refused, and an `update` is made of what is
   * there when it is its turn. 0 while this process writes and nothing large is appended: then a read sees what was put the line before.
   */
  get waiting(): number {
    return this.#writing.waiting
  }

  /**
   * Resolves when none of the changes that wait now does any more: reads see those that were not refused. Before `ready()`, where some
   * wait, it rejects with ERR_FDB_NOT_READY, as `put` does.
   */
  settled(): Promise<void> {
    return this.#writing.settled()
  }

  has(key: string): boolean {
    checkKey(key, this.name)
    this.#core.flush()
    return this.#section.slots.has(key)
  }

  /** Returns the value in the log, without changes that are {@link waiting}. Throws ERR_FDB_STATE_VALUE when it cannot be decoded. */
  get(key: string): T | undefined {
    checkKey(key, this.name)
    this.#core.flush()
    const cached = this.#cache.get(key)
    if (cached !== undefined) return cached
    const slot = this.#section.slots.get(key)
    return slot === undefined ? undefined : this.#decode(key, slot)
  }

  /** @internal Whether there is an entry for whose bytes `is` returns true; they are valid during the call. */
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

  /** In no particular order. In one go: use `for await` on the section itself for many entries. An entry that cannot be decoded is left out, and told of. */
  *entries(options: IterationOptions = {}): IterableIterator<[string, T]> {
    for (const entry of this.#readEntries(options)) if (entry !== null) yield entry
  }

  /** Null: a place to pause. */
  #readEntries(options: IterationOptions): Generator<[string, T] | null, undefined> {
    this.#core.flush()
    return inFileOrder(this.#section, this.#core.store.entries, (key, slot) =>
      this.#decodeEntry(key, slot, options),
    )
  }

  /** Null: it cannot be decoded, which was reported. */
  #decodeEntry(key: string, slot: number, { invalid }: IterationOptions): [string, T] | null {
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
    if (this.#warned.has(key) || this.#warned.size >= MOST_WARNED_KEYS) return
    this.#warned.add(key)
    this.#core.warn({ err: error, section: this.name, key }, 'an entry that cannot be decoded was left out')
  }

  [Symbol.iterator](): IterableIterator<[string, T]> {
    return this.entries()
  }

  /** In turns bounded in time. Entries that change meanwhile may be seen as before, as after, or (new ones) not. */
  [Symbol.asyncIterator](): AsyncIterableIterator<[string, T]> {
    return new SlicedIterator(this.#readEntries({}), this.#core.sliceMs)
  }

  /**
   * Resolves once the whole change is in the log. Changes are appended in the order they were made, all those of one turn of the event loop
   * in one write. If this process stands by or drains, the process that writes makes them, and the promise resolves when this one sees
   * them. Rejects, and has no effect, with ERR_FDB_FENCED (this process was cut off, or no process took the change in time),
   * ERR_FDB_STATE_BACKPRESSURE, ERR_FDB_STATE_LIMIT, ERR_FDB_STATE_FULL, ERR_FDB_STATE_REQUEST; with a TypeError (ERR_FDB_STATE_KEY,
   * ERR_FDB_STATE_VALUE) for a key that is no string and a value that the codec does not take. ERR_FDB_DEADLINE: the process that writes
   * did not answer, and the change may have been made.
   *
   * In a successor a change waits, before `ready()`, until it serves: then it is made. Awaiting it before that would never end: it rejects
   * at once with ERR_FDB_NOT_READY. Await it after `ready()`. That goes for all changes.
   */
  put(key: string, value: T, options: WriteOptions = {}): Promise<void> {
    return this.#writing.guardPremature(this.#put(key, value, options), options)
  }

  async #put(key: string, value: T, options: WriteOptions): Promise<void> {
    checkWrite('put()', options)
    await this.#write(this.#encodePut(key, value), options)
  }

  /** @internal Puts bytes of an operator. Rejects with ERR_FDB_STATE_VALUE if the codec, or `validate`, refuses them. */
  async putBytes_(key: string, value: Uint8Array, options: WriteOptions): Promise<void> {
    const change = this.#encode(PUT, key)
    change.version ||= this.version
    this.#values.decode(key, { value, version: change.version ?? 0 }, 'nothing was put')
    change.value = value
    await this.#write(change, options)
  }

  /**
   * Resolves, once it is in the log, with whether there was an entry. Deleting what is not there is a change too. Where a change
   * with this `request` id was made before, it is not known any more: true.
   */
  delete(key: string, options: WriteOptions = {}): Promise<boolean> {
    return this.#writing.guardPremature(this.#delete(key, options), options)
  }

  async #delete(key: string, options: WriteOptions): Promise<boolean> {
    checkWrite('delete()', options)
    const existed = () => this.#section.slots.has(key)
    return (await this.#write(this.#encode(DELETE, key), options, existed)) !== false
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
    return this.#writing.guardPremature(this.#update(key, change, options), options)
  }

  async #update(
    key: string,
    change: (value: T | undefined) => T | typeof REMOVE | undefined,
    options: WriteOptions,
  ): Promise<T | undefined> {
    checkWrite('update()', options)
    checkNewKey(key, this.name, this.#core.limits)
    const write = (state: StateDraft): { value: T | undefined } => {
      const next = change(state.get(this, key))
      refuseThenable(next)
      if (next === undefined) return { value: state.get(this, key) }
      if (next !== REMOVE) state.put(this, key, next)
      else state.delete(this, key)
      return { value: next === REMOVE ? undefined : next }
    }
    const request = checkRequest(options.request, this.#core.limits)
    const prints = request === '' ? [] : [PUT, DELETE].map(op => this.#section.printOf(op, key) || 1)
    const writing = this.#writing
    const update = (durability: Durability | null) => writing.update(write, request, prints, durability)
    const answer = await makeDurably(update, options, writing.disk, this.#schema?.durable)
    return answer === undefined ? this.get(key) : answer.value
  }

  /** Deletes all entries, in one change. */
  clear(options: WriteOptions = {}): Promise<void> {
    return this.#writing.guardPremature(this.#clear(options), options)
  }

  async #clear(options: WriteOptions): Promise<void> {
    checkWrite('clear()', options)
    await this.#write(this.#encode(CLEAR, ''), options)
  }

  /**
   * All of the changes or none, however many; readers see them all at once too. It resolves when listeners have been told of each. More than 256 changes are
   * encoded in slices: such a bulk takes its place in the order of changes when that is done, so await it before a change that depends on it. Other changes
   * wait while it is appended. Interrupted by a handoff it counts for nothing: it is appended anew, whole, by the process that writes then (ERR_FDB_STATE_LIMIT
   * where that is another, and it is larger than `waitingBytes`).
   */
  bulk(changes: Iterable<BulkChange<T>>, options: WriteOptions = {}): Promise<void> {
    return this.#writing.guardPremature(this.#bulk(changes, options), options)
  }

  async #bulk(changes: Iterable<BulkChange<T>>, options: WriteOptions): Promise<void> {
    checkWrite('bulk()', options)
    checkChanges(changes, this.name)
    const { limits, sliceMs } = this.#core
    const request = checkRequest(options.request, limits)
    const bulk = new Bulk(this.#section, limits, request)
    const slice = new Slice(sliceMs)
    for (const change of changes) {
      bulk.add(
        isDeletion(change) ? this.#encode(DELETE, change.key) : this.#encodePut(change.key, change.value),
      )
      if (bulk.count % CHANGES_PER_CHECK === 0 && slice.over) await slice.next()
    }
    bulk.closePart()
    if (bulk.count > 0) await this.#enqueue(bulk.parts, request, bulk.print, options)
  }

  /** Called after each change is applied, whether it was made here or read from a segment. Returns how to stop it. */
  onChange(listener: ChangeListener<T>): () => void {
    const own = (change: StoredChange) => {
      const read = (at: Location) =>
        this.#values.decode(change.key, this.#core.store.entries.readAt(this.#section, change.key, at))
      AppliedChange.notify(listener, change, read)
    }
    this.#section.listeners.add(own)
    return () => void this.#section.listeners.delete(own)
  }

  /** @internal */
  draft_(store: Store): DraftSection<T> {
    if (store !== this.#core.store) {
      throw new FdbError(
        'ERR_FDB_OPTION',
        `section "${this.name}" is of another member: an update changes the state of one`,
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

  #write(change: NewChange, options: WriteOptions, readResult?: () => unknown): Promise<unknown> {
    const body = encodeBody([change])
    const most = mostBodyBytes(this.#core.limits)
    if (body.length > most) throw overLimit('a change', body.length, 'recordBytes', most)
    const print = addPrint(0, this.#section.printOf(change.op, change.key))
    return this.#enqueue([body], checkRequest(options.request, this.#core.limits), print, options, readResult)
  }

  #enqueue(
    parts: Uint8Array[],
    request: string,
    print: number,
    options: WriteOptions,
    readResult?: () => unknown,
  ): Promise<unknown> {
    const write = {
      sections: [this.#section],
      parts,
      request,
      prints: [print],
      ...(readResult && { readResult }),
    }
    const writing = this.#writing
    const make = (durability: Durability | null) => writing.write({ ...write, durability })
    return makeDurably(make, options, writing.disk, this.#schema?.durable)
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

/** Returns whether the value is immutable. Freezes it if the schema says so. */
function mayBeShared(value: unknown, frozen: boolean): boolean {
  if (typeof value === 'object' && value !== null) return frozen && deepFreeze(value)
  return typeof value !== 'function'
}

type Step<T> = IteratorResult<T | null, undefined>

/** Iterates in turns bounded in time; cheaper than an async generator. A null of `all` is a place to pause. */
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

/** Freezes a value with all its contents. False: a part cannot be frozen (bytes, a Date, a Map); the rest may be. */
export function deepFreeze(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return typeof value !== 'function'
  if (Object.isFrozen(value)) return true
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return false
  if (value instanceof Date || value instanceof Map || value instanceof Set) return false
  Object.freeze(value)
  let all = true
  for (const one of Object.values(value)) all = deepFreeze(one) && all
  return all
}
