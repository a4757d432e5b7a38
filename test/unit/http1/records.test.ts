import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { Framing, type FramingRecord } from '../../../src/http1/index.js'
import { untyped } from '../../fixtures/untyped.js'

const record = (over: Partial<FramingRecord>): FramingRecord => ({
  kind: 'chunked',
  left: 0,
  phase: 0,
  count: 0,
  hash: 0,
  ...over,
})

describe('the record of a framing tracker', () => {
  it('has a handful of plain numbers that survive JSON', () => {
    const framing = Framing.chunked('request')
    framing.advance(Buffer.from('1f;a=b'), 0, 6)
    const { kind, left, phase, count, hash } = JSON.parse(JSON.stringify(framing.toRecord()))
    expect({ kind, left, phase, count, hash }).toEqual({
      kind: 'chunked',
      left: 31,
      phase: 4,
      count: 3,
      hash: 0,
    })
  })

  it('brings another tracker to the same place, at any byte of a chunked body', () => {
    const text = 'a;x=y\r\n0123456789\r\n003\r\nabc\r\n0;z\r\nX-Sum: y\r\nServer-Timing:\r\n\r\nrest'
    const bytes = Buffer.from(text)
    for (let cut = 0; cut < text.length; cut++) {
      const old = Framing.chunked('request')
      const before = old.advance(bytes, 0, cut)
      const next = Framing.fromRecord(structuredClone(old.toRecord()), 'request')
      const content: number[] = []
      expect(before + next.advance(bytes, before, bytes.length, content)).toBe(text.length - 4)
      expect(next.done).toBe(true)
    }
  })

  it('still refuses a forbidden trailer whose name was cut', () => {
    const bytes = Buffer.from('0\r\nTransfer-Encoding: x')
    for (let cut = 0; cut < 21; cut++) {
      const old = Framing.chunked('request')
      old.advance(bytes, 0, cut)
      const next = Framing.fromRecord(old.toRecord(), 'request')
      expect(() => next.advance(bytes, cut, bytes.length)).toThrow(
        expect.objectContaining({ reason: 'trailer-forbidden' }),
      )
    }
  })

  it.each([
    Framing.none(),
    Framing.length(0),
    Framing.length(Number.MAX_SAFE_INTEGER),
    Framing.chunked('request'),
    Framing.untilClose(),
    Framing.tunnel(),
  ])('of a fresh tracker is taken back: $kind', framing => {
    expect(Framing.fromRecord(framing.toRecord(), 'request').toRecord()).toEqual(framing.toRecord())
  })

  it.each([
    record({ kind: untyped('other') }),
    record({ kind: 'length', left: -1 }),
    record({ kind: 'length', left: 0.5 }),
    record({ kind: 'length', left: 2 ** 53 }),
    record({ kind: 'length', left: Number.NaN }),
    record({ kind: 'length', left: untyped('5') }),
    record({ kind: 'length', phase: 1 }),
    record({ kind: 'length', count: 1 }),
    record({ kind: 'none', left: 1 }),
    record({ kind: 'tunnel', left: 1 }),
    record({ kind: 'until-close', hash: 1 }),
    record({ phase: -1 }),
    record({ phase: 18 }),
    record({ phase: 0.5 }),
    record({ phase: Number.NaN }),
    record({ count: 17 }),
    record({ count: -1 }),
    record({ count: 0.5 }),
    record({ left: 5 }),
    record({ phase: 1, count: 257 }),
    record({ phase: 17, count: 257 }),
    record({ phase: 5, count: 1 }),
    record({ phase: 6, left: 0 }),
    record({ phase: 7, left: 1 }),
    record({ phase: 10, count: 0 }),
    record({ phase: 10, count: 8193 }),
    record({ phase: 10, count: 1, hash: 2 ** 32 }),
    record({ phase: 11, count: 1, hash: 1 }),
    record({ phase: 14, left: 1 }),
  ])('meets a refusal where no tracker can be: %j', damaged => {
    expect(() => Framing.fromRecord(damaged, 'request')).toThrow(FdbError)
    expect(() => Framing.fromRecord(damaged, 'request')).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_HTTP1_RECORD' }),
    )
  })
})
