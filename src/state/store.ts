import { FdbError } from '../errors.js'
import { ChangeCursor } from './change-cursor.js'
import { printOfRun } from './change-run.js'
import { Digest, PendingEntries } from './digest.js'
import { Entries } from './entries.js'
import { limitError, type StateLimits } from './limits.js'
import type { Location } from './locations.js'
import { damagedError, type FoundRecord } from './reader.js'
import { CLEAR, DELETE, PUT, type ScannedRecord, type StoredSchema } from './records.js'
import { addPrint, RequestMemory } from './requests.js'
import { mergedSchema } from './schema.js'
import { SectionStore, type StoredChange } from './section-store.js'
import type { Segment } from './segment.js'
import type { DeferredWork } from './time-slices.js'
import { Transaction } from './transaction.js'

const CHANGES_PER_STEP = 32
/** Consecutive puts of one section, as many as this at least and at most, are applied together; each takes a small part of the time that a single one takes. */
const LEAST_IN_RUN = 8
const MOST_IN_RUN = 256
const CHEAPER_IN_RUN = 8

/** Whether puts may be applied together, one after the other: no listener wants to see the state between them. */
function mayTakeRun({ listeners, slots }: SectionStore): boolean {
  return listeners.size === 0 && !slots.isMerging
}

/** The contents of a log: the keys of each section and the locations of their values. */
export class Store {
  readonly sections = new Map<string, SectionStore>()
  requests: RequestMemory
  entries = new Entries()
  readonly limits: StateLimits
  readonly deferred: DeferredWork
  readonly #reportListener: (error: unknown, section: string) => void
  readonly #cursor: ChangeCursor
  readonly #pendingEntries = new PendingEntries()
  #found!: FoundRecord
  #segment!: Segment
  /** The large bulk of which some records were applied, but not the last one. */
  open: Transaction | null = null

  constructor(
    limits: StateLimits,
    deferred: DeferredWork,
    reportListener: (error: unknown, section: string) => void,
  ) {
    this.limits = limits
    this.deferred = deferred
    this.#reportListener = reportListener
    this.requests = new RequestMemory(limits.requests)
    this.#cursor = new ChangeCursor(this, reason => this.#damaged(reason))
  }

  get secret(): boolean {
    for (const { stored, schema } of this.sections.values()) if (stored?.secret || schema?.secret) return true
    return false
  }

  digest(): Digest {
    const total = new Digest()
    for (const section of this.sections.values()) total.merge(section.digest)
    return total
  }

  sectionNamed(name: string): SectionStore {
    let section = this.sections.get(name)
    if (!section) {
      const { sections, sectionNameBytes } = this.limits
      const length = Buffer.byteLength(name)
      if (length < 1 || length > sectionNameBytes) {
        throw limitError('the length of a section name', length, 'sectionNameBytes', sectionNameBytes)
      }
      if (this.sections.size >= sections) {
        throw limitError(
          `the number of sections with "${name}"`,
          this.sections.size + 1,
          'sections',
          sections,
        )
      }
      section = new SectionStore(name, this.#reportListener)
      this.sections.set(name, section)
    }
    return section
  }

  /**
   * Applies a record. The changes in a record of an epoch take effect together, those of a snapshot one by one. The caller may abandon the generator
   * and apply the record again.
   */
  *apply(
    found: FoundRecord,
    ordinal: number,
    segment: Segment,
    origin: StoredChange['origin'],
  ): Generator<unknown, void> {
    const { record } = found
    const { changes, part, records, request, requests, requestPrints, schemas, sequence } = record
    const cursor = this.#cursor
    this.#found = found
    this.#segment = segment
    if (part?.index === 0) yield* this.deferred.steps()
    const open = this.#transactionFor(record, ordinal)
    if (!open) this.#mergeSchemas(schemas)
    let print = 0
    try {
      cursor.setChanges(found.buffer, changes)
      // No pause is between records, because the caller counts them together.
      for (let index = 0, rest = records > 1 ? Infinity : CHANGES_PER_STEP; 2 * index < changes.length; ) {
        if (rest <= 0) {
          rest = CHANGES_PER_STEP
          this.#pendingEntries.flush()
          yield
        }
        const section = cursor.readSection(index)
        const { op } = cursor.change
        if (op !== PUT && op !== DELETE && op !== CLEAR) throw unknownKindError(found, op)
        const count = Math.min(cursor.runLength, MOST_IN_RUN)
        if (count >= LEAST_IN_RUN && (open !== null || mayTakeRun(section))) {
          const run = cursor.run(count)
          if (request !== '' || part) print = addPrint(print, printOfRun(run))
          if (open) open.stageRun(section, run, found.base)
          else this.entries.putRun(section, run, ordinal, found.base)
          index += count
          rest -= count / CHEAPER_IN_RUN
          continue
        }
        const [start, end] = [changes[2 * index]!, changes[2 * index + 1]!]
        const [offset, length] = [found.base + start, end - start]
        if (request !== '' || part) print = addPrint(print, cursor.printIn(section))
        if (open) open.stage(section, cursor, offset, length, this.#pendingEntries)
        else if (op === CLEAR) {
          this.#pendingEntries.flush()
          yield* this.deferred.steps()
          const clearing = new Transaction(this.entries, ordinal, this.#found)
          clearing.stage(section, cursor, offset, length, this.#pendingEntries)
          clearing.commit(origin, this.deferred)
        } else this.#applyChange(section, { segment: ordinal, offset, length }, origin)
        index++
        rest--
      }
    } finally {
      this.#pendingEntries.flush()
    }
    if (open) {
      for (const { name } of schemas) this.sectionNamed(name)
      open.schemas.push(...schemas)
      open.print = addPrint(open.print, print)
      open.next++
      if (part && !part.last) return
      if (open.isLarge) yield* this.deferred.steps()
      this.open = null
      this.#mergeSchemas(open.schemas)
      open.commit(origin, this.deferred)
    }
    if (request !== '') this.requests.add(request, sequence, open?.print ?? print)
    for (const [i, id] of requests.entries()) this.requests.add(id, sequence, requestPrints[i] ?? 0)
  }

  /** Returns the transaction of a record, or null if its changes are applied one by one. */
  #transactionFor({ part, changes, records }: ScannedRecord, ordinal: number): Transaction | null {
    const { kind } = this.#segment
    const index = part?.index ?? 0
    if (index === 0) this.abandonOpen()
    if (!part && (changes.length <= 2 || kind !== 'epoch' || records > 1)) return null
    if (index === 0) this.open = new Transaction(this.entries, ordinal, this.#found)
    const open = this.open
    if (open?.ordinal === ordinal && open.next === index && kind === 'epoch') return open
    throw this.#damaged(`part ${index} of a bulk without the part before it`)
  }

  #damaged(reason: string): FdbError {
    const { offset, record } = this.#found
    return damagedError(this.#segment, offset, record.sequence - record.records, reason)
  }

  #applyChange(section: SectionStore, at: Location, origin: StoredChange['origin']): void {
    const { key, change } = this.#cursor
    const slot = section.slots.get(key)
    const before = this.entries.locate(section, slot)
    if (change.op === DELETE) {
      if (slot === undefined) return
      this.entries.remove(section, key, slot, at.segment)
      this.#notifyListeners(section, 'delete', origin, before, null)
      return
    }
    this.entries.put(section, key, slot, at)
    section.versions.add(change.version)
    this.#pendingEntries.add(section.digest, section.nameBytes, this.#cursor.buffer, change)
    this.#notifyListeners(section, 'put', origin, before, at)
  }

  #notifyListeners(
    section: SectionStore,
    op: 'put' | 'delete',
    origin: StoredChange['origin'],
    before: Location | null,
    after: Location | null,
  ): void {
    if (section.listeners.size === 0) return
    this.#pendingEntries.flush()
    section.notify(op, this.#cursor.key, origin, before, after)
  }

  #mergeSchemas(schemas: readonly StoredSchema[]): void {
    for (const schema of schemas) {
      const section = this.sectionNamed(schema.name)
      section.stored = mergedSchema(section.stored, schema)
    }
  }

  /**
   * Replaces the entries and the memory of requests by those of `other`. Values in the previous segments stay readable until the history closes these
   * segments. Drops the incomplete transactions of both stores.
   */
  takeOver(other: Store): void {
    this.open = null
    other.abandonOpen()
    const { entries } = this
    for (const [ordinal, held] of entries.segments) other.entries.segments.set(ordinal, held)
    other.entries.onStaleSecret = entries.onStaleSecret
    this.entries = other.entries
    this.requests = other.requests
  }

  abandonOpen(): void {
    const open = this.open
    this.open = null
    open?.abandon(this.deferred)
  }
}

function unknownKindError({ offset, record }: FoundRecord, op: number): FdbError {
  const { sequence } = record
  return new FdbError(
    'ERR_FDB_STATE_FORMAT',
    `the record at offset ${offset} (sequence ${sequence}) has a change of kind ${op}, which this version does ` +
      'not know; use a newer fd-broker',
    { details: { offset, sequence, op } },
  )
}
