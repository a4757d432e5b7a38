import { FdbTypeError } from '../errors.js'
import { limitError, mostBodyBytes, type StateLimits } from './limits.js'
import { encodeBody, type NewChange } from './records.js'
import { addPrint } from './requests.js'
import type { SectionStore } from './section-store.js'
import type { NewWrite, PendingWrite } from './write-queue.js'

/** Maximum bytes of changes per part, unless the part is a single change. */
const PART_BYTES = 16 * 1024

/** A change in the form that listeners get ({@link SectionChange}). */
export type EntryChange<T> =
  | { readonly op: 'put'; readonly key: string; readonly value: T }
  | { readonly op: 'delete'; readonly key: string }
  | { readonly op: 'clear' }

/** A short form of an {@link EntryChange}. */
export type BulkChange<T> = { key: string; value: T } | { key: string; delete: true }

/** Encodes the changes of a bulk as parts. The appender splits a large bulk into records of whole parts. */
export class Bulk {
  readonly parts: Uint8Array[] = []
  count = 0
  isFinished = false
  /** The fingerprint of the bulk's changes, computed only for a bulk with a request id. See {@link SectionStore.printOf}. */
  print = 0
  readonly #section: SectionStore
  readonly #limits: StateLimits
  readonly #request: string
  #part: NewChange[] = []
  #partBytes = 0
  #bytes = 0

  constructor(section: SectionStore, limits: StateLimits, request: string) {
    this.#section = section
    this.#limits = limits
    this.#request = request
  }

  /** Throws ERR_FDB_STATE_LIMIT. */
  add(change: NewChange): void {
    const { changesPerRecord } = this.#limits
    if (this.#request !== '') this.print = addPrint(this.print, this.#section.printOf(change.op, change.key))
    const size = change.key.length + (change.value?.length ?? 0)
    if (this.#partBytes + size > Math.min(PART_BYTES, mostBodyBytes(this.#limits) / 4)) this.#closePart()
    this.#part.push(change)
    this.#partBytes += size
    this.count++
    if (this.#part.length >= Math.min(PART_CHANGES, changesPerRecord)) this.#closePart()
  }

  /** All changes are added. */
  finish(): void {
    this.#closePart()
    this.isFinished = true
  }

  /** The encoded bulk; null if it changes nothing. */
  get write(): Pick<NewWrite, 'sections' | 'parts' | 'request' | 'prints'> | null {
    if (this.count === 0) return null
    return { sections: [this.#section], parts: this.parts, request: this.#request, prints: [this.print] }
  }

  #closePart(): void {
    if (this.#part.length === 0) return
    const part = encodeBody(this.#part)
    const most = mostBodyBytes(this.#limits)
    if (part.length > most) throw limitError('a change of a bulk', part.length, 'recordBytes', most)
    this.#bytes += part.length
    const { segmentBytes } = this.#limits
    if (this.#bytes > segmentBytes)
      throw limitError(`a bulk of at least ${this.count} changes`, this.#bytes, 'segmentBytes', segmentBytes)
    this.parts.push(part)
    this.#part = []
    this.#partBytes = 0
  }
}

/** Throws a TypeError (ERR_FDB_STATE_VALUE) if `changes` is not iterable. */
export function checkChanges(changes: unknown, section: string): void {
  if (typeof (changes as { [Symbol.iterator]?: unknown } | null)?.[Symbol.iterator] === 'function') return
  const what = `section "${section}": the changes of a bulk are ${typeof changes}`
  throw new FdbTypeError(
    'ERR_FDB_STATE_VALUE',
    `${what}; give an iterable of { key, value }, { op: 'delete', key } and { op: 'clear' }`,
  )
}

/** Returns the kind of a change. Throws a TypeError (ERR_FDB_STATE_VALUE) if `change` is none. */
export function opOf(
  change: { readonly op?: unknown; readonly delete?: unknown } | null,
): 'put' | 'delete' | 'clear' {
  const refused = (given: string) =>
    new FdbTypeError(
      'ERR_FDB_STATE_VALUE',
      `a change of a bulk is ${given}; give { key, value }, { op: 'delete', key } or { op: 'clear' }`,
    )
  if (typeof change !== 'object' || change === null) throw refused(String(change))
  if (change.op === undefined && change.delete === true && 'value' in change)
    throw refused('both a put and a delete')
  const { op = change.delete === true ? 'delete' : 'put' } = change
  if (op === 'put' || op === 'delete' || op === 'clear') return op
  throw refused(`of kind ${String(op)}`)
}

export const PART_CHANGES = 64
/** Maximum bytes per record of a large bulk. */
const RECORD_BYTES = 32 * 1024
/** A bulk that exceeds either limit is large: the appender writes several records, over several turns of the event loop. */
const LARGE_BYTES = 64 * 1024
const LARGE_PARTS = 16

/** Whether the write takes several records. An update is always one record, also a forwarded update that brings its sender's schemas. */
export function isLarge({ parts, bytes, makeUpdate }: PendingWrite, limits: StateLimits): boolean {
  if (makeUpdate !== undefined) return false
  const most = Math.min(LARGE_BYTES, mostBodyBytes(limits))
  return parts.length > 1 && (bytes > most || parts.length > Math.min(LARGE_PARTS, mostParts(limits)))
}

function mostParts({ changesPerRecord }: StateLimits): number {
  return Math.max(1, Math.floor(changesPerRecord / PART_CHANGES))
}

export function recordsOfParts(
  all: readonly Uint8Array[],
  limits: StateLimits,
): { parts: Uint8Array[]; index: number; last: boolean }[] {
  const items = Math.min(LARGE_PARTS, mostParts(limits))
  const bytes = Math.min(RECORD_BYTES, mostBodyBytes(limits))
  const records = [...groupsOf(all, { items, bytes }, part => part.length)]
  return records.map((parts, index) => ({ parts, index, last: index === records.length - 1 }))
}

/** Groups items up to a number of items and bytes per group. An item above the byte limit is a group of its own. */
export function* groupsOf<T>(
  all: readonly T[],
  most: { items: number; bytes: number },
  bytesOf: (item: T) => number,
): Generator<T[]> {
  let from = 0
  let bytes = 0
  for (const [i, item] of all.entries()) {
    const more = bytesOf(item)
    if (i > from && (i - from >= most.items || bytes + more > most.bytes)) {
      yield all.slice(from, i)
      from = i
      bytes = 0
    }
    bytes += more
  }
  if (from < all.length) yield all.slice(from)
}
