import {
  encodeChunk,
  type Framing,
  type HeadWriter,
  LAST_CHUNK,
  type ResponseHead,
  type ResponseRewriteOptions,
  type RewriteOptions,
  takeContent,
  writeResponse,
} from '../http1/index.js'
import { EventTracker, FrameTracker } from './boundaries.js'
import type { ByteStream } from './byte-stream.js'

/** How a body goes on to the client: as it came; as bare content up to the end of the connection (HTTP/1.0); in chunks made here. */
export type BodyCoding = 'as-is' | 'content' | 'chunks'

/** The facts of the request and the connection for the response. */
export interface ClientRequest {
  method: string
  /** The request named a protocol to switch to. */
  upgrade: boolean
  http10: boolean
  closeClient: boolean
}

export interface ResponsePlan {
  /** The head for the client. Good until the next head is written. */
  head: HeadWriter
  /** Null if there is no body (left). */
  body: Framing | null
  coding: BodyCoding
  /** The client's connection ends with this answer, and the head says so. */
  close: boolean
  /** The server's connection may be used again behind the body. */
  reusable: boolean
}

export type AnswerRewrite = Pick<RewriteOptions, 'edits' | 'extra' | 'proxyAuthentication'>

/** Plans a final response head. Throws `Http1Refusal` for one that does not answer the request. */
export function planResponse(
  head: ResponseHead,
  asked: ClientRequest,
  rewrite: AnswerRewrite = {},
): ResponsePlan {
  const body = head.framing(asked)
  if (body.kind === 'tunnel') {
    const written = answerHead(head, rewrite, 'close', 'upgrade')
    return { head: written, body, coding: 'as-is', close: true, reusable: false }
  }
  let coding: BodyCoding = 'as-is'
  let close = asked.closeClient
  if (asked.http10 && (body.kind === 'chunked' || body.kind === 'until-close')) {
    coding = 'content'
    close = true
  } else if (body.kind === 'until-close') coding = 'chunks'
  const connection = close ? 'close' : asked.http10 ? 'keep-alive' : undefined
  const framing = coding === 'chunks' ? 'chunked' : coding === 'content' ? 'close' : 'keep'
  const hidden = framing === 'keep' && asked.http10 && head.chunked
  return {
    head: answerHead(head, rewrite, hidden ? 'close' : framing, connection),
    body: body.done ? null : body,
    coding,
    close,
    reusable: head.keepAlive && body.kind !== 'until-close',
  }
}

function answerHead(
  head: ResponseHead,
  { edits, extra, proxyAuthentication }: AnswerRewrite,
  body: ResponseRewriteOptions['body'],
  connection: RewriteOptions['connection'],
): HeadWriter {
  return writeResponse(head, { edits, extra, proxyAuthentication, body, connection })
}

/** An answer that can be ended between two events: nothing tells where it ends but its end. */
export function eventsOf(head: ResponseHead, { body }: ResponsePlan): EventTracker | null {
  if (body?.kind !== 'chunked' && body?.kind !== 'until-close') return null
  const type = head.fields.get('content-type') ?? ''
  if (!/^text\/event-stream[\s;]*(?:$|;)/i.test(type)) return null
  const coding = head.fields.get('content-encoding') ?? ''
  return coding === '' || coding.toLowerCase() === 'identity' ? new EventTracker() : null
}

export function framesOf(head: ResponseHead): FrameTracker | null {
  return head.status === 101 && head.upgrade?.toLowerCase() === 'websocket' ? new FrameTracker() : null
}

/** `spans`: start, end, start, end, … of content in `chunk`. */
export function followSpans(events: EventTracker, chunk: Buffer, spans: readonly number[]): void {
  for (let i = 0; i < spans.length; i += 2) events.follow(chunk, spans[i]!, spans[i + 1]!)
}

/** Passes the body's part of `chunk[from, stop)` on; returns where it ends. Throws `Http1Refusal`. */
export function passBody(
  to: ByteStream,
  coding: BodyCoding,
  body: Framing,
  chunk: Buffer,
  from: number,
  events: EventTracker | null,
  stop: number = chunk.length,
): number {
  if (coding === 'as-is') {
    const spans = events === null ? undefined : []
    const end = from + body.advance(chunk, from, stop, spans)
    if (spans !== undefined) followSpans(events!, chunk, spans)
    if (end === from) return end
    if (body.blanks === null) to.write(chunk, from, end)
    else to.write(clean(body, chunk, from, end))
    return end
  }
  if (coding === 'content') {
    const { taken, content } = takeContent(body, chunk, from, stop)
    for (const piece of content) events?.follow(piece, 0, piece.length)
    if (content.length > 0) to.write(Buffer.concat(content))
    return from + taken
  }
  events?.follow(chunk, from, stop)
  if (stop > from) to.write(Buffer.concat(encodeChunk(chunk.subarray(from, stop))))
  return stop
}

/** Removes the blanks behind chunk sizes from the part `chunk[from, to)` of a body that is passed on as it comes. */
export function clean(body: Framing, chunk: Buffer, from: number, to: number): Buffer {
  const blanks = body.takeBlanks()
  if (blanks === null) return chunk.subarray(from, to)
  const pieces: Buffer[] = []
  for (const blank of [...blanks, to]) {
    pieces.push(chunk.subarray(from, blank))
    from = blank + 1
  }
  return Buffer.concat(pieces)
}

export function bodyEnd(coding: BodyCoding): Buffer | null {
  return coding === 'chunks' ? LAST_CHUNK : null
}
