import { FdbError } from '../errors.js'
import { overLimit, type StateLimits } from './limits.js'
import { damaged, type FoundRecord } from './reader.js'
import { CLEAR, DELETE, emptyChange, PUT, type ScannedChange, scanChange } from './records.js'
import type { SectionStore } from './section-store.js'
import type { Segment } from './segment.js'

/** Looks at the changes of a record one after the other, and believes only what is right: kind, section, length and letters of a key. */
export class ChangeCursor {
  /** The one that was looked at last. */
  readonly change: Readonly<ScannedChange>
  readonly #change = emptyChange()
  readonly #limits: StateLimits
  readonly #sectionNamed: (name: string) => SectionStore
  #found!: FoundRecord
  #segment!: Segment
  #last: SectionStore | null = null

  constructor(limits: StateLimits, sectionNamed: (name: string) => SectionStore) {
    this.change = this.#change
    this.#limits = limits
    this.#sectionNamed = sectionNamed
  }

  /** The section of the change that begins at `record.changes[i]`. Throws ERR_FDB_STATE_DAMAGED, _FORMAT, _LIMIT. */
  look(found: FoundRecord, segment: Segment, i: number): SectionStore {
    this.#found = found
    this.#segment = segment
    const { record, buffer, offset } = found
    const change = this.#change
    try {
      scanChange(buffer, record.changes[i]!, record.changes[i + 1]!, change)
    } catch (error) {
      throw this.#damaged((error as Error).message)
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
    const { keyBytes, sectionNameBytes } = this.#limits
    if (keyEnd - keyStart > keyBytes)
      throw overLimit(`the key at offset ${offset}`, keyEnd - keyStart, 'keyBytes', keyBytes)
    if (this.#last?.isNamed(buffer, sectionStart, sectionEnd)) return this.#last
    const length = sectionEnd - sectionStart
    if (length > sectionNameBytes || length === 0) throw this.#damaged(`a section name of ${length} bytes`)
    const name = utf8(buffer, sectionStart, sectionEnd)
    if (name === null) throw this.#damaged('a section name that is not UTF-8')
    return (this.#last = this.#sectionNamed(name))
  }

  get key(): string {
    const { keyStart, keyEnd } = this.#change
    const key = utf8(this.#found.buffer, keyStart, keyEnd)
    if (key === null) throw this.#damaged('a key that is not UTF-8')
    return key
  }

  get keyBytes(): Buffer {
    return this.#found.buffer.subarray(this.#change.keyStart, this.#change.keyEnd)
  }

  get value(): Buffer {
    return this.#found.buffer.subarray(this.#change.valueStart, this.#change.valueEnd)
  }

  #damaged(why: string): FdbError {
    return damagedRecord(this.#found, this.#segment, why)
  }
}

export function damagedRecord({ offset, record }: FoundRecord, segment: Segment, why: string): FdbError {
  return damaged(segment, offset, record.sequence - 1, why)
}

/** Null when the bytes are not UTF-8 (decoding would fold different keys into one). */
function utf8(buffer: Buffer, start: number, end: number): string | null {
  const text = buffer.toString('utf8', start, end)
  if (text.includes('\ufffd') && Buffer.compare(Buffer.from(text), buffer.subarray(start, end)) !== 0)
    return null
  return text
}
