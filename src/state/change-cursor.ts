import type { FdbError } from '../errors.js'
import { CHANGE_FIELDS, scanChanges } from '../kernel/index.js'
import { areAscii, Bytes, emptyKey, hashOf, type KeyBytes, SEED } from './key-bytes.js'
import { limitError, type StateLimits } from './limits.js'
import {
  emptyChange,
  MalformedRecord,
  type ScannedChange,
  type ScannedRecord,
  scanChange,
  scanRecord,
} from './records.js'
import type { SectionStore } from './section-store.js'

const SCANNED_AT_ONCE = 32

/** The part of a store that {@link ChangeCursor} uses. */
interface CursorStore {
  readonly limits: StateLimits
  sectionNamed(name: string): SectionStore
}

/** Reads the changes of a record one by one, and checks section name and key. The caller checks the kind of change. */
export class ChangeCursor {
  readonly change: Readonly<ScannedChange>
  readonly #change = emptyChange()
  readonly #key = emptyKey()
  readonly #store: CursorStore
  readonly #malformed: (reason: string) => FdbError
  #bytes = this.#key.bytes
  /** Alternating start and end offsets of the changes. */
  #changes: readonly number[] = []
  #section: SectionStore | null = null
  /** The offsets of the changes that the addon scans in one call; it writes their fields to {@link #ahead}. */
  readonly #ranges = new Uint32Array(2 * SCANNED_AT_ONCE)
  readonly #ahead = new Uint32Array(CHANGE_FIELDS * SCANNED_AT_ONCE)
  /** The hash of the current change's key, or null if the addon did not compute it. */
  #hash: number | null = null
  #print: number | null = null

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
  setChanges(buffer: Buffer, changes: readonly number[]): void {
    if (buffer !== this.#bytes.buffer) this.#bytes = new Bytes(buffer)
    this.#changes = changes
  }

  /** Reads the next change and returns its section. `index` counts up from 0. */
  readSection(index: number): SectionStore {
    const nth = index % SCANNED_AT_ONCE
    if (nth === 0) this.#scanAhead(index)
    const ahead = this.#ahead
    const at = CHANGE_FIELDS * nth
    const change = this.#change
    if (ahead[at] === 0) this.#scanOne(this.#ranges[2 * nth]!, this.#ranges[2 * nth + 1]!)
    else {
      change.op = ahead[at + 1]!
      change.version = ahead[at + 2]!
      change.sectionStart = ahead[at + 3]!
      change.sectionEnd = ahead[at + 4]!
      change.keyStart = ahead[at + 5]!
      change.keyEnd = ahead[at + 6]!
      change.valueStart = ahead[at + 7]!
      change.valueEnd = ahead[at + 8]!
      this.#hash = ahead[at + 9]!
      this.#print = ahead[at + 10]!
    }
    return this.#checkedSection()
  }

  #scanAhead(first: number): void {
    const changes = this.#changes
    const count = Math.min(SCANNED_AT_ONCE, changes.length / 2 - first)
    for (let i = 0; i < 2 * count; i++) this.#ranges[i] = changes[2 * first + i]!
    scanChanges(this.#bytes.buffer, this.#ranges, count, SEED, this.#ahead)
  }

  #scanOne(start: number, end: number): void {
    this.#hash = this.#print = null
    try {
      scanChange(this.#bytes.buffer, start, end, this.#change)
    } catch (error) {
      throw this.#malformed((error as Error).message)
    }
  }

  #checkedSection(): SectionStore {
    const buffer = this.#bytes.buffer
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
    return this.#text('a key', this.#change.keyStart, this.#change.keyEnd)
  }

  /** The key as a range of the buffer; valid until the next change is read. */
  get keyBytes(): KeyBytes {
    const { keyStart: start, keyEnd: end } = this.#change
    const bytes = this.#bytes
    if (this.#hash === null && !areAscii(bytes, start, end)) this.#text('a key', start, end)
    const key = this.#key
    key.bytes = bytes
    key.start = start
    key.end = end
    key.hash = this.#hash ?? hashOf(bytes, start, end)
    key.text = null
    return key
  }

  get buffer(): Buffer {
    return this.#bytes.buffer
  }

  /** Returns the change's fingerprint, see {@link SectionStore.printOf}. */
  printIn(section: SectionStore): number {
    const { op, keyStart, keyEnd } = this.#change
    return this.#print ?? section.printOf(op, this.#bytes.buffer.subarray(keyStart, keyEnd))
  }

  get value(): Buffer {
    return this.#bytes.buffer.subarray(this.#change.valueStart, this.#change.valueEnd)
  }

  /** Throws for invalid UTF-8, because different invalid keys would be decoded to the same text. */
  #text(what: string, start: number, end: number): string {
    const text = this.#bytes.buffer.toString('utf8', start, end)
    if (
      text.includes('\ufffd') &&
      Buffer.compare(Buffer.from(text), this.#bytes.buffer.subarray(start, end)) !== 0
    )
      throw this.#malformed(`${what} that is not UTF-8`)
    return text
  }
}
