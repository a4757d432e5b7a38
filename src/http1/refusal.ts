import { FdbError } from '../errors.js'

/** Whose message it is. */
export type Side = 'request' | 'response'

/** Statuses with which a request can be refused before anything was forwarded. */
export type RefusalStatus = 400 | 414 | 417 | 431 | 501 | 502 | 505

/** Every reason for which a message is refused: the status that answers such a request, and a sentence. */
const REASONS = {
  'request-line': [400, 'the request line is not "method SP target SP HTTP/1.x CRLF"'],
  'method-unsupported': [501, 'the method is longer than 32 characters or not made of A-Z, 0-9, "-" and "_"'],
  'target-invalid': [400, 'the request target holds a byte or has a form that its method does not allow'],
  'target-too-long': [414, 'the request target is longer than the limit'],
  'version-unsupported': [505, 'only HTTP/1.0 and HTTP/1.1 are spoken here'],
  'status-line': [
    400,
    'the status line is not "HTTP/1.x SP 3 digits SP reason CRLF" with a status of 100 to 599',
  ],
  'line-ending': [400, 'a CR without LF or a LF without CR'],
  'field-name': [400, 'a field name is empty or holds a byte that is no token character'],
  'field-folded': [400, 'a field line begins with white space (obs-fold)'],
  'field-value': [400, 'a field value holds a control character'],
  'field-lookalike': [400, 'a field name that some servers read as a framing field'],
  'head-too-large': [431, 'the head is larger than the limit'],
  'fields-too-many': [431, 'the head has more field lines than the limit'],
  'host-missing': [400, 'an HTTP/1.1 request without Host'],
  'host-repeated': [400, 'more than one Host'],
  'host-invalid': [400, 'Host is not a name or address with an optional port'],
  'host-mismatch': [400, 'Host and the authority of the target differ'],
  'length-invalid': [400, 'Content-Length is not one decimal number up to 2^53-1 without leading zeros'],
  'length-repeated': [400, 'more than one Content-Length; in answers, several that differ'],
  'coding-invalid': [400, 'Transfer-Encoding does not end in "chunked"'],
  'coding-unsupported': [501, 'a Transfer-Encoding other than "chunked"'],
  'coding-repeated': [400, 'more than one Transfer-Encoding'],
  'coding-with-length': [400, 'Transfer-Encoding and Content-Length together'],
  'coding-in-http10': [400, 'Transfer-Encoding in an HTTP/1.0 request'],
  'connection-invalid': [
    400,
    'Connection is not a list of tokens or names a field that frames or routes the message',
  ],
  'upgrade-invalid': [400, 'Upgrade is not a list of protocols'],
  'expectation-unknown': [417, 'an Expect other than "100-continue"'],
  'connect-with-body': [400, 'a CONNECT request with Content-Length or Transfer-Encoding'],
  'body-forbidden': [400, 'a 1xx response that announces a body'],
  'switch-unasked': [400, 'a 101 response without Upgrade, or to a request that asked for no upgrade'],
  'chunk-size': [
    400,
    'a chunk size is not 1 to 16 hexadecimal digits up to 2^53-1, followed by CRLF or an extension',
  ],
  'chunk-extension': [
    400,
    'a chunk extension is not ";token" or ";token=token", or they are longer than the limit',
  ],
  'chunk-ending': [400, 'chunk data is not followed by CRLF'],
  'trailer-invalid': [400, 'a trailer line is not "name: value CRLF"'],
  'trailer-forbidden': [400, 'a trailer field that frames, routes or authenticates a message'],
  'trailers-too-large': [431, 'the trailers are larger than the limit'],
} as const satisfies Record<string, readonly [RefusalStatus, string]>

export type RefusalReason = keyof typeof REASONS

/** All reasons, for tests and documentation. */
export const REFUSAL_REASONS = Object.keys(REASONS) as RefusalReason[]

/**
 * A message that is not passed on. `code` is `ERR_FDB_HTTP1_` and the reason in capitals.
 *
 * After a refusal nothing on that connection can be trusted to begin a message: answer `status` if it was the head of
 * a request, then close.
 */
export class Http1Refusal extends FdbError {
  readonly reason: RefusalReason
  /** What to answer the client: for responses always 502. Once a body is under way it is too late for a status. */
  readonly status: RefusalStatus
  /**
   * Of a head: where in it, counted from its first byte, the bad byte or the bad line is; the same however the bytes
   * were split. Of a body: the index of the bad byte in the buffer that was being read.
   */
  readonly offset: number

  constructor(reason: RefusalReason, offset: number, side: Side, note = '') {
    const [status, sentence] = REASONS[reason]
    super(
      `ERR_FDB_HTTP1_${reason.toUpperCase().replaceAll('-', '_')}`,
      `${side} refused at byte ${offset}: ${sentence}${note}; close the connection`,
      { details: { reason, offset } },
    )
    this.reason = reason
    this.status = side === 'request' ? status : 502
    this.offset = offset
  }
}

export function requestRefusal(reason: RefusalReason, offset: number): Http1Refusal {
  return new Http1Refusal(reason, offset, 'request')
}
