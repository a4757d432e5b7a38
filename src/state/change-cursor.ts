import type { FdbError } from '../errors.js'
import { overLimit, type StateLimits } from './limits.js'
import {
  emptyChange,
  MalformedRecord,
  type ScannedChange,
  type ScannedRecord,
  scanChange,
  scanRecord,
} from './records.js'
import type { SectionStore } from './section-store.js'

/** Where the changes of a record go, as far as looking at them goes. */
export interface CursorStore {
  readonly limits: StateLimits
  sectionNamed(name: string): SectionStore
}

/**
 * Looks at the changes of a record that somebody else wrote, one after the other, and believes only what is right: the name of the
 * section, length and letters of the key. What kind of change it is, is for the caller to judge.
 */
export class ChangeCursor {
  /** The one that was looked at last. */
  readonly change: Readonly<ScannedChange>
  readonly #change = emptyChange()
  readonly #store: CursorStore
  readonly #malformed: (why: string) => FdbError
  #buffer!: Buffer
  #section: SectionStore | null = null

  /** `malformed`: makes the error for what is not right. */
  constructor(store: CursorStore, malformed: (why: string) => FdbError) {
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

  /** The section of the change that is encoded there. */
  look(buffer: Buffer, start: number, end: number): SectionStore {
    this.#buffer = buffer
    const change = this.#change
    try {
      scanChange(buffer, start, end, change)
    } catch (error) {
      throw this.#malformed((error as Error).message)
    }
    const { sectionStart, sectionEnd, keyStart, keyEnd } = change
    const { keyBytes, sectionNameBytes } = this.#store.limits
    if (keyEnd - keyStart > keyBytes)
      throw overLimit('the length of a key', keyEnd - keyStart, 'keyBytes', keyBytes)
    if (this.#section?.isNamed(buffer, sectionStart, sectionEnd)) return this.#section
    const length = sectionEnd - sectionStart
    if (length > sectionNameBytes || length === 0) throw this.#malformed(`a section name of ${length} bytes`)
    this.#section = this.#store.sectionNamed(this.#text('a section name', sectionStart, sectionEnd))
    return this.#section
  }

  get key(): string {
    return this.#text('a key', this.#change.keyStart, this.#change.keyEnd)
  }

  /** Where it lies. */
  get buffer(): Buffer {
    return this.#buffer
  }

  /** {@link SectionStore.printOf} it, in the section that {@link look} returned. */
  printIn(section: SectionStore): number {
    const { op, keyStart, keyEnd } = this.#change
    return section.printAt(op, this.#buffer, keyStart, keyEnd)
  }

  get value(): Buffer {
    return this.#buffer.subarray(this.#change.valueStart, this.#change.valueEnd)
  }

  /** Decoding what is not UTF-8 would fold different keys into one. */
  #text(what: string, start: number, end: number): string {
    const text = this.#buffer.toString('utf8', start, end)
    if (text.includes('\ufffd') && Buffer.compare(Buffer.from(text), this.#buffer.subarray(start, end)) !== 0)
      throw this.#malformed(`${what} that is not UTF-8`)
    return text
  }
}
