import { describe, expect, it } from 'vitest'
import { KnownValues } from '../../../src/http1/known-values.js'

/** A cache that makes an object of a text, with all texts of which it has made one. */
function cache() {
  const made: string[] = []
  const values = new KnownValues<{ text: string }>(text => {
    made.push(text)
    return text === 'refused' ? undefined : { text }
  })
  const get = (text: string) => values.get(Buffer.from(`<${text}>`, 'latin1'), 1, 1 + text.length)
  return { made, values, get }
}

const TEXT = 'abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-._~'

describe('values of bytes', () => {
  it('stay the same for equal bytes, in a new buffer and in one that was read before', () => {
    const { made, values, get } = cache()
    for (let length = 1; length <= 64; length++) {
      const text = TEXT.slice(0, length)
      expect(get(text)).toEqual({ text })
      // Bytes that come once are not kept.
      const first = get(text)
      expect(get(text), text).toBe(first)
      const again = Buffer.from(`<<<${text}>`, 'latin1')
      for (let n = 0; n < 3; n++) expect(values.get(again, 3, 3 + length), text).toBe(first)
    }
    expect(made).toHaveLength(2 * 64)
  })

  it('differ for bytes that differ in one place, or in their number', () => {
    const { get } = cache()
    for (let length = 1; length <= 64; length++) {
      const text = TEXT.slice(0, length)
      for (let at = 0; at < length; at++) {
        const other = `${text.slice(0, at)}\xff${text.slice(at + 1)}`
        for (const each of [text, text, other, other, text]) expect(get(each)?.text).toBe(each)
      }
    }
  })

  it('differ for three bytes and for four that begin with a zero byte', () => {
    const { get } = cache()
    for (const text of ['abc', '\0abc', 'abc\0', 'cba', '\0cba', 'a', '\0a', '\0\0\0a'])
      for (let n = 0; n < 3; n++) expect(get(text)?.text).toBe(text)
  })

  it('come from a new call for no byte, for many bytes, and if the last call returned undefined', () => {
    const { made, get } = cache()
    for (const text of ['', 'x'.repeat(65), 'refused']) {
      const before = made.length
      get(text)
      get(text)
      expect(made.length - before, text).toBe(2)
    }
  })

  it('take the place of others when there are many', () => {
    const { get } = cache()
    for (let n = 0; n < 5_000; n++)
      for (let times = 0; times < 3; times++)
        expect(get(`host-${n}.example.com`)?.text).toBe(`host-${n}.example.com`)
  })
})
