import type { Difference } from './compare.js'
import { NODE_METHODS } from './node-parser.js'
import { type Implementation, readWithOurs } from './our-parser.js'
import type { Input, Message } from './transcript.js'

/**
 * Every way in which our reading may differ from that of Node's parser. Whatever the fuzzing finds beside these is a
 * failure: never add one without a reason that a reader of RFC 9112 would accept.
 */
export interface AllowedDifference {
  name: string
  why: string
  applies(difference: Difference, http1: Implementation): boolean
  /** Shows the difference, unless this Node's parser has come to agree with ours. */
  example: Input
}

const request = (text: string): Input => ({ side: 'request', text, method: 'GET' })
const response = (text: string, method: 'GET' | 'HEAD' = 'GET'): Input => ({ side: 'response', text, method })
const get = (...lines: string[]): Input =>
  request(`GET / HTTP/1.1\r\nHost: a\r\n${lines.map(l => `${l}\r\n`).join('')}\r\n`)
const chunked = (body: string): Input =>
  request(`POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n${body}`)

/** The line of the input in which ours was refused. */
function refusedLine({ input, ours }: Difference): string {
  const start = input.text.slice(0, ours.offset!).lastIndexOf('\n') + 1
  return input.text.slice(start).split(/[\r\n]/, 1)[0]!
}

/** The part of the head before the byte that was refused. */
function headBefore({ input, ours }: Difference): string {
  return input.text.slice(ours.headStart!, ours.offset!)
}

function refusedByte({ input, ours }: Difference): string {
  return input.text[ours.offset!]!
}

/** We refuse, Node's parser does not. */
function stricter(
  reason: string,
  name: string,
  why: string,
  example: Input,
  holds: (difference: Difference) => boolean = () => true,
): AllowedDifference {
  return { name, why, example, applies: d => d.kind === 'stricter' && d.detail === reason && holds(d) }
}

/** The message of ours in which, or behind which, the readings part. */
function oursAt({ ours, index }: Difference): Message | undefined {
  return ours.messages[index] ?? ours.open ?? ours.messages[index - 1]
}

/** The head under way, as if it ended here. */
function completed({ input, index }: Difference, http1: Implementation): Message | undefined {
  const { messages, open } = readWithOurs(http1, { ...input, text: `${input.text}\r\n\r\n` })
  return messages[index] ?? open ?? undefined
}

/** The values of Content-Length, in however many lines. */
function lengths(message: Message | undefined): string[] {
  const lines = message?.fields.filter(line => /^content-length:/i.test(line)) ?? []
  return lines.flatMap(line => line.slice(line.indexOf(':') + 1).split(',')).map(each => each.trim())
}

const isChunked = (message: Message | undefined) =>
  message?.fields.some(line => /^transfer-encoding: chunked$/i.test(line)) === true

const inResponse = (d: Difference) => d.input.side === 'response'

export const ALLOWED_DIFFERENCES: readonly AllowedDifference[] = [
  {
    name: 'a method that Node does not know',
    why: 'a proxy passes on methods it does not know (RFC 9110, 9.1); no framing depends on them',
    example: request('BREW / HTTP/1.1\r\nHost: a\r\n\r\n'),
    applies(d, http1) {
      if (d.kind !== 'laxer' || d.detail !== 'HPE_INVALID_METHOD') return false
      const message = d.ours.messages[d.index] ?? d.ours.open ?? completed(d, http1)
      return message !== undefined && !NODE_METHODS.has(message.start.split(' ', 1)[0]!)
    },
  },
  {
    name: 'bytes above ASCII in a query',
    why: 'clients send UTF-8 as it is, nginx and HAProxy pass it on; the path, by which hops route, has none',
    example: request('GET /?q=\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n'),
    applies(d, http1) {
      if (d.kind !== 'laxer' || d.detail !== 'HPE_INVALID_URL') return false
      const message = d.ours.messages[d.index] ?? d.ours.open ?? completed(d, http1)
      return message === undefined
        ? /^[A-Z-]+ [^? ]*\?[!-~\x80-\xff]*$/m.test(d.input.text)
        : /\?.*[\x80-\xff]/.test(message.start)
    },
  },
  {
    name: 'a head that is judged when it is complete',
    why: 'rules about a whole head are checked at its end; until then nothing is passed on either',
    example: request('GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n'),
    applies(d, http1) {
      if (d.kind !== 'laxer' || d.ours.verdict !== 'incomplete' || d.ours.open) return false
      return readWithOurs(http1, { ...d.input, text: `${d.input.text}\r\n\r\n` }).verdict === 'refused'
    },
  },
  {
    name: 'an answer to HEAD without length keeps the connection',
    why: 'it has no body, so its end is known (RFC 9112, 6.3); Node says at that point that it ends with the connection',
    example: response('HTTP/1.1 200 OK\r\n\r\n', 'HEAD'),
    applies: d =>
      inResponse(d) &&
      d.input.method === 'HEAD' &&
      (d.kind === 'message' ? d.detail === 'keepAlive' : d.kind === 'sequence' && d.ours.left === 'closing'),
  },
  {
    name: 'a tab behind an option of Connection',
    why: 'white space includes tabs (RFC 9110, 5.6.3); Node does not recognise the option then',
    example: get('Connection: close\t'),
    applies: d =>
      (d.kind === 'sequence' || (d.kind === 'message' && ['keepAlive', 'tunnel'].includes(d.detail))) &&
      /^connection:[^\r\n]*\t/im.test(d.input.text),
  },
  {
    name: 'Upgrade in HTTP/1.0 is ignored',
    why: 'a server must ignore it there (RFC 9110, 7.8)',
    example: request('GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n'),
    applies: d => d.kind === 'message' && d.detail === 'tunnel' && d.ours.messages[d.index]!.minor === 0,
  },
  {
    name: 'Upgrade: h2c is ignored',
    why: 'a server may ignore it (RFC 9110, 7.8), and a tunnel for HTTP/2 would carry requests past the routes',
    example: get('Connection: upgrade', 'Upgrade: h2c'),
    applies: d =>
      d.kind === 'message' &&
      d.detail === 'tunnel' &&
      d.ours.messages[d.index]!.fields.some(line => /^upgrade: (h2c)?$/i.test(line)),
  },
  {
    name: 'close wins over keep-alive in HTTP/1.0',
    why: 'close is looked at first (RFC 9112, 9.3)',
    example: request('GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n'),
    applies: d =>
      d.kind === 'message' &&
      d.detail === 'keepAlive' &&
      !d.ours.messages[d.index]!.keepAlive &&
      d.ours.messages[d.index]!.fields.filter(line => /^connection: /i.test(line)).some(line =>
        /\bclose\b/i.test(line),
      ),
  },
  {
    name: 'an error that Node keeps to itself',
    why: 'its parser reports none once a message asks for an upgrade; one in the last byte cannot be seen at all',
    example: request(
      'GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n',
    ),
    applies: d => d.kind === 'stricter' && d.node.verdict === 'incomplete' && d.ours.open?.tunnel === true,
  },
  {
    name: 'an answer that says the same length more than once',
    why: 'a recipient may take it as said once (RFC 9112, 6.3); the connection is not used again',
    example: response('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\n\r\nok'),
    applies(d, http1) {
      // Node's parser judges the line before the head is complete.
      const [first, ...others] = lengths(oursAt(d) ?? completed(d, http1))
      return (
        inResponse(d) &&
        ['laxer', 'message', 'sequence'].includes(d.kind) &&
        others.length > 0 &&
        others.every(other => other === first)
      )
    },
  },
  {
    name: 'a 204 with a length or coding, or a 304 with a coding',
    why: 'they have no body, whatever they say (RFC 9112, 6.3); the connection is not used again',
    example: response('HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc'),
    applies(d) {
      const message = oursAt(d)
      const coded = isChunked(message)
      const odd =
        (message?.start.startsWith('204') && (coded || lengths(message).some(each => each !== '0'))) ||
        (message?.start.startsWith('304') && coded)
      return inResponse(d) && odd === true && message!.body === '' && d.kind !== 'split'
    },
  },
  {
    name: 'the connection behind a chunked answer of HTTP/1.0 is not used again',
    why: 'its framing is faulty (RFC 9112, 6.1): read to its end, and no further',
    example: response(
      'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n',
    ),
    applies: d =>
      inResponse(d) &&
      ['message', 'sequence'].includes(d.kind) &&
      oursAt(d)?.minor === 0 &&
      isChunked(oursAt(d)),
  },
  {
    name: 'blanks behind a chunk size of an answer',
    why: 'servers pad sizes that they write into a field of fixed width; no digit may follow, and they are not passed on',
    example: response('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n'),
    applies: d =>
      inResponse(d) &&
      d.kind === 'laxer' &&
      isChunked(oursAt(d)) &&
      /^[0-9a-f]+[ \t]+(?:[;\r]|$)/im.test(d.input.text),
  },
  stricter(
    'body-forbidden',
    'a 1xx with a length or coding',
    'a server must not send them (RFC 9112, 6.1; RFC 9110, 8.6); a hop that believes them sees another body',
    response('HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n'),
    inResponse,
  ),
  stricter(
    'switch-unasked',
    'a 101 without Upgrade',
    'a server must name the protocol it switches to (RFC 9110, 7.8)',
    response('HTTP/1.1 101 Switching Protocols\r\n\r\n'),
    inResponse,
  ),
  stricter(
    'chunk-extension',
    'a chunk extension that is empty',
    'it breaks the grammar (RFC 9112, 7.1.1)',
    chunked('5;a=\r\nhello\r\n0\r\n\r\n'),
    d => ';='.includes(d.input.text[d.ours.offset! - 1]!),
  ),
  stricter(
    'chunk-size',
    'a chunk size of more than 16 digits or above 2^53-1',
    'a recipient must expect such sizes and prevent overflows (RFC 9112, 7.1); Node counts to 2^64',
    chunked('20000000000000\r\n'),
    d => /^[0-9a-f]$/i.test(refusedByte(d)),
  ),
  stricter(
    'coding-in-http10',
    'Transfer-Encoding in an HTTP/1.0 request',
    'its framing is faulty (RFC 9112, 6.1)',
    request('POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
  ),
  stricter(
    'coding-invalid',
    'a coding that is unknown or empty, or a tab in Transfer-Encoding',
    '400 (RFC 9112, 6.3); Node lets it pass where chunked follows or a tunnel does, and reads such responses to the end',
    response('HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n'),
  ),
  stricter(
    'coding-unsupported',
    'codings before chunked',
    'a server may answer 501 (RFC 9112, 6.1); responses have them only when TE asks, which is never passed on',
    response('HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n'),
  ),
  stricter(
    'coding-repeated',
    'more than one Transfer-Encoding',
    'chunked must not be applied twice (RFC 9112, 6.1)',
    response('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
  ),
  stricter(
    'connect-with-body',
    'CONNECT with a length or coding',
    'it has no content (RFC 9110, 9.3.6): what follows would be body for one hop and tunnel for the next',
    request('CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\n'),
  ),
  stricter(
    'connection-invalid',
    'Connection with other things than tokens, or naming Host or a framing field',
    'a hop that obeys removes the field that the next one needs (RFC 9110, 7.6.1)',
    get('Connection: Content-Length'),
  ),
  stricter(
    'expectation-unknown',
    'an expectation other than 100-continue',
    'a server may answer 417 (RFC 9110, 10.1.1)',
    get('Expect: 200-maybe'),
  ),
  stricter(
    'field-lookalike',
    'Content_Length and Transfer_Encoding',
    'gateways that turn fields into variables cannot tell them from the framing fields',
    get('Content_Length: 5'),
  ),
  stricter(
    'host-invalid',
    'Host that is no name or address with an optional port',
    'a server must answer 400 (RFC 9112, 3.2); the parser of Node does not look at it',
    request('GET / HTTP/1.1\r\nHost: user@a\r\n\r\n'),
  ),
  stricter(
    'host-repeated',
    'more than one Host',
    'a server must answer 400 (RFC 9112, 3.2); the parser of Node does not look at it',
    get('Host: b'),
  ),
  stricter(
    'host-mismatch',
    'Host that differs from the authority of the target',
    'a client must send the same (RFC 9112, 3.2.2); hops that choose by the one and by the other part here',
    request('GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n'),
  ),
  stricter(
    'length-invalid',
    'Content-Length with leading zeros, above 2^53-1, or with a tab',
    'zeros read as octal by some; Node counts to 2^64; a tab there hides the field from some',
    get('Content-Length: 05'),
    d => /:[ \t]*(0[0-9]+|[0-9]{16,})[ \t]*$/.test(refusedLine(d)) || refusedLine(d).includes('\t'),
  ),
  stricter(
    'line-ending',
    'a bare CR or LF in front of a message or in its first line',
    'such a line ends with CRLF (RFC 9112, 2.2); Node reads HTTP/0.9 there, or lets it pass',
    request('\nGET / HTTP/1.1\r\nHost: a\r\n\r\n'),
    d => !headBefore(d).trimStart().includes('\n'),
  ),
  stricter(
    'request-line',
    'a request line with further spaces, without version, or behind more than one empty line',
    'the grammar allows none of it (RFC 9112, 3); HTTP/0.9 is not spoken',
    request('GET  / HTTP/1.1\r\nHost: a\r\n\r\n'),
    d => /^(\r\n?){0,2}$|^[A-Z-]+( +[!-~\x80-\xff]*)?( +HTTP.*)?$/.test(refusedLine(d)),
  ),
  stricter(
    'status-line',
    'a status above 599 or in other than three digits, or an empty line in front',
    'the grammar allows none of it (RFC 9112, 4)',
    response('HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n'),
    inResponse,
  ),
  stricter(
    'target-invalid',
    'a target with #, with a backslash or bytes above ASCII in its path, or of a form that the method does not allow',
    'no client sends them (RFC 9112, 3.2), and hops that route by path part here',
    request('GET * HTTP/1.1\r\nHost: a\r\n\r\n'),
  ),
  stricter(
    'trailer-forbidden',
    'a trailer that frames, routes or authenticates',
    'a sender must not generate them (RFC 9110, 6.5.1); hops that merge trailers into the head believe them',
    chunked('0\r\nHost: b\r\n\r\n'),
  ),
  stricter(
    'upgrade-invalid',
    'Upgrade that is no list of protocols',
    'the grammar does not allow it (RFC 9110, 7.8)',
    get('Connection: upgrade', 'Upgrade: (a)'),
  ),
  stricter(
    'version-unsupported',
    'HTTP/0.9 and HTTP/2.0 in an HTTP/1 head',
    'another major version has another syntax (RFC 9112, 2.3)',
    request('GET / HTTP/2.0\r\nHost: a\r\n\r\n'),
    d => /HTTP\/(0|2)\.[0-9]/.test(refusedLine(d)),
  ),
]

/** The allowed difference that this one is, undefined if it is none. */
export function allowedAs(difference: Difference, http1: Implementation): AllowedDifference | undefined {
  return ALLOWED_DIFFERENCES.find(allowed => allowed.applies(difference, http1))
}
