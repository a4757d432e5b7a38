import { TAB } from './bytes.js'
import type { FieldId } from './field-names.js'

/** Numbers per line: name start, name end, value start, value end, field id. */
export const MARKS = 5

/** The scanner's marks of a section; the next section reuses the memory. */
export interface Marks {
  readonly numbers: Int32Array
  readonly count: number
  /** A bit for each field id in the section. */
  readonly ids: number
}

/** The field lines of one head, a view of its bytes: valid until its reader reads on, or they are overwritten. Offsets count from the head's first byte. */
export class Fields {
  readonly bytes: Buffer
  /** The position of the head in `bytes`. */
  readonly base: number
  readonly count: number
  /** Offset of the empty line that ends the head. */
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

  /** Reports a tab after the line's name: legal, but Node's parser takes `chunked<TAB>` in a response for another coding, which smuggling exploits. */
  hasTab(index: number): boolean {
    const end = this.base + this.lineEnd(index)
    for (let at = this.base + this.nameEnd(index); at < end; at++) if (this.bytes[at] === TAB) return true
    return false
  }

  /** The start of the line, and of its name. */
  lineStart(index: number): number {
    return this.#marks[index * MARKS]!
  }

  lineEnd(index: number): number {
    return index + 1 < this.count ? this.#marks[(index + 1) * MARKS]! : this.end
  }

  /** Reports whether one of these ids, each a bit, is present. */
  hasAny(ids: number): boolean {
    return (this.#ids & ids) !== 0
  }

  /** The index of the first line with this id from `from` on; -1: none. */
  indexOf(id: FieldId, from = 0): number {
    if (!this.hasAny(1 << id)) return -1
    for (let index = from; index < this.count; index++) if (this.id(index) === id) return index
    return -1
  }

  /** The values of all lines of that name (any case), joined by `, `; undefined: none. */
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
