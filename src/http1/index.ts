/**
 * HTTP/1.0 and 1.1 for a relay (RFC 9110, RFC 9112): strict readers of heads, trackers that find the end of a body, writers of heads. Uses neither
 * I/O nor a clock. Refuses every message that two servers could read differently.
 *
 * A head is a view of the bytes from which it was read: valid until these bytes are overwritten or its reader reads again. A reader stores only offsets.
 * {@link writeRequest} and {@link writeResponse} copy the forwarded bytes. Most strings are created only when a caller asks for them.
 */

export type { FramingKind, FramingRecord } from './chunked.js'
export { CERTIFICATE_FIELDS, FORGEABLE_FIELDS, MAX_EXTENSION_BYTES, MAX_TRAILER_BYTES } from './chunked.js'
export { type FieldEditOptions, FieldEdits, fieldLine } from './field-edits.js'
export { FieldId, HOP_BY_HOP } from './field-names.js'
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
  writeRequest,
  writeResponse,
} from './rewrite.js'
