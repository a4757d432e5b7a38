import { describe, expect, it } from 'vitest'
import { KeyTable } from '../../../src/state/key-table.js'
import { arrayBuffersInUse } from '../../fixtures/array-buffers.js'
import { lying } from '../../fixtures/lying-keys.js'
import { seeded } from '../../fixtures/seeded.js'

const entriesOf = (table: KeyTable) => [...table.entries(key => table.get(lying(key)))]

describe('a table of keys', () => {
  it('has keys that are empty, long, of any script, and begin with another one', () => {
    const keys = ['', 'a', 'aa', 'ä', 'äa', '鍵', '🔑', '\u0000', '\u0000\u0000', '\ufffd']
    keys.push('x'.repeat(255), 'x'.repeat(256), 'x'.repeat(257), 'x'.repeat(65_535), '鍵'.repeat(300))
    const table = new KeyTable(8)
    for (const [i, key] of keys.entries()) expect(table.set(lying(key), i)).toBeUndefined()
    for (const [i, key] of keys.entries()) expect(table.get(lying(key))).toBe(i)
    expect(entriesOf(table)).toEqual(keys.map((key, i) => [key, i]))
  })

  it('says what a key had: nothing, null or a number', () => {
    const table = new KeyTable(8)
    const said = [null, 0, 2 ** 32 - 3, null].map(value => table.set(lying('a'), value))
    expect(said).toEqual([undefined, null, 0, 2 ** 32 - 3])
    expect([table.get(lying('a')), table.get(lying('b')), table.size]).toEqual([null, undefined, 1])
    expect([table.delete(lying('a')), table.delete(lying('a')), table.size]).toEqual([true, false, 0])
    expect(table.set(lying('a'), 1)).toBeUndefined()
  })

  it('tells keys of one hash apart, and finds them behind those that were deleted', () => {
    const table = new KeyTable(8)
    const key = (i: number) => lying(`key-${i}`, 0x7fff_fff0)
    for (let i = 0; i < 500; i++) table.set(key(i), i)
    for (let i = 0; i < 500; i += 3) expect(table.delete(key(i))).toBe(true)
    for (let i = 0; i < 500; i += 6) table.set(key(i), -i + 1000)
    for (let i = 0; i < 500; i++)
      expect(table.get(key(i))).toBe(i % 6 === 0 ? 1000 - i : i % 3 === 0 ? undefined : i)
  })

  it('keeps the order in which keys came, also when it is made anew without some', () => {
    const table = new KeyTable(8)
    const model = new Map<string, number>()
    const random = seeded()
    for (let i = 0; i < 20_000; i++) {
      const key = `key-${random(2_000)}`
      if (random(5) < 2) {
        if (table.delete(lying(key)) !== model.delete(key)) expect.fail(`${key} was there, or not`)
      } else {
        if (table.set(lying(key), i) !== model.get(key)) expect.fail(`${key} had something else`)
        model.set(key, i)
      }
      if (i % 500 === 0) expect(entriesOf(table)).toEqual([...model])
    }
    expect(table.size).toBe(model.size)
  })

  it('may be changed and made anew while it is looked through', () => {
    const table = new KeyTable(8)
    for (let i = 0; i < 100; i++) table.set(lying(`key-${i}`), i)
    const seen: [string, number | null][] = []
    for (const entry of table.entries(key => table.get(lying(key)))) {
      if (seen.push(entry) !== 10) continue
      table.set(lying('key-50'), 5_000)
      table.delete(lying('key-60'))
      for (let i = 100; i < 1_000; i++) table.set(lying(`key-${i}`), i)
      table.set(lying('key-70'), 7_000)
      table.delete(lying('key-80'))
    }
    const expected = Array.from({ length: 100 }, (_, i) => [
      `key-${i}`,
      i === 50 ? 5_000 : i === 70 ? 7_000 : i,
    ])
    expect(seen).toEqual(expected.filter(([key]) => key !== 'key-60' && key !== 'key-80'))
  })

  it('has no place for long for keys that were deleted', () => {
    const table = new KeyTable(8)
    const before = arrayBuffersInUse()
    for (let i = 0; i < 300_000; i++) {
      table.set(lying(`a key that is here for a short time only, ${i}`), i)
      if (i >= 100) table.delete(lying(`a key that is here for a short time only, ${i - 100}`))
    }
    expect(arrayBuffersInUse() - before).toBeLessThan(2 ** 15)
    expect(table.size).toBe(100)
  })
})
