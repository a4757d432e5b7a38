import { describe, expect, it } from 'vitest'
import { FieldId } from '../../../src/http1/index.js'
import {
  readRequest,
  requestReason,
  requestWith,
  responseReason,
  responseWith,
} from '../../http1-support/read.js'

const fields = (...lines: string[]) => [...readRequest(requestWith(...lines)).fields].slice(1)

describe('RFC 9112, 5: field syntax', () => {
  it('keeps names and values as they were sent, without the white space around the value', () => {
    expect(fields('X-A:b', 'x-B:  c d\t ', 'X-C:', 'X-D: \t ', "!#$%&'*+-.^_`|~9z: \xff,\x80")).toEqual([
      ['X-A', 'b'],
      ['x-B', 'c d'],
      ['X-C', ''],
      ['X-D', ''],
      ["!#$%&'*+-.^_`|~9z", '\xff,\x80'],
    ])
  })

  it('joins the lines of one name in order', () => {
    const head = readRequest(requestWith('X: 1', 'Y: 2', 'x: 3'))
    expect(head.fields.get('x')).toBe('1, 3')
    expect(head.fields.get('Y')).toBe('2')
    expect(head.fields.get('z')).toBeUndefined()
  })

  it.each([...'()<>@,;\\"/[]?={} \t\0\x01\x0b\x7f\x80\xff'])('refuses %j in a name, anywhere', character => {
    expect(requestReason(requestWith(`a${character}b: c`))).toBe('field-name')
    expect(requestReason(requestWith(`ab${character}: c`))).toBe('field-name')
    const first = character === ' ' || character === '\t' ? 'field-folded' : 'field-name'
    expect(requestReason(requestWith(`${character}ab: c`))).toBe(first)
  })

  it('refuses a line without name or colon', () => {
    expect(requestReason(requestWith(': b'))).toBe('field-name')
    expect(requestReason(requestWith('ab'))).toBe('field-name')
    expect(requestReason(requestWith('a b'))).toBe('field-name')
  })

  it('recognises the fields that matter in any case', () => {
    const head = readRequest(requestWith('CONNECTION: x', 'tE: y', 'Content-lengtH: 0', 'content-lengti: 0'))
    expect([0, 1, 2, 3, 4].map(i => head.fields.id(i))).toEqual([
      FieldId.host,
      FieldId.connection,
      FieldId.te,
      FieldId.contentLength,
      FieldId.other,
    ])
  })
})

describe('RFC 9112, 5.1: no white space between name and colon', () => {
  it.each(['Host ', 'Host\t', 'Content-Length ', 'Transfer-Encoding ', 'Transfer-Encoding\t', 'X '])(
    'refuses "%s:" in a request',
    name => {
      expect(requestReason(requestWith(`${name}: chunked`))).toBe('field-name')
    },
  )

  it('refuses it in a response, instead of removing it', () => {
    expect(responseReason(responseWith('Content-Length : 5'))).toBe('field-name')
  })
})

describe('RFC 9112, 5.2: no obsolete line folding', () => {
  it.each(['X: a\r\n b', 'X: a\r\n\tb', 'X:\r\n a', 'X: a\r\n \r\nY: b', 'X: a\r\n '])('refuses %j', line => {
    expect(requestReason(requestWith(line))).toBe('field-folded')
    expect(responseReason(responseWith(line))).toBe('field-folded')
  })
})

describe('RFC 9110, 5.5: field values', () => {
  const controls = Array.from({ length: 32 }, (_, code) => String.fromCharCode(code)).concat('\x7f')
  it.each(controls.filter(control => !'\t\r\n'.includes(control)))('refuse the control %j', control => {
    expect(requestReason(requestWith(`X: a${control}b`))).toBe('field-value')
    expect(requestReason(requestWith(`X:${control}`))).toBe('field-value')
    expect(responseReason(responseWith(`X: ${control}`))).toBe('field-value')
  })

  it.each([
    'X: a\nb',
    'X: a\rb',
    'X: a\n',
    'X: a\r',
    'X: \r\r',
    'X\n: a',
    'X: a\r\rY: b',
    'X: a\nContent-Length: 5',
  ])('refuse a bare CR or LF: %j', line => {
    expect(requestReason(requestWith(line))).toBe('line-ending')
    expect(responseReason(responseWith(line))).toBe('line-ending')
  })

  it('refuse a head that ends with bare LFs or CRs', () => {
    expect(requestReason('GET / HTTP/1.1\r\nHost: a\r\n\n')).toBe('line-ending')
    expect(requestReason('GET / HTTP/1.1\r\nHost: a\n\n')).toBe('line-ending')
    expect(requestReason('GET / HTTP/1.1\r\nHost: a\r\n\r\r\n')).toBe('line-ending')
  })
})
