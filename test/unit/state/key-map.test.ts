import { describe, expect, it } from 'vitest'
import { KeyMap, NONE, NULL } from '../../../src/state/key-map.js'
import { scannedKeys } from '../../fixtures/scanned-keys.js'
import { seeded } from '../../fixtures/seeded.js'
import { perLane } from '../../lanes/lane.js'

/** An index with more than 16,384 keys is divided. */
const MANY = 40_000

describe('the keys of a state', () => {
  it.each([500, 5000, MANY])(
    'have the values that a call for one key or for many gave them, %i of them',
    count => {
      const map = new KeyMap<number | null>()
      const odd = Array.from({ length: count / 2 }, (_, i) => `key-${2 * i + 1}`)
      for (let i = 0; i < count; i += 2) map.set(`key-${i}`, i)
      for (let i = 0; i < odd.length; i += 100) {
        const keys = ['key-0', ...odd.slice(i, i + 99), 'key-2', ...odd.slice(i + 99, i + 100), 'key-2']
        const values = Uint32Array.from(keys, key => (key === 'key-0' ? NULL : Number(key.slice(4))))
        const before = new Uint32Array(keys.length)
        expect(map.setAll(scannedKeys(keys), 0, keys.length, values, before)).toBe(keys.length)
        expect([before[0], before[1], before.at(-1)]).toEqual([i === 0 ? 0 : NULL, NONE, 2])
      }
      expect(map.size).toBe(count)
      const found = new Uint32Array(4)
      map.findAll(scannedKeys(['x', 'key-0', 'key-1', 'no', 'key-2']), 1, 4, found)
      expect([...found]).toEqual([NULL, 1, NONE, 2])
      map.set('key-0', 0)
      for (const key of ['no', '', 'key-', 'key-77777777']) expect(map.has(key)).toBe(false)
      expect([map.delete('key-7'), map.delete('key-7'), map.delete('key-8')]).toEqual([true, false, true])
      expect([map.size, map.has('key-7'), map.has('key-8')]).toEqual([count - 2, false, false])
      const all = [...map.entries()]
      expect(all).toHaveLength(count - 2)
      expect(all.every(([key, value]) => key === `key-${value}`)).toBe(true)
    },
  )

  it('may be empty, long, of any script, and begin with another one', () => {
    const keys = ['', 'a', 'aa', 'ä', 'äa', '鍵', '🔑', '\u0000', '\u0000\u0000', '\ufffd']
    keys.push('x'.repeat(255), 'x'.repeat(256), 'x'.repeat(257), 'x'.repeat(65_535), '鍵'.repeat(300))
    const map = new KeyMap()
    for (const [i, key] of keys.entries()) map.set(key, i)
    for (const [i, key] of keys.entries()) expect(map.get(key)).toBe(i)
    expect([...map.keys()]).toEqual(keys)
  })

  it.each([1, MANY])(
    'include no texts with half a surrogate pair, which are not folded into one (%i keys)',
    count => {
      const map = new KeyMap()
      map.set('\ufffd', 0)
      for (let i = 1; i < count; i++) map.set(`key-${i}`, i)
      for (const half of ['\ud83d', '\udd11', `${'a'.repeat(300)}\ud83d`]) {
        expect([map.get(half), map.has(half), map.delete(half)]).toEqual([undefined, false, false])
      }
      expect([map.size, map.get('\ufffd')]).toEqual([count, 0])
    },
  )

  it('may have null, which is not to have nothing', () => {
    const map = new KeyMap<number | null>()
    map.set('a', null)
    map.set('b', 0)
    map.set('c', 2 ** 32 - 3)
    expect([map.get('a'), map.has('a'), map.get('b'), map.get('c')]).toEqual([null, true, 0, 2 ** 32 - 3])
    expect([...map.entries()]).toEqual([
      ['a', null],
      ['b', 0],
      ['c', 2 ** 32 - 3],
    ])
    map.delete('a')
    expect([map.has('a'), map.size]).toEqual([false, 2])
  })

  it('behave as in a Map after any changes, while they become many, and few again', () => {
    const map = new KeyMap<number | null>()
    const model = new Map<string, number | null>()
    const random = seeded()
    const check = (key: string) => {
      if (map.size !== model.size || map.get(key) !== model.get(key) || map.has(key) !== model.has(key))
        expect([map.size, map.get(key), map.has(key)]).toEqual([model.size, model.get(key), model.has(key)])
    }
    let longest = 0
    for (let i = 0; i < 100_000; i++) {
      const key = `${'ä'.repeat(random(3))}key-${random(10_000)}`
      const deleted = random(8) < (i < 40_000 ? 1 : i < 70_000 ? 4 : 7)
      if (deleted) {
        if (map.delete(key) !== model.delete(key)) expect.fail(`${key} was there, or not`)
      } else {
        const value = random(10) === 0 ? null : i
        map.set(key, value)
        model.set(key, value)
      }
      check(key)
      check(`key-${random(10_000)}`)
      longest = Math.max(longest, model.size)
      if (i % 10_000 === 0 || (i < 40_000 && model.size > 16_380 && model.size < 16_390)) {
        const all = new Map(map.entries())
        expect(all.size).toBe(model.size)
        for (const [each, value] of all) if (model.get(each) !== value) expect.fail(`${each} has ${value}`)
      }
    }
    expect(longest).toBeGreaterThan(17_000)
    expect(model.size).toBeLessThan(10_000)
  })

  it('come in the order in which they were set up to 16,384, also where some were deleted', () => {
    const map = new KeyMap()
    for (let i = 0; i < 1000; i++) map.set(`key-${i}`, i)
    for (let i = 0; i < 900; i++) map.delete(`key-${i}`)
    for (let i = 0; i < 500; i++) map.set(`key-${i}`, i)
    map.set('key-950', 7)
    const left = [
      ...Array.from({ length: 100 }, (_, i) => 900 + i),
      ...Array.from({ length: 500 }, (_, i) => i),
    ]
    expect([...map.keys()]).toEqual(left.map(i => `key-${i}`))
    expect([...map.entries()][50]).toEqual(['key-950', 7])
  })

  it.each([['become many', 10_000] as const, ...perLane([], [['be many', MANY] as const])])(
    'may %s, or be changed, while they are looked through: what stays is seen once',
    (_, count) => {
      const map = new KeyMap()
      for (let i = 0; i < count; i++) map.set(`key-${i}`, i)
      const seen = new Set<string>()
      const fresh: number[] = []
      let came = 0
      for (const [key, value] of map.entries()) {
        expect(seen.has(key)).toBe(false)
        expect(map.get(key)).toBe(value)
        seen.add(key)
        if (value >= 1_000_000) fresh.push(value)
        if (++came === 100) for (let i = count; i < 3 * count; i++) map.set(`key-${i}`, i)
        if (came === 200) for (let i = 5_000; i < 6_000; i++) map.delete(`key-${i}`)
        if (came === 300) for (let i = 7_000; i < 8_000; i++) map.set(`key-${i}`, 1_000_000 + i)
      }
      for (let i = 0; i < count; i++)
        if ((i < 5_000 || i >= 6_000) && !seen.has(`key-${i}`)) expect.fail(`key-${i} was not seen`)
      // Entries that had come before their value changed have not come again.
      expect(fresh.length).toBeGreaterThan(900)
      expect([...seen].filter(key => /^key-5\d\d\d$/.test(key)).length).toBeLessThan(50)
    },
  )
})
