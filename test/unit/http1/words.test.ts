import { describe, expect, it } from 'vitest'
import { copyWords, plainUntil, wordsOf } from '../../../src/http1/bytes.js'

const isControl = (byte: number) => byte < 0x20 || byte === 0x7f

describe('four bytes at a time', () => {
  it('every control character is found where it is, whatever stands beside it', () => {
    for (let byte = 0; byte < 256; byte++) {
      for (const beside of [0x20, 0x7e, 0x80, 0xff]) {
        for (let at = 0; at < 8; at++) {
          const bytes = Buffer.alloc(11, beside)
          bytes[at] = byte
          const found = plainUntil(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, 11)
          expect(found, `${byte} at ${at} beside ${beside}`).toBe(isControl(byte) ? at : 8)
        }
      }
    }
  })

  it('nothing is looked at behind the end', () => {
    const words = new DataView(Uint8Array.from(Buffer.from('abcdef\r\n')).buffer)
    for (let to = 0; to <= 6; to++) expect(plainUntil(words, 0, to)).toBe(to - (to % 4))
  })

  it('as many bytes are copied as are asked for', () => {
    const from = Buffer.from(Array.from({ length: 40 }, (_, i) => i + 1))
    const words = new DataView(from.buffer, from.byteOffset, from.length)
    for (let start = 0; start < 5; start++) {
      for (let length = 0; length <= 30; length++) {
        const to = Buffer.alloc(40)
        copyWords(words, start, start + length, new DataView(to.buffer, to.byteOffset, to.length), 3)
        const wanted = Buffer.alloc(40)
        from.copy(wanted, 3, start, start + length)
        expect(to).toEqual(wanted)
      }
    }
  })

  it('there is a view of what was asked for twice in a row', () => {
    const bytes = new Uint8Array(new ArrayBuffer(25), 2)
    bytes[0] = 1
    expect(wordsOf(bytes)).toBeNull()
    expect(wordsOf(bytes)?.getUint8(0)).toBe(bytes[0])
    expect(wordsOf(new Uint8Array(1))).toBeNull()
    expect(wordsOf(bytes)).toBeNull()
  })

  it('there is a view of each of what sockets are read into in one turn, whichever come between', () => {
    const [memory, slot, slots] = [Buffer.alloc(64 * 16_704), 16_704, 64]
    const all = Array.from({ length: slots }, (_, i) => memory.subarray(i * slot, (i + 1) * slot))
    for (const bytes of all) expect(wordsOf(bytes)).toBeNull()
    for (const [i, bytes] of all.entries()) {
      bytes[0] = i
      const words = wordsOf(bytes)
      expect(words?.getUint8(0)).toBe(i)
      expect(wordsOf(bytes)).toBe(words)
    }
  })
})
