import { FdbError } from '../errors.js'
import { limitError, mostBodyBytes, type StateLimits } from './limits.js'
import { encodeBody, type NewChange } from './records.js'
import type { SectionStore } from './section-store.js'
import type { Store } from './store.js'
import type { UpdateResult } from './write-queue.js'

/** Returned by an update's function to delete the entry. */
export const REMOVE: unique symbol = Symbol('fd-broker: delete this entry')

export interface DraftSection<T> {
  readonly store: SectionStore
  readonly durable: boolean
  has(key: string): boolean
  /** Returns a copy that the caller may change. */
  read(key: string): T | undefined
  put(key: string, value: T): NewChange
  delete(key: string): NewChange
}

export interface DraftableSection<T> {
  readonly name: string
  /** Reads the log, without the changes of a running update; {@link StateDraft.get} includes them. */
  get(key: string): T | undefined
  /** @internal */
  draft_(store: Store): DraftSection<T>
}

/**
 * The state within an update: the log with the update's changes so far. Its methods return copies, which the update may change in
 * place. Valid only until the update's function returns.
 */
export interface StateDraft {
  get<T>(section: DraftableSection<T>, key: string): T | undefined
  has<T>(section: DraftableSection<T>, key: string): boolean
  put<T>(section: DraftableSection<T>, key: string, value: NoInfer<T>): void
  /** Returns whether the entry existed. */
  delete<T>(section: DraftableSection<T>, key: string): boolean
}

interface DraftedChange {
  readonly change: NewChange
  /** The new value, or undefined if the change deletes the entry. */
  readonly value: unknown
}

/** Runs an update's function on the current state and encodes its changes. Passes on an exception of the function; nothing is changed then. */
export function runUpdate<R>(update: (state: StateDraft) => R, store: Store): UpdateResult {
  const draft = new Draft(store)
  const result = update(draft)
  draft.close()
  refuseThenable(result)
  return { ...draft.encode(store.limits), reads: draft.reads, result }
}

class Draft implements StateDraft {
  readonly #sections = new Map<SectionStore, Map<string, DraftedChange>>()
  readonly #reads = new Map<SectionStore, Set<string>>()
  readonly #store: Store
  readonly #durable = new Set<SectionStore>()
  #closed = false

  constructor(store: Store) {
    this.#store = store
  }

  close(): void {
    this.#closed = true
  }

  get<T>(section: DraftableSection<T>, key: string): T | undefined {
    const access = this.#openSection(section)
    const drafted = this.#changesOf(access).get(key)
    if (drafted) return drafted.value as T | undefined
    this.#recordRead(access, key)
    return access.read(key)
  }

  has<T>(section: DraftableSection<T>, key: string): boolean {
    const access = this.#openSection(section)
    const drafted = this.#changesOf(access).get(key)
    if (drafted) return drafted.value !== undefined
    this.#recordRead(access, key)
    return access.has(key)
  }

  put<T>(section: DraftableSection<T>, key: string, value: T): void {
    const access = this.#openSection(section)
    this.#changesOf(access).set(key, { change: access.put(key, value), value })
  }

  delete<T>(section: DraftableSection<T>, key: string): boolean {
    const access = this.#openSection(section)
    const existed = this.has(section, key)
    const drafted = this.#changesOf(access)
    if (access.has(key)) drafted.set(key, { change: access.delete(key), value: undefined })
    else drafted.delete(key)
    return existed
  }

  get reads(): UpdateResult['reads'] {
    return [...this.#reads].flatMap(([section, keys]) => [...keys].map(key => ({ section, key })))
  }

  #recordRead({ store }: DraftSection<never> | DraftSection<unknown>, key: string): void {
    const keys = this.#reads.get(store)
    if (keys) keys.add(key)
    else this.#reads.set(store, new Set([key]))
  }

  encode(limits: StateLimits): Pick<UpdateResult, 'sections' | 'parts' | 'durable'> {
    const sections: SectionStore[] = []
    const changes: NewChange[] = []
    for (const [section, drafted] of this.#sections) {
      if (drafted.size > 0) sections.push(section)
      for (const { change } of drafted.values()) changes.push(change)
    }
    if (changes.length === 0) return { sections, parts: [] }
    if (changes.length > limits.changesPerRecord)
      throw limitError(
        'the number of changes of an update',
        changes.length,
        'changesPerRecord',
        limits.changesPerRecord,
      )
    const body = encodeBody(changes)
    const most = mostBodyBytes(limits)
    if (body.length > most) throw limitError('an update', body.length, 'recordBytes', most)
    return { sections, parts: [body], durable: sections.some(section => this.#durable.has(section)) }
  }

  #openSection<T>(section: DraftableSection<T>): DraftSection<T> {
    if (!this.#closed) {
      const access = section.draft_(this.#store)
      if (access.durable) this.#durable.add(access.store)
      return access
    }
    throw new FdbError(
      'ERR_FDB_OPTION',
      'this update has ended: read and change the state before its function returns',
    )
  }

  #changesOf({ store }: DraftSection<never> | DraftSection<unknown>): Map<string, DraftedChange> {
    let drafted = this.#sections.get(store)
    if (drafted === undefined) this.#sections.set(store, (drafted = new Map()))
    return drafted
  }
}

export function refuseThenable(result: unknown): void {
  if (typeof (result as Partial<PromiseLike<unknown>> | null | undefined)?.then !== 'function') return
  throw new FdbError(
    'ERR_FDB_OPTION',
    'the function of an update returned a promise: it must be synchronous, because no other change may come in between. Await before ' +
      'the update, and check again in its function',
  )
}
