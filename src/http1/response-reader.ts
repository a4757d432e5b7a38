import { ANY_BIT, CR, IN_VALUE, LF, runEnd, SPACE, ZERO } from './bytes.js'
import type { Fields } from './fields.js'
import { type HeadLimits, HeadReader, isVersion, VERSION_BYTES, versionRefusal } from './head-reader.js'
import { Http1Refusal } from './refusal.js'
import { ResponseHead } from './response-head.js'

const VERSION = 0
const STATUS = 1
const BEFORE_REASON = 2
const REASON = 3
const LINE_LF = 4
const FIELDS = 5

/** The offset of the status, after `HTTP/1.x` and a space. */
const STATUS_AT = VERSION_BYTES.length + 2
/** The length of a status line without a reason. */
const SHORTEST_LINE = STATUS_AT + 5

/** Reads response heads (RFC 9112, 4 and 5). Accepts no empty line before the status line. */
export class ResponseReader extends HeadReader<ResponseHead> {
  #phase = VERSION
  #minor: 0 | 1 = 1
  #status = 0
  #lineEnd = 0

  constructor(limits?: Partial<HeadLimits>) {
    super('response', limits)
  }

  protected scan(bytes: Uint8Array, at: number, to: number, base: number): number {
    if (this.#phase === VERSION && at === base) at = this.#wholeLine(bytes, at, to, base)
    let phase = this.#phase
    while (at < to) {
      if (phase === FIELDS) {
        this.#phase = FIELDS
        return this.fields.scan(bytes, at, to, base)
      }
      const byte = bytes[at]!
      if (phase === VERSION) {
        const index = at - base
        if (index < VERSION_BYTES.length) {
          if (byte !== VERSION_BYTES[index]) throw versionRefusal(index, byte, index, 'response')
        } else if (index === VERSION_BYTES.length) {
          if (byte !== 0x30 && byte !== 0x31) throw versionRefusal(index, byte, index, 'response')
          this.#minor = byte === 0x31 ? 1 : 0
        } else {
          if (byte !== SPACE) throw responseRefusal('status-line', index)
          phase = STATUS
        }
      } else if (phase === STATUS) {
        const index = at - base - STATUS_AT
        if (byte < (index === 0 ? 0x31 : 0x30) || byte > (index === 0 ? 0x35 : 0x39)) {
          throw responseRefusal('status-line', at - base)
        }
        this.#status = this.#status * 10 + byte - 0x30
        if (index === 2) phase = BEFORE_REASON
      } else if (phase === BEFORE_REASON) {
        // Servers that omit the reason often omit the space too.
        if (byte !== SPACE && byte !== CR)
          throw responseRefusal(byte === LF ? 'line-ending' : 'status-line', at - base)
        phase = byte === CR ? LINE_LF : REASON
      } else if (phase === REASON) {
        at = runEnd(IN_VALUE, ANY_BIT, bytes, at, to)
        if (at === to) break
        if (bytes[at] !== CR)
          throw responseRefusal(bytes[at] === LF ? 'line-ending' : 'status-line', at - base)
        phase = LINE_LF
      } else {
        if (byte !== LF) throw responseRefusal('line-ending', at - base)
        this.#lineEnd = at - 1 - base
        phase = FIELDS
      }
      at++
    }
    this.#phase = phase
    return at
  }

  /** Fast path for a complete, valid status line: returns the position after the line. For any other line returns `at`, so that {@link scan} reads it. */
  #wholeLine(bytes: Uint8Array, at: number, to: number, base: number): number {
    if (to - at < SHORTEST_LINE) return at
    if (!isVersion(bytes, at)) return at
    const minor = bytes[at + VERSION_BYTES.length]! - ZERO
    if ((minor !== 0 && minor !== 1) || bytes[at + STATUS_AT - 1] !== SPACE) return at
    const hundreds = bytes[at + STATUS_AT]! - ZERO
    const tens = bytes[at + STATUS_AT + 1]! - ZERO
    const ones = bytes[at + STATUS_AT + 2]! - ZERO
    if (hundreds < 1 || hundreds > 5 || tens < 0 || tens > 9 || ones < 0 || ones > 9) return at
    let end = at + STATUS_AT + 3
    if (bytes[end] === SPACE) {
      end = runEnd(IN_VALUE, ANY_BIT, bytes, end + 1, to)
    }
    if (end + 1 >= to || bytes[end] !== CR || bytes[end + 1] !== LF) return at
    this.#minor = minor
    this.#status = hundreds * 100 + tens * 10 + ones
    this.#lineEnd = end - base
    this.#phase = FIELDS
    return end + 2
  }

  protected finish(fields: Fields): ResponseHead {
    const status = this.#status
    this.#phase = VERSION
    this.#status = 0
    return new ResponseHead(fields, {
      minor: this.#minor,
      status,
      reasonStart: STATUS_AT + 4,
      end: this.#lineEnd,
    })
  }
}

function responseRefusal(reason: 'status-line' | 'line-ending', offset: number): Http1Refusal {
  return new Http1Refusal(reason, offset, 'response')
}
