import { describe, expect, it } from 'vitest'
import type { KeyIndex } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import type { ScannedKeys } from '../../src/state/key-map.js'
import { scannedKeys } from '../fixtures/scanned-keys.js'
import { seeded } from '../fixtures/seeded.js'
import { thrown } from './support.js'

const NONE = 2 ** 32 - 1
const NULL = 2 ** 32 - 2
const UNLIMITED = Number.MAX_SAFE_INTEGER
/** An index of more keys has this many parts. */
const ALONE = 16_384
const PARTS = 256

type Model = Map<string, number | null>

function* entriesIn(index: KeyIndex, part: number): Generator<[string, number | null]> {
  const [entries, bytes] = native.keysIn(index, part)
  for (let i = 0, start = 0; i < entries.length; i += 2) {
    const [value, end] = [entries[i]!, entries[i + 1]!]
    yield [bytes.toString('utf8', start, end), value === NULL ? null : value]
    start = end
  }
}

function* entriesOf(index: KeyIndex): Generator<[string, number | null]> {
  for (let part = 0; part < PARTS; part++) yield* entriesIn(index, part)
}

function expectSame(index: KeyIndex, model: Model) {
  const all = [...entriesOf(index)]
  expect(all.length).toBe(model.size)
  for (const [key, value] of all)
    if (model.get(key) !== value) expect.fail(`${key} has ${value}, not ${model.get(key)}`)
}

function setAll(index: KeyIndex, { buffer, fields }: ScannedKeys, values: readonly number[]) {
  const before = new Uint32Array(values.length)
  const done = native.setKeys(index, buffer, fields, 0, values.length, Uint32Array.from(values), before)
  return { done, before: [...before] }
}

function oldestOf(model: Model): string {
  for (const key of model.keys()) return key
  return ''
}

describe('an index of keys', () => {
  it('has keys that are empty, long, of any script, and begin with another one', () => {
    const keys = ['', 'a', 'aa', 'ä', 'äa', '鍵', '🔑', '\u0000', '\u0000\u0000', '\ufffd']
    for (const length of [255, 256, 505, 506, 507, 508, 509, 510, 511, 512, 513, 65_535])
      keys.push('x'.repeat(length), 'ä'.repeat(length / 2), `${'x'.repeat(length)}🔑`)
    const index = native.createKeys(UNLIMITED)
    const all = [...new Set(keys)]
    for (const [i, key] of all.entries()) expect(native.setKey(index, key, i)).toBeUndefined()
    for (const [i, key] of all.entries()) expect(native.getKey(index, key)).toBe(i)
    expect([...entriesOf(index)]).toEqual(all.map((key, i) => [key, i]))
  })

  it('returns what a key had: nothing, null or a number', () => {
    const index = native.createKeys(UNLIMITED)
    const before = [null, 0, 2 ** 32 - 3, null].map(value => native.setKey(index, 'a', value))
    expect(before).toEqual([undefined, null, 0, 2 ** 32 - 3])
    expect([native.getKey(index, 'a'), native.getKey(index, 'b')]).toEqual([null, undefined])
    expect([native.deleteKey(index, 'a'), native.deleteKey(index, 'a')]).toEqual([true, false])
    expect(native.setKey(index, 'a', 1)).toBeUndefined()
  })

  it('has no text with half a surrogate pair', () => {
    const index = native.createKeys(UNLIMITED)
    native.setKey(index, '\ufffd', 0)
    native.setKey(index, '\ufffd🔑', 1)
    for (const half of ['\ud83d', '\udd11', `${'a'.repeat(600)}\ud83d`, '🔑\udd11', '\ud83d\ud83d\udd11']) {
      expect([native.getKey(index, half), native.deleteKey(index, half)]).toEqual([undefined, false])
      expect(() => native.setKey(index, half, 1)).toThrow(TypeError)
    }
    expect([...entriesOf(index)]).toEqual([
      ['\ufffd', 0],
      ['\ufffd🔑', 1],
    ])
  })

  it('keeps the order in which up to 16,384 keys came', () => {
    const index = native.createKeys(UNLIMITED)
    const model: Model = new Map()
    const random = seeded()
    for (let i = 0; i < 20_000; i++) {
      const key = `key-${random(2_000)}`
      if (random(5) < 2) {
        if (native.deleteKey(index, key) !== model.delete(key)) expect.fail(`${key} was there, or not`)
      } else {
        if (native.setKey(index, key, i) !== model.get(key)) expect.fail(`${key} had something else`)
        model.set(key, i)
      }
      if (i % 1_000 === 0) expect([...entriesOf(index)]).toEqual([...model])
    }
  })

  it('behaves as a Map in any order of calls for one key and for many, while keys become many, and few again', () => {
    const index = native.createKeys(UNLIMITED)
    const model: Model = new Map()
    const random = seeded()
    const name = () => `key-${random(30_000)}`
    let most = 0
    for (let i = 0; i < 60_000; i++) {
      const deletes = random(8) < (i < 20_000 ? 1 : i < 40_000 ? 4 : 7)
      if (deletes) {
        const key = i < 40_000 ? name() : oldestOf(model)
        if (native.deleteKey(index, key) !== model.delete(key)) expect.fail(`${key} was there, or not`)
      } else if (i % 50 === 0 && i < 40_000) {
        const keys = Array.from({ length: 1 + random(200) }, name)
        const values = keys.map((_, j) => i + j)
        const { before, done } = setAll(index, scannedKeys(keys), values)
        expect(done).toBe(keys.length)
        for (const [j, key] of keys.entries()) {
          const had = model.get(key)
          if (before[j] !== (had === undefined ? NONE : (had ?? NULL))) expect.fail(`${key} had ${before[j]}`)
          model.set(key, i + j)
        }
      } else {
        const key = `${'ä'.repeat(random(3))}${name()}`
        const value = random(10) === 0 ? null : i
        if (native.setKey(index, key, value) !== model.get(key)) expect.fail(`${key} had something else`)
        model.set(key, value)
      }
      const key = name()
      if (native.getKey(index, key) !== model.get(key)) expect.fail(`${key} is wrong`)
      if (i % 100 === 0) {
        const keys = [name(), name(), key]
        const { buffer, fields } = scannedKeys(keys)
        const values = new Uint32Array(3)
        native.findKeys(index, buffer, fields, 0, 3, values)
        const expected = keys.map(each => model.get(each))
        expect([...values]).toEqual(expected.map(had => (had === undefined ? NONE : (had ?? NULL))))
      }
      most = Math.max(most, model.size)
      if (i % 10_000 === 0) expectSame(index, model)
    }
    expectSame(index, model)
    expect([most > ALONE, model.size < most - 10_000]).toEqual([true, true])
  })

  it('has a key in the part with the same number as every other large index', () => {
    const [a, b] = [native.createKeys(UNLIMITED), native.createKeys(UNLIMITED)]
    for (let i = 0; i <= ALONE; i++) native.setKey(a, `key-${i}`, i)
    for (let i = 2 * ALONE; i > 0; i--) native.setKey(b, `key-${i}`, i)
    for (const part of [0, 77, PARTS - 1]) {
      const keys = new Set([...entriesIn(b, part)].map(([key]) => key))
      const missing = [...entriesIn(a, part)].filter(([key, i]) => i !== 0 && !keys.has(key))
      expect(keys.size).toBeGreaterThan(0)
      expect(missing).toEqual([])
    }
  })

  it('keeps no memory of keys that were deleted', () => {
    // 100 keys of 50 bytes, four times.
    const index = native.createKeys(40_000)
    const short = (i: number) => `a key that is here for a short time only, ${i}`
    for (let i = 0; i < 100_000; i++) {
      native.setKey(index, short(i), i)
      if (i >= 100) native.deleteKey(index, short(i - 100))
    }
    expect([...entriesOf(index)]).toHaveLength(100)
  })

  it('keeps its keys when a call needs more memory than there is, whichever allocation fails', () => {
    const random = seeded()
    const batches = Array.from({ length: 400 }, (_, i) => {
      const values = Array.from({ length: 64 }, (_, j) => 64 * i + j)
      const keys = values.map(each => `key-${each}`)
      return { keys, values, scanned: scannedKeys(keys) }
    })
    const failedAt = new Set<number>()
    // The allocations of an index with so many keys are a few hundred; the last limit is enough for more than 16,384 keys.
    for (let most = 40; most < 4_000_000; most += 13 + Math.floor((most * random(100)) / 200)) {
      let index: KeyIndex
      try {
        index = native.createKeys(most)
      } catch (error) {
        expect(error).toMatchObject({ code: 'ENOMEM' })
        continue
      }
      const model: Model = new Map()
      let full = false
      for (const { keys, values, scanned } of batches) {
        let done = 0
        try {
          done = setAll(index, scanned, values).done
        } catch (error) {
          expect(error).toMatchObject({ code: 'ENOMEM' })
        }
        for (let j = 0; j < done; j++) model.set(keys[j]!, values[j]!)
        full = done < keys.length
        if (full) break
      }
      expectSame(index, model)
      if (!full) continue
      failedAt.add(model.size)
      const last = `key-${model.size - 1}`
      expect(thrown(() => native.setKey(index, `new ${'x'.repeat(4_000_000)}`, 1)).code).toBe('ENOMEM')
      if (model.size === 0) continue
      expect(native.setKey(index, last, 7)).toBe(model.size - 1)
      expect(native.deleteKey(index, last)).toBe(true)
    }
    expect([failedAt.has(0), failedAt.has(ALONE)]).toEqual([true, true])
    expect(failedAt.size).toBeGreaterThan(10)
  })

  it('throws for another object, for keys outside the buffer, and for too many', () => {
    const index = native.createKeys(UNLIMITED)
    for (const other of ['x', 1, {}, null, new Uint32Array(4)] as unknown as KeyIndex[]) {
      expect(() => native.getKey(other, 'a')).toThrow(TypeError)
      expect(() => native.keysIn(other, 0)).toThrow(TypeError)
    }
    const { buffer, fields } = scannedKeys(['a', 'b'])
    const [values, before] = [new Uint32Array(2), new Uint32Array(2)]
    const set = (bytes: Uint8Array, first: number, count: number, into = values) =>
      native.setKeys(index, bytes, fields, first, count, into, before)
    expect(() => set(buffer.subarray(0, 3), 0, 2)).toThrow(RangeError)
    expect(() => set(buffer, 1, 2)).toThrow(RangeError)
    expect(() => set(buffer, 0, 2, new Uint32Array(1))).toThrow(RangeError)
    expect(() => set(buffer, 0, 4097)).toThrow(RangeError)
    expect(() => set(buffer, 0, 1, Uint32Array.of(NONE))).toThrow(RangeError)
    expect(() => native.findKeys(index, buffer, fields, 2, 1, values)).toThrow(RangeError)
    expect(() => native.keysIn(index, PARTS)).toThrow(RangeError)
    expect(() => native.setKey(index, 'a', 2 ** 32 - 2)).toThrow(RangeError)
    expect(() => native.setKey(index, 1 as unknown as string, 1)).toThrow(TypeError)
    expect(() => native.createKeys(-1)).toThrow(RangeError)
    expect(thrown(() => native.createKeys(8)).code).toBe('ENOMEM')
    expect([...entriesOf(index)]).toEqual([])
    expect(set(buffer, 0, 0)).toBe(0)
  })
})
