import {
  encodeChunk,
  type Framing,
  LAST_CHUNK,
  type ResponseHead,
  type RewriteOptions,
  rewriteResponse,
  takeContent,
} from '../http1/index.js'
import { EventTracker, FrameTracker } from './boundaries/index.js'
import type { ByteStream, Bytes } from './byte-stream.js'
import { copied } from './bytes.js'

/**
 * How a response's body goes on to the client: as it came; as bare content up to the end of the connection (HTTP/1.0
 * clients know no chunks); in chunks made here (a body that ends with the server's connection).
 */
export type BodyCoding = 'as-is' | 'content' | 'chunks'

/** What the request and the connection say about the response. */
export interface AskedBy {
  method: string
  /** The request named a protocol to switch to. */
  upgrade: boolean
  http10: boolean
  /** The client's connection cannot be used again. */
  closeClient: boolean
}

export interface ResponsePlan {
  /** The head for the client. */
  text: string
  /** Null if there is no body (left). */
  body: Framing | null
  coding: BodyCoding
  /** The client's connection ends with this answer, and the head says so. */
  close: boolean
  /** The server's connection may be used again behind the body. */
  reusable: boolean
}

/** What of the head is written otherwise than the server wrote it. */
export type AnswerRewrite = Pick<RewriteOptions, 'edits' | 'extra' | 'proxyAuthentication'>

/** What to do with a final response head. Throws `Http1Refusal` for one that does not answer the request. */
export function planResponse(head: ResponseHead, asked: AskedBy, rewrite: AnswerRewrite = {}): ResponsePlan {
  const body = head.framing(asked)
  if (body.kind === 'tunnel') {
    const text = rewriteResponse(head, { ...rewrite, body: 'close', connection: 'upgrade' })
    return { text, body, coding: 'as-is', close: true, reusable: false }
  }
  let coding: BodyCoding = 'as-is'
  let close = asked.closeClient
  if (asked.http10 && (body.kind === 'chunked' || body.kind === 'until-close')) {
    coding = 'content'
    close = true
  } else if (body.kind === 'until-close') coding = 'chunks'
  const connection = close ? 'close' : asked.http10 ? 'keep-alive' : undefined
  const text = rewriteResponse(head, {
    ...rewrite,
    body:
      coding === 'as-is'
        ? asked.http10 && head.chunked
          ? 'close'
          : 'keep'
        : coding === 'chunks'
          ? 'chunked'
          : 'close',
    ...(connection && { connection }),
  })
  return {
    text,
    body: body.done ? null : body,
    coding,
    close,
    reusable: head.keepAlive && body.kind !== 'until-close',
  }
}

/** An answer that can be ended between two events: nothing tells where it ends but its end. */
export function eventsOf(head: ResponseHead, { body }: ResponsePlan): EventTracker | null {
  if (body?.kind !== 'chunked' && body?.kind !== 'until-close') return null
  const type = head.fields.get('content-type') ?? ''
  if (!/^text\/event-stream[\s;]*(?:$|;)/i.test(type)) return null
  const coding = head.fields.get('content-encoding') ?? ''
  return coding === '' || coding.toLowerCase() === 'identity' ? new EventTracker() : null
}

/** The tunnel of a WebSocket. */
export function framesOf(head: ResponseHead): FrameTracker | null {
  return head.status === 101 && head.upgrade?.toLowerCase() === 'websocket' ? new FrameTracker() : null
}

/** `spans`: start, end, start, end, … of content in `chunk`. */
export function followSpans(events: EventTracker, chunk: Buffer, spans: readonly number[]): void {
  for (let i = 0; i < spans.length; i += 2) events.follow(chunk, spans[i]!, spans[i + 1]!)
}

/** Passes the body's part of `chunk[from, …)` on; returns where it ends. Throws `Http1Refusal`. */
export function passBody(
  to: ByteStream,
  coding: BodyCoding,
  body: Framing,
  chunk: Buffer,
  from: number,
  events: EventTracker | null,
): number {
  if (coding === 'as-is') {
    const spans = events === null ? undefined : []
    const end = from + body.advance(chunk, from, chunk.length, spans)
    if (spans !== undefined) followSpans(events!, chunk, spans)
    if (end > from) to.write(clean(body, chunk, from, end))
    return end
  }
  if (coding === 'content') {
    const { taken, content } = takeContent(body, chunk, from)
    for (const piece of content) events?.follow(piece, 0, piece.length)
    if (content.length > 0) to.write(Buffer.concat(content))
    return from + taken
  }
  events?.follow(chunk, from, chunk.length)
  if (chunk.length > from) to.write(Buffer.concat(encodeChunk(chunk.subarray(from))))
  return chunk.length
}

/** What of a body that is passed on as it comes stands in `chunk[from, to)`, without the blanks behind its chunk sizes. */
export function clean(body: Framing, chunk: Buffer, from: number, to: number): Bytes {
  const blanks = body.takeBlanks()
  if (blanks === null) return copied(chunk, from, to)
  const pieces: Buffer[] = []
  for (const blank of [...blanks, to]) {
    pieces.push(chunk.subarray(from, blank))
    from = blank + 1
  }
  return Buffer.concat(pieces)
}

/** What follows a body that ended with the server's connection. */
export function bodyEnd(coding: BodyCoding): Buffer | null {
  return coding === 'chunks' ? LAST_CHUNK : null
}
