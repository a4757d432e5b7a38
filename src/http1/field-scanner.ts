import { COLON, CR, IN_VALUE, LF, SPACE, TAB, TOKEN_LOWER } from './bytes.js'
import { fieldId } from './field-names.js'
import { MARKS, type Marks } from './fields.js'
import { Http1Refusal, type Side } from './refusal.js'

const LINE = 0
const NAME = 1
const PADDING = 2
const VALUE = 3
const LINE_LF = 4
const LAST_LF = 5
const DONE = 6

const FIRST_LINES = 32

/**
 * Scans the field section of a head (RFC 9112, 5) once, from the byte behind the start line to its last CRLF. Stops
 * and goes on at any byte; refuses at the first byte that no valid section could have there.
 */
export class FieldScanner implements Marks {
  readonly #limit: number
  readonly #side: Side
  #phase = LINE
  #nameStart = 0
  #nameEnd = 0
  #valueStart = 0
  count = 0
  ids = 0
  /** Of the section that is scanned, and of all that follow. */
  numbers = new Int32Array(FIRST_LINES * MARKS)

  constructor(limit: number, side: Side) {
    this.#limit = limit
    this.#side = side
  }

  get done(): boolean {
    return this.#phase === DONE
  }

  /** Scans `bytes[at, to)` of a head that begins at `base`; returns where it stopped, `to` unless it is done. */
  scan(bytes: Uint8Array, at: number, to: number, base: number): number {
    let phase = this.#phase
    while (at < to) {
      const byte = bytes[at]!
      if (phase === LINE) {
        if (byte === CR) {
          phase = LAST_LF
          at++
          continue
        }
        if (byte === SPACE || byte === TAB) throw this.#refuse('field-folded', at - base)
        if (this.count >= this.#limit) {
          throw new Http1Refusal(
            'fields-too-many',
            at - base,
            this.#side,
            `; the limit is ${this.#limit} lines`,
          )
        }
        this.#nameStart = at - base
        phase = NAME
      }
      if (phase === NAME) {
        while (at < to && TOKEN_LOWER[bytes[at]!] !== 0) at++
        if (at === to) break
        if (bytes[at] !== COLON || at - base === this.#nameStart) {
          throw this.#refuse(bytes[at] === LF ? 'line-ending' : 'field-name', at - base)
        }
        this.#nameEnd = at - base
        at++
        phase = PADDING
      } else if (phase === PADDING) {
        while (at < to && (bytes[at] === SPACE || bytes[at] === TAB)) at++
        this.#valueStart = at - base
        if (at < to) phase = VALUE
      } else if (phase === VALUE) {
        at = behindValue(bytes, at, to)
        if (at === to) break
        if (bytes[at] !== CR) throw this.#refuse(bytes[at] === LF ? 'line-ending' : 'field-value', at - base)
        this.#note(bytes, at, base)
        at++
        phase = LINE_LF
      } else if (byte !== LF) {
        throw this.#refuse('line-ending', at - base)
      } else {
        at++
        phase = phase === LAST_LF ? DONE : LINE
        if (phase === DONE) break
      }
    }
    this.#phase = phase
    return at
  }

  /** Another section follows. The marks of this one are good until then. */
  reset(): void {
    this.count = 0
    this.ids = 0
    this.#phase = LINE
  }

  #note(bytes: Uint8Array, at: number, base: number): void {
    const start = base + this.#valueStart
    while (at > start && (bytes[at - 1] === SPACE || bytes[at - 1] === TAB)) at--
    const id = fieldId(bytes, base + this.#nameStart, base + this.#nameEnd)
    const mark = this.count++ * MARKS
    if (mark === this.numbers.length) this.#grow()
    const numbers = this.numbers
    numbers[mark] = this.#nameStart
    numbers[mark + 1] = this.#nameEnd
    numbers[mark + 2] = this.#valueStart
    numbers[mark + 3] = at - base
    numbers[mark + 4] = id
    this.ids |= 1 << id
  }

  #grow(): void {
    const grown = new Int32Array(this.numbers.length * 2)
    grown.set(this.numbers)
    this.numbers = grown
  }

  #refuse(
    reason: 'field-folded' | 'field-name' | 'field-value' | 'line-ending',
    offset: number,
  ): Http1Refusal {
    return new Http1Refusal(reason, offset, this.#side)
  }
}

/** The first byte of `bytes[at, to)` that no value may hold, `to` if there is none. Most of a head is values: four bytes at a time. */
function behindValue(bytes: Uint8Array, at: number, to: number): number {
  const may = IN_VALUE
  const last = to - 4
  while (
    at <= last &&
    (may[bytes[at]!]! & may[bytes[at + 1]!]! & may[bytes[at + 2]!]! & may[bytes[at + 3]!]!) !== 0
  ) {
    at += 4
  }
  while (at < to && may[bytes[at]!] !== 0) at++
  return at
}
