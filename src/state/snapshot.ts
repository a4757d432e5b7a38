import { FdbError } from '../errors.js'
import { groupsOf } from './bulk.js'
import { limitError, mostBodyBytes, type StateLimits } from './limits.js'
import { type Location, Locations } from './locations.js'
import { changePrefix, encodeEnvelope, encodeSchema } from './records.js'
import { frame, Segment } from './segment.js'
import type { Store } from './store.js'

const RECORD_BYTES = 64 * 1024
const MOST_ITEMS_PER_RECORD = 128
/** Maximum bytes of a request in a record, besides its id. */
const REQUEST_BYTES = 16
const SLOTS_PER_STEP = 32

/** Describes the state that a snapshot gets: the state at the end of the segment with ordinal `last`. */
export interface Merge {
  last: number
  epoch: number
  sequence: number
  digest: string
  /** A newer segment follows: entries that this segment has replaced or deleted were live at the end of `last`. */
  followed: boolean
}

export interface MergeResult {
  segment: Segment
  entries: number
  /** The locations when the merge began. */
  before: Locations
  /** The locations of the same slots in the snapshot; those of newer segments are unchanged. */
  after: Locations
}

/** Writes the state of the merged segments to a sealed snapshot. Copies entries without decoding them. Closes the snapshot if it does not finish. */
export function* writeSnapshot(store: Store, merge: Merge): Generator<unknown, MergeResult> {
  const { epoch, sequence, last } = merge
  const before = store.entries.locations.copy()
  const displaced = merge.followed ? store.entries.displaced.copy() : new Locations()
  const after = store.entries.locations.copy()
  const segment = Segment.create(epoch, { kind: 'snapshot', name: `fdb-state-${epoch}-snapshot` })
  let finished = false
  try {
    const writer = new SnapshotWriter(store, segment, merge, after)
    const schemas = [...store.sections.values()].flatMap(({ stored }) =>
      stored ? [encodeSchema(stored)] : [],
    )
    const most = { items: MOST_ITEMS_PER_RECORD, bytes: writer.most }
    for (const some of groupsOf(schemas, most, item => item.length)) writer.append(...some)
    const requests = store.requests.upTo(sequence)
    for (const some of groupsOf(requests, most, item => Buffer.byteLength(item.id) + REQUEST_BYTES)) {
      writer.append(
        encodeEnvelope({ requests: some.map(item => item.id), requestPrints: some.map(item => item.print) }),
      )
    }
    yield

    const at: Location = { segment: 0, offset: 0, length: 0 }
    let entries = 0
    for (const locations of [before, displaced]) {
      for (let slot = 0; slot < locations.end; slot++) {
        if (slot % SLOTS_PER_STEP === 0) yield
        locations.get(slot, at)
        if (at.length === 0 || at.segment > last) continue
        writer.add(at, locations === displaced ? -1 : slot)
        entries++
      }
    }
    writer.closeRecord()
    writer.append(encodeEnvelope({ end: { entries, digest: merge.digest } }))
    segment.seal()
    finished = true
    return { segment, entries, before, after }
  } finally {
    if (!finished) segment.close()
  }
}

/** Appends to a segment that only this process writes. `what` names the segment in errors. */
export function appendTo(segment: Segment, bytes: Buffer, { segmentBytes }: StateLimits, what: string): void {
  const end = segment.end + bytes.length
  if (end > segmentBytes) throw limitError(what, end, 'segmentBytes', segmentBytes)
  const { refused } = segment.append(bytes)
  if (refused === 'sealed') {
    const message = `another process sealed ${what} while this process wrote it; try again`
    throw new FdbError('ERR_FDB_STATE_SEAL', message)
  }
  if (refused) throw refused
}

/** Collects changes into records and notes their new locations. The snapshot gets the ordinal of the last segment that is merged into it. */
class SnapshotWriter {
  /** Maximum bytes of a record. A single change may be larger; the process that made it has checked it. */
  readonly most: number
  readonly #store: Store
  readonly #segment: Segment
  readonly #merge: Merge
  readonly #after: Locations
  #parts: Uint8Array[] = []
  #bytes = 0
  #count = 0
  /** The slots of the collected changes, with their offsets in the record. */
  #moved: { slot: number; offset: number; length: number }[] = []

  constructor(store: Store, segment: Segment, merge: Merge, after: Locations) {
    this.most = Math.min(RECORD_BYTES, mostBodyBytes(store.limits))
    this.#store = store
    this.#segment = segment
    this.#merge = merge
    this.#after = after
  }

  append(...parts: Uint8Array[]): void {
    const { epoch, sequence } = this.#merge
    const bytes = frame(encodeEnvelope({ epoch, sequence }), ...parts)
    appendTo(this.#segment, bytes, this.#store.limits, `the snapshot of epoch ${epoch}`)
  }

  /** Adds an entry. `slot` is -1 if a newer segment has displaced the entry. */
  add(at: Location, slot: number): void {
    const prefix = changePrefix(at.length)
    if (this.#bytes + prefix.length + at.length > this.most) this.closeRecord()
    const change = Buffer.allocUnsafe(at.length)
    this.#store.entries.load(at, change)
    this.#parts.push(prefix, change)
    const offset = this.#bytes + prefix.length
    this.#bytes += prefix.length + at.length
    if (slot >= 0) this.#moved.push({ slot, offset, length: at.length })
    this.#count++
    if (this.#count >= this.#store.limits.changesPerRecord) this.closeRecord()
  }

  closeRecord(): void {
    if (this.#parts.length === 0) return
    this.append(...this.#parts)
    const start = this.#segment.end - this.#bytes
    for (const { slot, offset, length } of this.#moved)
      this.#after.set(slot, this.#merge.last, start + offset, length)
    this.#parts = []
    this.#moved = []
    this.#bytes = 0
    this.#count = 0
  }
}
