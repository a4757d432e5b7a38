import { describe, expect, it } from 'vitest'
import * as http1 from '../../../src/http1/index.js'
import { readWithOurs } from '../../http1-support/our-parser.js'
import type { Transcript } from '../../http1-support/transcript.js'

/** Each form as an attacker sends it: bytes that one hop reads as one request and another as two. */
const SMUGGLED = 'GET /admin HTTP/1.1\r\nHost: a\r\n\r\n'

function read(text: string): Transcript {
  return readWithOurs(http1, { side: 'request', text, method: 'GET' })
}

function readResponse(text: string): Transcript {
  return readWithOurs(http1, { side: 'response', text, method: 'GET' })
}

const post = (lines: string[], body: string) =>
  ['POST / HTTP/1.1', 'Host: a', ...lines, '', body].join('\r\n')

/** Forms that must be refused without one message taken. */
const FORMS: Record<string, Record<string, string>> = {
  'CL.TE': {
    'Content-Length first': post(['Content-Length: 6', 'Transfer-Encoding: chunked'], '0\r\n\r\nG'),
    'Transfer-Encoding first': post(['Transfer-Encoding: chunked', 'Content-Length: 6'], '0\r\n\r\nG'),
    'a length of zero': post(['Content-Length: 0', 'Transfer-Encoding: chunked'], `0\r\n\r\n${SMUGGLED}`),
    'in small letters': post(['content-length: 6', 'transfer-encoding: chunked'], '0\r\n\r\nG'),
  },
  'TE.CL': {
    'a chunk that is a request': post(
      ['Content-Length: 4', 'Transfer-Encoding: chunked'],
      `20\r\n${SMUGGLED}\r\n0\r\n\r\n`,
    ),
    'an obscured coding': post(
      ['Content-Length: 4', 'Transfer-Encoding: xchunked'],
      `20\r\n${SMUGGLED}\r\n0\r\n\r\n`,
    ),
  },
  'TE.TE': Object.fromEntries(
    [
      'Transfer-Encoding: xchunked',
      'Transfer-Encoding : chunked',
      'Transfer-Encoding\t: chunked',
      'Transfer-Encoding:\tchunked',
      'Transfer-Encoding:\x0bchunked',
      'Transfer-Encoding:\x0cchunked',
      'Transfer-Encoding: \x00chunked',
      'Transfer-Encoding: chunked\x00',
      'Transfer-Encoding: chunked\x0b',
      'Transfer-Encoding: chunked\x0c',
      'Transfer-Encoding: chunked\x1f',
      'Transfer-Encoding: chunked\x7f',
      'Transfer-Encoding: \xffchunked',
      'Transfer-Encoding: \xa0chunked',
      'Transfer-Encoding: chunked\r\n ',
      'Transfer-Encoding:\r\n chunked',
      'Transfer-Encoding:\r\n\tchunked',
      'Transfer-Encoding:\n chunked',
      'Transfer-Encoding:\rchunked',
      'Transfer\r\n-Encoding: chunked',
      'X: y\r\n Transfer-Encoding: chunked',
      'X: y\nTransfer-Encoding: chunked',
      'X: y\rTransfer-Encoding: chunked',
      'X: y\r\n\x0bTransfer-Encoding: chunked',
      ' Transfer-Encoding: chunked',
      '\tTransfer-Encoding: chunked',
      '\0Transfer-Encoding: chunked',
      'Transfer-Encoding\0: chunked',
      'Transfer-Encoding\x0b: chunked',
      '"Transfer-Encoding": chunked',
      'Transfer Encoding: chunked',
      'Transfer_Encoding: chunked',
      'Transfer-Encoding; chunked',
      'Transfer-Encoding chunked',
      'Transfer-Encoding: "chunked"',
      "Transfer-Encoding: 'chunked'",
      'Transfer-Encoding: chunked, identity',
      'Transfer-Encoding: identity, chunked',
      'Transfer-Encoding: identity',
      'Transfer-Encoding: gzip, chunked',
      'Transfer-Encoding: chunked, chunked',
      'Transfer-Encoding: chunked,',
      'Transfer-Encoding: ,chunked',
      'Transfer-Encoding: chunked;x=y',
      'Transfer-Encoding: chunked x',
      'Transfer-Encoding: chu nked',
      'Transfer-Encoding: [chunked]',
      'Transfer-Encoding: chunk',
      'Transfer-Encoding:',
      'Transfer-Encoding: chunked\r\nTransfer-Encoding: x',
      'Transfer-Encoding: x\r\nTransfer-Encoding: chunked',
      'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
      'Transfer-Encoding: identity\r\nTransfer-Encoding: chunked',
    ].map(lines => [JSON.stringify(lines), post([lines], `0\r\n\r\n${SMUGGLED}`)]),
  ),
  'CL.CL': {
    'two that differ': post(['Content-Length: 0', 'Content-Length: 32'], SMUGGLED),
    'two that are the same': post(['Content-Length: 32', 'Content-Length: 32'], SMUGGLED),
    'a list': post(['Content-Length: 0, 32'], SMUGGLED),
    'a list of the same': post(['Content-Length: 32, 32'], SMUGGLED),
    'a sign': post(['Content-Length: +32'], SMUGGLED),
    'a minus': post(['Content-Length: -32'], SMUGGLED),
    octal: post(['Content-Length: 040'], SMUGGLED),
    hexadecimal: post(['Content-Length: 0x20'], SMUGGLED),
    'more than 64 bits': post(['Content-Length: 18446744073709551648'], SMUGGLED),
    'a space inside': post(['Content-Length: 3 2'], SMUGGLED),
    'a fold inside': post(['Content-Length: 3\r\n 2'], SMUGGLED),
    'a space before the colon': post(['Content-Length : 32'], SMUGGLED),
    'an underscore': post(['Content_Length: 32'], SMUGGLED),
    nothing: post(['Content-Length:'], SMUGGLED),
    'NUL behind it': post(['Content-Length: 32\0'], SMUGGLED),
    'a bare CR behind it': post(['Content-Length: 32\rX: y'], SMUGGLED),
    'a length in CONNECT': `CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 32\r\n\r\n${SMUGGLED}`,
  },
  'chunk tricks': Object.fromEntries(
    [
      '+20\r\n',
      '-1\r\n',
      '0x20\r\n',
      '2_0\r\n',
      '2 0\r\n',
      '20 \r\n',
      ' 20\r\n',
      '20\t\r\n',
      '20\x0b\r\n',
      '20\0\r\n',
      '20\n',
      '20\r',
      '20\r\r\n',
      '\r\n20\r\n',
      '20;\n',
      '20;a\nb\r\n',
      '20;a\rb\r\n',
      '20;a="\r\n"\r\n',
      '20; a\r\n',
      '20;a=\0\r\n',
      '20;;\r\n',
      '10000000000000020\r\n',
      'fffffffffffffff20\r\n',
      '20000000000000\r\n',
      '00000000000000020\r\n',
      '\xb2\xb0\r\n',
      'g\r\n',
      '\r\n',
      '2\r\nabc\r\n',
      '3\r\nabc\n',
      '3\r\nabc\r',
      '3\r\nabc\rX',
      '3\r\nabcX\r\n',
      '3\r\nabc\r\r\n',
      '0\n\n',
      '0\r\n\n',
      '0\r\n\r\r\n',
      '0\r\n\rX',
      '0\r\nX\r\n\r\n',
      '0\r\nX : y\r\n\r\n',
      '0\r\n X: y\r\n\r\n',
      '0\r\nX: y\r\n z\r\n\r\n',
      '0\r\nX: y\n\r\n',
      '0\r\nX: y\0\r\n\r\n',
      '0\r\nContent-Length: 32\r\n\r\n',
      '0\r\nTransfer-Encoding: chunked\r\n\r\n',
      '0\r\nHost: b\r\n\r\n',
    ].map(body => [JSON.stringify(body), post(['Transfer-Encoding: chunked'], body + SMUGGLED)]),
  ),
  'old versions': {
    'a coding in HTTP/1.0': `POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
    'a coding in kept HTTP/1.0': `POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    'HTTP/0.9': `GET /\r\n${SMUGGLED}`,
    'HTTP/1.2': `POST / HTTP/1.2\r\nHost: a\r\n\r\n${SMUGGLED}`,
    'the preface of HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  },
  'request line': Object.fromEntries(
    [
      'GET  / HTTP/1.1',
      'GET /  HTTP/1.1',
      'GET\t/ HTTP/1.1',
      'GET /\x0bHTTP/1.1',
      'GET / HTTP/1.1 ',
      'GET / HTTP/1.1\x00',
      'GET / HTTP/1.1\rX: y',
      'GET / HTTP/1.1\nX: y',
      'GET /\rX HTTP/1.1',
      'GET /\n HTTP/1.1',
      'GET /a b HTTP/1.1',
      'GET / HTTP/1.1 HTTP/1.1',
      'GET /#a HTTP/1.1',
      'GET a HTTP/1.1',
      ' GET / HTTP/1.1',
      '\r\n\r\nGET / HTTP/1.1',
      '\nGET / HTTP/1.1',
      'GET /\u00e9 HTTP/1.1',
      'get / HTTP/1.1',
      'GET / HTTP/1.1\r\n X: y',
    ].map(line => [JSON.stringify(line), `${line}\r\nHost: a\r\n\r\n${SMUGGLED}`]),
  ),
  Host: Object.fromEntries(
    [
      'Host: a\r\nHost: b',
      'Host: a\r\nHost: a',
      'Host: a\r\n Host: b',
      'Host: a, b',
      'Host: a b',
      'Host: a\tb',
      'Host: a@b',
      'Host: a:80@b',
      'Host: a/b',
      'Host: a#b',
      'Host: a\\b',
      'Host: a:b',
      'Host: a:80:81',
      'Host:',
      'Host : a',
      'Host: a\0',
      'Host: a\r\nConnection: Host',
      'X: y',
    ].map(lines => [JSON.stringify(lines), `GET / HTTP/1.1\r\n${lines}\r\n\r\n`]),
  ),
  'absolute target': {
    'another Host': 'GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n',
    'another port': 'GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n',
    'a user': 'GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n',
    'another scheme': 'GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n',
    'no Host': 'GET http://a/ HTTP/1.1\r\n\r\n',
    'CONNECT to another place': 'CONNECT b:80 HTTP/1.1\r\nHost: a:80\r\n\r\n',
  },
  'hop by hop': {
    'taking Content-Length away': post(['Content-Length: 32', 'Connection: content-length'], SMUGGLED),
    'taking Transfer-Encoding away': post(
      ['Transfer-Encoding: chunked', 'Connection: Transfer-Encoding'],
      '0\r\n\r\n',
    ),
    'taking Host away': post(['Connection: close, host'], ''),
  },
}

describe.each(Object.entries(FORMS))('smuggling by %s is refused:', (_, forms) => {
  it.each(Object.entries(forms))('%s', (_name, text) => {
    const { messages, verdict } = read(text)
    expect({ messages, verdict }).toEqual({ messages: [], verdict: 'refused' })
  })

  it('at the same byte however the stream is split', () => {
    for (const text of Object.values(forms)) {
      const whole = read(text)
      const split = readWithOurs(
        http1,
        { side: 'request', text, method: 'GET' },
        Array.from(text, (_byte, at) => at),
      )
      expect([split.reason, split.offset], JSON.stringify(text)).toEqual([whole.reason, whole.offset])
    }
  })
})

describe('a response cannot be split or desynchronised:', () => {
  it.each([
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello',
    'HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello',
    'HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5, 6\r\n\r\nhello',
    'HTTP/1.1 200 OK\r\nContent-Length: 5,\t5\r\n\r\nhello',
    'HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\nhello',
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello',
    'HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 101 Switching Protocols\r\n\r\n',
    'HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX: y\nSet-Cookie: z\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX: y\rSet-Cookie: z\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX: y\r\n Set-Cookie: z\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX : y\r\n\r\n',
    'HTTP/1.1 200 OK\r\n\0\r\n\r\n',
    'HTTP/1.1 200 O\0K\r\n\r\n',
    'HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n',
  ])('%j', text => {
    const { messages, verdict } = readResponse(text)
    expect({ messages, verdict }).toEqual({ messages: [], verdict: 'refused' })
  })

  it.each([
    ['HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n', 'hello'],
    ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n', 'hello'],
    ['HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n', '0\r\n\r\n'],
    ['HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n', ''],
    ['HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n', ''],
    ['HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n', ''],
  ])('%j is read once, and what is behind it never', (head, body) => {
    const { messages, verdict, left } = readResponse(
      `${head}${body}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n`,
    )
    expect({ count: messages.length, verdict, left }).toEqual({
      count: 1,
      verdict: 'complete',
      left: 'closing',
    })
  })

  it('by bytes behind a response without body: they are no response', () => {
    const text = 'HTTP/1.1 204 No Content\r\n\r\nhello'
    expect(readResponse(text)).toMatchObject({ verdict: 'refused', offset: text.indexOf('hello') })
  })
})

describe('passes on requests that only look like smuggling:', () => {
  it('a body that is a request', () => {
    expect(read(post(['Content-Length: 32'], SMUGGLED)).messages).toMatchObject([{ body: SMUGGLED }])
    expect(
      read(post(['Transfer-Encoding: chunked'], `20\r\n${SMUGGLED}\r\n0\r\n\r\n`)).messages,
    ).toMatchObject([{ body: SMUGGLED }])
  })

  it('pipelined requests, also behind GETs with bodies', () => {
    const get = 'GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi'
    expect(read(get + SMUGGLED + get).messages.map(message => [message.start, message.body])).toEqual([
      ['GET /', 'hi'],
      ['GET /admin', ''],
      ['GET /', 'hi'],
    ])
  })

  it('nothing behind close or behind CONNECT is read as a request', () => {
    expect(read(post(['Connection: close'], SMUGGLED)).messages).toHaveLength(1)
    expect(read(`CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n${SMUGGLED}`).messages).toHaveLength(1)
  })
})
