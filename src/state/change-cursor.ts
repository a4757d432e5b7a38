import type { FdbError } from '../errors.js'
import { CHANGE_FIELDS, scanRuns } from '../kernel/index.js'
import { type ChangeRun, PRINT } from './change-run.js'
import { limitError, type StateLimits } from './limits.js'
import {
  emptyChange,
  MalformedRecord,
  PUT,
  type ScannedChange,
  type ScannedRecord,
  scanChange,
  scanRecord,
} from './records.js'
import type { SectionStore } from './section-store.js'

/** The addon scans up to this many changes of a record in one call. */
const SCANNED_AT_ONCE = 1024
const NO_RANGES = new Uint32Array(0)
const NO_BYTES = Buffer.alloc(0)

/** The part of a store that {@link ChangeCursor} uses. */
interface CursorStore {
  readonly limits: StateLimits
  sectionNamed(name: string): SectionStore
}

/** Reads the changes of a record one by one, and checks section name and key. The caller checks the kind of change. */
export class ChangeCursor {
  readonly change: Readonly<ScannedChange>
  readonly #change = emptyChange()
  readonly #store: CursorStore
  readonly #malformed: (reason: string) => FdbError
  #buffer: Buffer = NO_BYTES
  /** Alternating start and end offsets of the changes. */
  #ranges: Uint32Array = NO_RANGES
  #section: SectionStore | null = null
  /** The fields of changes that the addon has scanned, and the index of the first of them. */
  #fields = new Uint32Array(CHANGE_FIELDS)
  #first = 0
  #scanned = 0
  /** The index of the current change. */
  #index = 0
  /** Whether the addon has scanned the current change. */
  #isKnown = false
  #keyText: string | null = null

  /** `malformed` creates the error for a malformed record. */
  constructor(store: CursorStore, malformed: (reason: string) => FdbError) {
    this.change = this.#change
    this.#store = store
    this.#malformed = malformed
  }

  scan(bytes: Buffer): ScannedRecord {
    try {
      return scanRecord(bytes, 0, bytes.length, this.#store.limits)
    } catch (error) {
      throw error instanceof MalformedRecord ? this.#malformed(error.message) : error
    }
  }

  /** Starts to read the encoded changes in `buffer`, which must not change until the last one is read. */
  setChanges(buffer: Buffer, changes: ArrayLike<number>): void {
    this.#buffer = buffer
    this.#ranges = changes instanceof Uint32Array ? changes : Uint32Array.from(changes)
    this.#first = this.#scanned = 0
  }

  /** Reads the next change and returns its section. `index` counts up from 0. */
  readSection(index: number): SectionStore {
    if (index >= this.#first + this.#scanned) this.#scanAhead(index)
    const fields = this.#fields
    const at = CHANGE_FIELDS * (index - this.#first)
    const change = this.#change
    this.#index = index
    this.#keyText = null
    this.#isKnown = fields[at]! > 0
    if (!this.#isKnown) this.#scanOne(this.#ranges[2 * index]!, this.#ranges[2 * index + 1]!)
    else {
      change.op = fields[at + 1]!
      change.version = fields[at + 2]!
      change.sectionStart = fields[at + 3]!
      change.sectionEnd = fields[at + 4]!
      change.keyStart = fields[at + 5]!
      change.keyEnd = fields[at + 6]!
      change.valueStart = fields[at + 7]!
      change.valueEnd = fields[at + 8]!
    }
    return this.#checkedSection()
  }

  #scanAhead(first: number): void {
    const count = Math.min(SCANNED_AT_ONCE, this.#ranges.length / 2 - first)
    if (this.#fields.length < CHANGE_FIELDS * count) this.#fields = new Uint32Array(CHANGE_FIELDS * count)
    const { keyBytes } = this.#store.limits
    scanRuns(this.#buffer, this.#ranges, first, count, keyBytes, this.#fields)
    this.#first = first
    this.#scanned = count
  }

  #scanOne(start: number, end: number): void {
    try {
      scanChange(this.#buffer, start, end, this.#change)
    } catch (error) {
      throw this.#malformed((error as Error).message)
    }
  }

  /** The number of puts of one section that begin with the current change and that {@link run} has, or 0. */
  get runLength(): number {
    return this.#isKnown && this.#change.op === PUT ? this.#fields[this.#at]! : 0
  }

  get #at(): number {
    return CHANGE_FIELDS * (this.#index - this.#first)
  }

  /** `count` changes of which the current one is the first; valid until the next change is read. */
  run(count: number): ChangeRun {
    return {
      buffer: this.#buffer,
      fields: this.#fields,
      ranges: this.#ranges,
      first: this.#index - this.#first,
      firstRange: this.#index,
      count,
    }
  }

  #checkedSection(): SectionStore {
    const buffer = this.#buffer
    const change = this.#change
    const { sectionStart, sectionEnd, keyStart, keyEnd } = change
    const { keyBytes, sectionNameBytes } = this.#store.limits
    if (keyEnd - keyStart > keyBytes)
      throw limitError('the length of a key', keyEnd - keyStart, 'keyBytes', keyBytes)
    if (this.#section?.isNamed(buffer, sectionStart, sectionEnd)) return this.#section
    const length = sectionEnd - sectionStart
    if (length > sectionNameBytes || length === 0) throw this.#malformed(`a section name of ${length} bytes`)
    this.#section = this.#store.sectionNamed(this.#text('a section name', sectionStart, sectionEnd))
    return this.#section
  }

  get key(): string {
    return (this.#keyText ??= this.#readKey(this.#change))
  }

  #readKey({ keyStart, keyEnd }: ScannedChange): string {
    return this.#isKnown
      ? this.#buffer.toString('latin1', keyStart, keyEnd)
      : this.#text('a key', keyStart, keyEnd)
  }

  get buffer(): Buffer {
    return this.#buffer
  }

  /** Returns the change's fingerprint, see {@link SectionStore.printOf}. */
  printIn(section: SectionStore): number {
    const { op, keyStart, keyEnd } = this.#change
    return this.#isKnown
      ? this.#fields[this.#at + PRINT]!
      : section.printOf(op, this.#buffer.subarray(keyStart, keyEnd))
  }

  get value(): Buffer {
    return this.#buffer.subarray(this.#change.valueStart, this.#change.valueEnd)
  }

  /** Throws for invalid UTF-8, because different invalid keys would be decoded to the same text. */
  #text(what: string, start: number, end: number): string {
    const text = this.#buffer.toString('utf8', start, end)
    if (text.includes('\ufffd') && Buffer.compare(Buffer.from(text), this.#buffer.subarray(start, end)) !== 0)
      throw this.#malformed(`${what} that is not UTF-8`)
    return text
  }
}
