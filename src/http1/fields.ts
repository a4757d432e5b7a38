import type { FieldId } from './field-names.js'

/** Numbers that the scanner notes for each line: name start, name end, value start, value end, field id. */
export const MARKS = 5

/**
 * The field lines of one head: a view of its text (latin1), from which names and values are cut only when asked for.
 * Offsets count from the first byte of the head.
 */
export class Fields {
  readonly text: string
  readonly count: number
  /** Offset behind the last field line, that is of the empty line that ends the head. */
  readonly end: number
  readonly #marks: readonly number[]

  constructor(text: string, marks: readonly number[]) {
    this.text = text
    this.#marks = marks
    this.count = marks.length / MARKS
    this.end = text.length - 2
  }

  id(index: number): FieldId {
    return this.#marks[index * MARKS + 4] as FieldId
  }

  /** As it was sent. */
  name(index: number): string {
    return this.text.slice(this.#marks[index * MARKS]!, this.#marks[index * MARKS + 1]!)
  }

  nameLength(index: number): number {
    return this.#marks[index * MARKS + 1]! - this.#marks[index * MARKS]!
  }

  /** Without the white space around it. */
  value(index: number): string {
    return this.text.slice(this.#marks[index * MARKS + 2]!, this.#marks[index * MARKS + 3]!)
  }

  /**
   * A tab in the line. Legal, but in the white space around a framing field's value a classic of smuggling: Node's
   * parser, for one, takes `chunked<TAB>` in a response for another coding.
   */
  hasTab(index: number): boolean {
    const tab = this.text.indexOf('\t', this.#marks[index * MARKS]!)
    return tab >= 0 && tab < this.lineEnd(index)
  }

  /** Where the line begins, which is where its name begins. */
  lineStart(index: number): number {
    return this.#marks[index * MARKS]!
  }

  /** Behind the line's CRLF. */
  lineEnd(index: number): number {
    return index + 1 < this.count ? this.#marks[(index + 1) * MARKS]! : this.end
  }

  /** The index of the first line of this number at or behind `from`, -1 if there is none. */
  indexOf(id: FieldId, from = 0): number {
    for (let at = from * MARKS + 4; at < this.#marks.length; at += MARKS) {
      if (this.#marks[at] === id) return (at - 4) / MARKS
    }
    return -1
  }

  /** The values of all lines of that name (any case) joined by `, `; undefined if there is none. */
  get(name: string): string | undefined {
    const wanted = name.toLowerCase()
    let found: string | undefined
    for (let i = 0; i < this.count; i++) {
      if (this.nameLength(i) !== wanted.length || this.name(i).toLowerCase() !== wanted) continue
      found = found === undefined ? this.value(i) : `${found}, ${this.value(i)}`
    }
    return found
  }

  *[Symbol.iterator](): Generator<[name: string, value: string]> {
    for (let i = 0; i < this.count; i++) yield [this.name(i), this.value(i)]
  }
}
