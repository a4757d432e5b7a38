import {
  type Framing,
  Http1Refusal,
  type RequestHead,
  type ResponseHead,
  type ResponseReader,
  rewriteResponse,
} from '../http1/index.js'
import { answerText, errorAnswer } from './answer.js'
import { closeFrame, type EventTracker, type FrameTracker } from './boundaries/index.js'
import type { ByteStream, Bytes, StreamOwner } from './byte-stream.js'
import { concat, copied, joined, NOTHING } from './bytes.js'
import type { ConnectionKind } from './counts.js'
import type { Decision, ExchangeOptions, Respond, SendOn } from './decision.js'
import type { Destination, DialFailure } from './destination.js'
import { type ExchangeSubject, reportOf } from './exchange-report.js'
import type { ExchangeSide } from './exchange-side.js'
import { LastEvent } from './last-event.js'
import { refusalOf } from './refusal.js'
import type { RelayContext } from './relay-context.js'
import {
  type BodyCoding,
  bodyEnd,
  clean,
  eventsOf,
  followSpans,
  framesOf,
  passBody,
  planResponse,
  type ResponsePlan,
} from './response-plan.js'
import { type Shortage, shortageOf } from './shortage.js'
import { answerRewrite, upstreamRequest } from './upstream-request.js'

/** Methods that may be repeated without asking (RFC 9110, 9.2.2). */
const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'TRACE'])

/** Status of a close frame (RFC 6455, 7.4.1). */
const GOING_AWAY = 1001

/**
 * Where an exchange is. `waiting`: the head of the answer has not come. `answering`: the answer's body is under way.
 * `tunnel`: bytes go both ways unread, for good.
 */
export type ExchangePhase = 'waiting' | 'answering' | 'tunnel'

/**
 * One request and its answer: from the routed head to the last byte of both, or of the tunnel that came of it. Owns the
 * server's connection meanwhile. It only follows the bytes; what a stream could not send yet waits in that stream.
 *
 * A whole TCP connection is one too: a tunnel from its first byte, without a method.
 */
export class Exchange implements StreamOwner {
  readonly subject: ExchangeSubject
  phase: ExchangePhase = 'waiting'
  upstream: ByteStream | null = null
  method: string
  upgrade: boolean
  http10: boolean
  /** The client's connection ends with this answer. */
  close: boolean
  /** The server's connection may be used again behind this answer. */
  reusable = false
  /** The server's connection had served another request before. */
  reused = false
  /** Bytes of an answer have come. */
  heard = false
  coding: BodyCoding = 'as-is'
  /** What is still to come of the bodies. */
  requestBody: Framing | null = null
  responseBody: Framing | null = null
  bodySeen = 0
  /** Of an answer that is a stream of events. */
  events: EventTracker | null = null
  /** Of a tunnel that is a WebSocket: what its server sends. */
  frames: FrameTracker | null = null
  /** The answer is to end between two events. */
  lastEvent: LastEvent | null = null
  /** The tunnel is to end between two frames, with this one. */
  lastFrame: Buffer | null = null
  /** The tunnel has been told its end: what its server still sends is thrown away, and of one without frames the client's too. */
  over = false
  /** The end of the time for the whole exchange, on the wheel's clock. */
  until = Number.POSITIVE_INFINITY
  /** The request, while it may be sent again should the reused connection turn out to be dead. */
  resend = ''
  route: SendOn | null = null
  destination: Destination | null = null
  tried: Destination[] | null = null
  /** What route and destination were called where it came from: this process need not know them. */
  cameAs: { readonly route: string; readonly destination: string } | null = null
  /** What its route said about the answer where it came from. */
  cameWith: ExchangeOptions | null = null
  responseReader: ResponseReader | null = null
  /** For the report only: */
  target = ''
  host = ''
  attempts = 0
  status = 0
  reason: string | undefined
  /** It did not answer, or not to the end, or not in HTTP. */
  serverFailed = false
  bytesSent = 0
  bytesReceived = 0
  /** 0: nobody wants a report. */
  startedAt: number
  /** There was no descriptor left once. */
  #redialled = false
  readonly #relay: RelayContext
  readonly #side: ExchangeSide

  constructor(
    relay: RelayContext,
    side: ExchangeSide,
    subject: ExchangeSubject,
    method = '',
    upgrade = false,
    http10 = false,
    close = true,
  ) {
    this.#relay = relay
    this.#side = side
    this.subject = subject
    this.startedAt = relay.onExchange === undefined ? 0 : performance.now()
    this.method = method
    this.upgrade = upgrade
    this.http10 = http10
    this.close = close
  }

  get kind(): ConnectionKind {
    if (this.phase === 'answering') return this.events === null ? 'response' : 'events'
    if (this.phase === 'tunnel') return this.tcp ? 'tcp' : this.frames === null ? 'tunnel' : 'webSocket'
    return this.requestBody === null ? 'waiting' : 'request'
  }

  /** A whole TCP connection, not the tunnel that came of a request. */
  get tcp(): boolean {
    return this.subject === 'tcp'
  }

  get answerOptions(): ExchangeOptions | undefined {
    return this.cameWith ?? this.route?.options
  }

  get routeName(): string {
    return this.route?.name ?? this.cameAs?.route ?? ''
  }

  get destinationKey(): string {
    return this.destination?.key ?? this.cameAs?.destination ?? ''
  }

  /** How long nothing may happen, in milliseconds; at most what is left for the whole exchange. */
  get patience(): number {
    return Math.min(this.#quiet, this.until - this.#relay.wheel.now)
  }

  get #quiet(): number {
    const { timeouts } = this.#relay
    const options = this.route?.options
    if (this.upstream?.connecting) return options?.connectTimeout ?? timeouts.connect
    if (this.phase === 'tunnel') return timeouts.tunnel
    if (this.phase === 'answering') return timeouts.stall
    return this.requestBody === null ? (options?.responseTimeout ?? timeouts.response) : timeouts.stall
  }

  /** Whether more bytes of the client have a place to go; null if none are expected. */
  get wantsBytes(): boolean | null {
    if (this.phase !== 'tunnel' && this.requestBody === null) return null
    return this.upstream !== null && !this.upstream.congested
  }

  /** Nothing happened for {@link patience}. */
  expired(): void {
    if (this.#relay.wheel.now >= this.until) this.#overdue()
    else if (this.upstream?.connecting) this.#unreachable('connect-timeout')
    else if (this.phase === 'waiting') {
      if (this.requestBody === null) this.#serverFails(504, 'response-timeout')
      else if (this.upstream?.congested) this.fail(504, 'request-stalled')
      else this.fail(408, 'body-timeout')
    } else this.#cutShort(this.phase === 'tunnel' ? 'tunnel-timeout' : 'stalled')
  }

  /** The time for the whole exchange is over, whatever moves. */
  #overdue(): void {
    const clientOwes = this.requestBody !== null && this.upstream?.congested === false
    this.fail(clientOwes ? 408 : 504, 'request-timeout')
  }

  // ---- the request

  /** Begins with a head and what of its body is in `chunk[at, …)`; returns where that ends. */
  begin(head: RequestHead, chunk: Buffer, at: number): number {
    const relay = this.#relay
    this.until = relay.wheel.now + relay.timeouts.request
    if (relay.onExchange !== undefined) {
      this.target = head.target
      this.host = head.authority?.host ?? ''
    }
    let end = at
    if (head.chunked || head.contentLength !== undefined) {
      const body = head.framing()
      this.requestBody = body
      try {
        end += body.advance(chunk, at, chunk.length)
      } catch (error) {
        this.#requestRefused(error)
        return chunk.length
      }
      this.bodySeen = end - at
      if ((head.contentLength ?? this.bodySeen) > relay.limits.bodyBytes) {
        this.fail(413, 'body-too-large')
        return chunk.length
      }
      if (body.done) this.requestBody = null
    }
    const decision = this.#decide(head)
    if (decision.kind === 'upstream') this.#sendOn(decision, head, chunk, at, end)
    else if (decision.kind === 'respond') this.#respond(decision)
    else this.fail(decision.status, decision.reason, decision.headers)
    return end
  }

  /** Begins with a whole connection, of which nothing is read here: it goes to a server of this route as it comes. */
  forward(route: SendOn): void {
    this.phase = 'tunnel'
    // The stream remembers it; at the end it cannot be asked for any more.
    if (this.#relay.onExchange !== undefined) void this.#side.client.remoteAddress
    this.route = route
    this.goOn(NOTHING)
  }

  /** Takes what belongs to this request, or to the tunnel; returns how many bytes that are. */
  fromClient(chunk: Buffer): number {
    if (this.phase === 'tunnel') {
      if (this.over && this.frames === null) return chunk.length
      this.bytesReceived += chunk.length
      this.upstream!.write(copied(chunk, 0, chunk.length))
      return chunk.length
    }
    const body = this.requestBody
    if (body === null) return 0
    let end: number
    try {
      end = body.advance(chunk, 0, chunk.length)
    } catch (error) {
      this.#requestRefused(error)
      return chunk.length
    }
    this.bodySeen += end
    if (this.bodySeen > this.#relay.limits.bodyBytes) {
      this.fail(413, 'body-too-large')
      return chunk.length
    }
    if (body.done) this.requestBody = null
    this.upstream?.write(copied(chunk, 0, end))
    return end
  }

  /** The client sends nothing more. */
  clientEnded(): void {
    if (this.phase === 'tunnel') this.upstream?.end()
    else if (this.requestBody !== null || this.#relay.abortHalfClosed) this.#side.abort('client-gone')
  }

  #decide(head: RequestHead): Decision {
    try {
      return this.#relay.gateway?.answerHere(head) ?? this.#relay.route(head, this.#side.origin)
    } catch (error) {
      this.#relay.onFault?.(error)
      return { kind: 'refuse', status: 500, reason: 'route-failed' }
    }
  }

  #sendOn(route: SendOn, head: RequestHead, chunk: Buffer, at: number, end: number): void {
    this.route = route
    this.destination = this.#pick()
    if (this.destination === null) {
      this.fail(503, 'no-server')
      return
    }
    const text = upstreamRequest(head, this.#relay, this.#side, route.options, this.destination)
    if (at === end && this.requestBody === null && !this.upgrade && IDEMPOTENT.has(head.method))
      this.resend = text
    this.#dispatch(joined(text, chunk, at, end), false)
  }

  // ---- finding a server

  /** Sends what has no connection to a server, as yet or because that did not come about in the process it came from. */
  goOn(bytes: Buffer): void {
    this.destination = this.#pick()
    if (this.destination === null) this.fail(503, 'no-server')
    else this.#dispatch(bytes, false)
  }

  #pick(): Destination | null {
    try {
      return this.route?.pick(this.tried ?? []) ?? null
    } catch (error) {
      this.#relay.onFault?.(error)
      return null
    }
  }

  /** Sends all that there is of the request to the destination. A tunnel has a connection of its own. */
  #dispatch(bytes: Bytes, fresh: boolean): void {
    const tunnel = this.phase === 'tunnel'
    let stream: ByteStream | null
    try {
      stream = this.#relay.pools.take(this.destination!, this, fresh || tunnel)
    } catch (error) {
      this.#unconnected(bytes, shortageOf(error), 'connect-failed')
      return
    }
    if (stream === null) {
      this.#elsewhere(bytes, 503, 'servers-full')
      return
    }
    this.attempts++
    this.upstream = stream
    this.reused = !stream.connecting
    if (bytes.length > 0) stream.write(bytes)
    if (tunnel && this.#side.ended) stream.end()
    this.#side.arm()
  }

  /** Tries another server with a request of which no byte was sent, or fails as the last one did. */
  #elsewhere(bytes: Bytes, status: number, reason: string): void {
    const tried = (this.tried ??= [])
    tried.push(this.destination!)
    const next = tried.length < this.#relay.limits.attempts ? this.#pick() : null
    if (next === null || tried.includes(next)) {
      this.fail(status, reason)
      return
    }
    this.destination = next
    this.#dispatch(bytes, false)
  }

  #unreachable(failure: DialFailure, error: Error | null = null): void {
    const bytes = concat(this.upstream!.takeUnsent())
    this.#drop()
    const shortage = shortageOf(error)
    if (shortage === null) this.#tell(() => this.destination!.failed?.(failure))
    this.#unconnected(bytes, shortage, failure)
  }

  /** There is no connection to the server; with a `shortage` that is our own matter. */
  #unconnected(bytes: Bytes, shortage: Shortage | null, failure: DialFailure): void {
    if (shortage === null) {
      this.#elsewhere(bytes, failure === 'connect-timeout' ? 504 : 502, failure)
      return
    }
    this.#tell(() => this.#relay.onShortage?.(shortage, this.destinationKey))
    if (shortage === 'no-ports') this.#elsewhere(bytes, 503, shortage)
    else if (this.#redialled) this.fail(503, shortage)
    else {
      // Whoever asks first closes them for all.
      this.#redialled = true
      this.#relay.pools.clear()
      this.#dispatch(bytes, true)
    }
  }

  // ---- the answer

  onOpen(): void {
    this.#tell(() => this.destination?.opened?.(this.tcp))
    this.#side.arm()
    this.#side.settle()
  }

  onDrain(): void {
    this.#side.arm()
    this.#side.settle()
  }

  onData(_stream: ByteStream, chunk: Buffer): void {
    if (this.phase === 'waiting') this.#answerBytes(chunk)
    else if (this.phase === 'tunnel') this.#tunnelBytes(chunk)
    else this.#bodyBytes(chunk, 0)
    this.#side.arm()
    this.#side.settle()
  }

  onEnd(): void {
    if (this.phase === 'tunnel') this.#side.client.end()
    else if (this.phase === 'waiting') this.#lost()
    else if (this.responseBody!.mayEnd) {
      const rest = bodyEnd(this.coding)
      if (rest !== null) this.#send(rest)
      this.reusable = false
      this.#finish()
    } else this.#serverFails(502, 'upstream-closed')
    this.#side.settle()
  }

  onClose(_stream: ByteStream, error: Error | null): void {
    if (this.upstream!.connecting) this.#unreachable('connect-failed', error)
    else if (this.phase === 'waiting') this.#lost()
    else if (this.phase === 'tunnel' && error === null) {
      // Both sides have ended; the rest for the client is on its way.
      this.close = true
      this.#finish()
    } else if (this.phase === 'tunnel') this.#cutShort('upstream-closed')
    else this.#serverFails(502, 'upstream-closed')
    this.#side.settle()
  }

  /** The server's connection ended before the answer's head. */
  #lost(): void {
    const { resend } = this
    this.#drop()
    if (!this.reused || this.heard || resend === '' || this.destination === null) {
      this.#serverFails(502, 'upstream-closed')
      return
    }
    // It was closed while it was unused, or the server did so at the sight of a request that may be repeated.
    this.#dispatch(resend, true)
  }

  #answerBytes(chunk: Buffer): void {
    const { readers } = this.#relay
    this.heard = true
    this.resend = ''
    for (let at = 0; at < chunk.length; ) {
      const reader = this.responseReader ?? readers.takeResponse()
      let head: ResponseHead | null
      try {
        head = reader.read(chunk, at)
      } catch (error) {
        this.#answerRefused(error)
        return
      }
      if (head === null) {
        this.responseReader = reader
        return
      }
      at += reader.consumed
      this.responseReader = null
      readers.giveResponse(reader)
      if (!head.interim) {
        this.#answer(head, chunk, at)
        return
      }
      if (!this.http10) this.#send(rewriteResponse(head))
    }
  }

  #answer(head: ResponseHead, chunk: Buffer, at: number): void {
    let plan: ResponsePlan
    let end = at
    this.close = this.#mustClose()
    try {
      plan = planResponse(head, this, answerRewrite(head, this.#relay, this.answerOptions))
      if (plan.body?.kind === 'tunnel' && this.requestBody !== null) {
        this.#serverFails(502, 'switched-too-early')
        return
      }
      this.events = eventsOf(head, plan)
      if (plan.body !== null && plan.coding === 'as-is') {
        const spans = this.events === null ? undefined : []
        end += plan.body.advance(chunk, at, chunk.length, spans)
        if (spans !== undefined) followSpans(this.events!, chunk, spans)
      }
    } catch (error) {
      this.#answerRefused(error)
      return
    }
    this.status = head.status
    this.close = plan.close
    this.reusable = plan.reusable
    this.coding = plan.coding
    const blanks = plan.body?.blanks ?? null
    if (blanks === null) this.#send(joined(plan.text, chunk, at, end))
    else {
      this.#send(plan.text)
      this.#send(clean(plan.body!, chunk, at, end))
    }
    if (plan.body?.kind === 'tunnel') {
      this.frames = framesOf(head)
      this.frames?.follow(chunk, at, end)
      this.#openTunnel()
      return
    }
    this.phase = 'answering'
    this.responseBody = plan.body
    if (plan.body !== null && !plan.body.done) {
      this.#bodyBytes(chunk, end)
      return
    }
    if (end < chunk.length) this.reusable = false
    this.#finish()
  }

  /** Passes on what of the answer's body is in `chunk[at, …)`. */
  #bodyBytes(chunk: Buffer, at: number): void {
    const body = this.responseBody!
    const { client } = this.#side
    let end = at
    let last = false
    try {
      if (this.lastEvent === null) end = passBody(client, this.coding, body, chunk, at, this.events)
      else {
        last = this.lastEvent.pass(client, body, this.events!, chunk, at)
        end = chunk.length
      }
    } catch (error) {
      this.#answerRefused(error)
      return
    }
    this.bytesSent += end - at
    if (last) {
      this.close = true
      this.reusable = false
    } else if (!body.done) return
    // Bytes behind the answer: nobody asked for them, so nothing that comes on this connection can be trusted.
    if (end < chunk.length) this.reusable = false
    this.#finish()
  }

  #tunnelBytes(chunk: Buffer): void {
    const { frames, lastFrame } = this
    if (this.over) return
    if (lastFrame === null) {
      frames?.follow(chunk, 0, chunk.length)
      this.#send(copied(chunk, 0, chunk.length))
      return
    }
    const end = frames!.between ? 0 : frames!.followFrame(chunk, 0, chunk.length)
    if (end > 0) this.#send(copied(chunk, 0, end))
    if (frames!.between) {
      this.#send(lastFrame)
      this.over = true
    } else if (end < chunk.length) this.#send(copied(chunk, end, chunk.length))
  }

  #openTunnel(): void {
    this.phase = 'tunnel'
    this.until = Number.POSITIVE_INFINITY
    const { upstream } = this
    const early = this.#side.takeHeld()
    if (early !== null) {
      this.bytesReceived += early.length
      upstream!.write(early)
    }
    if (this.#side.ended) upstream!.end()
  }

  #send(bytes: Bytes): void {
    this.bytesSent += bytes.length
    this.#side.client.write(bytes)
  }

  /** Whether the client's connection cannot serve another request behind this answer. */
  #mustClose(): boolean {
    // Behind a CONNECT that was not granted the client may already have sent what was meant for the tunnel.
    if (this.close || this.requestBody !== null || this.method === 'CONNECT') return true
    const { isLast, staying, hasHeld } = this.#side
    return isLast || ((this.#relay.draining || staying) && !hasHeld)
  }

  // ---- answers made here, and ends

  #respond(answer: Respond): void {
    this.close = this.#mustClose()
    const connection = this.close ? 'close' : this.http10 ? 'keep-alive' : undefined
    const options = {
      head: this.method === 'HEAD',
      connection,
      edits: this.#relay.fields.response(),
    } as const
    let text: string
    try {
      text = answerText(answer, options)
    } catch (error) {
      this.#relay.onFault?.(error)
      answer = errorAnswer(500, 'answer-invalid')
      this.reason = 'answer-invalid'
      text = answerText(answer, options)
    }
    this.#drop()
    this.status = answer.status
    this.#send(text)
    this.#finish()
  }

  /** Answers with an error if no answer has begun, else ends what has. */
  fail(status: number, reason: string, headers?: Respond['headers']): void {
    if (this.phase !== 'waiting') {
      this.#cutShort(reason)
      return
    }
    this.reason = reason
    this.#respond(errorAnswer(status, reason, headers))
  }

  /** The same where it is the server that did not do its part. */
  #serverFails(status: number, reason: string): void {
    this.serverFailed = true
    this.fail(status, reason)
  }

  /** The same for what the parser refused in an answer. */
  #answerRefused(error: unknown): void {
    const { status, reason } = refusalOf(error, this.#relay)
    this.serverFailed = error instanceof Http1Refusal
    this.fail(status, reason)
  }

  /** The same for what the parser refused in the body of the request. */
  #requestRefused(error: unknown): void {
    const { status, reason } = refusalOf(error, this.#relay)
    this.close = true
    this.fail(status, reason)
  }

  /** The answer cannot be completed, and the client must see that. */
  #cutShort(reason: string): void {
    this.reason = reason
    // Framing tells where the answer should have ended; where only FIN does, it must not look like that.
    if (this.coding === 'content' || this.phase === 'tunnel') {
      this.#side.abort(reason)
    } else {
      this.close = true
      this.reusable = false
      this.#finish()
    }
  }

  /**
   * The time of the drain is over: brings about the end that the protocol has, as soon as there is a place for it. What is
   * still answered is the last answer.
   */
  end(lastEvent: string): void {
    if (this.phase === 'waiting') return
    if (this.phase === 'answering' && this.events === null) {
      if (!this.#side.hasHeld) this.close = true
      return
    }
    this.reason ??= 'drained'
    if (this.phase === 'answering') {
      this.lastEvent = new LastEvent(lastEvent, this.coding)
      this.#bodyBytes(NOTHING, 0)
    } else if (this.frames === null || this.frames.over) {
      this.over = true
      this.#side.client.end()
      this.upstream?.end()
    } else {
      this.lastFrame = closeFrame(GOING_AWAY, 'the server is being replaced')
      this.#tunnelBytes(NOTHING)
    }
  }

  /** The connection is gone: gives up everything. Of a tunnel the server must see that this was not the end. */
  cancel(reason: string): void {
    this.reason ??= reason
    if (this.phase === 'tunnel' && this.upstream?.connecting === false) this.upstream.reset()
    else this.#drop()
    this.upstream = null
    this.#report()
  }

  #drop(): void {
    this.upstream?.destroy()
    this.upstream = null
    this.responseReader = null
  }

  #finish(): void {
    const { upstream } = this
    this.upstream = null
    if (upstream !== null) {
      const reusable = this.reusable && this.requestBody === null && upstream.reusable
      if (reusable && this.destination !== null) this.#relay.pools.give(this.destination, upstream)
      else upstream.destroy()
    }
    this.#report()
    this.#side.finished(this.close || this.requestBody !== null)
  }

  #report(): void {
    const { onExchange } = this.#relay
    if (onExchange === undefined) return
    this.#tell(() => onExchange(reportOf(this, this.#side)))
  }

  /** A callback must not break the exchange, or the process. */
  #tell(call: () => void): void {
    try {
      call()
    } catch (error) {
      this.#relay.onFault?.(error)
    }
  }
}
