import { TAB } from './bytes.js'
import type { FieldId } from './field-names.js'

/** Numbers for each line: name start, name end, value start, value end, field id. */
export const MARKS = 5

/** The positions of the field lines of one head. */
export interface Marks {
  /** {@link MARKS} offsets for each line. The next head overwrites them. */
  readonly numbers: Int32Array
  readonly count: number
  /** Bit set of the field ids in the head. */
  readonly ids: number
}

/** A view of the field lines of one head. Valid until the reader reads again or the bytes are overwritten. Offsets count from the head's first byte. */
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

  /** Decodes as latin1. */
  text(start: number, end: number): string {
    return this.bytes.toString('latin1', this.base + start, this.base + end)
  }

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

  /** Reports a tab after the line's name. Tabs are legal, but Node's parser takes `chunked<TAB>` for another coding, which smuggling exploits. */
  hasTab(index: number): boolean {
    const end = this.base + this.lineEnd(index)
    for (let at = this.base + this.nameEnd(index); at < end; at++) if (this.bytes[at] === TAB) return true
    return false
  }

  /** Returns the offset of the line's first byte, where the name begins. */
  lineStart(index: number): number {
    return this.#marks[index * MARKS]!
  }

  lineEnd(index: number): number {
    return index + 1 < this.count ? this.#marks[(index + 1) * MARKS]! : this.end
  }

  /** Reports whether the head has a field of the bit set `ids`. */
  hasAny(ids: number): boolean {
    return (this.#ids & ids) !== 0
  }

  /** Returns the index of the first line with this id from line `from` on, or -1. */
  indexOf(id: FieldId, from = 0): number {
    if (!this.hasAny(1 << id)) return -1
    for (let index = from; index < this.count; index++) if (this.id(index) === id) return index
    return -1
  }

  /** Returns the values of all lines with that name (any case), joined by `, `, or undefined if there are none. */
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
