import { FdbError } from '../errors.js'
import type { StateLimits } from './limits.js'
import { Locations } from './locations.js'
import { damaged, type FoundRecord, recordsOf } from './reader.js'
import type { Segment } from './segment.js'
import type { Merged } from './snapshot.js'
import type { Store } from './store.js'
import type { Transaction } from './transaction.js'

export interface Position {
  /** The epoch of the last record; 0 when there is none. */
  epoch: number
  /** The number of the last record; 0 when there is none. */
  sequence: number
  /** Over all entries, independent of order and of how they came about. 64 hexadecimal digits. */
  digest: string
}

export interface HeldSegment {
  segment: Segment
  ordinal: number
  /** File offset behind the last record that was applied. */
  position: number
  /** The segment is sealed, and read to its end. */
  final: boolean
  /** A snapshot counts only with its end. */
  whole: boolean
  /** Where the log stood at this segment's end, once a newer one has begun. */
  end: Position | null
  /** The number of the last record that was applied. */
  sequence: number
}

export interface LogPiece {
  segment: Segment
  /** File offset behind the last record; what belongs to a bulk that may still become whole does not count. */
  end: number
  /** The number of the last record up to there. */
  sequence: number
  /** No more can come. */
  final: boolean
}

/** The segments of a log in order, and how far each has been applied. Decides what may come next, reads it, and says what may be merged. */
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

  /** `ordinals`: so many were given before. */
  constructor(store: Store, limits: StateLimits, ordinals = 0) {
    this.#store = store
    this.#limits = limits
    this.#ordinals = ordinals
  }

  /** How many segments have ever been held. */
  get ordinals(): number {
    return this.#ordinals
  }

  /** Has what another one has read, whose ordinals follow on these; `open`: the bulk of it that is not whole, which is read again. */
  takeOver(other: History, open: Pick<Transaction, 'ordinal' | 'begin'> | null): void {
    this.held = other.held
    this.sequence = other.sequence
    this.#epoch = other.#epoch
    this.#ordinals = other.#ordinals
    const held = this.held.find(({ ordinal }) => ordinal === open?.ordinal)
    // Where no more of it can come, what is there has been read.
    if (open === null || held === undefined || held.final) return
    held.position = open.begin.end
    this.sequence = held.sequence = open.begin.sequence
  }

  get position(): Position {
    return { epoch: this.#epoch, sequence: this.sequence, digest: this.#store.digest().toString() }
  }

  /** Why a segment cannot be the next; null when it can. `mayWrite`: this log may append before it; else it may be held early, and is not read before the seal. */
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

  /** Applies what is new in the segments that are adopted, each when all before it are sealed. */
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

  /** In replay order, those that hold anything; valid in this turn only. */
  pieces(): LogPiece[] {
    const { open } = this.#store
    return this.held.flatMap(({ segment, ordinal, position, sequence, final }) => {
      // Readers pass over the rest of an unfinished bulk; the following records are numbered behind it.
      const whole = open?.ordinal === ordinal && !final ? open.begin : { end: position, sequence }
      return whole.end > segment.start ? [{ segment, ...whole, final }] : []
    })
  }

  /** Bytes of all segments, with what does not count any more. */
  get bytes(): number {
    let bytes = 0
    for (const { position } of this.held) bytes += position
    return bytes
  }

  /** Bytes that {@link readNew} would look at. */
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

  /** The first record of a segment: what it displaces is noted from here on. */
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

  /** Makes `segment` the one to append to. Throws, and changes nothing, when it must not be. */
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

  /** Throws unless nothing but half a record lies behind what was applied. */
  #checkRead(held: HeldSegment): void {
    for (const found of this.#records(held, { live: false })) {
      if (found) throw behindError(held.segment, held.position)
    }
  }

  /** The records that were not applied yet. The first of a snapshot says the sequence of all. */
  #records(held: HeldSegment, options: { live?: boolean } = {}): ReturnType<typeof recordsOf> {
    const { segment, position: from } = held
    const first = segment.kind === 'snapshot' && from === segment.start
    const after = first ? undefined : this.sequence
    return recordsOf(segment, { ...options, from, after, limits: this.#limits })
  }

  /** The newest segment that has records. */
  newest(): HeldSegment | undefined {
    return this.held.findLast(held => held.position > held.segment.start)
  }

  /** The last segment of those that can be merged, and the newest that has records. */
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

  /** A segment is final, as reading on would say, when nothing is left to read; not the one that this log may still try to write. */
  #markFinal(held: HeldSegment, mayWrite: boolean): void {
    const { segment, position, whole } = held
    if (!whole || !segment.sealed || (held === this.writing && mayWrite)) return
    if (position === segment.size()) held.final = true
  }

  /** Puts a snapshot in the place of everything up to `last`, and closes that. */
  replace(last: HeldSegment, merged: Merged): void {
    const { segment, before, after } = merged
    // Ordinals rise along the log: the snapshot takes that of the last segment in it, of which no slot is left.
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

  /** Nothing of a segment that is not held any more is read from now on. */
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
