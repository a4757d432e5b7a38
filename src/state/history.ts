import { FdbError } from '../errors.js'
import type { StateLimits } from './limits.js'
import { Locations } from './locations.js'
import { damaged, type FoundRecord, recordsOf } from './reader.js'
import type { Segment } from './segment.js'
import type { Merged } from './snapshot.js'
import type { Store } from './store.js'
import type { Transaction } from './transaction.js'

export interface Position {
  /** The epoch of the last record, or 0. */
  epoch: number
  /** The number of the last record, or 0. */
  sequence: number
  /** The digest of all entries, whatever their order and history: 64 hexadecimal digits. */
  digest: string
}

export interface HeldSegment {
  segment: Segment
  ordinal: number
  /** File offset behind the last applied record. */
  position: number
  /** Sealed, and read to its end. */
  final: boolean
  /** False for a snapshot without its end. */
  whole: boolean
  /** The log's position at this segment's end, once a newer one has started. */
  end: Position | null
  sequence: number
}

export interface LogPiece {
  segment: Segment
  /** File offset behind the last record, without an incomplete bulk. */
  end: number
  /** The number of the last record before it. */
  sequence: number
  /** The segment will not grow. */
  final: boolean
}

/** The segments of a log in order, and how far each is applied. Decides which may come next, reads them, and finds those to merge. */
export class History {
  held: HeldSegment[] = []
  writing: HeldSegment | null = null
  /** A record is being applied: sections may be read, nothing may be appended. */
  applying = false
  sequence = 0
  #epoch = 0
  #ordinals: number
  readonly #store: Store
  readonly #limits: StateLimits

  /** `ordinals`: the number given so far. */
  constructor(store: Store, limits: StateLimits, ordinals = 0) {
    this.#store = store
    this.#limits = limits
    this.#ordinals = ordinals
  }

  get ordinals(): number {
    return this.#ordinals
  }

  /** Takes over another history, whose ordinals follow these. `open`: its incomplete bulk, which is read again. */
  takeOver(other: History, open: Pick<Transaction, 'ordinal' | 'begin'> | null): void {
    this.held = other.held
    this.sequence = other.sequence
    this.#epoch = other.#epoch
    this.#ordinals = other.#ordinals
    const held = this.held.find(({ ordinal }) => ordinal === open?.ordinal)
    // The bulk can never be completed, so its records count as read.
    if (open === null || held === undefined || held.final) return
    held.position = open.begin.end
    this.sequence = held.sequence = open.begin.sequence
  }

  get position(): Position {
    return { epoch: this.#epoch, sequence: this.sequence, digest: this.#store.digest().toString() }
  }

  /** Why a segment cannot be next, or null. `mayWrite`: this log may still append to the present one; otherwise it may be held early, and is read after the seal. */
  refusal(segment: Segment, mayWrite = true): FdbError | null {
    const last = this.held.at(-1)
    const order = (why: string) =>
      new FdbError(
        'ERR_FDB_STATE_ORDER',
        `the ${segment.kind} segment of epoch ${segment.epoch} cannot come next: ${why}. Adopt the snapshot first, then ` +
          'segments with rising epochs, each after the ones before it were sealed',
      )
    if (segment.kind === 'snapshot') return last ? order(`${this.held.length} segments are there`) : null
    if (last && segment.epoch <= last.segment.epoch) return order(`epoch ${last.segment.epoch} is there`)
    const writing = this.writing?.segment
    if (mayWrite && writing?.sealable && !writing.sealed)
      return order(`this log writes to epoch ${writing.epoch}, which is not sealed`)
    return null
  }

  hold(segment: Segment): HeldSegment {
    const whole = segment.kind === 'epoch'
    const held: HeldSegment = {
      segment,
      ordinal: ++this.#ordinals,
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

  /** Applies new records of held segments, each once all before it are sealed. */
  *readNew(): Generator<unknown, void> {
    for (const held of this.held) {
      if (held.final) continue
      const { segment } = held
      const sealed = segment.sealed
      if (held === this.writing) {
        held.position = segment.end
      } else {
        yield* this.#read(held)
      }
      if (sealed) held.final = true
      else if (segment.sealable) return
    }
  }

  /** In replay order, without empty ones; valid in this turn. */
  pieces(): LogPiece[] {
    const { open } = this.#store
    return this.held.flatMap(({ segment, ordinal, position, sequence, final }) => {
      // Readers skip the rest of an incomplete bulk; later records have the numbers behind it.
      const whole = open?.ordinal === ordinal && !final ? open.begin : { end: position, sequence }
      return whole.end > segment.start ? [{ segment, ...whole, final }] : []
    })
  }

  /** Bytes of all segments, in force or not. */
  get bytes(): number {
    let bytes = 0
    for (const { position } of this.held) bytes += position
    return bytes
  }

  /** Bytes that {@link readNew} would read. */
  unread(): number {
    let bytes = 0
    for (const held of this.held) {
      if (!held.final && held !== this.writing) bytes += Math.max(0, held.segment.size() - held.position)
    }
    return bytes
  }

  *#read(held: HeldSegment): Generator<unknown, void> {
    const { segment } = held
    const snapshot = segment.kind === 'snapshot'
    const records = this.#records(held)
    let begun = held.position > segment.start
    for (;;) {
      const step = records.next()
      if (step.done) break
      const found = step.value
      yield
      if (!found) continue
      if (snapshot && held.whole)
        throw damaged(segment, found.offset, this.sequence, 'records behind the end of a snapshot')
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
    if (!whole) throw damaged(segment, position, this.sequence, 'the end of the snapshot is missing')
  }

  /** Call it before a segment's first record: from here on its displaced entries are recorded. */
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
      throw damaged(
        segment,
        found.offset,
        sequence,
        `${this.#store.entries.count} entries where its end says ${entries}`,
      )
    }
    const got = this.#store.digest().toString()
    if (digest !== got)
      throw damaged(segment, found.offset, sequence, `digest ${got} where its end says ${digest}`)
  }

  /** Makes `segment` the one for appends. Throws, without effect, if it must not be. */
  claim(segment: Segment): void {
    let held = this.held.find(one => one.segment === segment)
    if (!held) {
      const refusal =
        segment.kind === 'snapshot' ? notWritable(segment, 'it is a snapshot') : this.refusal(segment)
      if (refusal) throw refusal
      if (segment.size() > segment.start) throw behindError(segment, segment.start)
    } else if (held !== this.held.at(-1)) throw notWritable(segment, 'newer segments follow it')
    for (const before of this.held) {
      if (before === held) break
      this.#checkFinal(before)
    }
    if (held && held !== this.writing) this.#checkRead(held)
    held ??= this.hold(segment)
    if (held !== this.writing) segment.continueAt(held.position)
    this.writing = held
  }

  #checkFinal(held: HeldSegment): void {
    if (held.final) return
    const { segment } = held
    if (segment.sealable && !segment.sealed) {
      throw new FdbError(
        'ERR_FDB_STATE_ORDER',
        `the segment of epoch ${segment.epoch} is not sealed: there would be two that may be written; seal it first`,
      )
    }
    if (held === this.writing) held.position = segment.end
    else this.#checkRead(held)
    this.#checkWhole(held)
    held.final = true
  }

  /** Throws if a complete record is unread. */
  #checkRead(held: HeldSegment): void {
    for (const found of this.#records(held, { live: false })) {
      if (found) throw behindError(held.segment, held.position)
    }
  }

  /** The unread records. A snapshot's first one gives the number of all. */
  #records(held: HeldSegment, options: { live?: boolean } = {}): ReturnType<typeof recordsOf> {
    const { segment, position: from } = held
    const first = segment.kind === 'snapshot' && from === segment.start
    const after = first ? undefined : this.sequence
    return recordsOf(segment, { ...options, from, after, limits: this.#limits })
  }

  newest(): HeldSegment | undefined {
    return this.held.findLast(held => held.position > held.segment.start)
  }

  /** The last segment that can be merged, and the newest with records. */
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

  /** Marks a sealed segment as final if nothing is unread, unless this log may still write it. */
  #markFinal(held: HeldSegment, mayWrite: boolean): void {
    const { segment, position, whole } = held
    if (!whole || !segment.sealed || (held === this.writing && mayWrite)) return
    if (position === segment.size()) held.final = true
  }

  /** Replaces everything up to `last` by a snapshot, and closes it. */
  replace(last: HeldSegment, merged: Merged): void {
    const { segment, before, after } = merged
    // Ordinals rise along the log, so the snapshot takes that of the last merged segment, which no slot refers to any more.
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
    const gone = this.held.splice(0, this.held.indexOf(last) + 1, held)
    for (const old of gone) {
      if (old === this.writing) this.writing = null
      this.release(old)
    }
    this.#store.entries.segments.set(ordinal, held)
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

export function behindError(segment: Segment, position: number): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_BEHIND',
    `the segment of epoch ${segment.epoch} has ${segment.size()} bytes, ${position} were read; adopt it or catch up first`,
  )
}

function notWritable(segment: Segment, why: string): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_ORDER',
    `the ${segment.kind} segment of epoch ${segment.epoch} cannot be written: ${why}; give a new segment of a higher epoch`,
  )
}
