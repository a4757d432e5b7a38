import {
  FieldId,
  type Framing,
  HOP_BY_HOP,
  type RequestHead,
  RequestReader,
  type ResponseHead,
  type ResponseReader,
  takeContent,
} from '../http1/index.js'
import type { ByteStream, StreamOwner } from './byte-stream.js'
import type { Authorization, Forward, Respond } from './decision.js'
import type { Destination, ServerFailure } from './destination.js'
import { Dispatch } from './dispatch.js'
import { ExchangeFacts, type ExchangeSide, reportExchange } from './exchange-facts.js'
import { spellings } from './field-rules.js'
import { callSafely, type RelayContext, refusalOf } from './relay-context.js'
import { tlsFailureOf } from './tls-failure.js'
import { WaitingStream } from './waiting-stream.js'

/** An answer with more bytes, its heads included, is not read to its end. */
const MOST_BYTES = 64 * 1024
const METHOD = 'GET'
/** The client has gone, or this process has ended the request. */
const CANCELLED = 'cancelled'
/** Fields that tell the service about the request, besides those that tell each server about its client. */
const TOLD = ['X-Forwarded-Method', 'X-Forwarded-Uri']
const TOLD_NAMES = new Set(TOLD.flatMap(spellings).map(name => name.toLowerCase()))
/** Fields about the contents of the resource: a service that answered to them would answer 304, 206 or 412. */
const ABOUT_CONTENTS = new Set([
  'if-match',
  'if-modified-since',
  'if-none-match',
  'if-range',
  'if-unmodified-since',
  'range',
])
/** Fields that the question has no use for, or has itself. */
const NOT_ASKED = Uint8Array.from(HOP_BY_HOP)
for (const id of [
  FieldId.host,
  FieldId.contentLength,
  FieldId.transferEncoding,
  FieldId.trailer,
  FieldId.expect,
  FieldId.lookalike,
  FieldId.maxForwards,
])
  NOT_ASKED[id] = 1

/** The decision of the service, and the time that it took. */
export type Verdict = { readonly ms: number } & (
  | { readonly kind: 'passed'; readonly fields: readonly (readonly [name: string, value: string])[] }
  | { readonly kind: 'refused'; readonly answer: Respond }
  /** The answer for the client, and why there is no decision. */
  | { readonly kind: 'failed'; readonly status: number; readonly reason: string; readonly why: string }
)

/** Asks a service whether a request may pass. The request waits in this process meanwhile, and the rest of its body at the client. */
export class Authorizer implements StreamOwner {
  readonly facts = new ExchangeFacts()
  upstream: ByteStream | null = null
  /** Why the relay has no decision. */
  reason: string | undefined
  serverFailed = false
  readonly startedAt: number = performance.now()
  /** The bytes of the request's body that have come. */
  readonly body: Buffer[] = []
  readonly #relay: RelayContext
  readonly #side: ExchangeSide
  readonly #rule: Authorization
  readonly #done: (verdict: Verdict) => void
  readonly #dispatch: Dispatch
  readonly #until: number
  #reader: ResponseReader | null = null
  /** Null before the head of the answer, as are the other facts about it. */
  #body: Framing | null = null
  #fields: (readonly [name: string, value: string])[] = []
  #keepAlive = false
  readonly #pieces: Buffer[] = []
  #bytes = 0
  #ended = false

  /** Calls `done` once, possibly before {@link ask} returns, unless {@link cancel} is called before. */
  constructor(
    relay: RelayContext,
    side: ExchangeSide,
    rule: Authorization,
    done: (verdict: Verdict) => void,
  ) {
    this.#relay = relay
    this.#side = side
    this.#rule = rule
    this.#done = done
    this.#until = this.startedAt + rule.timeout
    this.#dispatch = new Dispatch(relay, side, this)
    this.facts.method = METHOD
    this.facts.target = rule.target
  }

  /** `own`: further lines for all servers of the request. */
  ask(head: RequestHead, own: string): void {
    const { service } = this.#rule
    const server = this.#dispatch.chooseServer(service)
    if (server === null) return
    this.facts.resend = question(head, this.#relay, this.#side, this.#rule, server, own)
    this.#dispatch.send(Buffer.from(this.facts.resend, 'latin1'))
  }

  /** As {@link Exchange.timeoutMs}. */
  get timeoutMs(): number {
    const { upstream } = this
    const now = performance.now()
    let until = this.#until
    if (upstream instanceof WaitingStream) until = Math.min(until, upstream.until)
    else if (upstream?.connecting) {
      const { options } = this.#rule.service
      until = Math.min(until, now + (options?.connectTimeout ?? this.#relay.timeouts.connect))
    }
    return Math.max(0, until - now)
  }

  onDeadline(): void {
    if (performance.now() < this.#until && this.upstream?.connecting)
      this.#dispatch.retryElsewhere('connect-timeout')
    else if (performance.now() < this.#until) this.#side.arm()
    else {
      this.serverFailed = this.upstream?.connecting === false
      this.fail(504, 'response-timeout')
    }
  }

  /** Ends the question. */
  cancel(): void {
    if (this.#ended) return
    this.reason = CANCELLED
    this.#end(false)
  }

  fail(status: number, reason: string): void {
    if (this.#ended) return
    this.reason = reason
    const ms = this.#end(false)
    const isLate = reason.endsWith('-timeout')
    const answer = isLate ? { status: 503, reason: 'auth-timeout' } : { status, reason: 'auth-failed' }
    this.#done({ kind: 'failed', ms, ...answer, why: reason })
  }

  onOpen(): void {
    callSafely(this.#relay, () => this.#dispatch.destination?.opened?.(false))
    this.#contain(() => this.#side.arm())
  }

  onDrain(): void {}

  onData(_stream: ByteStream, chunk: Buffer, to: number): void {
    this.#contain(() => this.#received(chunk, to))
  }

  onEnd(): void {
    this.#contain(() => {
      if (this.#body?.mayEnd) this.#decide(false)
      else this.#lost(null)
    })
  }

  onClose(_stream: ByteStream, error: Error | null): void {
    this.#contain(() => {
      if (this.upstream?.connecting)
        this.#dispatch.retryElsewhere(tlsFailureOf(error) ?? 'connect-failed', error)
      else this.#lost(error)
    })
  }

  #contain(act: () => void): void {
    this.#side.contain(() => {
      act()
      this.#side.settle()
    })
  }

  #lost(error: Error | null): void {
    this.#drop()
    const failure: ServerFailure = tlsFailureOf(error) ?? 'upstream-closed'
    if (this.#dispatch.retry(failure, error)) return
    this.serverFailed = true
    this.fail(502, failure)
  }

  #received(chunk: Buffer, to: number): void {
    this.facts.heard = true
    this.#dispatch.dropRetry()
    this.#bytes += to
    try {
      const at = this.#readHeads(chunk, to)
      if (this.#body !== null) this.#readBody(this.#body, chunk, at, to)
      else if (this.#bytes > MOST_BYTES) this.#failAnswer('answer-too-large')
    } catch (error) {
      this.#failAnswer(refusalOf(error, this.#relay).reason)
    }
  }

  #failAnswer(reason: string): void {
    this.serverFailed = true
    this.fail(502, reason)
  }

  /** Returns where the body begins in `chunk`. */
  #readHeads(chunk: Buffer, to: number): number {
    const { readers } = this.#relay
    let at = 0
    while (at < to && this.#body === null) {
      const reader = this.#reader ?? readers.acquireResponse()
      this.#reader = null
      const head = reader.read(chunk, at, to)
      if (head === null) {
        this.#reader = reader
        return to
      }
      at += reader.consumed
      readers.releaseResponse(reader)
      if (!head.interim) this.#start(head)
    }
    return at
  }

  #start(head: ResponseHead): void {
    this.#body = head.framing({ method: METHOD, upgrade: false })
    this.facts.status = head.status
    this.#keepAlive = head.keepAlive
    const isPassed = this.#isPassed
    const wanted = new Set(this.#rule.responseHeaders.map(name => name.toLowerCase()))
    for (const [i, field] of [...head.fields].entries()) {
      const name = field[0].toLowerCase()
      if (
        isPassed ? wanted.has(name) : HOP_BY_HOP[head.fields.id(i)] === 0 && !head.connection.includes(name)
      )
        this.#fields.push(field)
    }
  }

  get #isPassed(): boolean {
    const { status } = this.facts
    return status >= 200 && status < 300
  }

  #readBody(body: Framing, chunk: Buffer, at: number, to: number): void {
    const { taken, content } = takeContent(body, chunk, at, to)
    // A copy: the stream reuses the chunk.
    if (!this.#isPassed) for (const piece of content) this.#pieces.push(Buffer.from(piece))
    if (body.done) this.#decide(this.#keepAlive && at + taken === to)
    else if (this.#bytes > MOST_BYTES && this.#isPassed) this.#decide(false)
    else if (this.#bytes > MOST_BYTES) this.#failAnswer('answer-too-large')
  }

  /** `reusable`: the connection to the service may have another question. */
  #decide(reusable: boolean): void {
    if (this.#ended) return
    const ms = this.#end(reusable)
    const { status } = this.facts
    if (this.#isPassed) this.#done({ kind: 'passed', ms, fields: this.#fields })
    else {
      const answer: Respond = {
        kind: 'respond',
        status,
        headers: this.#fields,
        body: Buffer.concat(this.#pieces),
      }
      this.#done({ kind: 'refused', ms, answer })
    }
  }

  /** Returns how long the question took, in milliseconds. */
  #end(reusable: boolean): number {
    this.#ended = true
    const { upstream } = this
    const { destination } = this.#dispatch
    const now = performance.now()
    this.upstream = null
    this.#dispatch.dropRetry()
    if (upstream !== null && reusable && upstream.reusable && destination !== null)
      this.#relay.pools.release(destination, upstream, now)
    else upstream?.destroy()
    reportExchange(this, this.#side, this.#relay, now, 'authorization')
    return now - this.startedAt
  }

  #drop(): void {
    this.upstream?.destroy()
    this.upstream = null
  }
}

/** Returns a copy of the head that stays valid. */
export function copyHead(
  { fields }: RequestHead,
  limits: ConstructorParameters<typeof RequestReader>[0],
): RequestHead {
  const { bytes, base, end } = fields
  return new RequestReader(limits).read(Buffer.from(bytes.subarray(base, base + end + 2)))!
}

/** Returns the request to the service. */
function question(
  head: RequestHead,
  relay: RelayContext,
  { client, origin, trusted }: ExchangeSide,
  { target, requestHeaders }: Authorization,
  { authority }: Destination,
  own: string,
): string {
  const { fields, connection } = head
  const removed = relay.fields.request(undefined, trusted)
  let text = `${METHOD} ${target} HTTP/1.1\r\nHost: ${authority}\r\n`
  for (let i = 0; i < fields.count; i++) {
    if (NOT_ASKED[fields.id(i)] === 1) continue
    const name = fields.name(i).toLowerCase()
    const start = fields.base + fields.lineStart(i)
    const isOurs =
      TOLD_NAMES.has(name) || removed.find(fields.bytes, start, start + name.length) !== undefined
    const isAsked =
      requestHeaders === null ? !ABOUT_CONTENTS.has(name) : requestHeaders.includes(name) || name === 'via'
    if (isOurs || !isAsked || connection.includes(name)) continue
    text += fields.text(fields.lineStart(i), fields.lineEnd(i))
  }
  const told = relay.teller.lines(head, client.remoteAddress, origin, trusted)
  text += Buffer.from(told).toString('latin1') + own
  return `${text}${TOLD[0]}: ${head.method}\r\n${TOLD[1]}: ${head.resource}\r\n\r\n`
}

/** Returns the answer with these headers instead of its own with the same names. */
export function withHeaders(answer: Respond, headers: Respond['headers'] = []): Respond {
  const names = new Set(headers.map(([name]) => name.toLowerCase()))
  const others = (answer.headers ?? []).filter(([name]) => !names.has(name.toLowerCase()))
  return { ...answer, headers: [...others, ...headers] }
}

/** Returns the decision about a request that has passed: the headers of the answer replace those that the client sent. */
export function passed(
  decision: Forward | Respond,
  answer: readonly (readonly [name: string, value: string])[],
): Forward | Respond {
  if (decision.kind === 'respond') return decision
  const { options } = decision
  const { set = {}, remove = [], ...request } = options?.fields?.request ?? {}
  const values = new Map<string, string>()
  for (const [name, value] of answer) {
    const before = values.get(name.toLowerCase())
    values.set(name.toLowerCase(), before === undefined ? value : `${before}, ${value}`)
  }
  const names = decision.authorization!.responseHeaders
  const own = new Set([...Object.keys(set), ...remove].map(name => name.toLowerCase()))
  const given = names.filter(name => values.has(name.toLowerCase()) && !own.has(name.toLowerCase()))
  for (const name of given) own.add(name.toLowerCase())
  const forgeable = new Set(names.flatMap(spellings).map(name => name.toLowerCase()))
  const fields = {
    ...options?.fields,
    request: {
      ...request,
      set: { ...set, ...Object.fromEntries(given.map(name => [name, values.get(name.toLowerCase())!])) },
      remove: [...remove, ...[...forgeable].filter(name => !own.has(name))],
    },
  }
  return { ...decision, options: { ...options, fields } }
}
