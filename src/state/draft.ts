import { wrongOption } from '../checks/place.js'
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
 * The state within an update: the log with the update's changes so far. The methods return copies, which the update may change in
 * place. Valid only until the update's function returns.
 */
export interface StateDraft {
  get<T>(section: DraftableSection<T>, key: string): T | undefined
  has<T>(section: DraftableSection<T>, key: string): boolean
  put<T>(section: DraftableSection<T>, key: string, value: NoInfer<T>): void
  /** Returns whether the entry existed. */
  delete<T>(section: DraftableSection<T>, key: string): boolean
}

/** One section in an update. */
interface DraftedSection<T> {
  readonly section: DraftSection<T>
  /** The changes by key; `value` is undefined if the change deletes the entry. */
  readonly changes: Map<string, { readonly change: NewChange; readonly value: T | undefined }>
  /** Keys of the entries of the log that the update has read. */
  readonly reads: Set<string>
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
  readonly #sections = new Map<DraftableSection<never>, DraftedSection<never>>()
  readonly #store: Store
  #closed = false

  constructor(store: Store) {
    this.#store = store
  }

  close(): void {
    this.#closed = true
  }

  get<T>(of: DraftableSection<T>, key: string): T | undefined {
    const { section, changes, reads } = this.#open(of)
    const drafted = changes.get(key)
    if (drafted) return drafted.value
    reads.add(key)
    return section.read(key)
  }

  has<T>(of: DraftableSection<T>, key: string): boolean {
    const { section, changes, reads } = this.#open(of)
    const drafted = changes.get(key)
    if (drafted) return drafted.value !== undefined
    reads.add(key)
    return section.has(key)
  }

  put<T>(of: DraftableSection<T>, key: string, value: T): void {
    const { section, changes } = this.#open(of)
    changes.set(key, { change: section.put(key, value), value })
  }

  delete<T>(of: DraftableSection<T>, key: string): boolean {
    const existed = this.has(of, key)
    const { section, changes } = this.#open(of)
    if (section.has(key)) changes.set(key, { change: section.delete(key), value: undefined })
    else changes.delete(key)
    return existed
  }

  get reads(): UpdateResult['reads'] {
    return [...this.#sections.values()].flatMap(({ section, reads }) =>
      [...reads].map(key => ({ section: section.store, key })),
    )
  }

  encode(limits: StateLimits): Pick<UpdateResult, 'sections' | 'parts' | 'durable'> {
    const changed = [...this.#sections.values()].filter(({ changes }) => changes.size > 0)
    const sections = changed.map(({ section }) => section.store)
    const all = changed.flatMap(({ changes }) => [...changes.values()].map(({ change }) => change))
    if (all.length === 0) return { sections, parts: [] }
    const { changesPerRecord } = limits
    if (all.length > changesPerRecord)
      throw limitError('the number of changes of an update', all.length, 'changesPerRecord', changesPerRecord)
    const body = encodeBody(all)
    const most = mostBodyBytes(limits)
    if (body.length > most) throw limitError('an update', body.length, 'recordBytes', most)
    return { sections, parts: [body], durable: changed.some(({ section }) => section.durable) }
  }

  #open<T>(section: DraftableSection<T>): DraftedSection<T> {
    if (this.#closed) {
      throw new FdbError(
        'ERR_FDB_OPTION',
        'this update has ended: read and change the state before its function returns',
      )
    }
    if (typeof (section as Partial<DraftableSection<T>> | null)?.draft_ !== 'function')
      throw wrongOption('section', section, 'the Section that section() returns')
    const key = section as DraftableSection<never>
    let drafted = this.#sections.get(key)
    if (drafted === undefined) {
      drafted = {
        section: section.draft_(this.#store) as DraftSection<never>,
        changes: new Map(),
        reads: new Set(),
      }
      this.#sections.set(key, drafted)
    }
    return drafted as DraftedSection<unknown> as DraftedSection<T>
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
