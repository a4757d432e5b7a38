import { FdbError } from '../errors.js'
import type { StateLimits } from './limits.js'
import { Locations } from './locations.js'
import { damagedError, type FoundRecord, recordsOf } from './reader.js'
import type { Segment } from './segment.js'
import type { MergeResult } from './snapshot.js'
import type { Store } from './store.js'
import type { Transaction } from './transaction.js'

export interface Position {
  /** The epoch of the last record, or 0. */
  epoch: number
  /** The sequence number of the last record, or 0. */
  sequence: number
  /** The digest of all entries, independent of their order and history: 64 hexadecimal digits. */
  digest: string
}

export interface HeldSegment {
  segment: Segment
  ordinal: number
  /** File offset after the last applied record. */
  position: number
  /** The segment is sealed and was read to its end. */
  final: boolean
  /** False for a snapshot whose end record was not read yet. */
  whole: boolean
  /** The log's position at this segment's end; null until a newer segment has started. */
  end: Position | null
  sequence: number
}

export interface LogPiece {
  segment: Segment
  /** File offset after the last record that is not part of an incomplete bulk. */
  end: number
  /** The sequence number of that record. */
  sequence: number
  /** The segment will not grow. */
  final: boolean
}

/** The ordered segments of a log, and how far each is applied. Checks new segments, reads them, and selects those to merge. */
export class History {
  held: HeldSegment[] = []
  writeSegment: HeldSegment | null = null
  /** A record is being applied, so that nothing may be appended; sections may be read. */
  applying = false
  sequence = 0
  #epoch = 0
  /** The highest ordinal in use; a new segment gets the next number. */
  ordinals: number
  readonly #store: Store
  readonly #limits: StateLimits

  constructor(store: Store, limits: StateLimits, ordinals = 0) {
    this.#store = store
    this.#limits = limits
    this.ordinals = ordinals
  }

  /** Replaces this history by another one, whose ordinals are higher. This process does not write to it yet. `open` is the incomplete bulk of `other`; its records are read again. */
  takeOver(other: History, open: Pick<Transaction, 'ordinal' | 'begin'> | null): void {
    this.held = other.held
    this.writeSegment = null
    this.sequence = other.sequence
    this.#epoch = other.#epoch
    this.ordinals = other.ordinals
    const held = this.held.find(({ ordinal }) => ordinal === open?.ordinal)
    // In a final segment no process can complete the bulk, so its records count as read.
    if (open === null || held === undefined || held.final) return
    held.position = open.begin.end
    this.sequence = held.sequence = open.begin.sequence
  }

  get position(): Position {
    return { epoch: this.#epoch, sequence: this.sequence, digest: this.#store.digest().toString() }
  }

  /**
   * Returns an error if the log cannot continue with `segment`. While this process may append (`mayWrite`), its own segment must be sealed first.
   * Another process may adopt `segment` before that seal; it reads `segment` after the seal.
   */
  orderError(segment: Segment, mayWrite = true): FdbError | null {
    const last = this.held.at(-1)
    const order = (reason: string) =>
      new FdbError(
        'ERR_FDB_STATE_ORDER',
        `the ${segment.kind} segment of epoch ${segment.epoch} cannot come next: ${reason}. A log consists of one snapshot at most, ` +
          'then segments with rising epochs, and all but the last are sealed',
      )
    if (segment.kind === 'snapshot') return last ? order(`the log has ${this.held.length} segments`) : null
    if (last && segment.epoch <= last.segment.epoch) return order(`the log has epoch ${last.segment.epoch}`)
    const writing = this.writeSegment?.segment
    if (mayWrite && writing?.sealable && !writing.sealed)
      return order(`this log writes to epoch ${writing.epoch}, which is not sealed`)
    return null
  }

  hold(segment: Segment): HeldSegment {
    const whole = segment.kind === 'epoch'
    const held: HeldSegment = {
      segment,
      ordinal: ++this.ordinals,
      position: segment.start,
      final: false,
      whole,
      end: null,
      sequence: this.sequence,
    }
    this.held.push(held)
    this.#store.entries.segments.set(held.ordinal, held)
    return held
  }

  /** Applies new records of the held segments. Reads a segment only when all earlier ones are sealed. */
  *readNew(): Generator<unknown, void> {
    for (const held of this.held) {
      if (held.final) continue
      const { segment } = held
      const sealed = segment.sealed
      if (held === this.writeSegment) {
        held.position = segment.end
      } else {
        yield* this.#read(held)
      }
      if (sealed) held.final = true
      else if (segment.sealable) return
    }
  }

  /** The pieces of the log in replay order, without empty segments. Valid in this turn only. */
  pieces(): LogPiece[] {
    const { open } = this.#store
    return this.held.flatMap(({ segment, ordinal, position, sequence, final }) => {
      // Leaves out the records of an incomplete bulk, unless the segment is final: then the next segment's sequence numbers follow those records.
      const whole = open?.ordinal === ordinal && !final ? open.begin : { end: position, sequence }
      return whole.end > segment.start ? [{ segment, ...whole, final }] : []
    })
  }

  /** Bytes of all segments, including replaced and deleted entries. */
  get bytes(): number {
    let bytes = 0
    for (const { position } of this.held) bytes += position
    return bytes
  }

  /** Bytes that {@link readNew} would read. */
  unread(): number {
    let bytes = 0
    for (const held of this.held) {
      if (!held.final && held !== this.writeSegment) bytes += Math.max(0, held.segment.size() - held.position)
    }
    return bytes
  }

  *#read(held: HeldSegment): Generator<unknown, void> {
    const { segment } = held
    const snapshot = segment.kind === 'snapshot'
    let begun = held.position > segment.start
    for (const found of this.#records(held)) {
      yield
      if (!found) continue
      if (snapshot && held.whole)
        throw damagedError(segment, found.offset, this.sequence, 'records follow the end of the snapshot')
      if (!begun) {
        begun = true
        this.startSegment(held)
      }
      yield* this.apply(found, held, 'replay')
      held.position = found.next
      if (found.record.end) {
        this.#checkEnd(segment, found)
        held.whole = true
      }
    }
    this.#checkWhole(held)
  }

  #checkWhole({ whole, segment, position }: HeldSegment): void {
    if (!whole) throw damagedError(segment, position, this.sequence, 'the end of the snapshot is missing')
  }

  /** Starts to record the entries that this segment replaces or deletes. The caller applies the segment's first record after this. */
  startSegment(held: HeldSegment): void {
    const end = this.position
    for (const before of this.held) {
      if (before === held) break
      before.end ??= end
    }
    this.#store.entries.displaced = new Locations()
    this.#store.entries.newest = held.ordinal
  }

  *apply(found: FoundRecord, held: HeldSegment, origin: 'local' | 'replay'): Generator<unknown, void> {
    this.applying = true
    try {
      yield* this.#store.apply(found, held.ordinal, held.segment, origin)
      this.sequence = held.sequence = found.record.sequence
      this.#epoch = found.record.epoch
    } finally {
      this.applying = false
    }
  }

  #checkEnd(segment: Segment, found: FoundRecord): void {
    const { entries, digest } = found.record.end!
    const { sequence } = found.record
    if (entries !== this.#store.entries.count) {
      throw damagedError(
        segment,
        found.offset,
        sequence,
        `it has ${this.#store.entries.count} entries, but its end record states ${entries}`,
      )
    }
    const got = this.#store.digest().toString()
    if (digest !== got)
      throw damagedError(
        segment,
        found.offset,
        sequence,
        `its digest is ${got}, but its end record states ${digest}`,
      )
  }

  /** Makes `segment` the segment for appends. Throws, without effect, if the segment must not be appended to. */
  claim(segment: Segment): void {
    let held = this.held.find(each => each.segment === segment)
    if (!held) {
      const refusal =
        segment.kind === 'snapshot' ? notWritableError(segment, 'it is a snapshot') : this.orderError(segment)
      if (refusal) throw refusal
      if (segment.size() > segment.start) throw unreadError(segment, segment.start)
    } else if (held !== this.held.at(-1)) throw notWritableError(segment, 'newer segments follow it')
    for (const before of this.held) {
      if (before === held) break
      this.#checkFinal(before)
    }
    if (held && held !== this.writeSegment) this.#checkRead(held)
    held ??= this.hold(segment)
    if (held !== this.writeSegment) segment.continueAt(held.position)
    this.writeSegment = held
    this.dropEmpty()
  }

  /** Closes the segments in which nothing is and nothing can be appended, except the last: each handoff may leave two. A compaction merges the others. */
  dropEmpty(): void {
    const isEmpty = ({ segment, final }: HeldSegment) =>
      final && segment.kind === 'epoch' && segment.size() <= segment.start
    const empty = this.held.slice(0, -1).filter(isEmpty)
    this.held = this.held.filter(held => !empty.includes(held))
    for (const held of empty) this.release(held)
  }

  #checkFinal(held: HeldSegment): void {
    if (held.final) return
    const { segment } = held
    if (segment.sealable && !segment.sealed) {
      throw new FdbError(
        'ERR_FDB_STATE_ORDER',
        `the segment of epoch ${segment.epoch} is not sealed, so that two segments could be written`,
      )
    }
    if (held === this.writeSegment) held.position = segment.end
    else this.#checkRead(held)
    this.#checkWhole(held)
    held.final = true
  }

  /** Throws if a complete record is unread. */
  #checkRead(held: HeldSegment): void {
    for (const found of this.#records(held, { live: false })) {
      if (found) throw unreadError(held.segment, held.position)
    }
  }

  /** Reads the unread records. All records of a snapshot have the sequence number of its first one. */
  #records(held: HeldSegment, options: { live?: boolean } = {}): ReturnType<typeof recordsOf> {
    const { segment, position: from } = held
    const first = segment.kind === 'snapshot' && from === segment.start
    const after = first ? undefined : this.sequence
    return recordsOf(segment, {
      joined: segment.kind === 'epoch',
      ...options,
      from,
      after,
      limits: this.#limits,
    })
  }

  newest(): HeldSegment | undefined {
    return this.held.findLast(held => held.position > held.segment.start)
  }

  /** Returns the last segment that can be merged and the newest with records, or null if there is nothing to merge. */
  mergeable(mayWrite: boolean): { last: HeldSegment; newest: HeldSegment } | null {
    const newest = this.newest()
    if (!newest) return null
    const at = this.held.indexOf(newest)
    const all = this.held.slice(0, at + 1)
    this.#markFinal(newest, mayWrite)
    const last = newest.final ? newest : all[at - 1]
    if (!last || all.slice(0, all.indexOf(last) + 1).some(held => !held.final)) return null
    return all[0] === last && last.segment.kind === 'snapshot' ? null : { last, newest }
  }

  /** Marks a sealed segment as final if it was read to its end, unless this log may still write to it. */
  #markFinal(held: HeldSegment, mayWrite: boolean): void {
    const { segment, position, whole } = held
    if (!whole || !segment.sealed || (held === this.writeSegment && mayWrite)) return
    if (position === segment.size()) held.final = true
  }

  /** Replaces and closes the segments up to `last`; the snapshot takes their place. */
  replace(last: HeldSegment, merged: MergeResult): void {
    const { segment, before, after } = merged
    // Ordinals must rise along the log. The snapshot takes the ordinal of the last merged segment, to which no slot refers any more.
    const { ordinal } = last
    const held: HeldSegment = {
      segment,
      ordinal,
      position: segment.end,
      final: true,
      whole: true,
      end: last.end,
      sequence: last.sequence,
    }
    this.#store.entries.locations.move(before, after)
    this.#store.entries.displaced = new Locations()
    const replaced = this.held.splice(0, this.held.indexOf(last) + 1, held)
    for (const old of replaced) {
      if (old === this.writeSegment) this.writeSegment = null
      this.release(old)
    }
    this.#store.entries.segments.set(ordinal, held)
  }

  /**
   * Closes the segments from `epoch` on in which nothing is, except the one to which this process writes: later ones than that of `epoch` were made together
   * with it, for a rollback.
   */
  dropUnused(epoch: number): void {
    for (;;) {
      const last = this.held.at(-1)
      if (last === undefined || last === this.writeSegment || last.segment.epoch < epoch) return
      if (last.segment.size() > last.segment.start) return
      this.held.pop()
      this.release(last)
    }
  }

  release({ ordinal, segment }: HeldSegment): void {
    this.#store.entries.segments.delete(ordinal)
    segment.close()
  }

  close(): void {
    for (const { segment } of this.held) segment.close()
    this.held = []
  }
}

export function unreadError(segment: Segment, position: number): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_BEHIND',
    `the segment of epoch ${segment.epoch} has ${segment.size()} bytes, of which ${position} were read: it cannot be written before all are read`,
  )
}

function notWritableError(segment: Segment, reason: string): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_ORDER',
    `the ${segment.kind} segment of epoch ${segment.epoch} cannot be written: ${reason}`,
  )
}
