import { describe, expect, it } from 'vitest'
import { ConfigDocument, parseJson } from '../../../src/config/document.js'
import { problems, refusal } from '../../fixtures/proxy-config.js'
import fc from '../../lanes/generated.js'

describe('a configuration in JSON', () => {
  it('reads as it says, also with colons, quotes and backslashes in its texts', () => {
    const text = fc.string({ unit: fc.constantFrom('"', '\\', ':', '{', 'a', '\n', 'é', '\u2028') })
    const value = fc.jsonValue({ stringUnit: 'grapheme' })
    const object = fc.dictionary(fc.oneof(text, fc.constant('__proto__')), fc.oneof(text, value))
    fc.assert(
      fc.property(object, fc.constantFrom(0, 2, '\t'), (given, indent) => {
        const written = JSON.stringify(given, null, indent)
        expect(parseJson(written)).toEqual(JSON.parse(written))
      }),
      { seed: 61, numRuns: 1000 },
    )
  })

  it('reads as YAML where a key is given twice, whatever its texts say', () => {
    const text = fc.string({ unit: fc.constantFrom('"', '\\', ':', ' ', 'a') })
    fc.assert(
      fc.property(fc.array(fc.tuple(text, text), { minLength: 1 }), text, (pairs, last) => {
        const [[key] = ['']] = pairs
        const written = [...pairs, [key, last]].map(pair => pair.map(each => JSON.stringify(each)).join(' :'))
        expect(parseJson(`{${written.join()}}`)).toBeUndefined()
      }),
      { seed: 62, numRuns: 300 },
    )
  })

  it('reads as YAML where it is no JSON, or a key is given twice', () => {
    const none = [
      '',
      '1',
      '"a"',
      '{a: 1}',
      '{"a":1,}',
      '{"a":1} x',
      '{"a":1,"a":1}',
      '[{"b":{"c":1,"c":2}}]',
      '\ufeff{}',
    ]
    for (const text of none) expect(parseJson(text), text).toBeUndefined()
    // Signs of a key within texts do not make up for a key that is given twice.
    const twice = [
      '{"a":"\\":","a":1}',
      '{"a":":","b":[":"],"a":1}',
      '{"a\\\\":1,"a\\\\":2}',
      '{"a" :1,"a"\n:{}}',
    ]
    for (const text of twice) expect(parseJson(text), text).toBeUndefined()
    const nested = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`
    expect(parseJson(nested(100))).toBeDefined()
    expect(parseJson(nested(101))).toBeUndefined()
    expect(parseJson(nested(100_000))).toBeUndefined()
    expect(parseJson(' \n[{"a":1},{"a":1}]')).toEqual([{ a: 1 }, { a: 1 }])
    expect(new ConfigDocument('{"a":1,"a":2}').syntax).toEqual([
      { line: 1, column: 8, message: 'this key is given twice in the same map' },
    ])
  })

  it('names the places of what is wrong in it', () => {
    const json = JSON.stringify(
      { service: 'edge', control: '/a', listeners: [{ name: 'x', adress: 'tcp://*:1' }] },
      null,
      2,
    )
    expect(problems(json).map(({ line, column, key }) => [line, column, key])).toEqual([
      [5, 5, 'listeners[0]'],
      [7, 7, 'listeners[0].adress'],
    ])
    expect(refusal('[]')[0]).toMatch(/^edge\.yaml:1:1: \[\] is a list, not a map/)
  })
})
