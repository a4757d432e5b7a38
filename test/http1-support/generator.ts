import type { Random } from './random.js'
import type { Input } from './transcript.js'

/**
 * Streams that look like HTTP: one or two whole messages, most of them then damaged in one to three places, where two
 * parsers are likely to part. About half must stay acceptable, or nothing is compared but refusals.
 */
export function generate(random: Random): Input {
  const side = random.chance(70) ? 'request' : 'response'
  const method = side === 'response' && random.chance(15) ? 'HEAD' : 'GET'
  let text = side === 'request' ? request(random) : response(random, method)
  if (!random.chance(35)) {
    for (let damages = random.pick([1, 1, 1, 2, 3]); damages > 0; damages--) text = damage(random, text)
  }
  if (random.chance(80)) text += side === 'request' ? MARKER : RESPONSE_MARKER
  return { side, text, method }
}

/** Shows where the message before it ended. */
const MARKER = 'GET /marker HTTP/1.1\r\nHost: marker\r\n\r\n'
const RESPONSE_MARKER = 'HTTP/1.1 200 Marker\r\nContent-Length: 1\r\n\r\n!'

const METHODS = [
  'GET',
  'GET',
  'GET',
  'POST',
  'POST',
  'PUT',
  'DELETE',
  'HEAD',
  'OPTIONS',
  'PATCH',
  'M-SEARCH',
  'BREW',
]
const TARGETS = [
  '/',
  '/a',
  '/a/b?c=d',
  '/%41?%zz',
  '/a?b=[{|}]^`\\',
  '//a//b',
  "/;v=1,2!$&'()*+:@~",
  '/?',
  '/*',
]
const NAMES = [
  'Accept',
  'X-A',
  'x_b',
  'Cookie',
  'User-Agent',
  "!#$%&'*+-.^_`|~9z",
  'TE',
  'Trailer',
  'Keep-Alive',
]
const TRAILERS = [
  'X-Sum',
  'X-Sum',
  'x',
  'Server-Timing',
  'Server-Timing',
  'Host',
  'Content-Length',
  'Set-Cookie',
]
const VALUES = ['', 'x', '*/*', 'a b\tc', '"quoted, text"', 'caf\xe9 \xff', 'a:b;c=d, e', 'gzip', '0', '\x80']
const GAPS = [' ', ' ', ' ', '', '\t', '  ', ' \t ']

function field(random: Random, name: string, value: string): string {
  const cased = random.chance(70) ? name : [...name].map(c => (random.chance(50) ? swapCase(c) : c)).join('')
  return `${cased}:${random.pick(GAPS)}${value}${random.chance(85) ? '' : random.pick(GAPS)}\r\n`
}

/** Mostly without tabs, which are refused there. */
function framingField(random: Random, name: string, value: string): string {
  const line = field(random, name, value)
  return random.chance(4) ? line : line.replaceAll('\t', ' ')
}

function swapCase(character: string): string {
  const lower = character.toLowerCase()
  return character === lower ? character.toUpperCase() : lower
}

function someFields(random: Random): string[] {
  return Array.from({ length: random.int(4) }, () => field(random, random.pick(NAMES), random.pick(VALUES)))
}

function connection(random: Random): string[] {
  if (random.chance(75)) return []
  const options = ['close', 'keep-alive', 'Keep-Alive', 'X-A', 'TE', 'close, x', 'keep-alive , , TE', '']
  if (!random.chance(15)) return [field(random, 'Connection', random.pick(options))]
  return [
    field(random, 'Connection', 'Upgrade'),
    field(random, 'Upgrade', random.pick(['websocket', 'a/1, b', 'h2c'])),
  ]
}

interface Body {
  fields: string[]
  bytes: string
}

function body(random: Random, percentNone: number): Body {
  if (random.chance(percentNone)) return { fields: [], bytes: '' }
  const bytes = content(random)
  if (random.chance(45))
    return { fields: [framingField(random, 'Content-Length', String(bytes.length))], bytes }
  return {
    fields: [framingField(random, 'Transfer-Encoding', random.pick(['chunked', 'chunked', 'Chunked']))],
    bytes: chunks(random),
  }
}

function content(random: Random): string {
  const pieces = ['', 'x', 'hello', '0\r\n\r\n', '\r\n', MARKER, 'a'.repeat(random.int(40)), '\0\xff']
  return random.pick(pieces) + (random.chance(30) ? random.pick(pieces) : '')
}

function chunks(random: Random): string {
  let text = ''
  for (let count = random.int(4); count > 0; count--) {
    const data = content(random)
    if (data === '') continue
    const size = data.length.toString(16)
    text += `${random.chance(85) ? size : `00${size.toUpperCase()}`}${extension(random)}\r\n${data}\r\n`
  }
  text += `${random.chance(90) ? '0' : '000'}${extension(random)}\r\n`
  if (random.chance(25)) text += field(random, random.pick(TRAILERS), random.pick(VALUES))
  return `${text}\r\n`
}

function extension(random: Random): string {
  return random.chance(85) ? '' : random.pick([';a', ';a=b', ';a=b;c', ';chunk-signature=0123abcd'])
}

function request(random: Random): string {
  const minor = random.chance(88) ? 1 : 0
  const method = random.pick(METHODS)
  const host = random.pick([
    'a',
    'a.example',
    'a.example:80',
    'A.Example',
    '127.0.0.1:8080',
    '[::1]',
    '[::1]:81',
  ])
  let target = random.pick(TARGETS)
  if (random.chance(6)) target = `http://${host}${random.pick(['', '/', '/x?y', '?z'])}`
  if (method === 'OPTIONS' && random.chance(40)) target = '*'
  const length = minor === 1 ? body(random, 40) : body(random, 100)
  const fields = [...someFields(random), ...connection(random), ...length.fields]
  if (random.chance(4)) fields.push(field(random, 'Expect', '100-continue'))
  fields.push(field(random, 'Host', host))
  if (random.chance(2)) {
    return `CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n${random.pick(['', 'raw bytes', MARKER])}`
  }
  const empty = random.chance(4) ? '\r\n' : ''
  return `${empty}${method} ${target} HTTP/1.${minor}\r\n${random.shuffle(fields).join('')}\r\n${length.bytes}`
}

function response(random: Random, method: 'GET' | 'HEAD'): string {
  const status = random.pick([200, 200, 200, 201, 206, 301, 404, 500, 503, 204, 304, 100, 103])
  const reason = random.pick([' OK', ' ', ' Not Found', ' caf\xe9\t!', ''])
  const bodyless = status < 200 || status === 204
  const length = bodyless ? body(random, 100) : body(random, 10)
  const silent = bodyless || status === 304 || method === 'HEAD'
  const fields = random.shuffle([...someFields(random), ...connection(random), ...length.fields])
  const minor = length.fields.length > 0 && random.chance(92) ? 1 : random.int(2)
  return `HTTP/1.${minor} ${status}${reason}\r\n${fields.join('')}\r\n${silent ? '' : length.bytes}`
}

/** Bytes at which parsers part: controls, separators, digits, and what looks like one of them. */
const BYTES = [
  ...'\r\n \t\0\x01\x0b\x0c\x7f\x80\x85\xa0\xff:;,="()[]{}<>/\\@?#%&+-._~0159aAfFgGxXzZ',
  '\r\n',
  '\n',
  '\r',
  ' ',
]

const LINES = [
  'Content-Length: 5',
  'Content-Length: 0',
  'Content-Length: +5',
  'Content-Length: -1',
  'Content-Length: 5, 5',
  'Content-Length: 5, 6',
  'Content-Length: 5,5, 5',
  'Content-Length: 5 5',
  'Content-Length: 0x5',
  'Content-Length: 05',
  'Content-Length:',
  'Content-Length: 9007199254740993',
  'Content-Length: 18446744073709551621',
  'Content-Length : 5',
  'Content_Length: 5',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: CHUNKED',
  'Transfer-Encoding: xchunked',
  'Transfer-Encoding: chunkedx',
  'Transfer-Encoding: chunked, identity',
  'Transfer-Encoding: identity',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding: chunked, chunked',
  'Transfer-Encoding: chunked;q=1',
  'Transfer-Encoding: "chunked"',
  'Transfer-Encoding:\tchunked',
  'Transfer-Encoding: \x0bchunked',
  'Transfer-Encoding:',
  'Transfer-Encoding : chunked',
  'Transfer-Encoding\t: chunked',
  ' Transfer-Encoding: chunked',
  'X: y\r\n Transfer-Encoding: chunked',
  'Transfer-Encoding:\r\n chunked',
  'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
  'Host: other',
  'Host: user@a',
  'Host: a, b',
  'Host: a b',
  'Host:',
  'Connection: close',
  'Connection: keep-alive',
  'Connection: keep-alive, close',
  'Connection: Host',
  'Connection: Content-Length',
  'Connection: (x)',
  'Upgrade: h2c',
  'Expect: 200-maybe',
  'no colon',
  ': no name',
  'a b: c',
  'a\0: c',
  'a: \0',
  'a: b\rc',
  'a: b\nc: d',
  '\xe9: x',
]

const STARTS = [
  'GET / HTTP/1.2',
  'GET / HTTP/2.0',
  'GET / HTTP/0.9',
  'GET / HTTP/1.10',
  'GET / http/1.1',
  'GET / HTTP/1.1 ',
  'GET  / HTTP/1.1',
  'GET /\tHTTP/1.1',
  'GET / x HTTP/1.1',
  'GET /',
  ' GET / HTTP/1.1',
  'get / HTTP/1.1',
  'GET a HTTP/1.1',
  'GET * HTTP/1.1',
  'GET http://user@a/ HTTP/1.1',
  'GET http://a:b/ HTTP/1.1',
  'GET ftp://a/ HTTP/1.1',
  'GET http:/// HTTP/1.1',
  'CONNECT / HTTP/1.1',
  'CONNECT a HTTP/1.1',
  'PRI * HTTP/2.0',
  'HTTP/1.1 20 OK',
  'HTTP/1.1 2000 OK',
  'HTTP/1.1 099 OK',
  'HTTP/1.1 600 OK',
  'HTTP/1.1  200 OK',
  'HTTP/2.0 200 OK',
  'HTTP/1.1 200OK',
  'HTTP/1.1 101 Switching Protocols',
  'HTTP/1.1 204 No Content',
  'HTTP/1.1 304 Not Modified',
  'HTTP/1.1 100 Continue',
]

const CHUNK_LINES = [
  '+5',
  '-5',
  '0x5',
  '5 ',
  ' 5',
  '5\t',
  '0 5',
  '1\t0',
  '5 \t ',
  '5;',
  '5; a',
  '5;a=',
  '5;=a',
  '5;a="b"',
  '5;a\n',
  '0;a\n',
  '5;a\rb',
  '5_',
  '1_0',
  '',
  'g',
  '5\0',
  '5;\0',
  '5 ;a',
  '00000000000000005',
  'FFFFFFFFFFFFFFFF',
  '10000000000000005',
  '20000000000000',
  '0\n',
]

function damage(random: Random, text: string): string {
  switch (random.int(12)) {
    case 0:
      return spliceLine(random, text, random.pick(LINES), 0)
    case 1:
      return spliceLine(random, text, random.pick(LINES), 1)
    case 2:
      return text.replace(/^[^\r\n]*/, random.pick(STARTS))
    case 3:
      return replaceNth(
        random,
        text,
        /\r\n/g,
        random.pick(['\n', '\r', '\r\r\n', '\n\r', '\r\n ', '\r\n\r\n', '\r \n']),
      )
    case 4:
    case 7:
      return replaceNth(random, text, /(?<=\r\n)[0-9a-fA-F]+(?=[;\r])/g, random.pick(CHUNK_LINES))
    case 5:
      return replaceNth(
        random,
        text,
        /:[ \t]*/g,
        random.pick([' : ', '\t:', ':', ':\x0b', ':\r\n ', ';', '::', ':\0']),
      )
    case 6:
      return duplicateLine(random, text)
    default:
      return damageByte(random, text)
  }
}

function spliceLine(random: Random, text: string, line: string, replaced: 0 | 1): string {
  const lines = text.split('\r\n')
  const headLines = Math.max(1, lines.indexOf(''))
  lines.splice(1 + random.int(headLines), replaced, line)
  return lines.join('\r\n')
}

function duplicateLine(random: Random, text: string): string {
  const lines = text.split('\r\n')
  const at = random.int(lines.length)
  lines.splice(at, 0, lines[at]!)
  return lines.join('\r\n')
}

function replaceNth(random: Random, text: string, pattern: RegExp, by: string): string {
  const places = [...text.matchAll(pattern)]
  if (places.length === 0) return text
  const { index, 0: found } = random.pick(places)
  return text.slice(0, index) + by + text.slice(index + found.length)
}

function damageByte(random: Random, text: string): string {
  const at = random.int(text.length + 1)
  const bytes = random.pick(BYTES)
  return text.slice(0, at) + (random.chance(70) ? bytes : '') + text.slice(at + random.int(2))
}
