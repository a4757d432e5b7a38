import {
  encodeChunk,
  type FieldEdits,
  type Framing,
  LAST_CHUNK,
  type ResponseHead,
  rewriteResponse,
  takeContent,
} from '../http1/index.js'
import type { ByteStream } from './byte-stream.js'
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
  close: boolean
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

/** What to do with a final response head. Throws `Http1Refusal` for one that does not answer the request. */
export function planResponse(head: ResponseHead, asked: AskedBy, edits?: FieldEdits): ResponsePlan {
  const body = head.framing(asked)
  if (body.kind === 'tunnel') {
    const text = rewriteResponse(head, { body: 'close', connection: 'upgrade', ...(edits && { edits }) })
    return { text, body, coding: 'as-is', close: true, reusable: false }
  }
  let coding: BodyCoding = 'as-is'
  let { close } = asked
  if (asked.http10 && (body.kind === 'chunked' || body.kind === 'until-close')) {
    coding = 'content'
    close = true
  } else if (body.kind === 'until-close') coding = 'chunks'
  const connection = close ? 'close' : asked.http10 ? 'keep-alive' : undefined
  const text = rewriteResponse(head, {
    body:
      coding === 'as-is'
        ? asked.http10 && head.chunked
          ? 'close'
          : 'keep'
        : coding === 'chunks'
          ? 'chunked'
          : 'close',
    ...(connection && { connection }),
    ...(edits && { edits }),
  })
  return {
    text,
    body: body.done ? null : body,
    coding,
    close,
    reusable: head.keepAlive && body.kind !== 'until-close',
  }
}

/** Passes the body's part of `chunk[from, …)` on; returns where it ends. Throws `Http1Refusal`. */
export function passBody(
  to: ByteStream,
  coding: BodyCoding,
  body: Framing,
  chunk: Buffer,
  from: number,
): number {
  if (coding === 'as-is') {
    const end = from + body.advance(chunk, from, chunk.length)
    if (end > from) to.write(copied(chunk, from, end))
    return end
  }
  if (coding === 'content') {
    const { taken, content } = takeContent(body, chunk, from)
    if (content.length > 0) to.write(Buffer.concat(content))
    return from + taken
  }
  if (chunk.length > from) to.write(Buffer.concat(encodeChunk(chunk.subarray(from))))
  return chunk.length
}

/** What follows a body that ended with the server's connection. */
export function bodyEnd(coding: BodyCoding): Buffer | null {
  return coding === 'chunks' ? LAST_CHUNK : null
}
