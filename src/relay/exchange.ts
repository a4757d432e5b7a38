import { performance } from 'node:perf_hooks'
import {
  FieldId,
  type Framing,
  type HeadWriter,
  Http1Refusal,
  isIdempotent,
  keepHead,
  type RequestHead,
  writeRequest,
} from '../http1/index.js'
import { Authorizer, copyHead, passed, withHeaders } from './authorization.js'
import type { ByteStream, BytesOrText, Passage, StreamOwner } from './byte-stream.js'
import { concat, copyRange, NO_BYTES } from './bytes.js'
import type { ConnectionKind } from './counts.js'
import type { Decision, ExchangeOptions, Forward, Respond } from './decision.js'
import type { Destination, ServerFailure } from './destination.js'
import { Dispatch } from './dispatch.js'
import {
  connectionKind,
  type ExchangeFacts,
  type ExchangeSide,
  reportExchange,
  responseRules,
} from './exchange-facts.js'
import { linesWithout } from './field-rules.js'
import { maxForwards } from './gateway.js'
import type { RelayTimeouts } from './options.js'
import { buildResponse, errorResponse } from './own-response.js'
import { callSafely, decide, type RelayContext, refusalOf } from './relay-context.js'
import { NO_WEBSOCKET } from './response-plan.js'
import { ServerResponse } from './server-response.js'
import { tlsFailureOf } from './tls-failure.js'
import { beginTrail, Trail } from './trail.js'
import { Tunnel } from './tunnel.js'
import { WaitingStream } from './waiting-stream.js'

/**
 * One request and its response, or the tunnel that the request became. Owns the connection to the server. A whole TCP connection is an exchange too: a
 * tunnel without a method. Another process can continue it with {@link facts}, both streams, {@link requestDeadline} and {@link startedAt}.
 */
export class Exchange implements StreamOwner {
  readonly facts: ExchangeFacts
  upstream: ByteStream | null = null
  /** When the `request` timeout expires, in milliseconds of {@link TimerWheel.now}. */
  requestDeadline = Number.POSITIVE_INFINITY
  /** Milliseconds of `performance.now()`, for the access log. */
  startedAt: number = performance.now()
  reason: string | undefined
  serverFailed = false
  readonly #dispatch: Dispatch
  readonly #response: ServerResponse
  #tunnel: Tunnel | null
  /** Not null while a service decides whether the request may pass. */
  #authorizer: Authorizer | null = null
  /** A service was asked, so the connection could not move for a while. */
  #asked = false
  readonly #relay: RelayContext
  readonly #side: ExchangeSide

  constructor(relay: RelayContext, side: ExchangeSide, facts: ExchangeFacts) {
    this.#relay = relay
    this.#side = side
    this.facts = facts
    this.#dispatch = new Dispatch(relay, side, this)
    this.#response = new ServerResponse(relay, side, this)
    this.#tunnel = facts.phase === 'tunnel' ? new Tunnel(this) : null
  }

  get kind(): ConnectionKind {
    return connectionKind(this.facts)
  }

  /** The line of the response for a client whose cookie does not name its server, or ''. */
  get cookieLine(): string {
    const { destination, wanted } = this.facts
    const sticky = this.#dispatch.route?.sticky
    return sticky === undefined || destination === wanted ? '' : sticky.lineFor(destination)
  }

  /** A service decides whether the request may pass. */
  get isAsking(): boolean {
    return this.#authorizer !== null
  }

  get tunnelEnded(): boolean {
    return this.#tunnel?.ended ?? false
  }

  /** The relay, not the server, ends the stream of events or the tunnel, because of {@link end}. */
  get isEnding(): boolean {
    return this.tunnelEnded || this.#response.isEnding
  }

  /** Takes the bytes for the server back, whose connection is not established. */
  takeUnsent(): Buffer {
    return this.#dispatch.takeUnsent(this.upstream!)
  }

  /** A copy of the incomplete head of the response. */
  get pending(): Buffer {
    return this.#response.pending
  }

  get timeoutMs(): number {
    const { timeouts, wheel } = this.#relay
    if (this.#authorizer !== null)
      return Math.min(this.#authorizer.timeoutMs, this.requestDeadline - wheel.now)
    const connecting = this.upstream?.connecting ?? false
    if (connecting && this.upstream instanceof WaitingStream && Number.isFinite(this.upstream.until))
      return Math.max(0, Math.min(this.upstream.until - performance.now(), this.requestDeadline - wheel.now))
    const quiet = silenceLimitMs(this.facts, connecting, timeouts, this.#dispatch.route?.options)
    return Math.min(quiet, this.requestDeadline - wheel.now)
  }

  /** Whether the server can take more bytes of the client; null if the exchange expects no more bytes. */
  get wantsBytes(): boolean | null {
    if (this.#tunnel === null && this.facts.requestBody === null) return null
    // The relay discards the rest of the body for a broken server: the client may read the response only after it has sent the body.
    return this.upstream !== null && (!this.upstream.congested || !this.upstream.alive)
  }

  get readsToEnd(): boolean {
    return this.#tunnel === null
  }

  get overdue(): boolean {
    return this.#relay.wheel.now >= this.requestDeadline
  }

  /** Only the server, or the wait for one, holds the exchange up: all of the request has been sent or waits in a queue, and nothing of the response is here. */
  get waitsForServer(): boolean {
    const { upstream, facts } = this
    if (facts.phase === 'tunnel' || facts.requestBody !== null || upstream === null || !upstream.alive)
      return false
    if (upstream instanceof WaitingStream) return true
    return !upstream.connecting && upstream.unsentBytes === 0
  }

  onDeadline(): void {
    const { phase, requestBody } = this.facts
    if (this.overdue) this.#failOverdue()
    else if (this.#authorizer !== null) this.#authorizer.onDeadline()
    else if (this.upstream?.connecting) this.#dispatch.retryElsewhere('connect-timeout')
    else if (phase === 'waiting') {
      if (requestBody === null) this.serverFails(504, 'response-timeout')
      else if (this.upstream?.congested) this.fail(504, 'request-stalled')
      else this.fail(408, 'body-timeout')
    } else this.#cutShort(phase === 'tunnel' ? 'tunnel-timeout' : 'stalled')
  }

  #failOverdue(): void {
    const clientOwes = this.facts.requestBody !== null && this.upstream?.congested === false
    this.fail(clientOwes ? 408 : 504, 'request-timeout')
  }

  /** Starts with the head of a request, and the part of its body in `chunk[at, to)`. Returns where the body ends in the chunk. */
  startRequest(head: RequestHead, chunk: Buffer, at: number, to: number): number {
    const relay = this.#relay
    const { facts } = this
    this.requestDeadline = relay.wheel.now + relay.timeouts.request
    if (relay.onExchange !== undefined) {
      facts.target = head.target
      facts.host = head.authority?.host ?? ''
    }
    const { trail } = relay
    if (trail !== null)
      facts.trail = callSafely(relay, () => beginTrail(head, this.#side.trusted, trail)) ?? new Trail()
    let end: number | null = at
    if (head.chunked || head.contentLength !== undefined) {
      end = this.#followBody(head.framing(), chunk, at, to, head.contentLength)
      if (end === null) return to
    }
    const decision = decide(relay, head, this.#side.origin, this.#side.client.remoteAddress)
    facts.unlogged = decision.unlogged === true
    facts.user = decision.user ?? ''
    if (decision.kind !== 'refuse' && decision.authorization !== undefined)
      this.#authorize(decision, head, chunk, at, end)
    else this.#proceed(decision, head, chunk, at, end, this.startedAt)
    return end
  }

  #proceed(
    decision: Decision,
    head: RequestHead,
    chunk: Buffer,
    at: number,
    end: number,
    now?: number,
  ): void {
    if (decision.kind === 'upstream') this.#forwardRequest(decision, head, chunk, at, end, now)
    else if (decision.kind === 'respond') this.#respond(decision)
    else this.fail(decision.status, decision.reason, decision.headers)
  }

  #authorize(decision: Forward | Respond, head: RequestHead, chunk: Buffer, at: number, end: number): void {
    const { facts } = this
    facts.answer =
      decision.kind === 'upstream' ? responseRules(decision.options) : { ownHeaders: decision.ownHeaders }
    const copy = copyHead(head, this.#relay.readers.limits)
    const authorizer = new Authorizer(this.#relay, this.#side, decision.authorization!, verdict => {
      this.#authorizer = null
      facts.trail?.authorized(verdict)
      if (verdict.kind === 'failed') this.fail(verdict.status, verdict.reason)
      else if (verdict.kind === 'refused') {
        this.reason = 'auth-refused'
        this.#respond(withHeaders(verdict.answer, facts.answer?.ownHeaders))
      } else {
        const body = concat(authorizer.body)
        this.#proceed(passed(decision, verdict.fields), copy, body, 0, body.length)
      }
    })
    this.#authorizer = authorizer
    this.#asked = true
    authorizer.body.push(copyRange(chunk, at, end))
    authorizer.ask(copy, facts.trail?.lines ?? '')
  }

  /** Returns the facts for another process. This exchange is unusable afterwards. */
  exportFacts(): ExchangeFacts {
    this.facts.resend = this.#dispatch.resend
    return this.facts
  }

  forwardTcp(route: Forward): void {
    this.facts.phase = 'tunnel'
    this.#tunnel = new Tunnel(this)
    // The stream caches the address, which the report needs: a closed socket has no address.
    if (this.#relay.onExchange !== undefined) void this.#side.client.remoteAddress
    if (this.#dispatch.chooseServer(route) !== null) this.#dispatch.send(NO_BYTES)
  }

  /** Resumes an exchange of another process. `unsent`: the next bytes for the server. If `upstream`, the connection to the server, is null, dials a server, or waits for one at most `restMs` milliseconds. */
  resume(upstream: ByteStream | null, unsent: Buffer, restMs: number | null): void {
    const { facts } = this
    this.#dispatch.restore(upstream === null ? restMs : null)
    if (facts.phase === 'waiting') facts.answer ??= responseRules(this.#dispatch.route?.options)
    if (upstream === null) {
      if (this.#dispatch.chooseServer() !== null) this.#dispatch.send(unsent)
      return
    }
    upstream.owner = this
    this.upstream = upstream
    if (unsent.length > 0) upstream.write(unsent)
  }

  /** Forwards the part of `chunk[0, to)` that belongs to this request or tunnel. Returns its length. */
  fromClient(chunk: Buffer, to: number): number {
    if (this.#tunnel !== null) {
      this.#tunnel.fromClient(chunk, to)
      return to
    }
    const body = this.facts.requestBody
    if (body === null) return 0
    const end = this.#followBody(body, chunk, 0, to)
    if (end === null) return to
    if (this.#authorizer !== null) this.#authorizer.body.push(copyRange(chunk, 0, end))
    else this.upstream?.write(chunk, 0, end)
    return end
  }

  /** Where bytes of the client may go unseen: {@link StreamOwner.passage}. */
  passageFromClient(): Passage | null {
    const { upstream } = this
    if (upstream === null || this.#authorizer !== null) return null
    const { requestBody } = this.facts
    const most = this.#tunnel !== null ? this.#tunnel.unseenFromClient : (requestBody?.unseen ?? 0)
    return most === 0 ? null : { to: upstream, most }
  }

  passedFromClient(bytes: number): void {
    const { facts } = this
    if (this.#tunnel !== null) facts.bytesReceived += bytes
    else {
      facts.requestBody!.skip(bytes)
      facts.bodySeen += bytes
      if (facts.requestBody!.done) facts.requestBody = null
    }
  }

  passage(): Passage | null {
    const most = this.#tunnel !== null ? this.#tunnel.unseenFromServer : this.#response.unseen
    return most === 0 ? null : { to: this.#side.client, most }
  }

  onPassed(_stream: ByteStream, bytes: number): void {
    this.#side.contain(() => {
      this.facts.bytesSent += bytes
      if (this.#tunnel === null) this.#response.passed(bytes)
      this.#side.arm()
      this.#side.settle()
    })
  }

  /** Returns where the request's body ends in `chunk[from, to)`; null if the body is invalid or too large, and the request is refused. */
  #followBody(body: Framing, chunk: Buffer, from: number, to: number, announced = 0): number | null {
    const { facts } = this
    facts.requestBody = body
    let end = from
    try {
      end += body.advance(chunk, from, to)
    } catch (error) {
      this.#refuseRequest(error)
      return null
    }
    facts.bodySeen += end - from
    if (Math.max(announced, facts.bodySeen) > this.#relay.limits.bodyBytes) {
      this.fail(413, 'body-too-large')
      return null
    }
    if (body.done) facts.requestBody = null
    return end
  }

  onClientEnd(): void {
    if (this.#tunnel !== null) this.upstream?.end()
    else if (this.facts.requestBody !== null || this.#relay.abortHalfClosed) this.#side.abort('client-gone')
  }

  #forwardRequest(
    route: Forward,
    head: RequestHead,
    chunk: Buffer,
    at: number,
    end: number,
    now?: number,
  ): void {
    const { facts } = this
    facts.answer = responseRules(route.options)
    const destination = this.#dispatch.chooseServer(route)
    if (destination === null) return
    if (route.wanted !== undefined) facts.wanted = route.wanted
    let written: HeadWriter
    try {
      const own = facts.trail?.lines ?? ''
      written = upstreamRequest(head, this.#relay, this.#side, route.options, destination, own)
    } catch (error) {
      // The edits of the route are invalid, for example because another version wrote them.
      this.#refuseRequest(error)
      return
    }
    if (at === end && facts.requestBody === null && isIdempotent(head.method))
      this.#dispatch.keepForRetry(keepHead())
    this.#dispatch.send(written.bytes, 0, written.length, chunk, at, end, now)
  }

  onOpen(): void {
    this.#side.contain(() => this.#opened())
  }

  #opened(): void {
    this.facts.trail?.connected()
    callSafely(this.#relay, () => this.#dispatch.destination?.opened?.(this.facts.method === ''))
    this.#side.arm()
    this.#side.settle()
  }

  onDrain(): void {
    this.#side.arm()
    this.#side.settle()
  }

  onData(_stream: ByteStream, chunk: Buffer, to: number): void {
    // Not contain(), which would make a function for each read.
    try {
      this.#received(chunk, to)
    } catch (error) {
      this.#side.failed(error)
    }
  }

  #received(chunk: Buffer, to: number): void {
    const { phase } = this.facts
    let progressed = true
    if (phase === 'waiting') {
      const { trail, heard } = this.facts
      if (trail !== null && !heard) trail.firstByteMs = performance.now() - this.startedAt
      this.facts.heard = true
      this.#dispatch.dropRetry()
      progressed = this.#response.readHeads(chunk, to)
    } else if (phase === 'tunnel') this.#tunnel!.fromServer(chunk, to)
    else this.#response.readBody(chunk, 0, to)
    // An incomplete head does not restart the timeout, which limits the time of the whole head.
    if (progressed || this.facts.requestBody !== null) this.#side.arm()
    this.#side.settle()
  }

  onEnd(): void {
    this.#side.contain(() => this.#serverEnded())
  }

  #serverEnded(): void {
    const { phase } = this.facts
    if (phase === 'tunnel') this.#side.client.end()
    else if (phase === 'waiting') this.#upstreamLost(null)
    else this.#response.upstreamEnded()
    this.#side.settle()
  }

  onClose(_stream: ByteStream, error: Error | null): void {
    this.#side.contain(() => this.#closed(error))
  }

  #closed(error: Error | null): void {
    const { phase } = this.facts
    if (this.upstream!.connecting)
      this.#dispatch.retryElsewhere(tlsFailureOf(error) ?? 'connect-failed', error)
    else if (phase === 'waiting') this.#upstreamLost(error)
    else if (phase === 'tunnel' && error === null) {
      // The client and the server have both sent FIN, and their bytes have been written.
      this.facts.closeClient = true
      this.finish()
    } else if (phase === 'tunnel') this.#cutShort('upstream-closed')
    else this.serverFails(502, 'upstream-closed')
    this.#side.settle()
  }

  #upstreamLost(error: Error | null): void {
    this.#drop()
    // A server with TLS 1.3 refuses its client's certificate only after the handshake.
    const failure: ServerFailure = tlsFailureOf(error) ?? 'upstream-closed'
    if (!this.#dispatch.retry(failure, error)) this.serverFails(502, failure)
  }

  becomeTunnel(): void {
    const { facts, upstream } = this
    facts.phase = 'tunnel'
    this.#tunnel = new Tunnel(this)
    this.requestDeadline = Number.POSITIVE_INFINITY
    const early = this.#side.takeHeld()
    if (early !== null) {
      facts.bytesReceived += early.length
      upstream!.write(early)
    }
    if (this.#side.clientEnded) upstream!.end()
  }

  send(bytes: BytesOrText, from = 0, to: number = bytes.length): void {
    this.facts.bytesSent += to - from
    this.#side.client.write(bytes, from, to)
  }

  get isLast(): boolean {
    const { closeClient, requestBody, method } = this.facts
    // After a refused CONNECT the client may send bytes for the tunnel, which the relay would read as a request.
    if (closeClient || requestBody !== null || method === 'CONNECT') return true
    const { isLast, pinned, hasHeld } = this.#side
    return isLast || ((this.#relay.draining || pinned) && !hasHeld)
  }

  #respond(response: Respond): void {
    if (response.status < 300 && (this.#side.client.webSocketAccept ?? null) !== null) {
      this.fail(502, NO_WEBSOCKET)
      return
    }
    this.facts.closeClient = this.isLast
    const { status, text, reason } = buildResponse(response, this.facts, this.#relay)
    if (reason !== undefined) this.reason = reason
    this.#drop()
    this.facts.status = status
    this.send(text)
    this.finish()
  }

  /** Responds with an error; if the response has already started, cuts it short. */
  fail(status: number, reason: string, headers: Respond['headers'] = []): void {
    if (this.facts.phase !== 'waiting') {
      this.#cutShort(reason)
      return
    }
    this.reason = reason
    const own = this.facts.answer?.ownHeaders ?? []
    this.#respond(errorResponse({ status, reason }, [...headers, ...own], this.facts, this.#relay))
  }

  serverFails(status: number, reason: string): void {
    this.serverFailed = true
    this.fail(status, reason)
  }

  refuseResponse(error: unknown): void {
    const { status, reason } = refusalOf(error, this.#relay)
    this.serverFailed = error instanceof Http1Refusal
    this.fail(status, reason)
  }

  #refuseRequest(error: unknown): void {
    const { status, reason } = refusalOf(error, this.#relay)
    this.facts.closeClient = true
    this.fail(status, reason)
  }

  /** Ends an incomplete response, so that the client notices. */
  #cutShort(reason: string): void {
    const { facts } = this
    this.reason = reason
    // A client takes FIN for the end of a body without framing, so it gets RST. Every other client sees by the framing that the body is incomplete.
    if (facts.coding === 'content' || facts.phase === 'tunnel') {
      this.#side.abort(reason)
    } else {
      facts.closeClient = true
      facts.reusable = false
      this.finish()
    }
  }

  /** Makes the current response the last one, because the drain's time limit has passed. Ends events and WebSockets at the next boundary of their protocol. */
  end(lastEvent: string): void {
    const { facts } = this
    if (facts.phase === 'waiting') return
    if (facts.phase === 'answering' && facts.events === null) {
      if (!this.#side.hasHeld) facts.closeClient = true
      return
    }
    this.reason ??= 'drained'
    if (facts.phase === 'answering') this.#response.endAfterEvent(lastEvent)
    else this.#tunnel!.end(this.#side.client)
  }

  /** Ends the exchange, because the client's connection has closed. In a tunnel the server gets RST, because FIN would look like a regular end. */
  cancel(reason: string): void {
    this.reason ??= reason
    if (this.facts.phase === 'tunnel' && this.upstream?.connecting === false) this.upstream.reset()
    else this.#drop()
    this.upstream = null
    this.#dispatch.dropRetry()
    reportExchange(this, this.#side, this.#relay, performance.now())
  }

  #drop(): void {
    this.#authorizer?.cancel()
    this.#authorizer = null
    this.upstream?.destroy()
    this.upstream = null
  }

  finish(): void {
    const { upstream, facts } = this
    const { destination } = this.#dispatch
    const now = performance.now()
    this.upstream = null
    this.#dispatch.dropRetry()
    if (upstream !== null) {
      const reusable = facts.reusable && facts.requestBody === null && upstream.reusable
      if (reusable && destination !== null) this.#relay.pools.release(destination, upstream, now)
      else upstream.destroy()
    }
    reportExchange(this, this.#side, this.#relay, now)
    const isUploading = facts.requestBody !== null
    const wasHeld = this.#asked || upstream?.movable === false
    this.#side.onFinished(facts.closeClient || isUploading, isUploading, wasHeld)
  }
}

const REPLACED_FIELDS: readonly FieldId[] = [FieldId.maxForwards]

/** Writes the head of the request to the server. The result is valid until the next head is written. */
function upstreamRequest(
  head: RequestHead,
  relay: RelayContext,
  side: ExchangeSide,
  options: ExchangeOptions | undefined,
  destination: Destination,
  own: string,
): HeadWriter {
  const known = relay.forwarder.lines(head, side.client.remoteAddress, side.origin, side.trusted)
  const all = own === '' ? known : Buffer.concat([known, Buffer.from(own, 'latin1')])
  const forwardedLines = linesWithout(relay.fields.overridden(options?.fields), all)
  const counted = relay.gateway?.mustDecrementMaxForwards(head) === true
  return writeRequest(head, {
    edits: relay.fields.request(options?.fields, side.trusted),
    extra: counted ? decrementMaxForwards(head, forwardedLines) : forwardedLines,
    without: counted ? REPLACED_FIELDS : undefined,
    proxyAuthentication: options?.proxyAuthentication,
    connection: head.upgrade === undefined ? undefined : 'upgrade',
    host: options?.host ?? (head.authority === undefined ? destination.authority : undefined),
    resource: options?.resource?.(head.resource),
  })
}

function decrementMaxForwards(head: RequestHead, forwardedLines: Uint8Array): Uint8Array {
  return Buffer.concat([forwardedLines, Buffer.from(`Max-Forwards: ${maxForwards(head)! - 1}\r\n`)])
}

function silenceLimitMs(
  { phase, requestBody }: ExchangeFacts,
  connecting: boolean,
  timeouts: Readonly<RelayTimeouts>,
  route: ExchangeOptions | undefined,
): number {
  if (connecting) return route?.connectTimeout ?? timeouts.connect
  if (phase === 'tunnel') return timeouts.tunnel
  if (phase === 'answering' || requestBody !== null) return timeouts.stall
  return route?.responseTimeout ?? timeouts.response
}
