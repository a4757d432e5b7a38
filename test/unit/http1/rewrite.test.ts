import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { FieldEdits, fieldLine } from '../../../src/http1/index.js'
import {
  readRequest,
  readResponse,
  requestWith,
  responseWith,
  rewriteRequest,
  rewriteResponse,
} from '../../http1-support/read.js'

const lines = (text: string) => text.split('\r\n')
const rewritten = (...fields: string[]) =>
  lines(rewriteRequest(readRequest(requestWith(...fields)))).slice(2, -2)

describe('a rewritten head', () => {
  it('keeps the order, the case and every byte of what it passes on', () => {
    const text = requestWith('X-b:  c\t', 'a:', 'X-B: caf\xe9', 'Content-Length: 5', 'Expect: 100-continue')
    expect(rewriteRequest(readRequest(text))).toBe(text)
    const response = responseWith('Server:x', 'Transfer-Encoding:  Chunked', 'Set-Cookie: a', 'set-cookie: b')
    expect(rewriteResponse(readResponse(response))).toBe(response)
  })

  it('drops an empty line in front', () => {
    expect(rewriteRequest(readRequest(`\r\n${requestWith()}`))).toBe(requestWith())
  })

  it('drops what is for one connection only (RFC 9110, 7.6.1)', () => {
    expect(
      rewritten(
        'Connection: keep-alive, X-Hop',
        'Keep-Alive: timeout=5',
        'X-A: 1',
        'x-hop: 2',
        'Proxy-Connection: close',
        'TE: trailers',
        'X-Hopper: 3',
        'Upgrade: websocket',
        'Proxy-Authorization: Basic x',
        'Proxy-Authenticate: Basic',
        'HTTP2-Settings: x',
        'X-HOP: 4',
      ),
    ).toEqual(['X-A: 1', 'X-Hopper: 3'])
  })

  it('passes on what frames the body, and trailers', () => {
    expect(rewritten('Transfer-Encoding: chunked', 'Trailer: X-Sum')).toEqual([
      'Transfer-Encoding: chunked',
      'Trailer: X-Sum',
    ])
  })

  it('speaks HTTP/1.1 in origin form, whatever came', () => {
    const request = (text: string) => lines(rewriteRequest(readRequest(text), { host: 'b' })).slice(0, 2)
    expect(request('GET / HTTP/1.0\r\n\r\n')).toEqual(['GET / HTTP/1.1', 'Host: b'])
    expect(request('GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n')).toEqual(['GET /x?y HTTP/1.1', 'Host: b'])
    expect(request('OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n')).toEqual(['OPTIONS * HTTP/1.1', 'Host: b'])
    expect(request('CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n')).toEqual([
      'CONNECT a:1 HTTP/1.1',
      'Host: a:1',
    ])
    expect(rewriteResponse(readResponse('HTTP/1.0 404 No\r\n\r\n'))).toBe('HTTP/1.1 404 No\r\n\r\n')
  })

  it('does not pass on what HTTP/1.0 cannot mean', () => {
    const text = 'POST / HTTP/1.0\r\nExpect: 100-continue\r\nX: y\r\n\r\n'
    expect(rewriteRequest(readRequest(text), { host: 'b' })).toBe(
      'POST / HTTP/1.1\r\nHost: b\r\nX: y\r\n\r\n',
    )
  })

  it('names the host that only the target named', () => {
    const request = (target: string) =>
      lines(rewriteRequest(readRequest(`GET ${target} HTTP/1.0\r\n\r\n`)))[1]
    expect(request('http://A:81/')).toBe('Host: a:81')
    expect(request('http://[::1]/')).toBe('Host: [::1]')
    expect(request('/')).toBe('')
  })

  it('takes another Host', () => {
    const head = readRequest(requestWith('X: y'))
    expect(rewriteRequest(head, { host: 'b:1' })).toBe('GET / HTTP/1.1\r\nHost: b:1\r\nX: y\r\n\r\n')
  })

  it('carries further lines and what this connection says', () => {
    const head = readRequest(requestWith('Connection: upgrade', 'Upgrade: websocket'))
    const extra = fieldLine('X-Forwarded-For', '192.0.2.1')
    const written = (connection: 'close' | 'keep-alive' | 'upgrade') =>
      lines(rewriteRequest(head, { extra, connection }))
    expect(written('close').slice(2, -2)).toEqual(['X-Forwarded-For: 192.0.2.1', 'Connection: close'])
    expect(written('keep-alive').slice(3, -2)).toEqual(['Connection: keep-alive'])
    expect(written('upgrade').slice(3, -2)).toEqual(['Connection: upgrade', 'Upgrade: websocket'])
    const plain = readRequest(requestWith())
    expect(rewriteRequest(plain, { connection: 'upgrade' })).toBe(requestWith())
  })
})

describe('the body of a rewritten response', () => {
  const chunked = readResponse(responseWith('X: y', 'Transfer-Encoding: chunked', 'Trailer: Z'))

  it('can end with the connection, for clients of HTTP/1.0', () => {
    expect(rewriteResponse(chunked, { body: 'close', connection: 'close' })).toBe(
      responseWith('X: y', 'Connection: close'),
    )
  })

  it('can be sent in chunks', () => {
    expect(rewriteResponse(readResponse(responseWith('X: y')), { body: 'chunked' })).toBe(
      responseWith('X: y', 'Transfer-Encoding: chunked'),
    )
  })

  it('has no announcement where there is none', () => {
    const head = readResponse('HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX: y\r\n\r\n')
    expect(rewriteResponse(head)).toBe('HTTP/1.1 204 No Content\r\nX: y\r\n\r\n')
    expect(rewriteResponse(head, { body: 'chunked' })).toBe('HTTP/1.1 204 No Content\r\nX: y\r\n\r\n')
  })

  it('of HEAD and 304 stays announced', () => {
    const head = readResponse('HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n')
    expect(lines(rewriteResponse(head))).toContain('Content-Length: 5')
  })
})

describe('edits', () => {
  const edits = new FieldEdits({ remove: ['Cookie', 'x-old'], set: { 'X-A': '1', 'X-New': '2' } })

  it('remove lines, replace them in their place, and add what was missing', () => {
    const text = requestWith('x-a: 0', 'Cookie: c', 'Accept: d', 'X-A: e', 'X-OLD: f', 'Cookies: g')
    expect(lines(rewriteRequest(readRequest(text), { edits })).slice(2, -2)).toEqual([
      'X-A: 1',
      'Accept: d',
      'Cookies: g',
      'X-New: 2',
    ])
  })

  it('hold for names that Connection names too', () => {
    const text = requestWith('Connection: X-A', 'X-A: 0', 'Accept: b')
    expect(lines(rewriteRequest(readRequest(text), { edits })).slice(2, -2)).toEqual([
      'X-A: 1',
      'Accept: b',
      'X-New: 2',
    ])
  })

  it.each(['Host', 'Content-Length', 'transfer-encoding', 'Connection', 'Upgrade', 'a b', ''])(
    'cannot concern %j',
    name => {
      expect(() => new FieldEdits({ remove: [name] })).toThrow(FdbError)
      expect(() => new FieldEdits({ set: { [name]: 'x' } })).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_HTTP1_FIELD' }),
      )
    },
  )

  it('cannot name one field twice', () => {
    expect(() => new FieldEdits({ remove: ['X-A'], set: { 'x-a': '1' } })).toThrow(FdbError)
  })
})

describe('response splitting', () => {
  it.each(['a\r\nb: c', 'a\nb', 'a\rb', 'a\0', '\x7f', ' a', 'a ', '\ta', '\u2028', '\u010d\u010a', 'a\n'])(
    'no line is made of the value %j',
    value => {
      expect(() => fieldLine('X', value)).toThrow(expect.objectContaining({ code: 'ERR_FDB_HTTP1_FIELD' }))
      expect(() => new FieldEdits({ set: { X: value } })).toThrow(FdbError)
      expect(() => rewriteRequest(readRequest(requestWith()), { host: value })).toThrow(FdbError)
    },
  )

  it.each(['', 'a b', 'a:', 'a\r\n', 'a\n', '\xe9', ' a'])('no line is made of the name %j', name => {
    expect(() => fieldLine(name, 'x')).toThrow(FdbError)
  })

  it('lines are made of everything else', () => {
    expect(fieldLine('X', '')).toBe('X: \r\n')
    expect(fieldLine('X', 'a \t"\xff')).toBe('X: a \t"\xff\r\n')
  })
})
