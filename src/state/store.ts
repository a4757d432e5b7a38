import { ChangeCursor, damagedRecord } from './change-cursor.js'
import { Digest } from './digest.js'
import { Entries } from './entries.js'
import type { LeftWork } from './left-work.js'
import { overLimit, type StateLimits } from './limits.js'
import type { FoundRecord } from './reader.js'
import { CLEAR, DELETE, type StoredSchema } from './records.js'
import { addPrint, RequestMemory } from './requests.js'
import { mergedSchema } from './schema.js'
import { SectionStore, type StoredChange } from './section-store.js'
import type { Segment } from './segment.js'
import { MUST_END } from './slices.js'
import { Transaction } from './transaction.js'

/** Changes between two yields. */
const STEP = 32

/** The map that a log adds up to, one record after the other: which keys each section has and where in which segment their values lie. */
export class Store {
  readonly sections = new Map<string, SectionStore>()
  readonly requests: RequestMemory
  readonly entries = new Entries()
  readonly limits: StateLimits
  readonly left: LeftWork
  readonly #reportListener: (error: unknown, section: string) => void
  readonly #cursor: ChangeCursor
  /** A bulk of several records whose last one has not come. */
  #open: Transaction | null = null

  constructor(
    limits: StateLimits,
    left: LeftWork,
    reportListener: (error: unknown, section: string) => void,
  ) {
    this.limits = limits
    this.left = left
    this.#reportListener = reportListener
    this.requests = new RequestMemory(limits.requests)
    this.#cursor = new ChangeCursor(limits, name => this.sectionNamed(name))
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
      section = new SectionStore(name, this.#reportListener)
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
    const { record } = found
    const { changes } = record
    if (record.part) {
      yield* this.#applyPart(found, ordinal, segment, origin)
      return
    }
    this.giveUp()
    const cursor = this.#cursor
    // A single change is checked by itself; a snapshot counts for nothing before its end.
    const checkFirst = changes.length > 2 && segment.kind === 'epoch'
    for (let i = 0; checkFirst && i < changes.length; i += 2) {
      if (i % (4 * STEP) === 0) yield
      cursor.look(found, segment, i)
      void cursor.key
    }
    this.#learn(record.schemas)
    let print = 0
    for (let i = 0; i < changes.length; i += 2) {
      if (i % (2 * STEP) === 0 && i > 0) yield MUST_END
      const section = cursor.look(found, segment, i)
      const { op } = cursor.change
      if (record.request !== '') print = addPrint(print, section.printOf(op, cursor.keyBytes))
      if (op === CLEAR) {
        for (const _ of this.left.steps()) yield MUST_END
        const clearing = new Transaction(this.entries, ordinal)
        clearing.clear(section)
        clearing.commit(origin, this.left)
        continue
      }
      const { key } = cursor
      const before = this.entries.locate(section, section.slots.get(key))
      if (op === DELETE) {
        if (this.entries.remove(section, key, ordinal)) section.tell('delete', key, origin, before)
        continue
      }
      const start = changes[i]!
      this.entries.put(section, key, ordinal, found.base + start, changes[i + 1]! - start)
      section.digest.add(section.nameBytes, cursor.keyBytes, cursor.value)
      section.tell('put', key, origin, before)
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
    const { record } = found
    const { index, last } = record.part!
    const cursor = this.#cursor
    if (index === 0) {
      this.giveUp()
      yield* this.left.steps()
      this.#open = new Transaction(this.entries, ordinal)
    }
    const open = this.#open
    if (open === null || open.ordinal !== ordinal || open.next !== index || segment.kind !== 'epoch')
      throw damagedRecord(found, segment, `part ${index} of a bulk without the part before it`)
    for (let i = 0; i < record.changes.length; i += 2) {
      if (i % (2 * STEP) === 0 && i > 0) yield
      const section = cursor.look(found, segment, i)
      const { op } = cursor.change
      const { keyBytes, value } = cursor
      open.print = addPrint(open.print, section.printOf(op, keyBytes))
      if (op === CLEAR) {
        open.clear(section)
        continue
      }
      const { key } = cursor
      if (op === DELETE) {
        open.delete(section, key)
        continue
      }
      const start = record.changes[i]!
      const length = record.changes[i + 1]! - start
      open.put(section, key, { keyBytes, value, offset: found.base + start, length })
    }
    for (const { name } of record.schemas) this.sectionNamed(name)
    open.schemas.push(...record.schemas)
    open.next++
    if (!last) return
    this.#open = null
    this.#learn(open.schemas)
    open.commit(origin, this.left)
    if (record.request !== '') this.requests.add(record.request, record.sequence, open.print)
  }

  #learn(schemas: readonly StoredSchema[]): void {
    for (const schema of schemas) {
      const section = this.sectionNamed(schema.name)
      section.stored = mergedSchema(section.stored, schema)
    }
  }

  /** The segment with the parts of a bulk that is not whole; null: there is none. */
  get openIn(): number | null {
    return this.#open?.ordinal ?? null
  }

  /** A bulk that is not whole will never be. */
  giveUp(): void {
    const open = this.#open
    this.#open = null
    open?.giveUp(this.left)
  }
}
