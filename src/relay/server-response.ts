import {
  encodeChunk,
  type Framing,
  type HeadWriter,
  LAST_CHUNK,
  type ResponseHead,
  type ResponseReader,
  takeContent,
  writeResponse,
} from '../http1/index.js'
import { type EventTracker, eventText } from './boundaries.js'
import type { ByteStream, BytesOrText } from './byte-stream.js'
import { NO_BYTES } from './bytes.js'
import type { ExchangeFacts, ExchangeSide } from './exchange-facts.js'
import type { RelayContext } from './relay-context.js'
import {
  type BodyCoding,
  eventsOf,
  followSpans,
  framesOf,
  NO_WEBSOCKET,
  opensWebSocket,
  passBody,
  planResponse,
  type ResponsePlan,
  type ResponseRewrite,
  removeBlanks,
} from './response-plan.js'

interface ResponseExchange {
  readonly facts: ExchangeFacts
  /** The client's connection ends after this response. */
  readonly isLast: boolean
  readonly cookieLine: string
  /** As {@link ByteStream.write} of the client. */
  send(bytes: BytesOrText): void
  becomeTunnel(): void
  finish(): void
  fail(status: number, reason: string): void
  serverFails(status: number, reason: string): void
  refuseResponse(error: unknown): void
}

/** Sends a server's response to the client: rewrites the heads and forwards the body. */
export class ServerResponse {
  #reader: ResponseReader | null = null
  /** Not null: the relay ends the response after the current event. */
  #lastEvent: LastEvent | null = null
  readonly #relay: RelayContext
  readonly #side: ExchangeSide
  readonly #exchange: ResponseExchange

  constructor(relay: RelayContext, side: ExchangeSide, exchange: ResponseExchange) {
    this.#relay = relay
    this.#side = side
    this.#exchange = exchange
  }

  get pending(): Buffer {
    return this.#reader?.pending ?? NO_BYTES
  }

  get isEnding(): boolean {
    return this.#lastEvent !== null
  }

  /** Reads any interim (1xx) heads and the final head. Returns whether at least one head is complete, because each complete head restarts the timeout. */
  readHeads(chunk: Buffer, to: number): boolean {
    let headRead = false
    const { readers } = this.#relay
    const { facts } = this.#exchange
    for (let at = 0; at < to; ) {
      const reader = this.#reader ?? readers.acquireResponse()
      let head: ResponseHead | null
      try {
        head = reader.read(chunk, at, to)
      } catch (error) {
        this.#exchange.refuseResponse(error)
        return false
      }
      if (head === null) {
        this.#reader = reader
        return headRead
      }
      at += reader.consumed
      this.#reader = null
      headRead = true
      readers.releaseResponse(reader)
      if (!head.interim) {
        this.#startResponse(head, chunk, at, to)
        return true
      }
      if (!facts.http10) this.#exchange.send(writeResponse(head).toString())
    }
    return headRead
  }

  #startResponse(head: ResponseHead, chunk: Buffer, at: number, to: number): void {
    const exchange = this.#exchange
    const { facts } = exchange
    let plan: ResponsePlan
    let end = at
    facts.closeClient = exchange.isLast
    const accept = this.#side.client.webSocketAccept ?? null
    if (accept !== null && head.status < 300 && !opensWebSocket(head, accept)) {
      // No failure of the server: it may know no WebSockets, and any client can ask it for one.
      exchange.fail(502, NO_WEBSOCKET)
      return
    }
    try {
      plan = planResponse(head, facts, this.#rewriteOf(head))
      if (plan.body?.kind === 'tunnel' && facts.requestBody !== null) {
        exchange.serverFails(502, 'switched-too-early')
        return
      }
      facts.events = eventsOf(head, plan)
      if (plan.body !== null && plan.coding === 'as-is') {
        const spans = facts.events === null ? undefined : []
        end += plan.body.advance(chunk, at, to, spans)
        if (spans !== undefined) followSpans(facts.events!, chunk, spans)
      }
    } catch (error) {
      exchange.refuseResponse(error)
      return
    }
    facts.answer = null
    facts.status = head.status
    facts.closeClient = plan.close
    facts.reusable = plan.reusable
    facts.coding = plan.coding
    const blanks = plan.body?.blanks ?? null
    if (blanks === null) this.#send(plan.head, chunk, at, end)
    else this.#send(plan.head, removeBlanks(plan.body!, chunk, at, end))
    if (plan.body?.kind === 'tunnel') {
      facts.frames = framesOf(head)
      facts.frames?.follow(chunk, at, end)
      exchange.becomeTunnel()
      return
    }
    facts.phase = 'answering'
    facts.responseBody = plan.body
    if (plan.body !== null && !plan.body.done) {
      this.readBody(chunk, end, to)
      return
    }
    if (end < to) facts.reusable = false
    exchange.finish()
  }

  #rewriteOf(head: ResponseHead): ResponseRewrite {
    const { facts, cookieLine } = this.#exchange
    const rules = facts.answer
    const lines = this.#relay.gateway?.responseLines(head) ?? ''
    return {
      // Most responses have only lines that are bytes already.
      extra: cookieLine === '' ? lines : lines.toString('latin1') + cookieLine,
      edits: this.#relay.fields.response(rules?.fields),
      proxyAuthentication: rules?.proxyAuthentication,
    }
  }

  #send({ bytes, length }: HeadWriter, chunk: Buffer, from = 0, to: number = chunk.length): void {
    this.#exchange.facts.bytesSent += length + to - from
    this.#side.client.write(bytes, 0, length, chunk, from, to)
  }

  readBody(chunk: Buffer, at: number, to: number): void {
    const { facts } = this.#exchange
    const body = facts.responseBody!
    const { client } = this.#side
    let end = at
    let last = false
    try {
      if (this.#lastEvent === null) end = passBody(client, facts.coding, body, chunk, at, facts.events, to)
      else {
        last = this.#lastEvent.pass(client, body, facts.events!, chunk, at, to)
        end = to
      }
    } catch (error) {
      this.#exchange.refuseResponse(error)
      return
    }
    facts.bytesSent += end - at
    if (last) {
      facts.closeClient = true
      facts.reusable = false
    } else if (!body.done) return
    // The server has sent bytes after the end of the body. On a reused connection the relay would take them for the next response.
    if (end < to) facts.reusable = false
    this.#exchange.finish()
  }

  /** How many of the next bytes of the body go to the client as they are. */
  get unseen(): number {
    const { phase, coding, events, responseBody } = this.#exchange.facts
    if (phase !== 'answering' || coding !== 'as-is' || events !== null || this.#lastEvent !== null) return 0
    return responseBody?.unseen ?? 0
  }

  /** The client has so many bytes of {@link unseen}. */
  passed(bytes: number): void {
    const body = this.#exchange.facts.responseBody!
    body.skip(bytes)
    if (body.done) this.#exchange.finish()
  }

  /** Handles FIN of the server during the body. */
  upstreamEnded(): void {
    const { facts } = this.#exchange
    if (!facts.responseBody!.mayEnd) {
      this.#exchange.serverFails(502, 'upstream-closed')
      return
    }
    if (facts.coding === 'chunks') this.#exchange.send(LAST_CHUNK)
    facts.reusable = false
    this.#exchange.finish()
  }

  /** Ends a stream of events after the current event, with `text` as the last event. Idempotent. */
  endAfterEvent(text: string): void {
    if (this.#lastEvent !== null) return
    this.#lastEvent = new LastEvent(text, this.#exchange.facts.coding)
    this.readBody(NO_BYTES, 0, 0)
  }
}

/** Ends a stream of events before the server does, with the configured last event. */
export class LastEvent {
  readonly #event: Buffer
  #coding: BodyCoding

  constructor(event: string, coding: BodyCoding) {
    this.#event = Buffer.from(eventText(event))
    this.#coding = coding
  }

  /** Forwards the body until the current event ends, then sends the last event and ends the body. Returns whether the body has ended. Throws `Http1Refusal`. */
  pass(
    to: ByteStream,
    body: Framing,
    events: EventTracker,
    chunk: Buffer,
    from: number,
    stop: number = chunk.length,
  ): boolean {
    let at = from
    if (this.#coding === 'as-is') {
      // The client already has the size of the server's current chunk, so the relay must complete this chunk. Then the relay sends its own chunks.
      if (!body.betweenChunks) {
        const spans: number[] = []
        at += body.advanceChunk(chunk, from, stop, spans)
        if (at > from) to.write(removeBlanks(body, chunk, from, at))
        followSpans(events, chunk, spans)
        if (body.done || !body.betweenChunks) return body.done
      }
      this.#coding = 'chunks'
    }
    if (events.between) return this.#end(to, this.#event)
    for (const piece of takeContent(body, chunk, at, stop).content) {
      const end = events.followEvent(piece, 0, piece.length)
      this.#write(to, piece.subarray(0, end))
      if (events.between) return this.#end(to, this.#event)
    }
    return body.done && this.#end(to, Buffer.alloc(0))
  }

  #end(to: ByteStream, event: Buffer): true {
    this.#write(to, event)
    if (this.#coding === 'chunks') to.write(LAST_CHUNK)
    return true
  }

  #write(to: ByteStream, content: Buffer): void {
    if (content.length === 0) return
    to.write(this.#coding === 'chunks' ? Buffer.concat(encodeChunk(content)) : content)
  }
}
