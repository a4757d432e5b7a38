import {
  ANY_BIT,
  CR,
  IN_METHOD,
  IN_PATH,
  IN_QUERY,
  IN_TARGET,
  LF,
  QUESTION,
  runEnd,
  SPACE,
  TOKEN_LOWER,
  ZERO,
} from './bytes.js'
import type { Fields } from './fields.js'
import { type HeadLimits, HeadReader, isVersion, VERSION_BYTES, versionRefusal } from './head-reader.js'
import { Http1Refusal, requestRefusal } from './refusal.js'
import { RequestHead } from './request-head.js'

const START = 0
const EMPTY_LINE_LF = 1
const METHOD = 2
const PATH = 3
const QUERY = 4
const VERSION = 5
const LINE_LF = 6
const FIELDS = 7

const MAX_METHOD_BYTES = 32
/** The length of ` HTTP/1.1` and CRLF. */
const VERSION_AND_LINE_END = 11

/** Reads request heads (RFC 9112, 2.1, 3 and 5). Skips at most one empty line before a request. */
export class RequestReader extends HeadReader<RequestHead> {
  #phase = START
  #lineStart = 0
  #methodEnd = 0
  #targetEnd = 0
  #minor: 0 | 1 = 1

  constructor(limits?: Partial<HeadLimits>) {
    super('request', limits)
  }

  protected scan(bytes: Uint8Array, at: number, to: number, base: number): number {
    if (this.#phase === START) at = this.#wholeLine(bytes, at, to, base)
    let phase = this.#phase
    while (at < to) {
      if (phase === FIELDS) {
        this.#phase = FIELDS
        return this.fields.scan(bytes, at, to, base)
      }
      if (phase === START) {
        phase = METHOD
        if (bytes[at] === CR) {
          phase = EMPTY_LINE_LF
          at++
        }
      } else if (phase === EMPTY_LINE_LF) {
        if (bytes[at] !== LF) throw requestRefusal('line-ending', at - base)
        at++
        this.#lineStart = at - base
        phase = METHOD
      } else if (phase === METHOD) {
        const start = base + this.#lineStart
        const stop = Math.min(to, start + MAX_METHOD_BYTES + 1)
        at = runEnd(IN_METHOD, ANY_BIT, bytes, at, stop)
        if (at - start > MAX_METHOD_BYTES) throw requestRefusal('method-unsupported', at - 1 - base)
        if (at === to) break
        if (bytes[at] !== SPACE || at === start) throw methodRefusal(bytes[at]!, at - base)
        this.#methodEnd = at - base
        at++
        phase = PATH
      } else if (phase === PATH || phase === QUERY) {
        const start = base + this.#methodEnd + 1
        const stop = Math.min(to, start + this.limits.targetBytes)
        if (phase === PATH) {
          at = runEnd(IN_TARGET, IN_PATH, bytes, at, stop)
          if (at < stop && bytes[at] === QUESTION) phase = QUERY
        }
        if (phase === QUERY) at = runEnd(IN_TARGET, IN_QUERY, bytes, at, stop)
        if (at === to) break
        if (bytes[at] !== SPACE || at === start) {
          const { targetBytes } = this.limits
          if (at - start === targetBytes)
            throw new Http1Refusal('target-too-long', at - base, 'request', ` of ${targetBytes} bytes`)
          throw requestRefusal(targetReason(bytes[at]!), at - base)
        }
        this.#targetEnd = at - base
        at++
        phase = VERSION
      } else if (phase === VERSION) {
        const index = at - base - this.#targetEnd - 1
        const byte = bytes[at]!
        if (index < VERSION_BYTES.length) {
          if (byte !== VERSION_BYTES[index]) throw versionRefusal(index, byte, at - base, 'request')
        } else if (index === VERSION_BYTES.length) {
          if (byte !== 0x30 && byte !== 0x31) throw versionRefusal(index, byte, at - base, 'request')
          this.#minor = byte === 0x31 ? 1 : 0
        } else {
          if (byte !== CR) throw requestRefusal(byte === LF ? 'line-ending' : 'request-line', at - base)
          phase = LINE_LF
        }
        at++
      } else {
        if (bytes[at] !== LF) throw requestRefusal('line-ending', at - base)
        at++
        phase = FIELDS
      }
    }
    this.#phase = phase
    return at
  }

  /** Fast path for a complete, valid request line: returns the position after the line. For any other line returns `at`, so that {@link scan} reads it. */
  #wholeLine(bytes: Uint8Array, at: number, to: number, base: number): number {
    let end = runEnd(IN_METHOD, ANY_BIT, bytes, at, to)
    if (end === at || end - at > MAX_METHOD_BYTES || bytes[end] !== SPACE) return at
    const methodEnd = end++
    end = runEnd(IN_TARGET, IN_PATH, bytes, end, to)
    if (bytes[end] === QUESTION) end = runEnd(IN_TARGET, IN_QUERY, bytes, end, to)
    const length = end - methodEnd - 1
    if (length === 0 || length > this.limits.targetBytes || to - end < VERSION_AND_LINE_END) return at
    const targetEnd = end
    if (bytes[end++] !== SPACE) return at
    if (!isVersion(bytes, end)) return at
    end += VERSION_BYTES.length
    const minor = bytes[end]! - ZERO
    if ((minor !== 0 && minor !== 1) || bytes[end + 1] !== CR || bytes[end + 2] !== LF) return at
    this.#methodEnd = methodEnd - base
    this.#targetEnd = targetEnd - base
    this.#minor = minor
    this.#phase = FIELDS
    return end + 3
  }

  protected finish(fields: Fields): RequestHead {
    const line = {
      start: this.#lineStart,
      methodEnd: this.#methodEnd,
      targetEnd: this.#targetEnd,
      minor: this.#minor,
    }
    this.#phase = START
    this.#lineStart = 0
    return new RequestHead(fields, line)
  }
}

function methodRefusal(byte: number, offset: number): Http1Refusal {
  if (byte === LF) return requestRefusal('line-ending', offset)
  return requestRefusal(TOKEN_LOWER[byte] === 0 ? 'request-line' : 'method-unsupported', offset)
}

/** A second space, or a line end after the target (HTTP/0.9), makes the request line invalid, not the target. */
function targetReason(byte: number): 'request-line' | 'line-ending' | 'target-invalid' {
  if (byte === LF) return 'line-ending'
  return byte === SPACE || byte === CR ? 'request-line' : 'target-invalid'
}
