import { describe, expect, it } from 'vitest'
import { keyBytesOf } from '../../../src/state/key-bytes.js'
import { KeyMap } from '../../../src/state/slot-map.js'
import { arrayBuffersInUse } from '../../fixtures/array-buffers.js'
import { lying } from '../../fixtures/lying-keys.js'
import { seeded } from '../../fixtures/seeded.js'
import { perLane } from '../../lanes/lane.js'

/** More than are in one `Map`. */
const MANY = 40_000

describe('the keys of a state', () => {
  it.each([5000, MANY])('read as texts and as bytes, %i of them', count => {
    const map = new KeyMap()
    for (let i = 0; i < count; i++) map.set(i % 2 === 0 ? `key-${i}` : lying(`key-${i}`), i)
    map.set('key-7', 1)
    map.set(lying('key-8'), 2)
    expect(map.size).toBe(count)
    for (const key of ['key-7', lying('key-7')]) expect(map.get(key)).toBe(1)
    for (const key of ['key-8', lying('key-8')]) expect(map.get(key)).toBe(2)
    for (const key of ['no', lying('no'), '', 'key-', 'key-77777777']) expect(map.has(key)).toBe(false)
    expect([map.delete('key-7'), map.delete('key-7'), map.delete(lying('key-8'))]).toEqual([
      true,
      false,
      true,
    ])
    expect([map.size, map.has('key-7'), map.has('key-8')]).toEqual([count - 2, false, false])
    const all = [...map.entries()]
    expect(all).toHaveLength(count - 2)
    expect(all.every(([key, value]) => key === `key-${value}`)).toBe(true)
  })

  it('may be empty, long, of any script, and begin with another one', () => {
    const keys = ['', 'a', 'aa', 'ä', 'äa', '鍵', '🔑', '\u0000', '\u0000\u0000', '\ufffd']
    keys.push('x'.repeat(255), 'x'.repeat(256), 'x'.repeat(257), 'x'.repeat(65_535), '鍵'.repeat(300))
    const map = new KeyMap()
    for (const [i, key] of keys.entries()) map.set(key, i)
    for (const [i, key] of keys.entries()) expect([map.get(key), map.get(lying(key))]).toEqual([i, i])
    expect([...map.keys()]).toEqual(keys)
  })

  it.each([1, MANY])(
    'include no texts with half a surrogate pair, which are not folded into one (%i keys)',
    count => {
      const map = new KeyMap()
      map.set('\ufffd', 0)
      for (let i = 1; i < count; i++) map.set(`key-${i}`, i)
      for (const half of ['\ud83d', '\udd11', `${'a'.repeat(300)}\ud83d`]) {
        expect(keyBytesOf(half)).toBeNull()
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

  it('differ where they have one hash', () => {
    const map = new KeyMap()
    const key = (i: number) => lying(`key-${i}`, 0x7fff_fff0)
    for (let i = 0; i < 500; i++) map.set(key(i), i)
    for (let i = 0; i < 500; i += 3) expect(map.delete(key(i))).toBe(true)
    for (let i = 0; i < 500; i += 6) map.set(key(i), -i + 1000)
    for (let i = 0; i < 500; i++)
      expect(map.get(key(i))).toBe(i % 6 === 0 ? 1000 - i : i % 3 === 0 ? undefined : i)
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
    for (let i = 0; i < 200_000; i++) {
      const key = `${'ä'.repeat(random(3))}key-${random(10_000)}`
      const deleted = random(8) < (i < 60_000 ? 1 : i < 140_000 ? 4 : 7)
      if (deleted) {
        if (map.delete(key) !== model.delete(key)) expect.fail(`${key} was there, or not`)
      } else {
        const value = random(10) === 0 ? null : i
        map.set(random(2) === 0 ? key : lying(key), value)
        model.set(key, value)
      }
      check(key)
      check(`key-${random(10_000)}`)
      longest = Math.max(longest, model.size)
      if (i % 10_000 === 0 || (i < 60_000 && model.size > 16_380 && model.size < 16_390)) {
        const all = new Map(map.entries())
        expect(all.size).toBe(model.size)
        for (const [each, value] of all) if (model.get(each) !== value) expect.fail(`${each} has ${value}`)
      }
    }
    expect(longest).toBeGreaterThan(20_000)
    expect(model.size).toBeLessThan(20_000)
  })

  it('come in the order in which they were set while they are few, also where some were deleted', () => {
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

  it('take no place for long once they are deleted, of many', () => {
    const short = (i: number) => `a key that is here for a short time only, ${i}`
    const [map, keeps] = [new KeyMap(), new KeyMap()]
    for (let i = 0; i < MANY; i++) for (const each of [map, keeps]) each.set(`key-${i}`, i)
    const before = arrayBuffersInUse()
    for (let i = 0; i < 300_000; i++) {
      map.set(short(i), i)
      if (i >= 100) map.delete(short(i - 100))
    }
    const taken = arrayBuffersInUse() - before
    for (let i = 0; i < 300_000; i++) keeps.set(short(i), i)
    const ifKept = arrayBuffersInUse() - before - taken
    // Room for as many keys again, at most; 4 and 29 MB.
    expect(taken).toBeLessThan(ifKept / 4)
    expect([map.size, keeps.size]).toEqual([MANY + 100, MANY + 300_000])
  })
})
