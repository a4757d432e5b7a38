/**
 * HTTP/1.0 and 1.1 as a relay needs it (RFC 9110, RFC 9112): heads read strictly, bodies followed byte by byte, heads
 * rewritten. Pure: no I/O, no clock. Whatever two servers could read differently is refused.
 *
 * A head is a view of the bytes that it was read from, good until these are written over or its reader reads on: readers mark where its
 * parts are, {@link writeRequest} and {@link writeResponse} copy what goes on, and strings are made where they are asked for.
 */

export type { FramingKind, FramingRecord } from './chunked.js'
export { MOST_EXTENSION_BYTES, MOST_TRAILER_BYTES } from './chunked.js'
export { type FieldEditOptions, FieldEdits, fieldLine } from './field-edits.js'
export { FieldId } from './field-names.js'
export type { Fields } from './fields.js'
export { encodeChunk, Framing, LAST_CHUNK, takeContent } from './framing.js'
export { DEFAULT_HEAD_LIMITS, type HeadLimits } from './head-reader.js'
export type { HeadWriter } from './head-writer.js'
export { listElements } from './message.js'
export { reasonOf } from './reasons.js'
export { Http1Refusal, REFUSAL_REASONS, type RefusalReason, type Side } from './refusal.js'
export type { Authority, RequestHead } from './request-head.js'
export { isIdempotent } from './request-head.js'
export { RequestReader } from './request-reader.js'
export type { ResponseHead } from './response-head.js'
export { ResponseReader } from './response-reader.js'
export {
  keepHead,
  type ResponseRewriteOptions,
  type RewriteOptions,
  rewriteRequest,
  rewriteResponse,
  writeRequest,
  writeResponse,
} from './rewrite.js'
