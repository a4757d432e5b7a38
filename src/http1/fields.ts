import { TAB } from './bytes.js'
import type { FieldId } from './field-names.js'

/** How many numbers describe a line: name start, name end, value start, value end, field id. */
export const MARKS_PER_LINE = 5

/** The positions of all field lines of a head. */
export interface Marks {
  /** {@link MARKS_PER_LINE} numbers for each line. The next head overwrites them. */
  readonly numbers: Int32Array
  readonly count: number
  /** Bit `1 << id` is set if the head has a field with this id. */
  readonly ids: number
}

/** The field lines of a head, as a view that is valid until the reader reads again or the bytes are overwritten. Offsets count from the first byte of the head. */
export class Fields {
  readonly bytes: Buffer
  /** The position of the head in `bytes`. */
  readonly base: number
  readonly count: number
  /** The offset of the empty line at the end of the head. */
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
    return this.#marks[index * MARKS_PER_LINE + 4] as FieldId
  }

  /** Decodes the bytes between two offsets as latin1. */
  text(start: number, end: number): string {
    return this.bytes.toString('latin1', this.base + start, this.base + end)
  }

  name(index: number): string {
    return this.text(this.#marks[index * MARKS_PER_LINE]!, this.nameEnd(index))
  }

  nameEnd(index: number): number {
    return this.#marks[index * MARKS_PER_LINE + 1]!
  }

  value(index: number): string {
    return this.text(this.valueStart(index), this.valueEnd(index))
  }

  valueStart(index: number): number {
    return this.#marks[index * MARKS_PER_LINE + 2]!
  }

  valueEnd(index: number): number {
    return this.#marks[index * MARKS_PER_LINE + 3]!
  }

  /** Reports whether a tab follows the name. Tabs are legal, but request smuggling exploits that Node's parser takes `chunked<TAB>` for an unknown coding. */
  hasTab(index: number): boolean {
    const end = this.base + this.lineEnd(index)
    for (let at = this.base + this.nameEnd(index); at < end; at++) if (this.bytes[at] === TAB) return true
    return false
  }

  /** Returns the offset of the line, which begins with its name. */
  lineStart(index: number): number {
    return this.#marks[index * MARKS_PER_LINE]!
  }

  lineEnd(index: number): number {
    return index + 1 < this.count ? this.#marks[(index + 1) * MARKS_PER_LINE]! : this.end
  }

  /** Reports whether the head has one of the fields in `ids`, a set of bits `1 << id`. */
  hasAny(ids: number): boolean {
    return (this.#ids & ids) !== 0
  }

  /** Returns the index of the first line with this id from line `from` on, or -1. */
  indexOf(id: FieldId, from = 0): number {
    if (!this.hasAny(1 << id)) return -1
    for (let index = from; index < this.count; index++) if (this.id(index) === id) return index
    return -1
  }

  /** Returns the values of all lines with this name (any case), joined by `, `; undefined if the head has none. */
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
