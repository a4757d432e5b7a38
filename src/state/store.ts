import { FdbError } from '../errors.js'
import { readAt } from '../kernel/index.js'
import { Digest } from './digest.js'
import { overLimit, type StateLimits } from './limits.js'
import { type Location, Locations } from './locations.js'
import { damaged, type FoundRecord } from './reader.js'
import {
  CLEAR,
  DELETE,
  emptyChange,
  PUT,
  type ScannedChange,
  type StoredSchema,
  scanChange,
} from './records.js'
import { addPrint, RequestMemory } from './requests.js'
import { mergedSchema } from './schema.js'
import { SectionStore, type StoredChange } from './section-store.js'
import type { Segment } from './segment.js'
import type { ShardedMap } from './sharded-map.js'
import { MUST_END } from './slices.js'
import { SlotMap } from './slot-map.js'
import { type StagedSection, Transaction } from './transaction.js'

/** Changes between two yields. */
const STEP = 32
const SMALL_CHANGE = 64 * 1024

/** The map that a log adds up to: which keys each section has and where in which segment their values lie. */
export class Store {
  readonly sections = new Map<string, SectionStore>()
  readonly requests: RequestMemory
  readonly locations = new Locations()
  /**
   * Where entries lay that changes of the newest segment replaced or deleted: with them the state at the end of
   * the segments before it is known exactly, which compaction needs.
   */
  displaced = new Locations()
  /** Readable segments by ordinal. */
  readonly segments = new Map<number, Segment>()
  /** The ordinal of the newest segment that has records. */
  newest = 0
  entries = 0
  /** The newest segment that holds a secret which was replaced or deleted since; -1: none does. */
  staleSecrets = -1
  /** {@link staleSecrets} has risen. */
  onStaleSecret: (() => void) | null = null
  /** Work was left behind for {@link merge}. */
  onWork: (() => void) | null = null
  /** Inside of a step of {@link merge}: nothing may be applied. */
  merging = false
  /** A bulk of several records whose last one has not come. */
  #open: Transaction | null = null
  readonly #work: Generator<undefined, void>[] = []
  /** Bytes of the encoded changes that are still in force. */
  liveBytes = 0
  readonly limits: StateLimits
  readonly #reportListener: (error: unknown, section: string) => void
  #last: SectionStore | null = null
  readonly #change = emptyChange()
  readonly #old = emptyChange()
  readonly #at: Location = { segment: 0, offset: 0, length: 0 }
  readonly #scratch = Buffer.allocUnsafeSlow(SMALL_CHANGE)

  constructor(limits: StateLimits, reportListener: (error: unknown, section: string) => void) {
    this.limits = limits
    this.#reportListener = reportListener
    this.requests = new RequestMemory(limits.requests)
  }

  /** A section is marked as secret, by the log or by this process. */
  get secret(): boolean {
    for (const { stored, schema } of this.sections.values()) if (stored?.secret || schema?.secret) return true
    return false
  }

  digest(): Digest {
    const total = new Digest()
    for (const section of this.sections.values()) total.merge(section.digest)
    return total
  }

  /** The section of a name, made when it is new. */
  sectionNamed(name: string): SectionStore {
    let section = this.sections.get(name)
    if (!section) {
      const { sections, sectionNameBytes } = this.limits
      const length = Buffer.byteLength(name)
      if (length < 1 || length > sectionNameBytes) {
        throw overLimit('the length of a section name', length, 'sectionNameBytes', sectionNameBytes)
      }
      if (this.sections.size >= sections) {
        throw overLimit(`the number of sections with "${name}"`, this.sections.size + 1, 'sections', sections)
      }
      section = new SectionStore(name)
      this.sections.set(name, section)
    }
    return section
  }

  /**
   * Applies a record: everything in it is looked at before anything is changed. Yields {@link MUST_END} once it has
   * begun to change.
   */
  *apply(
    found: FoundRecord,
    ordinal: number,
    segment: Segment,
    origin: StoredChange['origin'],
  ): Generator<unknown, void> {
    const { record, buffer } = found
    const { changes } = record
    if (record.part) {
      yield* this.#applyPart(found, ordinal, segment, origin)
      return
    }
    this.giveUp()
    // A single change is checked by itself; a snapshot counts for nothing before its end.
    const checkFirst = changes.length > 2 && segment.kind === 'epoch'
    if (checkFirst) {
      for (let i = 0; i < changes.length; i += 2) {
        if (i % (4 * STEP) === 0) yield
        this.#look(found, segment, i)
        this.#keyOf(found, segment)
      }
    }
    this.#learn(record.schemas)
    let print = 0
    for (let i = 0; i < changes.length; i += 2) {
      if (i % (2 * STEP) === 0 && i > 0) yield MUST_END
      const section = this.#look(found, segment, i)
      const change = this.#change
      if (record.request !== '')
        print = addPrint(print, section.printOf(change.op, buffer.subarray(change.keyStart, change.keyEnd)))
      if (change.op === CLEAR) {
        yield* this.#clear(section, ordinal)
        this.#tell(section, 'clear', '', origin)
        continue
      }
      const key = this.#keyOf(found, segment)
      if (change.op === DELETE) {
        const before = this.#before(section, key)
        if (this.#remove(section, key, ordinal)) this.#tell(section, 'delete', key, origin, before)
        continue
      }
      const start = changes[i]!
      const length = changes[i + 1]! - start
      const before = this.#before(section, key)
      this.#put(section, key, ordinal, found.base + start, length)
      section.digest.add(
        section.nameBytes,
        buffer.subarray(change.keyStart, change.keyEnd),
        buffer.subarray(change.valueStart, change.valueEnd),
      )
      this.#tell(section, 'put', key, origin, before)
    }
    const { request, requests, requestPrints, sequence } = record
    if (request !== '') this.requests.add(request, sequence, print)
    for (const [i, id] of requests.entries()) this.requests.add(id, sequence, requestPrints[i] ?? 0)
  }

  /** A part that is applied again, as its application was interrupted, does no harm. */
  *#applyPart(
    found: FoundRecord,
    ordinal: number,
    segment: Segment,
    origin: StoredChange['origin'],
  ): Generator<unknown, void> {
    const { record, buffer, offset } = found
    const { index, last } = record.part!
    if (index === 0) {
      this.giveUp()
      yield* this.merge()
      this.#open = new Transaction(
        {
          stageSlot: (offset, length) => this.locations.add(ordinal, offset, length),
          freeStaged: slot => this.locations.remove(slot),
          subtract: (section, slot, digest) => this.#subtract(section, slot, digest).length,
        },
        ordinal,
      )
    }
    const open = this.#open
    if (open === null || open.ordinal !== ordinal || open.next !== index || segment.kind !== 'epoch') {
      throw damaged(
        segment,
        offset,
        record.sequence - 1,
        `part ${index} of a bulk without the part before it`,
      )
    }
    for (let i = 0; i < record.changes.length; i += 2) {
      if (i % (2 * STEP) === 0 && i > 0) yield
      const section = this.#look(found, segment, i)
      const { op, keyStart, keyEnd, valueStart, valueEnd } = this.#change
      open.print = addPrint(open.print, section.printOf(op, buffer.subarray(keyStart, keyEnd)))
      if (op === CLEAR) {
        open.clear(section)
        continue
      }
      const key = this.#keyOf(found, segment)
      if (op === DELETE) {
        open.delete(section, key)
        continue
      }
      const start = record.changes[i]!
      open.put(section, key, {
        keyBytes: buffer.subarray(keyStart, keyEnd),
        value: buffer.subarray(valueStart, valueEnd),
        offset: found.base + start,
        length: record.changes[i + 1]! - start,
      })
    }
    for (const { name } of record.schemas) this.sectionNamed(name)
    open.schemas.push(...record.schemas)
    open.next++
    if (!last) return
    this.#open = null
    this.#learn(open.schemas)
    for (const staged of open.sections) this.#commit(staged, ordinal, origin)
    if (record.request !== '') this.requests.add(record.request, record.sequence, open.print)
  }

  #learn(schemas: readonly StoredSchema[]): void {
    for (const schema of schemas) {
      const section = this.sectionNamed(schema.name)
      section.stored = mergedSchema(section.stored, schema)
    }
  }

  /** In one step, whatever its size; the rest is left to {@link merge}. */
  #commit(staged: StagedSection, ordinal: number, origin: StoredChange['origin']): void {
    const { section, layer, cleared, size, digest, bytes } = staged
    this.entries += size - section.slots.size
    this.liveBytes += bytes
    section.digest.merge(digest)
    const before = cleared ? section.slots.replace(layer) : null
    if (!cleared) section.slots.lay(layer, size)
    for (const reset of section.resets) reset()
    this.#leave(
      before ? this.#freeAll(before, staged, ordinal, origin) : this.#mergeLayer(section, ordinal, origin),
    )
  }

  #mergeLayer(
    section: SectionStore,
    ordinal: number,
    origin: StoredChange['origin'],
  ): Generator<undefined, void> {
    let before: Location | null = null
    return section.slots.merge(
      slot => {
        before = this.#locate(section, slot)
        this.#free(section, slot, ordinal)
      },
      (key, put) => {
        const was = before
        before = null
        this.#tell(section, put ? 'put' : 'delete', key, origin, was)
      },
    )
  }

  *#freeAll(
    before: ShardedMap<number>,
    { section, layer }: StagedSection,
    ordinal: number,
    origin: StoredChange['origin'],
  ): Generator<undefined, void> {
    let done = 0
    this.#tell(section, 'clear', '', origin)
    for (const [, slot] of before.entries()) {
      this.#free(section, slot, ordinal)
      if (++done % STEP === 0) yield
    }
    for (const key of layer.slots.keys()) {
      this.#tell(section, 'put', key, origin)
      if (++done % STEP === 0) yield
    }
  }

  /** The entry of this slot was displaced by a change in segment `ordinal`. */
  #free(section: SectionStore, slot: number, ordinal: number): void {
    const at = this.locations.get(slot, this.#at)
    this.#isStale(section, at)
    if (at.segment !== ordinal && ordinal === this.newest)
      this.displaced.add(at.segment, at.offset, at.length)
    this.liveBytes -= at.length
    this.locations.remove(slot)
  }

  /** The segment with the parts of a bulk that is not whole; null: there is none. */
  get openIn(): number | null {
    return this.#open?.ordinal ?? null
  }

  /** A bulk that is not whole will never be. */
  giveUp(): void {
    const open = this.#open
    this.#open = null
    if (open) this.#leave(this.#freeMade(open))
  }

  *#freeMade(open: Transaction): Generator<undefined, void> {
    let done = 0
    for (const { layer } of open.sections) {
      for (const slot of layer.made()) {
        this.locations.remove(slot)
        if (++done % STEP === 0) yield
      }
    }
  }

  #leave(work: Generator<undefined, void>): void {
    this.#work.push(work)
    this.onWork?.()
  }

  /** What large bulks left to do. Two may do it in turns; nothing depends on when. */
  *merge(): Generator<undefined, void> {
    for (let work = this.#work[0]; work !== undefined; work = this.#work[0]) {
      this.merging = true
      try {
        if (work.next().done) this.#work.shift()
      } finally {
        this.merging = false
      }
      yield
    }
  }

  get hasWork(): boolean {
    return this.#work.length > 0
  }

  /** Scans the i-th change of a record into `#change`, and says whose it is. */
  #look(found: FoundRecord, segment: Segment, i: number): SectionStore {
    const { record, buffer, offset } = found
    const change = this.#change
    try {
      scanChange(buffer, record.changes[i]!, record.changes[i + 1]!, change)
    } catch (error) {
      throw damaged(segment, offset, record.sequence - 1, (error as Error).message)
    }
    const { op, sectionStart, sectionEnd, keyStart, keyEnd } = change
    if (op !== PUT && op !== DELETE && op !== CLEAR) {
      throw new FdbError(
        'ERR_FDB_STATE_FORMAT',
        `the record at offset ${offset} (sequence ${record.sequence}) holds a change of kind ${op}, which this version does ` +
          'not know; use a newer fd-broker',
        { details: { offset, sequence: record.sequence, op } },
      )
    }
    if (keyEnd - keyStart > this.limits.keyBytes) {
      throw overLimit(`the key at offset ${offset}`, keyEnd - keyStart, 'keyBytes', this.limits.keyBytes)
    }
    if (this.#last?.isNamed(buffer, sectionStart, sectionEnd)) return this.#last
    const most = this.limits.sectionNameBytes
    if (sectionEnd - sectionStart > most || sectionEnd === sectionStart) {
      throw damaged(
        segment,
        offset,
        record.sequence - 1,
        `a section name of ${sectionEnd - sectionStart} bytes`,
      )
    }
    const name = utf8(buffer, sectionStart, sectionEnd)
    if (name === null) throw damaged(segment, offset, record.sequence - 1, 'a section name that is not UTF-8')
    return (this.#last = this.sectionNamed(name))
  }

  #keyOf(found: FoundRecord, segment: Segment): string {
    const { keyStart, keyEnd } = this.#change
    const key = utf8(found.buffer, keyStart, keyEnd)
    if (key === null) {
      throw damaged(segment, found.offset, found.record.sequence - 1, 'a key that is not UTF-8')
    }
    return key
  }

  #put(section: SectionStore, key: string, ordinal: number, offset: number, length: number): void {
    const slot = section.slots.get(key)
    if (slot === undefined) {
      section.slots.set(key, this.locations.add(ordinal, offset, length))
      this.entries++
    } else {
      this.#forget(section, slot, ordinal)
      this.locations.set(slot, ordinal, offset, length)
    }
    this.liveBytes += length
  }

  #remove(section: SectionStore, key: string, ordinal: number): boolean {
    const slot = section.slots.get(key)
    if (slot === undefined) return false
    this.#forget(section, slot, ordinal)
    this.locations.remove(slot)
    section.slots.delete(key)
    this.entries--
    return true
  }

  /** Takes the old value of a slot out of the digest and the sums. */
  #forget(section: SectionStore, slot: number, ordinal: number): void {
    const at = this.#subtract(section, slot, section.digest)
    this.#isStale(section, at)
    this.liveBytes -= at.length
    if (at.segment !== ordinal) this.displaced.add(at.segment, at.offset, at.length)
  }

  #isStale({ stored, schema }: SectionStore, { segment }: Location): void {
    if (!(stored?.secret || schema?.secret) || segment <= this.staleSecrets) return
    this.staleSecrets = segment
    this.onStaleSecret?.()
  }

  #subtract(section: SectionStore, slot: number, digest: Digest): Location {
    const at = this.locations.get(slot, this.#at)
    const small = at.length <= SMALL_CHANGE
    const buffer = small ? this.#scratch : Buffer.allocUnsafeSlow(at.length)
    this.load(at, buffer)
    const { keyStart, keyEnd, valueStart, valueEnd } = scanChange(buffer, 0, at.length, this.#old)
    digest.remove(section.nameBytes, buffer.subarray(keyStart, keyEnd), buffer.subarray(valueStart, valueEnd))
    return at
  }

  *#clear(section: SectionStore, ordinal: number): Generator<unknown, void> {
    for (const _ of this.merge()) yield MUST_END
    const cleared = section.slots
    section.slots = new SlotMap()
    section.digest.clear()
    this.entries -= cleared.size
    let done = 0
    for (const [, slot] of cleared.entries()) {
      const at = this.locations.get(slot, this.#at)
      this.#isStale(section, at)
      if (at.segment !== ordinal) this.displaced.add(at.segment, at.offset, at.length)
      this.liveBytes -= at.length
      this.locations.remove(slot)
      if (++done % 1024 === 0) yield MUST_END
    }
  }

  /** Where the entry of a key lies, for listeners of the change that takes its place. */
  #before(section: SectionStore, key: string): Location | null {
    const slot = section.listeners.size === 0 ? undefined : section.slots.get(key)
    return slot === undefined ? null : this.#locate(section, slot)
  }

  #locate({ listeners }: SectionStore, slot: number): Location | null {
    return listeners.size === 0 ? null : { ...this.locations.get(slot, this.#at) }
  }

  #tell(
    section: SectionStore,
    op: StoredChange['op'],
    key: string,
    origin: StoredChange['origin'],
    before: Location | null = null,
  ): void {
    if (section.listeners.size === 0) return
    for (const listener of section.listeners) {
      try {
        listener({ op, key, origin, before })
      } catch (error) {
        this.#reportListener(error, section.name)
      }
    }
  }

  /** The encoded Change of a slot, read from its segment, in a buffer of its own. */
  read(section: SectionStore, key: string, slot: number): { value: Buffer; version: number } {
    return this.readAt(section, key, this.locations.get(slot, this.#at))
  }

  /** As {@link read}, of what lies at a place, or lay there before it was replaced in this turn. */
  readAt(section: SectionStore, key: string, at: Location): { value: Buffer; version: number } {
    const buffer = Buffer.allocUnsafe(at.length)
    this.load(at, buffer)
    const change: ScannedChange = scanChange(buffer, 0, at.length, this.#old)
    const { valueStart, valueEnd, keyStart, keyEnd, version } = change
    if (
      !section.isNamed(buffer, change.sectionStart, change.sectionEnd) ||
      buffer.toString('utf8', keyStart, keyEnd) !== key
    ) {
      const segment = this.segments.get(at.segment)!
      throw damaged(segment, at.offset, undefined, 'another entry lies where this one was read before')
    }
    return { value: buffer.subarray(valueStart, valueEnd), version }
  }

  /** Reads an encoded Change to the start of `into`. */
  load(at: Location, into: Buffer): void {
    const segment = this.segments.get(at.segment)!
    const got = readAt(segment.fd, into, 0, at.length, at.offset)
    if (got !== at.length) {
      throw damaged(
        segment,
        at.offset,
        undefined,
        `${got} bytes of an entry of ${at.length}; the file was cut`,
      )
    }
  }
}

/** Null when the bytes are not UTF-8 (decoding would fold different keys into one). */
function utf8(buffer: Buffer, start: number, end: number): string | null {
  const text = buffer.toString('utf8', start, end)
  if (text.includes('\ufffd') && Buffer.compare(Buffer.from(text), buffer.subarray(start, end)) !== 0)
    return null
  return text
}
