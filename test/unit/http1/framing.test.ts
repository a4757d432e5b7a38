import { describe, expect, it } from 'vitest'
import type { FramingRecord } from '../../../src/http1/index.js'
import {
  readRequest,
  readResponse,
  refusal,
  requestReason,
  requestWith,
  responseReason,
  responseWith,
} from '../../http1-support/read.js'

const requestFraming = (...lines: string[]) =>
  readRequest(requestWith(...lines))
    .framing()
    .toRecord()
const responseFraming = (status: number, method: string, ...lines: string[]) =>
  readResponse([`HTTP/1.1 ${status} x`, ...lines, '\r\n'].join('\r\n'))
    .framing({ method, upgrade: true })
    .toRecord()
const at = (kind: FramingRecord['kind'], left = 0): FramingRecord => ({
  kind,
  left,
  phase: 0,
  count: 0,
  hash: 0,
})

describe('RFC 9112, 6.1: Transfer-Encoding', () => {
  it.each(['chunked', 'Chunked', 'CHUNKED', '  chunked  '])('takes %j, alone', value => {
    expect(requestFraming(`Transfer-Encoding:${value}`)).toEqual(at('chunked'))
  })

  it.each([
    '',
    ' ',
    'identity',
    'gzip',
    'chunkedx',
    'xchunked',
    'chunke',
    'chunked, identity',
    'chunked, gzip',
    'chunked,',
    ',chunked',
    'chunked;q=1',
    'chunked ; q=1',
    '"chunked"',
    "'chunked'",
    'chunked chunked',
    'chun\tked',
    'chunked\t',
    '\tchunked',
    '\xa0chunked',
    'chunked\x80',
    ';chunked',
    'gzip chunked',
    'gzip; chunked',
  ])('refuses %j with 400', value => {
    expect(refusal(() => readRequest(requestWith(`Transfer-Encoding:${value}`)))).toMatchObject({
      reason: 'coding-invalid',
      status: 400,
    })
    expect(responseReason(responseWith(`Transfer-Encoding:${value}`))).toBe('coding-invalid')
  })

  it.each(['gzip, chunked', 'chunked, chunked', 'identity,chunked', 'a , b,chunked'])(
    'refuses %j with 501',
    value => {
      expect(refusal(() => readRequest(requestWith(`Transfer-Encoding: ${value}`)))).toMatchObject({
        reason: 'coding-unsupported',
        status: 501,
      })
      expect(responseReason(responseWith(`Transfer-Encoding: ${value}`))).toBe('coding-unsupported')
    },
  )

  it('refuses a second one, whatever they say', () => {
    for (const second of ['chunked', 'identity', '']) {
      const lines = ['Transfer-Encoding: chunked', `transfer-encoding: ${second}`]
      expect(requestReason(requestWith(...lines))).toBe('coding-repeated')
      expect(responseReason(responseWith(...lines))).toBe('coding-repeated')
    }
  })

  it('refuses it in a request of HTTP/1.0', () => {
    expect(requestReason('POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n')).toBe('coding-in-http10')
    expect(responseReason('HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')).toBeUndefined()
  })

  it.each([100, 103, 101])('refuses it in a %i response', status => {
    expect(responseReason(`HTTP/1.1 ${status} x\r\nTransfer-Encoding: chunked\r\n\r\n`)).toBe(
      'body-forbidden',
    )
  })
})

describe('RFC 9112, 6.2: Content-Length', () => {
  it.each([0, 1, 42, Number.MAX_SAFE_INTEGER])('takes %i', length => {
    expect(requestFraming(`Content-Length: ${length} `)).toEqual(at('length', length))
    expect(responseFraming(200, 'GET', `Content-Length:${length}`)).toEqual(at('length', length))
  })

  it.each([
    '',
    '+5',
    '-5',
    '-0',
    '05',
    '00',
    '5.0',
    '5e1',
    '0x5',
    '5h',
    '5 5',
    '5;',
    '"5"',
    '1_0',
    '1,000',
    'five',
    'NaN',
    'Infinity',
    '9007199254740992',
    '9999999999999999',
    '10000000000000000',
    '18446744073709551616',
    '18446744073709551621',
    '\t5',
    '5\t',
    '\xb2',
  ])('refuses %j', value => {
    expect(requestReason(requestWith(`Content-Length:${value}`))).toBe('length-invalid')
    expect(responseReason(responseWith(`Content-Length:${value}`))).toBe('length-invalid')
  })

  it.each([
    ['5', undefined],
    ['6', 'length-repeated'],
    ['', 'length-invalid'],
  ])('refuses a second one in requests, in answers if it says something else: %j', (second, reason) => {
    const lines = ['Content-Length: 5', `content-length: ${second}`]
    expect(requestReason(requestWith(...lines))).toBe('length-repeated')
    expect(responseReason(responseWith(...lines))).toBe(reason)
  })

  it.each(['5,5', '5, 5', '5 ,5,  5'])('refuses %j in requests, and reads it in answers', value => {
    expect(requestReason(requestWith(`Content-Length: ${value}`))).toBe('length-invalid')
    expect(responseFraming(200, 'GET', `Content-Length: ${value}`)).toEqual(at('length', 5))
  })

  it('refuses it beside Transfer-Encoding, in either order', () => {
    const lines = ['Content-Length: 5', 'Transfer-Encoding: chunked']
    for (const both of [lines, lines.toReversed()]) {
      expect(requestReason(requestWith(...both))).toBe('coding-with-length')
      expect(responseReason(responseWith(...both))).toBe('coding-with-length')
    }
  })
})

describe('RFC 9112, 6.3: message body length of a request', () => {
  it('means none without either field, whatever the method', () => {
    expect(requestFraming()).toEqual(at('none'))
    expect(readRequest('POST / HTTP/1.0\r\n\r\n').framing().toRecord()).toEqual(at('none'))
  })

  it('follows the fields, whatever the method', () => {
    expect(requestFraming('Content-Length: 3')).toEqual(at('length', 3))
  })

  it('cannot be announced by CONNECT (RFC 9110, 9.3.6)', () => {
    const connect = (line: string) => `CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n${line}\r\n\r\n`
    expect(requestReason(connect('Content-Length: 0'))).toBe('connect-with-body')
    expect(requestReason(connect('Transfer-Encoding: chunked'))).toBe('connect-with-body')
  })
})

describe('RFC 9112, 6.3: message body length of a response', () => {
  it.each([100, 102, 103, 199, 204, 304])('1. is none for %i', status => {
    expect(responseFraming(status, 'GET')).toEqual(at('none'))
  })

  it('1. is none for HEAD and 304, whatever the fields say', () => {
    expect(responseFraming(200, 'HEAD', 'Content-Length: 5')).toEqual(at('none'))
    expect(responseFraming(200, 'HEAD', 'Transfer-Encoding: chunked')).toEqual(at('none'))
    expect(responseFraming(200, 'HEAD')).toEqual(at('none'))
    expect(responseFraming(304, 'GET', 'Content-Length: 5')).toEqual(at('none'))
    expect(responseFraming(304, 'GET', 'Transfer-Encoding: chunked')).toEqual(at('none'))
  })

  it('1. is none for 204, whatever the fields say', () => {
    expect(responseFraming(204, 'GET', 'Content-Length: 5')).toEqual(at('none'))
    expect(responseFraming(204, 'GET', 'Transfer-Encoding: chunked')).toEqual(at('none'))
  })

  it.each([100, 103])('1. refuses %i with a length, lets the common zero pass', status => {
    expect(responseReason(`HTTP/1.1 ${status} x\r\nContent-Length: 5\r\n\r\n`)).toBe('body-forbidden')
    expect(responseFraming(status, 'GET', 'Content-Length: 0')).toEqual(at('none'))
  })

  it('2. is a tunnel behind a 2xx to CONNECT, whatever the fields say', () => {
    expect(responseFraming(200, 'CONNECT', 'Content-Length: 5')).toEqual(at('tunnel'))
    expect(responseFraming(299, 'CONNECT', 'Transfer-Encoding: chunked')).toEqual(at('tunnel'))
    expect(responseFraming(407, 'CONNECT', 'Content-Length: 5')).toEqual(at('length', 5))
  })

  it('4. 6. is what the fields say', () => {
    expect(responseFraming(200, 'GET', 'Transfer-Encoding: chunked')).toEqual(at('chunked'))
    expect(responseFraming(500, 'POST', 'Content-Length: 5')).toEqual(at('length', 5))
  })

  it('8. is everything until the connection ends', () => {
    expect(responseFraming(200, 'GET')).toEqual(at('until-close'))
    expect(responseFraming(205, 'GET', 'Connection: keep-alive')).toEqual(at('until-close'))
  })
})

describe('a framing tracker', () => {
  const bytes = Buffer.from('0123456789')

  it('takes what belongs to the message and leaves the rest', () => {
    const framing = readRequest(requestWith('Content-Length: 7')).framing()
    expect(framing.advance(bytes, 0, 5)).toBe(5)
    expect([framing.done, framing.mayEnd]).toEqual([false, false])
    expect(framing.advance(bytes, 2, 10)).toBe(2)
    expect([framing.done, framing.mayEnd]).toEqual([true, true])
    expect(framing.advance(bytes, 0, 10)).toBe(0)
  })

  it('takes nothing for no body, and everything until the end or in a tunnel', () => {
    expect(readRequest(requestWith()).framing().advance(bytes, 0, 10)).toBe(0)
    const open = readResponse(responseWith()).framing({ method: 'GET', upgrade: false })
    expect([open.advance(bytes, 3, 10), open.done, open.mayEnd]).toEqual([7, false, true])
    const tunnel = readResponse(responseWith()).framing({ method: 'CONNECT', upgrade: false })
    expect([tunnel.advance(bytes, 0, 10), tunnel.done, tunnel.mayEnd]).toEqual([10, false, true])
  })
})
