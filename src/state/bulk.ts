import { FdbTypeError } from '../errors.js'
import { mostBodyBytes, overLimit, type StateLimits } from './limits.js'
import { PART_CHANGES } from './parts.js'
import { encodeBody, type NewChange } from './records.js'
import { addPrint } from './requests.js'
import type { SectionStore } from './section-store.js'

/** The most bytes of changes that are encoded as one part, unless it is a single change. */
const PART_BYTES = 16 * 1024

export type BulkChange<T> = { key: string; value: T } | { key: string; delete: true }

/** The changes of a bulk, encoded in parts at whose bounds it may be divided into records. */
export class Bulk {
  readonly parts: Uint8Array[] = []
  count = 0
  /** What its changes come to, where it has a request id, see {@link SectionStore.printOf}. */
  print = 0
  readonly #section: SectionStore
  readonly #limits: StateLimits
  readonly #request: string
  #group: NewChange[] = []
  #groupBytes = 0
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
    if (this.#groupBytes + size > Math.min(PART_BYTES, mostBodyBytes(this.#limits) / 4)) this.close()
    this.#group.push(change)
    this.#groupBytes += size
    this.count++
    if (this.#group.length >= Math.min(PART_CHANGES, changesPerRecord)) this.close()
  }

  /** Ends a part, if one has begun. */
  close(): void {
    if (this.#group.length === 0) return
    const part = encodeBody(this.#group)
    const most = mostBodyBytes(this.#limits)
    if (part.length > most) throw overLimit('a change of a bulk', part.length, 'recordBytes', most)
    this.#bytes += part.length
    const { segmentBytes } = this.#limits
    if (this.#bytes > segmentBytes)
      throw overLimit(`a bulk of at least ${this.count} changes`, this.#bytes, 'segmentBytes', segmentBytes)
    this.parts.push(part)
    this.#group = []
    this.#groupBytes = 0
  }
}

/** Throws a TypeError (ERR_FDB_STATE_VALUE) for what is not even a list of changes. */
export function checkChanges(changes: unknown, section: string): void {
  if (typeof (changes as { [Symbol.iterator]?: unknown } | null)?.[Symbol.iterator] === 'function') return
  const what = `section "${section}": the changes of a bulk are ${typeof changes}`
  throw new FdbTypeError(
    'ERR_FDB_STATE_VALUE',
    `${what}; give what can be iterated, of { key, value } and { key, delete: true }`,
  )
}

export function isDeletion(
  change: { key: string; delete?: unknown } | null,
): change is { key: string; delete: true } {
  if (typeof change === 'object' && change !== null) return change.delete === true
  throw new FdbTypeError(
    'ERR_FDB_STATE_VALUE',
    `a change of a bulk is ${String(change)}; give { key, value } or { key, delete: true }`,
  )
}
