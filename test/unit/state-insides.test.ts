import { describe, expect, it } from 'vitest'
import { Bulk } from '../../src/state/bulk.js'
import { DEFAULT_LIMITS } from '../../src/state/limits.js'
import { RequestMemory } from '../../src/state/requests.js'
import { deepFreeze } from '../../src/state/section.js'
import { SectionStore } from '../../src/state/section-store.js'
import { LeftWork } from '../../src/state/slices.js'

describe('the changes of a bulk', () => {
  const store = new SectionStore('s', () => {})
  const partsOf = (sizes: readonly number[]) => {
    const bulk = new Bulk(store, DEFAULT_LIMITS, '')
    for (const size of sizes)
      bulk.add({ section: 's', op: 1, key: 'k', value: Buffer.alloc(size), version: 1 })
    bulk.close()
    bulk.close()
    expect(bulk.count).toBe(sizes.length)
    return bulk.parts.map(({ length }) => length)
  }

  it('are in parts of some kilobytes, small ones together and a large one alone', () => {
    expect(partsOf(Array.from({ length: 50 }, () => 10))).toHaveLength(1)
    const mixed = partsOf([10, 100_000, 10, 10])
    expect(mixed).toHaveLength(3)
    expect(mixed[1]).toBeGreaterThan(100_000)
    // Each part begins anew: what was in those before does not count.
    const many = partsOf(Array.from({ length: 1_000 }, () => 1_000))
    expect(many.length).toBeGreaterThan(1_000_000 / 17_000)
    expect(many.length).toBeLessThan(1_000_000 / 14_000)
  })
})

describe('the request ids that are known', () => {
  it('are so many: each new one takes the place of the oldest', () => {
    const memory = new RequestMemory(3)
    for (let i = 1; i <= 8; i++) {
      memory.add(`r${i}`, i, i * 10)
      memory.add(`r${i}`, 99, 99)
      expect(memory.size).toBe(Math.min(i, 3))
    }
    expect(['r4', 'r5', 'r6', 'r7', 'r8'].map(id => memory.get(id)?.sequence)).toEqual([
      undefined,
      undefined,
      6,
      7,
      8,
    ])
    expect(memory.upTo(7)).toEqual([
      { id: 'r6', print: 60 },
      { id: 'r7', print: 70 },
    ])
  })
})

describe('the name of a section in a change', () => {
  it('is its own whole, and neither the beginning of another nor another of its length', () => {
    const store = new SectionStore('route', () => {})
    const names = ['route', 'routes', 'rout', 'route2', 'roads', '', 'xroute']
    const buffer = Buffer.from(names.join(''))
    let at = 0
    const named = names.filter(name => {
      at += name.length
      return store.isNamed(buffer, at - name.length, at)
    })
    expect(named).toEqual(['route'])
  })
})

describe('a value that is frozen', () => {
  it('is so with all that it holds, unless there is something in it that cannot be', () => {
    const value = { a: [{ b: 1 }], c: 'text' }
    expect(deepFreeze(value)).toBe(true)
    expect([value, value.a, value.a[0]].every(Object.isFrozen)).toBe(true)
    for (const odd of [Buffer.alloc(1), new ArrayBuffer(1), new Date(), new Map(), new Set(), () => {}]) {
      const holder = { first: { plain: 1 }, odd: [odd], last: { plain: 1 } }
      expect(deepFreeze(holder)).toBe(false)
      expect([holder.first, holder.last].every(Object.isFrozen)).toBe(true)
      expect(deepFreeze(odd)).toBe(false)
    }
    for (const plain of [1, 'a', null, undefined, true]) expect(deepFreeze(plain)).toBe(true)
  })
})

describe('what changes have left to do', () => {
  it('is done at once where it is little and nothing waits, else in its order', async () => {
    const done: string[] = []
    let paused = 0
    const left = new LeftWork(3, new AbortController().signal, () => paused++)
    const work = function* (name: string): Generator<undefined, void> {
      yield
      done.push(name)
    }
    left.add(work('little'), 256)
    expect([done, left.waits]).toEqual([['little'], false])
    left.add(work('much'), 257)
    expect([done, left.waits]).toEqual([['little'], true])
    left.add(work('little, later'), 1)
    expect(done).toEqual(['little'])
    await left.done()
    expect([done, left.waits, paused]).toEqual([['little', 'much', 'little, later'], false, 1])
  })
})
