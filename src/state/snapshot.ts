import { FdbError } from '../errors.js'
import { frame } from './frame.js'
import { type Location, Locations } from './locations.js'
import { changePrefix, encodeEnvelope, encodeSchema } from './records.js'
import { Segment } from './segment.js'
import type { Store } from './store.js'

const RECORD_BYTES = 64 * 1024
const STEP = 32

/** What is to be merged: the state at the end of the segment with ordinal `last`. */
export interface Merge {
  last: number
  epoch: number
  sequence: number
  digest: string
  /** A newer segment follows: what its changes displaced was in force at the end of `last`. */
  followed: boolean
}

/** A finished snapshot, and where it put what the slots pointed to. */
export interface Merged {
  segment: Segment
  entries: number
  /** The locations as they were when it began, and where the same changes lie in the snapshot (of others: as it was). */
  before: Locations
  after: Locations
}

/**
 * Writes the state at the end of the merged segments into a new sealed snapshot, entry by entry as they were
 * encoded (fields that this version does not know included). The store may change meanwhile: this works on a
 * copy of its locations. The snapshot is closed when this is left before its end.
 */
export function* writeSnapshot(store: Store, merge: Merge): Generator<unknown, Merged> {
  const { epoch, sequence, last } = merge
  const before = store.entries.locations.copy()
  const displaced = merge.followed ? store.entries.displaced.copy() : new Locations()
  const after = store.entries.locations.copy()
  const segment = Segment.create(epoch, { kind: 'snapshot', name: `fdb-state-${epoch}-snapshot` })
  let finished = false
  try {
    const append = (...parts: Uint8Array[]) => {
      const { refused } = segment.append(frame(encodeEnvelope({ epoch, sequence }), ...parts))
      if (refused === 'sealed') {
        throw new FdbError(
          'ERR_FDB_STATE_SEAL',
          'somebody sealed a snapshot while it was written; compact again',
        )
      }
      if (refused) throw refused
    }
    append(...[...store.sections.values()].flatMap(({ stored }) => (stored ? [encodeSchema(stored)] : [])))
    for (const some of chunks(store.requests.upTo(sequence))) {
      append(encodeEnvelope({ requests: some.map(one => one.id), requestPrints: some.map(one => one.print) }))
    }
    yield

    const batch = new Batch(store, { segment, ordinal: last }, append, after)
    const at: Location = { segment: 0, offset: 0, length: 0 }
    let entries = 0
    for (let slot = 0; slot < before.end; slot++) {
      if (slot % STEP === 0) yield
      before.get(slot, at)
      if (at.length > 0 && at.segment <= last) {
        batch.add(at, slot)
        entries++
      }
    }
    for (let slot = 0; slot < displaced.end; slot++) {
      if (slot % STEP === 0) yield
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

/** The snapshot, and the ordinal that it will have in its log: of the last segment in it. */
interface Into {
  readonly segment: Segment
  readonly ordinal: number
}

/** Gathers changes into records of about 64 KiB, and notes where they come to lie. */
class Batch {
  readonly #store: Store
  readonly #into: Into
  readonly #append: (...parts: Uint8Array[]) => void
  readonly #after: Locations
  #parts: Uint8Array[] = []
  #bytes = 0
  #count = 0
  #waiting: { slot: number; offset: number; length: number }[] = []

  constructor(store: Store, into: Into, append: (...parts: Uint8Array[]) => void, after: Locations) {
    this.#store = store
    this.#into = into
    this.#append = append
    this.#after = after
  }

  /** `slot` -1: an entry that has no slot any more. */
  add(at: Location, slot: number): void {
    const prefix = changePrefix(at.length)
    const change = Buffer.allocUnsafe(at.length)
    this.#store.entries.load(at, change)
    this.#parts.push(prefix, change)
    const offset = this.#bytes + prefix.length
    this.#bytes += prefix.length + at.length
    if (slot >= 0) this.#waiting.push({ slot, offset, length: at.length })
    this.#count++
    if (this.#bytes >= RECORD_BYTES || this.#count >= this.#store.limits.changesPerRecord) this.close()
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

function* chunks<T>(all: T[]): Generator<T[]> {
  for (let i = 0; i < all.length; i += 128) yield all.slice(i, i + 128)
}
