import { FieldId } from './field-names.js'
import type { Fields } from './fields.js'
import { Framing } from './framing.js'
import { type HeadFacts, readHeadFacts } from './message.js'
import { Http1Refusal } from './refusal.js'

/** Offsets from the first byte of the head. */
export interface StatusLine {
  minor: 0 | 1
  status: number
  reasonStart: number
  end: number
}

/** The facts about a request that determine where its response ends. */
export interface RequestFacts {
  method: string
  /** The forwarded request had an Upgrade field. */
  upgrade: boolean
}

/** A valid response head. The constructor checks the rules between fields, and throws {@link Http1Refusal}. */
export class ResponseHead implements HeadFacts {
  /** 0: HTTP/1.0, 1: HTTP/1.1. */
  readonly minor: 0 | 1
  readonly fields: Fields
  readonly contentLength: number | undefined
  readonly chunked: boolean
  readonly odd: boolean
  readonly connection: readonly string[]
  readonly keepAlive: boolean
  readonly upgrade: string | undefined
  /** 100 to 599. */
  readonly status: number
  readonly line: Readonly<StatusLine>

  constructor(fields: Fields, line: StatusLine) {
    const facts = readHeadFacts(fields, 'response', line.minor, line.status)
    this.minor = line.minor
    this.fields = fields
    this.contentLength = facts.contentLength
    this.chunked = facts.chunked
    this.odd = facts.odd
    this.connection = facts.connection
    this.keepAlive = facts.keepAlive
    this.upgrade = facts.upgrade
    this.status = line.status
    this.line = line
    // Content-Length: 0 is wrong too (RFC 9110, 8.6), but common and harmless; writeResponse() drops this field.
    const length = this.contentLength === undefined || this.contentLength === 0 ? -1 : FieldId.contentLength
    const id = this.chunked ? FieldId.transferEncoding : length
    if (line.status < 200 && id >= 0) {
      const at = this.fields.indexOf(id as FieldId)
      throw new Http1Refusal('body-forbidden', this.fields.lineStart(at), 'response')
    }
  }

  /** The reason phrase as the server sent it; may be ''. */
  get reason(): string {
    const { reasonStart, end } = this.line
    return end < reasonStart ? '' : this.fields.text(reasonStart, end)
  }

  /** Whether another head follows: true for each 1xx except 101, after which the connection no longer carries HTTP. */
  get interim(): boolean {
    return this.status < 200 && this.status !== 101
  }

  /** Returns a new tracker of the body (RFC 9112, 6.3). Throws {@link Http1Refusal} for a 101 that the request did not ask for. */
  framing(request: RequestFacts): Framing {
    const { status } = this
    if (status === 101) {
      if (!request.upgrade || this.upgrade === undefined)
        throw new Http1Refusal('switch-unasked', 0, 'response')
      return Framing.tunnel()
    }
    // The framing fields of a 2xx to CONNECT must be ignored (RFC 9110, 9.3.6).
    if (request.method === 'CONNECT' && status >= 200 && status < 300) return Framing.tunnel()
    if (status < 200 || status === 204 || status === 304 || request.method === 'HEAD') return Framing.none()
    if (this.chunked) return Framing.chunked('response')
    return this.contentLength === undefined ? Framing.untilClose() : Framing.length(this.contentLength)
  }
}
