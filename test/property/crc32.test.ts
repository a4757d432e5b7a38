import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { crc32Of } from '../../src/state/crc32.js'
import { Bytes } from '../../src/state/key-bytes.js'

describe('the sum of a part of a buffer', () => {
  it('is what zlib makes of the same bytes, whatever came before them', () => {
    const value = fc.integer({ min: 0, max: 0xffffffff })
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 300 }),
        fc.nat(300),
        fc.nat(300),
        value,
        (bytes, a, b, before) => {
          const [start, end] = [Math.min(a, b, bytes.length), Math.min(Math.max(a, b), bytes.length)]
          expect(crc32Of(new Bytes(Buffer.from(bytes)), start, end, before)).toBe(
            crc32(bytes.subarray(start, end), before),
          )
        },
      ),
      { numRuns: 2000 },
    )
  })
})
