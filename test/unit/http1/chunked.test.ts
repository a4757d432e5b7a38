import { describe, expect, it } from 'vitest'
import {
  encodeChunk,
  Framing,
  Http1Refusal,
  LAST_CHUNK,
  MAX_EXTENSION_BYTES,
  MAX_TRAILER_BYTES,
  takeContent,
} from '../../../src/http1/index.js'

/** The content of a chunked body, what was left behind it, or why it was refused. */
function read(text: string): { content: string; rest: string; done: boolean } | string {
  const framing = Framing.chunked('request')
  const bytes = Buffer.from(text, 'latin1')
  try {
    const { taken, content } = takeContent(framing, bytes)
    return { content: Buffer.concat(content).toString('latin1'), rest: text.slice(taken), done: framing.done }
  } catch (error) {
    if (error instanceof Http1Refusal) return error.reason
    throw error
  }
}

describe('blanks behind the sizes of an answer', () => {
  it('have a count for the last piece only, also where no caller asks for it', () => {
    const framing = Framing.chunked('response')
    for (let n = 0; n < 3; n++) takeContent(framing, Buffer.from('1 \r\na\r\n1  \r\nb\r\n'))
    expect(framing.takeBlanks()).toEqual([1, 8, 9])
    takeContent(framing, Buffer.from('1 '))
    takeContent(framing, Buffer.from('\r\na\r\n'))
    expect(framing.takeBlanks()).toBeNull()
    framing.advanceChunk(Buffer.from('1 '), 0, 2)
    framing.advanceChunk(Buffer.from('  '), 0, 2)
    expect(framing.takeBlanks()).toEqual([0, 1])
  })
})

describe('RFC 9112, 7.1: chunked coding', () => {
  it.each([
    ['0\r\n\r\n', ''],
    ['5\r\nhello\r\n0\r\n\r\n', 'hello'],
    ['1\r\na\r\n1\r\nb\r\n000\r\n\r\n', 'ab'],
    ['00000000000000a\r\n0123456789\r\n0\r\n\r\n', '0123456789'],
    ['A\r\n0\r\n\r\n\r\n0\r\n\r\n0\r\n\r\n', '0\r\n\r\n\r\n0\r\n'],
    ['4\r\n\0\xff\r\n\r\n0\r\n\r\n', '\0\xff\r\n'],
  ])('reads %j', (text, content) => {
    expect(read(text)).toEqual({ content, rest: '', done: true })
  })

  it('leaves the next message alone', () => {
    expect(read('0\r\n\r\n0\r\n\r\n')).toEqual({ content: '', rest: '0\r\n\r\n', done: true })
    expect(read('0\r\n\r\n\r\nGET')).toEqual({ content: '', rest: '\r\nGET', done: true })
  })

  it.each([
    '\r\n',
    '\n',
    ' 5\r\n',
    '5 \r\n',
    '5\t\r\n',
    '\t5\r\n',
    '+5\r\n',
    '-5\r\n',
    '0x5\r\n',
    'x5\r\n',
    '5h\r\n',
    '1_0\r\n',
    '1,0\r\n',
    '5.\r\n',
    '"5"\r\n',
    'g\r\n',
    '\xb2\r\n',
    '5\0\r\n',
    '5\x0b\r\n',
    '5\n',
    '0\n\r\n',
    '5\r5',
    '5\r\r\n',
    '5 ;a\r\n',
    '20000000000000\r\n',
    'FFFFFFFFFFFFFFFF\r\n',
    '00000000000000005\r\n',
    '100000000000000000000000000000005\r\n',
  ])('refuses the size line %j', text => {
    expect(read(text)).toBe('chunk-size')
  })

  it('takes 2^53-1 as the largest size', () => {
    const framing = Framing.chunked('request')
    framing.advance(Buffer.from('1fffffffffffff\r\n'), 0, 16)
    expect(framing.left).toBe(Number.MAX_SAFE_INTEGER)
  })

  it.each([
    '5\r\nhello0\r\n\r\n',
    '5\r\nhello\n0\r\n\r\n',
    '5\r\nhello\r0',
    '5\r\nhello!\r\n',
    '5\r\nhello\r\r\n',
    '5\r\nhello\0\r\n',
  ])('refuses data that is not followed by CRLF: %j', text => {
    expect(read(text)).toBe('chunk-ending')
  })

  it.each(['0\r\n\r\r', '0\r\n\rX', '0\r\n\r0'])('refuses an end that is not CRLF: %j', text => {
    expect(read(text)).toBe('chunk-ending')
  })

  it('says at which byte', () => {
    const framing = Framing.chunked('request')
    const bytes = Buffer.from('..5\r\nhelloX')
    expect(() => framing.advance(bytes, 2, bytes.length)).toThrow(expect.objectContaining({ offset: 10 }))
  })
})

describe('RFC 9112, 7.1.1: chunk extensions', () => {
  it.each([
    ';a',
    ';a=b',
    ';a;b=c',
    ';chunk-signature=0123abcd',
    ';!=~',
    ';a="b"',
    ';a=""',
    ';a=";,= \t\xff";b',
    ';a="\\"\\\\";b=c',
  ])('passes on %s', extension => {
    const text = `1${extension}\r\nx\r\n0${extension}\r\n\r\n`
    expect(read(text)).toMatchObject({ content: 'x', done: true })
    const framing = Framing.chunked('request')
    for (const byte of Buffer.from(text, 'latin1')) framing.advance(Buffer.of(byte), 0, 1)
    expect(framing.done).toBe(true)
  })

  it.each([
    ';\r\n',
    ';=a\r\n',
    ';a=\r\n',
    ';;a\r\n',
    ';a=b=c\r\n',
    '; a\r\n',
    ';a \r\n',
    ';a\t\r\n',
    ';a= b\r\n',
    ';"a"\r\n',
    ';a=b"c"\r\n',
    ';a="b"c\r\n',
    ';a="b"=c\r\n',
    ';a="b" \r\n',
    ';a="\0"\r\n',
    ';a="\x7f"\r\n',
    ';a="\\\r\n',
    ';a="\r\n"\r\n',
    ';a\n',
    ';a\nb\r\n',
    ';a=\nb\r\n',
    ';\n',
    ';a\0\r\n',
    ';a\xff\r\n',
    ';a,b\r\n',
    ';a:b\r\n',
  ])('refuses %j', extension => {
    expect(read(`5${extension}hello\r\n`)).toBe('chunk-extension')
    expect(read(`0${extension}\r\n`)).toBe('chunk-extension')
  })

  it.each([';a\rb\r\n', ';a\r\r\n'])('refuses a bare CR in them: %j', extension => {
    expect(read(`5${extension}`)).toBe('chunk-size')
  })

  it('bounds those of one chunk', () => {
    const most = `;${'a'.repeat(MAX_EXTENSION_BYTES - 1)}`
    expect(read(`1${most}\r\nx\r\n1${most}\r\nx\r\n0\r\n\r\n`)).toMatchObject({ content: 'xx', done: true })
    expect(read(`1${most}a\r\n`)).toBe('chunk-extension')
  })
})

describe('RFC 9112, 7.1.2: trailers', () => {
  it.each(['X: y', 'X:', 'X:y\r\nZ: \t\xff', 'Server-Timing: a;b', 'Contentlength: 5', 'Host-X: a'])(
    'passes on %j',
    lines => {
      expect(read(`0\r\n${lines}\r\n\r\nGET`)).toEqual({ content: '', rest: 'GET', done: true })
    },
  )

  it.each([
    ': y',
    'X',
    'X y: z',
    'X : y',
    ' X: y',
    '\tX: y',
    'X: y\r\n z',
    'X: y\0',
    'X: y\x7f',
    'X: y\n',
    'X: y\rZ',
    'X\n: y',
    '\n',
    '0',
  ])('refuses %j', lines => {
    expect(read(`0\r\n${lines}\r\n\r\n`)).toBe('trailer-invalid')
  })

  it.each([
    'Content-Length',
    'content-length',
    'Content_Length',
    'Transfer-Encoding',
    'TRANSFER_ENCODING',
    'Host',
    'Connection',
    'Upgrade',
    'Trailer',
    'TE',
    'Expect',
    'Cookie',
    'Set-Cookie',
    'Authorization',
    'Content-Type',
    'X-Forwarded-For',
  ])('refuses %s (RFC 9110, 6.5.1)', name => {
    expect(read(`0\r\n${name}: 1\r\n\r\n`)).toBe('trailer-forbidden')
    expect(read(`0\r\nX: y\r\n${name}: 1\r\n\r\n`)).toBe('trailer-forbidden')
  })

  it.each([
    'X-Forwarded-Port',
    'X_Forwarded_Prefix',
    'X-Forwarded-Server',
    'X-Real-IP',
    'x-real_ip',
    'X-Original-URL',
    'X-Original-Host',
    'X-Rewrite-URL',
    'Proxy',
  ])('refuses %s, which only a proxy may write', name => {
    expect(read(`0\r\n${name}: 1\r\n\r\n`)).toBe('trailer-forbidden')
  })

  it('bounds them', () => {
    const most = `X: ${'y'.repeat(MAX_TRAILER_BYTES - 5)}\r\n`
    expect(read(`0\r\n${most}\r\n`)).toMatchObject({ done: true })
    expect(read(`0\r\n${'X: y\r\n'.repeat(MAX_TRAILER_BYTES / 4)}\r\n`)).toBe('trailers-too-large')
    expect(read(`0\r\n${'X'.repeat(MAX_TRAILER_BYTES + 1)}`)).toBe('trailers-too-large')
  })
})

describe('writing chunks', () => {
  it('reads back as it was', () => {
    const parts = [Buffer.from('hello'), Buffer.alloc(0), Buffer.alloc(300, 'x')]
    const body = Buffer.concat([...parts.flatMap(encodeChunk), LAST_CHUNK]).toString('latin1')
    expect(read(body)).toEqual({ content: `hello${'x'.repeat(300)}`, rest: '', done: true })
  })
})
