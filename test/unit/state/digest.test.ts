import { describe, expect, it } from 'vitest'
import { ShardedMap } from '../../../src/base/large-collections.js'
import { Locations } from '../../../src/state/locations.js'
import { RequestMemory } from '../../../src/state/requests.js'
import { Digest } from '../../fixtures/state.js'

const b = (text: string) => Buffer.from(text)

describe('the digest', () => {
  it('does not depend on the order of entries, nor on what was there meanwhile', () => {
    const [one, two] = [new Digest(), new Digest()]
    one.add(b('s'), b('a'), b('1'))
    one.add(b('s'), b('b'), b('2'))
    two.add(b('s'), b('c'), b('3'))
    two.add(b('s'), b('b'), b('2'))
    two.add(b('s'), b('a'), b('1'))
    expect(one.toString()).not.toBe(two.toString())
    two.remove(b('s'), b('c'), b('3'))
    expect(one.toString()).toBe(two.toString())
    expect(two.toString()).toBe(one.toString())
    one.remove(b('s'), b('a'), b('1'))
    one.remove(b('s'), b('b'), b('2'))
    expect(one.toString()).toBe('0'.repeat(64))
  })

  it('tells apart where section, key and value end', () => {
    const seen = new Set<string>()
    for (const [section, key, value] of [
      ['ab', 'c', 'd'],
      ['a', 'bc', 'd'],
      ['a', 'b', 'cd'],
      ['', 'abcd', ''],
    ]) {
      const digest = new Digest()
      digest.add(b(section!), b(key!), b(value!))
      seen.add(digest.toString())
    }
    expect(seen.size).toBe(4)
  })

  it('takes values of any size', () => {
    const digest = new Digest()
    digest.add(b('s'), b('k'), Buffer.alloc(300_000, 7))
    digest.remove(b('s'), b('k'), Buffer.alloc(300_000, 7))
    expect(digest.toString()).toBe('0'.repeat(64))
  })
})

describe('the sharded map', () => {
  it.each([5000, 50_000])('behaves like a Map, with %i keys', count => {
    const map = new ShardedMap<number>()
    for (let i = 0; i < count; i++) map.set(`key-${i}`, i)
    map.set('key-7', -7)
    expect([map.size, map.get('key-7'), map.get('no'), map.has(`key-${count - 1}`)]).toEqual([
      count,
      -7,
      undefined,
      true,
    ])
    expect([map.delete('key-7'), map.delete('key-7'), map.size, map.has('key-7')]).toEqual([
      true,
      false,
      count - 1,
      false,
    ])
    expect(new Set(map.keys()).size).toBe(count - 1)
    expect([...map.entries()].every(([key, value]) => key === `key-${value}`)).toBe(true)
  })

  it('behaves like a Map in each step in which it becomes large', () => {
    const map = new ShardedMap<number>()
    const model = new Map<string, number>()
    let seed = 1
    const random = (below: number) => {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
      return seed % below
    }
    for (let i = 0; i < 60_000; i++) {
      // First few are deleted, then many.
      const key = `key-${random(30_000)}`
      if (random(i < 40_000 ? 8 : 2) === 0) expect(map.delete(key)).toBe(model.delete(key))
      else {
        map.set(key, i)
        model.set(key, i)
      }
      if (map.size !== model.size || map.get(key) !== model.get(key) || map.has(key) !== model.has(key))
        expect([i, map.size, map.get(key), map.has(key)]).toEqual([
          i,
          model.size,
          model.get(key),
          model.has(key),
        ])
      if (i % 2_500 === 0 || (model.size > 16_384 && model.size < 16_390)) {
        const all = [...map.entries()]
        expect(all.length).toBe(model.size)
        expect(all.every(([each, value]) => model.get(each) === value)).toBe(true)
      }
    }
    expect(model.size).toBeGreaterThan(10_000)
  })

  it('may become large, or be changed, while it is looked through: what stays is seen once', () => {
    const map = new ShardedMap<number>()
    for (let i = 0; i < 10_000; i++) map.set(`key-${i}`, i)
    const seen: number[] = []
    for (const [key, value] of map.entries()) {
      if (value < 10_000) seen.push(value)
      if (value === 100) for (let i = 10_000; i < 40_000; i++) map.set(`key-${i}`, i)
      if (value === 200) for (let i = 5_000; i < 6_000; i++) map.delete(`key-${i}`)
      if (value === 300) map.set('key-9999', -1)
      expect(map.has(key)).toBe(true)
    }
    expect(new Set(seen).size).toBe(seen.length)
    const left = Array.from({ length: 9_999 }, (_, i) => i).filter(i => i < 5_000 || i >= 6_000)
    expect(seen.filter(value => value >= 0)).toEqual(left)
    expect(seen).toContain(-1)
  })
})

describe('locations', () => {
  it('moves only the slots that were not changed since the copy', () => {
    const now = new Locations()
    const at = { segment: 0, offset: 0, length: 0 }
    for (let i = 0; i < 40_000; i++) expect(now.add(1, i, 10)).toBe(i)
    const before = now.copy()
    const after = now.copy()
    for (let i = 0; i < 40_000; i++) after.set(i, 9, i + 1_000_000, 10)
    now.set(3, 2, 33, 10)
    now.remove(4)
    expect(now.add(2, 44, 10)).toBe(4)
    now.remove(5)
    now.move(before, after)
    expect(now.get(3, at)).toEqual({ segment: 2, offset: 33, length: 10 })
    expect(now.get(4, at)).toEqual({ segment: 2, offset: 44, length: 10 })
    expect(now.get(5, at)).toEqual({ segment: 0, offset: 0, length: 0 })
    expect(now.get(39_999, at)).toEqual({ segment: 9, offset: 1_039_999, length: 10 })
    now.set(39_999, 3, 1, 1)
    expect(before.get(39_999, at)).toEqual({ segment: 1, offset: 39_999, length: 10 })
  })

  it('stay the same in a copy, whatever becomes of the other', () => {
    const one = new Locations()
    const at = { segment: 0, offset: 0, length: 0 }
    for (let i = 0; i < 20_000; i++) one.add(1, i, 10)
    const other = one.copy()
    other.set(7, 2, 70, 10)
    one.set(8, 3, 80, 10)
    one.remove(19_999)
    expect(one.add(3, 90, 10)).toBe(19_999)
    expect([one.get(7, at).offset, other.get(7, at).offset]).toEqual([7, 70])
    expect([one.get(8, at).offset, other.get(8, at).offset]).toEqual([80, 8])
    expect([one.get(19_999, at).offset, other.get(19_999, at).offset]).toEqual([90, 19_999])
    expect(one.copy().get(8, at)).toEqual({ segment: 3, offset: 80, length: 10 })
  })
})

describe('the memory of request ids', () => {
  it('forgets the oldest first, and lists those up to a sequence in order', () => {
    const memory = new RequestMemory(3)
    for (let i = 1; i <= 5; i++) memory.add(`r${i}`, i, i)
    memory.add('r5', 9, 9)
    expect(['r1', 'r2', 'r3', 'r4', 'r5'].map(id => memory.get(id)?.print)).toEqual([
      undefined,
      undefined,
      3,
      4,
      5,
    ])
    const upTo = (sequence: number) => memory.upTo(sequence).map(({ id, print }) => `${id}=${print}`)
    expect([upTo(4), upTo(99)]).toEqual([
      ['r3=3', 'r4=4'],
      ['r3=3', 'r4=4', 'r5=5'],
    ])
  })
})
