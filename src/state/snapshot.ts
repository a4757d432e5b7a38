import { FdbError } from '../errors.js'
import { mostBodyBytes, overLimit, type StateLimits } from './limits.js'
import { type Location, Locations } from './locations.js'
import { changePrefix, encodeEnvelope, encodeSchema } from './records.js'
import { frame, Segment } from './segment.js'
import type { Store } from './store.js'

const RECORD_BYTES = 64 * 1024
const MOST_ITEMS_PER_RECORD = 128
/** Most bytes of a request in a record, beside its id. */
const REQUEST_BYTES = 16
const SLOTS_PER_STEP = 32

/** Describes the state to merge, at the end of the segment with ordinal `last`. */
export interface Merge {
  last: number
  epoch: number
  sequence: number
  digest: string
  /** A newer segment follows: entries that it displaced were in force at the end of `last`. */
  followed: boolean
}

export interface Merged {
  segment: Segment
  entries: number
  /** The locations at the start, and the same slots' locations in the snapshot (or unchanged). */
  before: Locations
  after: Locations
}

/** Writes the merged segments' state to a sealed snapshot, from a copy of the locations; entries stay encoded. Closes it unless it is finished. */
export function* writeSnapshot(store: Store, merge: Merge): Generator<unknown, Merged> {
  const { epoch, sequence, last } = merge
  const before = store.entries.locations.copy()
  const displaced = merge.followed ? store.entries.displaced.copy() : new Locations()
  const after = store.entries.locations.copy()
  const segment = Segment.create(epoch, { kind: 'snapshot', name: `fdb-state-${epoch}-snapshot` })
  let finished = false
  try {
    const append = (...parts: Uint8Array[]) => {
      const bytes = frame(encodeEnvelope({ epoch, sequence }), ...parts)
      const end = segment.end + bytes.length
      const { segmentBytes } = store.limits
      if (end > segmentBytes)
        throw overLimit(`the snapshot of epoch ${epoch}`, end, 'segmentBytes', segmentBytes)
      const { refused } = segment.append(bytes)
      if (refused === 'sealed') {
        throw new FdbError(
          'ERR_FDB_STATE_SEAL',
          'somebody sealed a snapshot while it was written; compact again',
        )
      }
      if (refused) throw refused
    }
    const most = mostOf(store.limits)
    const schemas = [...store.sections.values()].flatMap(({ stored }) =>
      stored ? [encodeSchema(stored)] : [],
    )
    for (const some of chunks(schemas, most, one => one.length)) append(...some)
    const requests = store.requests.upTo(sequence)
    for (const some of chunks(requests, most, one => Buffer.byteLength(one.id) + REQUEST_BYTES)) {
      append(encodeEnvelope({ requests: some.map(one => one.id), requestPrints: some.map(one => one.print) }))
    }
    yield

    const batch = new Batch(store, { segment, ordinal: last }, append, after)
    const at: Location = { segment: 0, offset: 0, length: 0 }
    let entries = 0
    for (let slot = 0; slot < before.end; slot++) {
      if (slot % SLOTS_PER_STEP === 0) yield
      before.get(slot, at)
      if (at.length > 0 && at.segment <= last) {
        batch.add(at, slot)
        entries++
      }
    }
    for (let slot = 0; slot < displaced.end; slot++) {
      if (slot % SLOTS_PER_STEP === 0) yield
      displaced.get(slot, at)
      if (at.length > 0 && at.segment <= last) {
        batch.add(at, -1)
        entries++
      }
    }
    batch.close()
    append(encodeEnvelope({ end: { entries, digest: merge.digest } }))
    segment.seal()
    finished = true
    return { segment, entries, before, after }
  } finally {
    if (!finished) segment.close()
  }
}

/** The snapshot, and its future ordinal: that of the last merged segment. */
interface Into {
  readonly segment: Segment
  readonly ordinal: number
}

/** Most bytes of a record, except for a single larger change, which its author has checked. */
function mostOf(limits: StateLimits): number {
  return Math.min(RECORD_BYTES, mostBodyBytes(limits))
}

/** Collects changes into records of at most 64 KiB, and records their locations. */
class Batch {
  readonly #store: Store
  readonly #most: number
  readonly #into: Into
  readonly #append: (...parts: Uint8Array[]) => void
  readonly #after: Locations
  #parts: Uint8Array[] = []
  #bytes = 0
  #count = 0
  #waiting: { slot: number; offset: number; length: number }[] = []

  constructor(store: Store, into: Into, append: (...parts: Uint8Array[]) => void, after: Locations) {
    this.#store = store
    this.#most = mostOf(store.limits)
    this.#into = into
    this.#append = append
    this.#after = after
  }

  /** `slot` -1: the entry has no slot any more. */
  add(at: Location, slot: number): void {
    const prefix = changePrefix(at.length)
    if (this.#bytes + prefix.length + at.length > this.#most) this.close()
    const change = Buffer.allocUnsafe(at.length)
    this.#store.entries.load(at, change)
    this.#parts.push(prefix, change)
    const offset = this.#bytes + prefix.length
    this.#bytes += prefix.length + at.length
    if (slot >= 0) this.#waiting.push({ slot, offset, length: at.length })
    this.#count++
    if (this.#count >= this.#store.limits.changesPerRecord) this.close()
  }

  close(): void {
    if (this.#parts.length === 0) return
    this.#append(...this.#parts)
    const { segment, ordinal } = this.#into
    const start = segment.end - this.#bytes
    for (const { slot, offset, length } of this.#waiting)
      this.#after.set(slot, ordinal, start + offset, length)
    this.#parts = []
    this.#waiting = []
    this.#bytes = 0
    this.#count = 0
  }
}

/** Groups items up to so many bytes; a larger item is alone. */
function* chunks<T>(all: readonly T[], most: number, bytesOf: (one: T) => number): Generator<T[]> {
  let from = 0
  let bytes = 0
  for (const [i, one] of all.entries()) {
    const more = bytesOf(one)
    if (i > from && (i - from >= MOST_ITEMS_PER_RECORD || bytes + more > most)) {
      yield all.slice(from, i)
      from = i
      bytes = 0
    }
    bytes += more
  }
  if (from < all.length) yield all.slice(from)
}
