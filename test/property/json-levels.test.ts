import { describe, expect, it } from 'vitest'
import { isTooDeep } from '../../src/base/json.js'
import fc from '../lanes/generated.js'

/** Texts whose quotes, backslashes and brackets count for nothing. */
const word = fc.string({ unit: fc.constantFrom('[', ']', '{', '}', '"', '\\', 'a', ' ') })
const value = fc.jsonValue({ maxDepth: 5, stringUnit: 'grapheme' })

function nested(levels: number, inside: unknown): unknown {
  let outside = inside
  for (let level = 0; level < levels; level++) outside = level % 2 === 0 ? [outside] : { '}[': outside }
  return outside
}

describe('the levels of a JSON text', () => {
  it('number at most 100, wherever they stand and whatever is in strings', () => {
    fc.assert(
      fc.property(word, value, (text, other) => {
        const most = nested(100, text)
        expect(isTooDeep(JSON.stringify([other, text, { [text]: other }]))).toBe(false)
        expect(isTooDeep(JSON.stringify(most))).toBe(false)
        expect(isTooDeep(JSON.stringify(nested(101, text)))).toBe(true)
        expect(isTooDeep(JSON.stringify({ [text]: text, most }))).toBe(true)
        expect(isTooDeep(`${JSON.stringify(most)},${JSON.stringify(most)}`)).toBe(false)
      }),
    )
  })
})
