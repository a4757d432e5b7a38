/** Reasons for which the relay refuses an HTTP/1 message. Error codes are `ERR_FDB_HTTP1_` and the reason in capitals. */
export type Http1Reason =
  | 'request-line'
  | 'method-unsupported'
  | 'target-invalid'
  | 'target-too-long'
  | 'version-unsupported'
  | 'status-line'
  | 'line-ending'
  | 'field-name'
  | 'field-folded'
  | 'field-value'
  | 'field-lookalike'
  | 'head-too-large'
  | 'fields-too-many'
  | 'host-missing'
  | 'host-repeated'
  | 'host-invalid'
  | 'host-mismatch'
  | 'length-invalid'
  | 'length-repeated'
  | 'coding-invalid'
  | 'coding-unsupported'
  | 'coding-repeated'
  | 'coding-with-length'
  | 'coding-in-http10'
  | 'connection-invalid'
  | 'upgrade-invalid'
  | 'expectation-unknown'
  | 'connect-with-body'
  | 'body-forbidden'
  | 'switch-unasked'
  | 'chunk-size'
  | 'chunk-extension'
  | 'chunk-ending'
  | 'trailer-invalid'
  | 'trailer-forbidden'
  | 'trailers-too-large'

export type RequestRefusalStatus = 400 | 414 | 417 | 431 | 501 | 505

/** The response status and a description of each reason. */
export const REFUSALS: Readonly<Record<Http1Reason, readonly [RequestRefusalStatus, string]>> = {
  'request-line': [400, 'the request line is not "method SP target SP HTTP/1.x CRLF"'],
  'method-unsupported': [501, 'the method is longer than 32 characters or not made of A-Z, 0-9, "-" and "_"'],
  'target-invalid': [400, 'the request target has a byte or a form that the method does not allow'],
  'target-too-long': [414, 'the request target is longer than the limit'],
  'version-unsupported': [505, 'only HTTP/1.0 and HTTP/1.1 are supported'],
  'status-line': [
    400,
    'the status line is not "HTTP/1.x SP 3 digits SP reason CRLF" with a status of 100 to 599',
  ],
  'line-ending': [400, 'a CR without LF or a LF without CR'],
  'field-name': [400, 'a field name is empty or holds a byte that is no token character'],
  'field-folded': [400, 'a field line begins with white space (obs-fold)'],
  'field-value': [400, 'a field value holds a control character'],
  'field-lookalike': [400, 'a field name that some servers take for Content-Length or Transfer-Encoding'],
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
    'Connection is not a list of tokens, or names a field that frames or routes the message',
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
    'a chunk extension is not ";token" or ";token=value" (a token or a quoted string), or the extensions are longer than the limit',
  ],
  'chunk-ending': [400, 'chunk data is not followed by CRLF'],
  'trailer-invalid': [400, 'a trailer line is not "name: value CRLF"'],
  'trailer-forbidden': [400, 'a trailer field that frames, routes or authenticates a message'],
  'trailers-too-large': [431, 'the trailers are larger than the limit'],
}

type Capitals<Text extends string> = Text extends `${infer First}-${infer Rest}`
  ? `${Uppercase<First>}_${Capitals<Rest>}`
  : Uppercase<Text>

export type Http1Code = `ERR_FDB_HTTP1_${Capitals<Http1Reason>}`

export function http1Code(reason: Http1Reason): Http1Code {
  return `ERR_FDB_HTTP1_${reason.toUpperCase().replaceAll('-', '_')}` as Http1Code
}
