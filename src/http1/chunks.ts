import type { Framing } from './framing.js'

/** What ends a chunked body without trailers. */
export const LAST_CHUNK: Buffer = Buffer.from('0\r\n\r\n', 'latin1')

const CRLF = Buffer.from('\r\n', 'latin1')

/** One chunk around `content`, which is not copied. Nothing for no content: an empty chunk would end the body. */
export function encodeChunk(content: Buffer): Buffer[] {
  if (content.length === 0) return []
  return [Buffer.from(`${content.length.toString(16)}\r\n`, 'latin1'), content, CRLF]
}

/**
 * Follows a body like {@link Framing.advance} and returns the parts of `bytes` that are content, without chunk syntax
 * and trailers: for HTTP/1.0 clients, which know no chunks. `taken` is how many bytes belong to the message.
 */
export function takeContent(
  framing: Framing,
  bytes: Buffer,
  from = 0,
  to = bytes.length,
): { taken: number; content: Buffer[] } {
  const spans: number[] = []
  const taken = framing.advance(bytes, from, to, spans)
  const content: Buffer[] = []
  for (let i = 0; i < spans.length; i += 2) content.push(bytes.subarray(spans[i]!, spans[i + 1]!))
  return { taken, content }
}
