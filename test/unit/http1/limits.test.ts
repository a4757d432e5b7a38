import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import {
  DEFAULT_HEAD_LIMITS,
  type HeadLimits,
  Http1Refusal,
  RequestReader,
  ResponseReader,
} from '../../../src/http1/index.js'
import { requestWith } from '../../http1-support/read.js'

function outcome(text: string, limits: Partial<HeadLimits>): Partial<Http1Refusal> | 'taken' | 'unfinished' {
  try {
    return new RequestReader(limits).read(Buffer.from(text)) === null ? 'unfinished' : 'taken'
  } catch (error) {
    if (!(error instanceof Http1Refusal)) throw error
    return { reason: error.reason, status: error.status, offset: error.offset }
  }
}

describe('the limits of a head', () => {
  it('hold for its bytes, with 431', () => {
    const text = requestWith('X: y')
    expect(outcome(text, { headBytes: text.length })).toBe('taken')
    const limit = text.length - 1
    expect(outcome(text, { headBytes: limit })).toEqual({
      reason: 'head-too-large',
      status: 431,
      offset: limit,
    })
    expect(outcome(text.slice(0, limit), { headBytes: limit })).toMatchObject({ reason: 'head-too-large' })
    expect(outcome(text.slice(0, limit - 1), { headBytes: limit })).toBe('unfinished')
  })

  it('count an empty line in front', () => {
    expect(outcome(`\r\n${requestWith()}`, { headBytes: requestWith().length + 1 })).toMatchObject({
      status: 431,
    })
  })

  it('hold for the number of lines, with 431, at the first one above', () => {
    const text = requestWith('X: 1', 'X: 2')
    expect(outcome(text, { fields: 3 })).toBe('taken')
    expect(outcome(text, { fields: 2 })).toEqual({
      reason: 'fields-too-many',
      status: 431,
      offset: text.indexOf('X: 2'),
    })
  })

  it('hold for the target, with 414', () => {
    const text = 'GET /abc?d HTTP/1.1\r\nHost: a\r\n\r\n'
    expect(outcome(text, { targetBytes: 6 })).toBe('taken')
    expect(outcome(text, { targetBytes: 5 })).toEqual({ reason: 'target-too-long', status: 414, offset: 9 })
    expect(outcome(text, { targetBytes: 4 })).toEqual({ reason: 'target-too-long', status: 414, offset: 8 })
    expect(outcome(text, { targetBytes: 3 })).toEqual({ reason: 'target-too-long', status: 414, offset: 7 })
  })

  it('hold for bytes that come one by one, and keep no more of them than the limit', () => {
    const reader = new RequestReader({ headBytes: 100 })
    const byte = Buffer.from('A')
    expect(reader.read(Buffer.from('GET / HTTP/1.1\r\nX: '))).toBeNull()
    for (let i = 19; i < 99; i++) expect(reader.read(byte)).toBeNull()
    expect(() => reader.read(byte)).toThrow(
      expect.objectContaining({ reason: 'head-too-large', offset: 100 }),
    )
    expect(reader.pending.length).toBeLessThanOrEqual(100)
  })

  it('hold for a huge piece: nothing behind the limit is looked at', () => {
    const text = `GET / HTTP/1.1\r\nX: ${'a'.repeat(1_000_000)}`
    expect(outcome(text, {})).toMatchObject({ status: 431, offset: DEFAULT_HEAD_LIMITS.headBytes })
  })

  it.each([{ headBytes: 0 }, { fields: -1 }, { targetBytes: 1.5 }, { headBytes: Number.NaN }])(
    'must be positive integers: %j',
    limits => {
      expect(() => new RequestReader(limits)).toThrow(FdbError)
      expect(() => new ResponseReader(limits)).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_HTTP1_LIMIT' }),
      )
    },
  )
})

describe('a refusal', () => {
  it('carries a stable code, the reason, the status and the byte', () => {
    let refusal: unknown
    try {
      new RequestReader().read(Buffer.from('GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n'))
    } catch (error) {
      refusal = error
    }
    expect(refusal).toBeInstanceOf(FdbError)
    expect(refusal).toMatchObject({
      code: 'ERR_FDB_HTTP1_HOST_REPEATED',
      reason: 'host-repeated',
      status: 400,
      offset: 25,
      message: 'request refused at byte 25: more than one Host; close the connection',
    })
  })

  it('repeats for ever: nothing behind it is read as a message', () => {
    const reader = new RequestReader()
    const good = Buffer.from(requestWith())
    expect(() => reader.read(Buffer.from('GET /\n'))).toThrow(Http1Refusal)
    expect(() => reader.read(good)).toThrow(expect.objectContaining({ reason: 'line-ending' }))
  })

  it('repeats too if it needs the whole head', () => {
    const reader = new RequestReader()
    expect(() => reader.read(Buffer.from('GET / HTTP/1.1\r\n\r\n'))).toThrow(Http1Refusal)
    expect(() => reader.read(Buffer.from(requestWith()))).toThrow(
      expect.objectContaining({ reason: 'host-missing' }),
    )
  })
})

describe('a reader', () => {
  it('reads pipelined heads out of one piece', () => {
    const reader = new RequestReader()
    const bytes = Buffer.from(requestWith('X: 1') + requestWith('X: 2'))
    expect(reader.read(bytes)?.fields.get('x')).toBe('1')
    const first = reader.consumed
    expect(reader.read(bytes, first)?.fields.get('x')).toBe('2')
    expect(first + reader.consumed).toBe(bytes.length)
    expect(reader.pending.length).toBe(0)
  })

  it('goes on in another reader from the bytes that it held', () => {
    const text = requestWith('X: y')
    for (let cut = 1; cut < text.length; cut++) {
      const old = new RequestReader()
      old.read(Buffer.from(text.slice(0, cut)))
      expect(old.pending.length).toBe(cut)
      const next = new RequestReader()
      expect(next.read(old.pending)).toBeNull()
      expect(next.read(Buffer.from(text.slice(cut)))?.fields.get('x')).toBe('y')
    }
  })

  it('does not look at the piece again after it was taken', () => {
    const reader = new RequestReader()
    const piece = Buffer.from('GET /a HTTP/1.1\r\nHo')
    reader.read(piece)
    piece.fill(0)
    expect(reader.read(Buffer.from('st: a\r\n\r\n'))?.target).toBe('/a')
  })
})
