import {
  ANY_BIT,
  COLON,
  CR,
  IN_VALUE,
  LF,
  plainUntil,
  runEnd,
  SPACE,
  TAB,
  TOKEN_LOWER,
  wordsOf,
} from './bytes.js'
import { fieldId } from './field-names.js'
import { MARKS_PER_LINE, type Marks } from './fields.js'
import { Http1Refusal, type RefusalReason, type Side } from './refusal.js'

const LINE = 0
const NAME = 1
const PADDING = 2
const VALUE = 3
const LINE_LF = 4
const LAST_LF = 5
const DONE = 6

const FIRST_LINES = 32

/** Scans the field lines of a head (RFC 9112, 5) up to the empty line. Can pause at any byte and continue with the next read. Throws at the first invalid byte. */
export class FieldScanner implements Marks {
  readonly #limit: number
  readonly #side: Side
  #phase = LINE
  #nameStart = 0
  #nameEnd = 0
  #valueStart = 0
  count = 0
  ids = 0
  /** See {@link Marks.numbers}; {@link reset} keeps the memory for the next head. */
  numbers: Int32Array<ArrayBuffer> = new Int32Array(FIRST_LINES * MARKS_PER_LINE)

  constructor(limit: number, side: Side) {
    this.#limit = limit
    this.#side = side
  }

  get done(): boolean {
    return this.#phase === DONE
  }

  /** Scans `bytes[at, to)` of a head that begins at `base`. Returns the position after the head, or `to` if the head is incomplete. */
  scan(bytes: Uint8Array, at: number, to: number, base: number): number {
    const words = wordsOf(bytes)
    if (this.#phase === LINE) at = this.#wholeLines(bytes, at, to, base, words)
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
        if (this.count >= this.#limit)
          throw this.#refuse('fields-too-many', at - base, `; the limit is ${this.#limit} lines`)
        this.#nameStart = at - base
        phase = NAME
      }
      if (phase === NAME) {
        at = runEnd(TOKEN_LOWER, ANY_BIT, bytes, at, to)
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
        at = valueEnd(bytes, at, to, words)
        if (at === to) break
        if (bytes[at] !== CR) throw this.#refuse(bytes[at] === LF ? 'line-ending' : 'field-value', at - base)
        this.#markLine(bytes, base, this.#nameStart, this.#nameEnd, this.#valueStart, at)
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

  /** Prepares for the next head, which overwrites {@link numbers}. */
  reset(): void {
    this.count = 0
    this.ids = 0
    this.#phase = LINE
  }

  /** Fast path for complete, valid lines of `bytes[at, to)`. Returns the start of the first line that is incomplete or invalid, where {@link scan} continues. */
  #wholeLines(bytes: Uint8Array, at: number, to: number, base: number, words: DataView | null): number {
    let start = at
    while (this.count < this.#limit) {
      if (this.count * MARKS_PER_LINE === this.numbers.length) this.#grow()
      const most = Math.min(this.#limit, this.numbers.length / MARKS_PER_LINE)
      start = this.#markLines(bytes, start, to, base, words, most)
      if (this.count < most) break
    }
    return start
  }

  /** Marks up to `most` lines. Returns the start of the next line. */
  #markLines(
    bytes: Uint8Array,
    at: number,
    to: number,
    base: number,
    words: DataView | null,
    most: number,
  ): number {
    const { numbers } = this
    let { count, ids } = this
    let start = at
    while (count < most) {
      at = nameEnd(bytes, at, to)
      if (at === start || at >= to || bytes[at] !== COLON) break
      const colon = at++
      while (at < to && (bytes[at] === SPACE || bytes[at] === TAB)) at++
      const value = at
      at = valueEnd(bytes, at, to, words)
      if (at + 1 >= to || bytes[at] !== CR || bytes[at + 1] !== LF) break
      const id = fieldId(bytes, start, colon)
      const mark = count * MARKS_PER_LINE
      numbers[mark] = start - base
      numbers[mark + 1] = colon - base
      numbers[mark + 2] = value - base
      numbers[mark + 3] = trimEnd(bytes, value, at) - base
      numbers[mark + 4] = id
      ids |= 1 << id
      count++
      at += 2
      start = at
    }
    this.count = count
    this.ids = ids
    return start
  }

  /** Appends the offsets and the id of a line. `end`, the position after the value and its trailing white space, is an index of `bytes`; all others are relative to `base`. */
  #markLine(
    bytes: Uint8Array,
    base: number,
    nameStart: number,
    nameEnd: number,
    valueStart: number,
    end: number,
  ): void {
    const id = fieldId(bytes, base + nameStart, base + nameEnd)
    const mark = this.count++ * MARKS_PER_LINE
    if (mark === this.numbers.length) this.#grow()
    const numbers = this.numbers
    numbers[mark] = nameStart
    numbers[mark + 1] = nameEnd
    numbers[mark + 2] = valueStart
    numbers[mark + 3] = trimEnd(bytes, base + valueStart, end) - base
    numbers[mark + 4] = id
    this.ids |= 1 << id
  }

  #grow(): void {
    const grown = new Int32Array(this.numbers.length * 2)
    grown.set(this.numbers)
    this.numbers = grown
  }

  #refuse(reason: RefusalReason, offset: number, note = ''): Http1Refusal {
    return new Http1Refusal(reason, offset, this.#side, note)
  }
}

/** As {@link runEnd} for the bytes of a name, nearly all of which are letters: these need no table. */
function nameEnd(bytes: Uint8Array, at: number, to: number): number {
  const token = TOKEN_LOWER
  const last = to - 4
  for (; at <= last; at += 4) {
    const a = bytes[at]!
    if (((a | 0x20) - 0x61) >>> 0 > 25 && token[a] === 0) return at
    const b = bytes[at + 1]!
    if (((b | 0x20) - 0x61) >>> 0 > 25 && token[b] === 0) return at + 1
    const c = bytes[at + 2]!
    if (((c | 0x20) - 0x61) >>> 0 > 25 && token[c] === 0) return at + 2
    const d = bytes[at + 3]!
    if (((d | 0x20) - 0x61) >>> 0 > 25 && token[d] === 0) return at + 3
  }
  while (at < to && token[bytes[at]!] !== 0) at++
  return at
}

/** Returns the position of the first byte of `bytes[at, to)` that a field value must not contain, or `to`. */
function valueEnd(bytes: Uint8Array, at: number, to: number, words: DataView | null): number {
  if (words !== null) at = plainUntil(words, at, to)
  return at < to && bytes[at] === CR ? at : runEnd(IN_VALUE, ANY_BIT, bytes, at, to)
}

function trimEnd(bytes: Uint8Array, start: number, end: number): number {
  while (end > start && (bytes[end - 1] === SPACE || bytes[end - 1] === TAB)) end--
  return end
}
