import { FieldId } from './field-names.js'
import type { Fields } from './fields.js'
import { Framing } from './framing.js'
import { KnownValues } from './known-values.js'
import { type HeadFacts, readHeadFacts } from './message.js'
import { requestRefusal } from './refusal.js'

/** The common methods by length, so that no head creates a string for one of them. */
const BY_LENGTH: { name: string; bytes: Uint8Array }[][] = Array.from({ length: 8 }, () => [])
for (const name of ['GET', 'PUT', 'HEAD', 'POST', 'PATCH', 'TRACE', 'DELETE', 'OPTIONS', 'CONNECT']) {
  BY_LENGTH[name.length]!.push({ name, bytes: Buffer.from(name, 'latin1') })
}

/** Returns the method in `bytes[start, end)`. Methods are case-sensitive (RFC 9110, 9.1). */
function methodOf(bytes: Buffer, start: number, end: number): string {
  const length = end - start
  const candidates = length < BY_LENGTH.length ? BY_LENGTH[length]! : []
  for (let c = 0; c < candidates.length; c++) {
    const { name, bytes: wanted } = candidates[c]!
    let i = 0
    while (i < length && bytes[start + i] === wanted[i]) i++
    if (i === length) return name
  }
  return bytes.toString('latin1', start, end)
}

/** Reports whether a relay may repeat a request with this method (RFC 9110, 9.2.2). */
export function isIdempotent(method: string): boolean {
  switch (method) {
    case 'GET':
    case 'HEAD':
    case 'OPTIONS':
    case 'PUT':
    case 'DELETE':
    case 'TRACE':
      return true
    default:
      return false
  }
}

export type TargetForm = 'origin' | 'absolute' | 'authority' | 'asterisk'

/** Offsets from the first byte of the head. */
export interface RequestLine {
  start: number
  methodEnd: number
  targetEnd: number
  minor: 0 | 1
}

const SLASH = 0x2f
const SCHEME = /^https?:\/\//i

/** A valid request head. The constructor checks the rules between fields, and throws {@link Http1Refusal}. */
export class RequestHead implements Omit<HeadFacts, 'odd'> {
  /** 0: HTTP/1.0, 1: HTTP/1.1. */
  readonly minor: 0 | 1
  readonly fields: Fields
  readonly contentLength: number | undefined
  readonly chunked: boolean
  readonly connection: readonly string[]
  readonly keepAlive: boolean
  readonly upgrade: string | undefined
  readonly method: string
  /** The target as the client sent it. */
  readonly target: string
  readonly line: Readonly<RequestLine>
  readonly form: TargetForm
  /** The target for the server: path and query, or `*`; '' for CONNECT. */
  readonly resource: string
  /** The requested host, from the target or from Host. Only HTTP/1.0 may omit it. */
  readonly authority: Readonly<Authority> | undefined

  constructor(fields: Fields, line: RequestLine) {
    const facts = readHeadFacts(fields, 'request', line.minor)
    this.minor = line.minor
    this.fields = fields
    this.contentLength = facts.contentLength
    this.chunked = facts.chunked
    this.connection = facts.connection
    this.keepAlive = facts.keepAlive
    this.upgrade = facts.upgrade
    const { bytes, base } = fields
    const offset = line.methodEnd + 1
    this.line = line
    this.method = methodOf(bytes, base + line.start, base + line.methodEnd)
    this.target = targets.get(bytes, base + offset, base + line.targetEnd)!
    const host = this.#host()
    if (this.method !== 'CONNECT' && bytes[base + offset] === SLASH) {
      this.form = 'origin'
      this.resource = this.target
      this.authority = host
    } else {
      const parsed = this.#parseTarget(offset)
      this.form = parsed.form
      this.resource = parsed.resource
      this.authority = parsed.authority ?? host
      if (parsed.authority && host && !sameAuthority(parsed.authority, host, parsed.port)) {
        throw requestRefusal('host-mismatch', offset)
      }
    }
    if (this.method === 'CONNECT' && (this.chunked || this.contentLength !== undefined)) {
      const line = fields.indexOf(this.chunked ? FieldId.transferEncoding : FieldId.contentLength)
      throw requestRefusal('connect-with-body', fields.lineStart(line))
    }
    this.#checkExpectation()
  }

  /** Returns a new tracker of the body. Does not cover the bytes of a tunnel after CONNECT or Upgrade. */
  framing(): Framing {
    if (this.chunked) return Framing.chunked('request')
    return this.contentLength === undefined ? Framing.none() : Framing.length(this.contentLength)
  }

  #host(): Readonly<Authority> | undefined {
    const line = this.fields.indexOf(FieldId.host)
    if (line < 0) {
      if (this.minor === 1) throw requestRefusal('host-missing', this.fields.end)
      return undefined
    }
    const second = this.fields.indexOf(FieldId.host, line + 1)
    if (second >= 0) throw requestRefusal('host-repeated', this.fields.lineStart(second))
    const { bytes, base } = this.fields
    const authority = authorities.get(
      bytes,
      base + this.fields.valueStart(line),
      base + this.fields.valueEnd(line),
    )
    if (authority === undefined) throw requestRefusal('host-invalid', this.fields.lineStart(line))
    return authority
  }

  #parseTarget(offset: number): ParsedTarget {
    const { target, method } = this
    if (method === 'CONNECT') {
      const authority = parseAuthority(target)
      if (authority?.port === undefined || authority.port === 0)
        throw requestRefusal('target-invalid', offset)
      return { form: 'authority', resource: '', authority, port: authority.port }
    }
    if (target === '*' && method === 'OPTIONS') {
      return { form: 'asterisk', resource: '*', authority: undefined, port: 0 }
    }
    const scheme = SCHEME.exec(target)?.[0]
    if (scheme === undefined) throw requestRefusal('target-invalid', offset)
    const slash = target.indexOf('/', scheme.length)
    const query = target.indexOf('?')
    const pathEnd = query < 0 ? target.length : query
    const authorityEnd = slash < 0 || slash > pathEnd ? pathEnd : slash
    const authority = parseAuthority(target.slice(scheme.length, authorityEnd))
    if (authority === undefined) throw requestRefusal('target-invalid', offset)
    const rest = target.slice(authorityEnd)
    // An empty path means `/`, but `*` for OPTIONS (RFC 9112, 3.2.4).
    const resource = rest.startsWith('/') ? rest : rest === '' && method === 'OPTIONS' ? '*' : `/${rest}`
    return { form: 'absolute', resource, authority, port: scheme.length === 7 ? 80 : 443 }
  }

  #checkExpectation(): void {
    const { fields } = this
    for (
      let line = fields.indexOf(FieldId.expect);
      line >= 0;
      line = fields.indexOf(FieldId.expect, line + 1)
    ) {
      if (fields.value(line).toLowerCase() !== '100-continue')
        throw requestRefusal('expectation-unknown', fields.lineStart(line))
    }
  }
}

interface ParsedTarget {
  form: TargetForm
  resource: string
  authority: Authority | undefined
  port: number
}

function sameAuthority(a: Authority, b: Authority, port: number): boolean {
  return a.host === b.host && (a.port ?? port) === (b.port ?? port)
}

/** Host and port, from Host, CONNECT or an absolute target (RFC 3986, 3.2; RFC 9110, 7.2). */
export interface Authority {
  /** The lower-case host. An IPv6 address has brackets. */
  host: string
  port: number | undefined
}

const COLON = 0x3a
const BRACKET = 0x5b
const NAME = /^[0-9A-Za-z._~-]+$/
const IPV6 = /^\[[0-9A-Fa-f:.]{2,45}\]$/
const PORT = /^[0-9]{0,5}$/

/** 1 for a-z, 0-9 and `-._~`: a host that has only these characters needs no further check. */
const PLAIN = new Uint8Array(128)
for (const character of 'abcdefghijklmnopqrstuvwxyz0123456789-._~') PLAIN[character.charCodeAt(0)] = 1

/** Parses a name, an IPv4 address or a bracketed IPv6 address, with an optional port, which may be empty (RFC 3986, 3.2.3). Returns undefined for other text. */
function parseAuthority(text: string): Authority | undefined {
  let end = 0
  while (end < text.length && PLAIN[text.charCodeAt(end)] === 1) end++
  if (end === text.length) return end === 0 ? undefined : { host: text, port: undefined }
  const ipv6 = text.charCodeAt(0) === BRACKET
  if (ipv6 || text.charCodeAt(end) !== COLON) end = text.indexOf(':', ipv6 ? text.indexOf(']') : end)
  const host = end < 0 ? text : text.slice(0, end)
  if (!(ipv6 ? IPV6 : NAME).test(host)) return undefined
  if (end < 0) return { host: host.toLowerCase(), port: undefined }
  const digits = text.slice(end + 1)
  const port = Number(digits)
  if (!PORT.test(digits) || port > 65535) return undefined
  return { host: host.toLowerCase(), port: digits === '' ? undefined : port }
}

/** Equal hosts share one object. */
const authorities = new KnownValues<Readonly<Authority>>(text => {
  const authority = parseAuthority(text)
  return authority && Object.freeze(authority)
})

const targets = new KnownValues<string>(text => text)
