import { describe, expect, it } from 'vitest'
import { ShardedMap } from '../../src/sharded-map.js'
import { Digest } from '../../src/state/digest.js'
import { Locations } from '../../src/state/locations.js'
import { RequestMemory } from '../../src/state/requests.js'

const b = (text: string) => Buffer.from(text)

describe('the digest', () => {
  it('does not depend on the order of entries, nor on what was there meanwhile', () => {
    const [one, two] = [new Digest(), new Digest()]
    one.add(b('s'), b('a'), b('1'))
    one.add(b('s'), b('b'), b('2'))
    two.add(b('s'), b('c'), b('3'))
    two.add(b('s'), b('b'), b('2'))
    two.add(b('s'), b('a'), b('1'))
    expect(one.equals(two)).toBe(false)
    two.remove(b('s'), b('c'), b('3'))
    expect(one.equals(two)).toBe(true)
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
  it('behaves like a Map', () => {
    const map = new ShardedMap<number>()
    for (let i = 0; i < 5000; i++) map.set(`key-${i}`, i)
    map.set('key-7', -7)
    expect([map.size, map.get('key-7'), map.get('no'), map.has('key-4999')]).toEqual([
      5000,
      -7,
      undefined,
      true,
    ])
    expect([map.delete('key-7'), map.delete('key-7'), map.size, map.has('key-7')]).toEqual([
      true,
      false,
      4999,
      false,
    ])
    expect(new Set(map.keys()).size).toBe(4999)
    expect([...map.entries()].every(([key, value]) => key === `key-${value}`)).toBe(true)
    map.clear()
    expect([map.size, [...map.keys()].length]).toEqual([0, 0])
  })
})

describe('locations', () => {
  it('moves only the slots that were not changed since the copy', () => {
    const now = new Locations()
    const at = { segment: 0, offset: 0, length: 0 }
    for (let i = 0; i < 40_000; i++) expect(now.add(1, i, 10)).toBe(i)
    const before = now.copy()
    const after = now.copy()
    for (let i = 0; i < 40_000; i++) after.set(i, 0, i + 1_000_000, 10)
    now.set(3, 2, 33, 10)
    now.remove(4)
    expect(now.add(2, 44, 10)).toBe(4)
    now.remove(5)
    now.move(before, after, 9)
    expect(now.get(3, at)).toEqual({ segment: 2, offset: 33, length: 10 })
    expect(now.get(4, at)).toEqual({ segment: 2, offset: 44, length: 10 })
    expect(now.get(5, at)).toEqual({ segment: 0, offset: 0, length: 0 })
    expect(now.get(39_999, at)).toEqual({ segment: 9, offset: 1_039_999, length: 10 })
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
    expect([memory.size, upTo(4), upTo(99)]).toEqual([3, ['r3=3', 'r4=4'], ['r3=3', 'r4=4', 'r5=5']])
  })
})
