import {
  encodeChunk,
  type Framing,
  type HeadWriter,
  type ResponseHead,
  type ResponseRewriteOptions,
  type RewriteOptions,
  takeContent,
  writeResponse,
} from '../http1/index.js'
import { EventTracker, FrameTracker } from './boundaries.js'
import type { ByteStream } from './byte-stream.js'

/** How the client gets a body. `as-is`: unchanged. `content`: without chunks, ended by FIN (for HTTP/1.0). `chunks`: in the relay's own chunks. */
export type BodyCoding = 'as-is' | 'content' | 'chunks'

export interface ClientRequest {
  method: string
  upgrade: boolean
  http10: boolean
  closeClient: boolean
}

export interface ResponsePlan {
  /** Valid until the next head is written. */
  head: HeadWriter
  body: Framing | null
  coding: BodyCoding
  /** The client's connection ends after this response, as `head` announces. */
  close: boolean
  /** The connection to the server may be reused after the body. */
  reusable: boolean
}

export type ResponseRewrite = Pick<RewriteOptions, 'edits' | 'extra' | 'proxyAuthentication'>

/** Plans how to send a final (not 1xx) response to the client. Throws `Http1Refusal` if the head does not fit the request. */
export function planResponse(
  head: ResponseHead,
  request: ClientRequest,
  rewrite: ResponseRewrite = {},
): ResponsePlan {
  const body = head.framing(request)
  if (body.kind === 'tunnel') {
    const written = clientHead(head, rewrite, 'close', 'upgrade')
    return { head: written, body, coding: 'as-is', close: true, reusable: false }
  }
  let coding: BodyCoding = 'as-is'
  let close = request.closeClient
  if (request.http10 && (body.kind === 'chunked' || body.kind === 'until-close')) {
    coding = 'content'
    close = true
  } else if (body.kind === 'until-close') coding = 'chunks'
  const connection = close ? 'close' : request.http10 ? 'keep-alive' : undefined
  const framing = coding === 'chunks' ? 'chunked' : coding === 'content' ? 'close' : 'keep'
  const hidden = framing === 'keep' && request.http10 && head.chunked
  return {
    head: clientHead(head, rewrite, hidden ? 'close' : framing, connection),
    body: body.done ? null : body,
    coding,
    close,
    reusable: head.keepAlive && body.kind !== 'until-close',
  }
}

function clientHead(
  head: ResponseHead,
  { edits, extra, proxyAuthentication }: ResponseRewrite,
  body: ResponseRewriteOptions['body'],
  connection: RewriteOptions['connection'],
): HeadWriter {
  return writeResponse(head, { edits, extra, proxyAuthentication, body, connection })
}

/** Returns a tracker for a stream of events without Content-Length, so that the relay can end the stream between two events. Null for any other body. */
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

/** The reason of the relay's response to a client that waits for a WebSocket over HTTP/2, and whose server or route opens none. */
export const NO_WEBSOCKET = 'no-websocket'

/** Reports whether the head of a server's final response opens a WebSocket (RFC 6455, 4.1). */
export function opensWebSocket({ status, upgrade, fields }: ResponseHead, accept: string): boolean {
  return (
    status === 101 && upgrade?.toLowerCase() === 'websocket' && fields.get('sec-websocket-accept') === accept
  )
}

/** `spans`: start and end of each piece of content in `chunk`. */
export function followSpans(events: EventTracker, chunk: Buffer, spans: readonly number[]): void {
  for (let i = 0; i < spans.length; i += 2) events.follow(chunk, spans[i]!, spans[i + 1]!)
}

/** Sends the part of `chunk[from, stop)` that belongs to the body. Returns where this part ends. Throws `Http1Refusal`. */
export function passBody(
  to: Pick<ByteStream, 'write'>,
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
    else to.write(removeBlanks(body, chunk, from, end))
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

/** Returns `chunk[from, to)` without the blanks after chunk sizes. */
export function removeBlanks(body: Framing, chunk: Buffer, from: number, to: number): Buffer {
  const blanks = body.takeBlanks()
  if (blanks === null) return chunk.subarray(from, to)
  const pieces: Buffer[] = []
  for (const blank of [...blanks, to]) {
    pieces.push(chunk.subarray(from, blank))
    from = blank + 1
  }
  return Buffer.concat(pieces)
}
