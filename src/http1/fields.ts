import { TAB } from './bytes.js'
import type { FieldId } from './field-names.js'

/** Numbers that the scanner notes for each line: name start, name end, value start, value end, field id. */
export const MARKS = 5

/** The scanner's findings in a field section; the next section uses the same memory. */
export interface Marks {
  readonly numbers: Int32Array
  readonly count: number
  /** A bit for each field id among them. */
  readonly ids: number
}

/** The field lines of one head, a view of its bytes: good until its reader reads on, or they are overwritten. Offsets count from the head's first byte. */
export class Fields {
  readonly bytes: Buffer
  /** Where in `bytes` the head begins. */
  readonly base: number
  readonly count: number
  /** Offset behind the last field line, that is of the empty line that ends the head. */
  readonly end: number
  readonly #marks: Int32Array
  readonly #ids: number

  constructor(bytes: Buffer, base: number, end: number, marks: Marks) {
    this.bytes = bytes
    this.base = base
    this.end = end
    this.count = marks.count
    this.#marks = marks.numbers
    this.#ids = marks.ids
  }

  /** Offset behind the start line. */
  get start(): number {
    return this.count > 0 ? this.lineStart(0) : this.end
  }

  id(index: number): FieldId {
    return this.#marks[index * MARKS + 4] as FieldId
  }

  /** `bytes[start, end)` of the head as text (latin1). */
  text(start: number, end: number): string {
    return this.bytes.toString('latin1', this.base + start, this.base + end)
  }

  /** As it was sent. */
  name(index: number): string {
    return this.text(this.#marks[index * MARKS]!, this.nameEnd(index))
  }

  /** Behind the name, which begins where its line does. */
  nameEnd(index: number): number {
    return this.#marks[index * MARKS + 1]!
  }

  value(index: number): string {
    return this.text(this.valueStart(index), this.valueEnd(index))
  }

  valueStart(index: number): number {
    return this.#marks[index * MARKS + 2]!
  }

  valueEnd(index: number): number {
    return this.#marks[index * MARKS + 3]!
  }

  /** A tab behind the line's name: legal, but Node's parser takes `chunked<TAB>` in a response for another coding, which smuggling uses. */
  hasTab(index: number): boolean {
    const end = this.base + this.lineEnd(index)
    for (let at = this.base + this.nameEnd(index); at < end; at++) if (this.bytes[at] === TAB) return true
    return false
  }

  /** Where the line begins, which is where its name begins. */
  lineStart(index: number): number {
    return this.#marks[index * MARKS]!
  }

  /** Behind the line's CRLF. */
  lineEnd(index: number): number {
    return index + 1 < this.count ? this.#marks[(index + 1) * MARKS]! : this.end
  }

  /** One of these ids, each a bit, is among the lines. */
  hasAny(ids: number): boolean {
    return (this.#ids & ids) !== 0
  }

  /** The index of the first line of this number at or behind `from`, -1 if there is none. */
  indexOf(id: FieldId, from = 0): number {
    if (!this.hasAny(1 << id)) return -1
    for (let index = from; index < this.count; index++) if (this.id(index) === id) return index
    return -1
  }

  /** The values of all lines of that name (any case) joined by `, `; undefined if there is none. */
  get(name: string): string | undefined {
    const wanted = name.toLowerCase()
    let found: string | undefined
    for (let i = 0; i < this.count; i++) {
      if (this.nameEnd(i) - this.lineStart(i) !== wanted.length || this.name(i).toLowerCase() !== wanted)
        continue
      found = found === undefined ? this.value(i) : `${found}, ${this.value(i)}`
    }
    return found
  }

  *[Symbol.iterator](): Generator<[name: string, value: string]> {
    for (let i = 0; i < this.count; i++) yield [this.name(i), this.value(i)]
  }
}
