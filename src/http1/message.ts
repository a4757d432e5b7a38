import { isToken, SPACE, TAB, ZERO } from './bytes.js'
import { FieldId } from './field-names.js'
import type { Fields } from './fields.js'
import { Http1Refusal, type RefusalReason, type Side } from './refusal.js'

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const PROTOCOL = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?$/
const LENGTH = /^(?:0|[1-9][0-9]{0,15})$/
const NO_OPTIONS: readonly string[] = []
const KEEP_ALIVE: readonly string[] = ['keep-alive']
const CLOSE: readonly string[] = ['close']
const KEEP_ALIVE_BYTES = Buffer.from('keep-alive', 'latin1')
const CLOSE_BYTES = Buffer.from('close', 'latin1')
const CHUNKED_BYTES = Buffer.from('chunked', 'latin1')
/** The relay removes fields that Connection names. An attacker who names these fields there attempts request smuggling. */
const NOT_FOR_CONNECTION = new Set(['host', 'content-length', 'transfer-encoding'])

/** Returns the elements of a comma-separated list, without empty elements (RFC 9110, 5.6.1). */
export function listElements(value: string): string[] {
  return value
    .split(',')
    .map(trimBlanks)
    .filter(element => element !== '')
}

/** Removes spaces and tabs at both ends. A regular expression would take quadratic time if the text has many blanks in a row. */
function trimBlanks(text: string): string {
  let start = 0
  let end = text.length
  while (start < end && isBlank(text.charCodeAt(start))) start++
  while (end > start && isBlank(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

function isBlank(code: number): boolean {
  return code === SPACE || code === TAB
}

/** Reports whether the value is a list of several transfer codings that ends with chunked. */
function isCodings(value: string): boolean {
  const codings = value.split(',').map(trimBlanks)
  return (
    codings.length > 1 &&
    codings.pop()!.toLowerCase() === 'chunked' &&
    codings.every(each => TOKEN.test(each))
  )
}

/** The facts that request heads and response heads have in common. Not a base class, which would double the time to create a head. */
export interface HeadFacts {
  readonly contentLength: number | undefined
  readonly chunked: boolean
  /** The response breaks a framing rule, but all readers agree where it ends. The relay corrects the head, and does not reuse the connection to the server. */
  readonly odd: boolean
  /** The options of Connection, in lower case. */
  readonly connection: readonly string[]
  /** The connection may carry another message: the sender allows reuse, and this message is not {@link odd}. */
  readonly keepAlive: boolean
  /** The value of Upgrade if Connection names this field. Without `h2c`, because requests over HTTP/2 would bypass the relay's checks. */
  readonly upgrade: string | undefined
}

const KNOWN =
  (1 << FieldId.contentLength) |
  (1 << FieldId.transferEncoding) |
  (1 << FieldId.connection) |
  (1 << FieldId.upgrade) |
  (1 << FieldId.lookalike)

/** Reads the fields about framing and the connection (RFC 9112, 6 and 9) in one pass. The results are valid until the next {@link read}. */
class KnownFields implements HeadFacts {
  contentLength: number | undefined = undefined
  chunked = false
  odd = false
  connection: readonly string[] = NO_OPTIONS
  keepAlive = true
  upgrade: string | undefined = undefined
  /** The options of all Connection lines, if the head has more than one line. */
  #joinedOptions: string[] | null = null
  #fields!: Fields
  #side: Side = 'request'

  read(fields: Fields, side: Side, minor: 0 | 1, status: number): HeadFacts {
    this.contentLength = undefined
    this.chunked = false
    this.odd = false
    this.connection = NO_OPTIONS
    this.upgrade = undefined
    this.#joinedOptions = null
    this.#fields = fields
    this.#side = side
    for (let i = 0; i < fields.count; i++) {
      const id = fields.id(i)
      if (id === FieldId.other) continue
      if (id === FieldId.contentLength) this.#readLength(i)
      else if (id === FieldId.transferEncoding) this.#readCoding(i, minor)
      else if (id === FieldId.connection) this.#readConnection(i)
      else if (id === FieldId.upgrade) this.#readUpgrade(i)
      else if (id === FieldId.lookalike) throw this.#refuse('field-lookalike', i)
    }
    const { chunked, connection } = this
    // A 204 or 304 has no body (RFC 9112, 6.3). A 204 with Content-Length: 0 is wrong too, but common; writeResponse() drops this field.
    if (status === 204 && (chunked || (this.contentLength ?? 0) > 0)) this.odd = true
    if (status === 304 && chunked) this.odd = true
    const close = connection.length > 0 && connection.includes('close')
    this.keepAlive = !this.odd && !close && (minor === 1 || connection.includes('keep-alive'))
    if (this.upgrade !== undefined && (minor === 0 || !connection.includes('upgrade')))
      this.upgrade = undefined
    return this
  }

  #readLength(line: number): void {
    if (this.contentLength !== undefined && this.#side === 'request')
      throw this.#refuse('length-repeated', line)
    if (this.chunked) throw this.#refuse('coding-with-length', line)
    const digits = this.#digits(line)
    const length = digits >= 0 && !this.#fields.hasTab(line) ? digits : this.#listedLength(line)
    if (!Number.isSafeInteger(length)) throw this.#refuse('length-invalid', line)
    if (this.contentLength !== undefined) {
      if (this.contentLength !== length) throw this.#refuse('length-repeated', line)
      this.odd = true
    }
    this.contentLength = length
  }

  /** Returns the number if the whole value matches {@link LENGTH}, otherwise -1. */
  #digits(line: number): number {
    const { bytes, base } = this.#fields
    const start = base + this.#fields.valueStart(line)
    const end = base + this.#fields.valueEnd(line)
    const digits = end - start
    if (digits === 0 || digits > 16 || (bytes[start] === ZERO && digits > 1)) return -1
    let number = 0
    for (let at = start; at < end; at++) {
      const digit = bytes[at]! - ZERO
      if (digit < 0 || digit > 9) return -1
      number = number * 10 + digit
    }
    return number
  }

  /** Accepts a list that repeats one length, as some servers behind proxies send it, but only in responses. Returns NaN for an invalid value. */
  #listedLength(line: number): number {
    const value = this.#fields.value(line)
    const [first = '', ...others] =
      this.#side === 'request' || value.includes('\t') ? [] : value.split(',').map(trimBlanks)
    if (!LENGTH.test(first) || others.length === 0 || others.some(other => other !== first)) return Number.NaN
    this.odd = true
    return Number(first)
  }

  #readCoding(line: number, minor: 0 | 1): void {
    if (this.chunked) throw this.#refuse('coding-repeated', line)
    if (this.contentLength !== undefined) throw this.#refuse('coding-with-length', line)
    if (minor === 0) {
      if (this.#side === 'request') throw this.#refuse('coding-in-http10', line)
      this.odd = true
    }
    if (!this.#valueIs(line, CHUNKED_BYTES) || this.#fields.hasTab(line)) {
      throw this.#refuse(isCodings(this.#fields.value(line)) ? 'coding-unsupported' : 'coding-invalid', line)
    }
    this.chunked = true
  }

  #valueIs(line: number, lower: Uint8Array): boolean {
    const { bytes, base } = this.#fields
    const start = base + this.#fields.valueStart(line)
    return isToken(bytes, start, base + this.#fields.valueEnd(line), lower)
  }

  #readConnection(line: number): void {
    const options = this.#valueIs(line, KEEP_ALIVE_BYTES)
      ? KEEP_ALIVE
      : this.#valueIs(line, CLOSE_BYTES)
        ? CLOSE
        : this.#options(line)
    if (this.connection.length === 0) this.connection = options
    else {
      this.#joinedOptions ??= [...this.connection]
      for (const option of options) this.#joinedOptions.push(option)
      this.connection = this.#joinedOptions
    }
  }

  #options(line: number): string[] {
    const value = this.#fields.value(line)
    const options = (TOKEN.test(value) ? [value] : listElements(value)).map(option => option.toLowerCase())
    for (const option of options) {
      if (!TOKEN.test(option) || NOT_FOR_CONNECTION.has(option))
        throw this.#refuse('connection-invalid', line)
    }
    return options
  }

  #readUpgrade(line: number): void {
    const protocols = listElements(this.#fields.value(line))
    if (!protocols.every(protocol => PROTOCOL.test(protocol))) throw this.#refuse('upgrade-invalid', line)
    const wanted = protocols.filter(protocol => protocol.toLowerCase() !== 'h2c')
    if (wanted.length === 0) return
    this.upgrade = this.upgrade === undefined ? wanted.join(', ') : `${this.upgrade}, ${wanted.join(', ')}`
  }

  #refuse(reason: RefusalReason, line: number): Http1Refusal {
    return new Http1Refusal(reason, this.#fields.lineStart(line), this.#side)
  }
}

/** One instance reads all heads, so that a head needs no instance of its own. */
const KNOWN_FIELDS = new KnownFields()

const DEFAULT_FACTS: HeadFacts = {
  contentLength: undefined,
  chunked: false,
  odd: false,
  connection: NO_OPTIONS,
  keepAlive: true,
  upgrade: undefined,
}

const DEFAULT_FACTS_10: HeadFacts = { ...DEFAULT_FACTS, keepAlive: false }

/** Returns facts that are valid until the next call. `status` is 0 for a request. Throws {@link Http1Refusal}. */
export function readHeadFacts(fields: Fields, side: Side, minor: 0 | 1, status = 0): HeadFacts {
  if (fields.hasAny(KNOWN)) return KNOWN_FIELDS.read(fields, side, minor, status)
  return minor === 1 ? DEFAULT_FACTS : DEFAULT_FACTS_10
}
