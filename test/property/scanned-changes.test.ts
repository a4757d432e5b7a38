import { describe, expect, it } from 'vitest'
import { CHANGE_FIELDS, scanChanges } from '../../src/kernel/index.js'
import { areAscii, Bytes, hashOf, SEED } from '../../src/state/key-bytes.js'
import { DEFAULT_LIMITS } from '../../src/state/limits.js'
import { emptyChange, encodeBody, scanChange, scanRecord } from '../../src/state/records.js'
import { SectionStore } from '../../src/state/section-store.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

/** The call's description of a change that lies there; null: the reader must look at it in another way. */
function told(buffer: Buffer, start: number, end: number): number[] | null {
  const into = new Uint32Array(CHANGE_FIELDS).fill(0xdead)
  scanChanges(buffer, Uint32Array.from([start, end]), 1, SEED, into)
  return into[0] === 1 ? [...into.subarray(1)] : null
}

/** The same, looked at here; null: it is no change, one that the call does not tell of, or of a section whose name is no text. */
function looked(buffer: Buffer, start: number, end: number): number[] | null {
  const change = emptyChange()
  try {
    scanChange(buffer, start, end, change)
  } catch {
    return null
  }
  const { op, version, sectionStart, sectionEnd, keyStart, keyEnd, valueStart, valueEnd } = change
  const bytes = new Bytes(buffer)
  if (keyStart === keyEnd || op > 255 || version > 0xffff_ffff || !areAscii(bytes, keyStart, keyEnd))
    return null
  const section = new SectionStore(buffer.toString('utf8', sectionStart, sectionEnd), () => {})
  if (!section.isNamed(buffer, sectionStart, sectionEnd)) return null
  return [
    ...[op, version, sectionStart, sectionEnd, keyStart, keyEnd, valueStart, valueEnd],
    hashOf(bytes, keyStart, keyEnd),
    section.printOf(op, buffer.subarray(keyStart, keyEnd)),
  ]
}

const text = fc.oneof(fc.string({ maxLength: 300 }), fc.string({ unit: 'binary', maxLength: 20 }))
const name = fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme-ascii' })
const change = fc.record({
  section: name,
  op: fc.constantFrom(0, 1, 2),
  key: text,
  value: fc.option(fc.uint8Array({ maxLength: 300 }), { nil: undefined }),
  version: fc.oneof(fc.nat(300), fc.integer({ min: 0, max: 0xffff_ffff })),
})

describe('changes that are looked at many in one call', () => {
  it('read as when each is looked at by itself', () => {
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 40 }), all => {
        const buffer = Buffer.concat([Buffer.from('before'), encodeBody(all)])
        const { changes } = scanRecord(buffer, 6, buffer.length, DEFAULT_LIMITS)
        const into = new Uint32Array(CHANGE_FIELDS * all.length)
        scanChanges(buffer, Uint32Array.from(changes), all.length, SEED, into)
        for (let i = 0; i < all.length; i++) {
          const fields = [...into.subarray(CHANGE_FIELDS * i, CHANGE_FIELDS * (i + 1))]
          const expected = looked(buffer, changes[2 * i]!, changes[2 * i + 1]!)
          if (expected === null) expect(fields[0]).toBe(0)
          else expect(fields).toEqual([1, ...expected])
        }
      }),
      { numRuns: perLane(250, 1_000) },
    )
  })

  it('read rightly or not at all, whatever bytes they are', () => {
    const bytes = fc.tuple(change, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }), fc.nat(400))
    const check = (buffer: Buffer) => {
      const fields = told(buffer, 0, buffer.length)
      const expected = looked(buffer, 0, buffer.length)
      // Changes that the call does not describe are looked at here in any case.
      if (fields !== null && expected !== null) expect(fields).toEqual(expected)
      else if (fields !== null)
        expect(() => scanChange(buffer, 0, buffer.length, emptyChange())).not.toThrow()
      return fields !== null
    }
    let known = 0
    fc.assert(
      fc.property(bytes, ([one, damages, cut]) => {
        const record = Buffer.from(encodeBody([one]))
        const [start, end] = scanRecord(record, 0, record.length, DEFAULT_LIMITS).changes
        const buffer = Buffer.from(record.subarray(start, end))
        for (const [at, byte] of damages) if (buffer.length > 0) buffer[at % buffer.length] = byte
        if (check(buffer)) known++
        check(buffer.subarray(0, cut))
      }),
      { numRuns: perLane(1_250, 5_000) },
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), any => void check(Buffer.from(any))),
      { numRuns: perLane(1_250, 5_000) },
    )
    expect(known).toBeGreaterThan(perLane(125, 500))
  })
})

describe('the name of a section in a change', () => {
  it('ends where it ends: it matches neither the beginning of another nor another of its length', () => {
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
