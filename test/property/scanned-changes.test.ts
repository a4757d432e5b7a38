import { describe, expect, it } from 'vitest'
import { CHANGE_FIELDS, scanRuns } from '../../src/kernel/index.js'
import { DEFAULT_LIMITS } from '../../src/state/limits.js'
import { emptyChange, encodeBody, PUT, scanChange, scanRecord } from '../../src/state/records.js'
import { SectionStore } from '../../src/state/section-store.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const MOST_BYTES = 200

/** The call's description of a change that lies there; null: the reader must look at it in another way. */
function told(buffer: Buffer, start: number, end: number): number[] | null {
  const into = new Uint32Array(CHANGE_FIELDS).fill(0xdead)
  scanRuns(buffer, Uint32Array.from([start, end]), 0, 1, MOST_BYTES, into)
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
  const key = buffer.subarray(keyStart, keyEnd)
  if (op > 255 || version > 0xffff_ffff || key.some(byte => byte > 127)) return null
  if (key.length === 0 || key.length > MOST_BYTES) return null
  const section = new SectionStore(buffer.toString('utf8', sectionStart, sectionEnd), () => {})
  if (!section.isNamed(buffer, sectionStart, sectionEnd)) return null
  return [
    ...[op, version, sectionStart, sectionEnd, keyStart, keyEnd, valueStart, valueEnd],
    section.printOf(op, key),
  ]
}

const text = fc.oneof(fc.string({ maxLength: 300 }), fc.string({ unit: 'binary', maxLength: 20 }))
const name = fc.oneof(
  fc.constant('routes'),
  fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme-ascii' }),
)
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
        scanRuns(buffer, Uint32Array.from(changes), 0, all.length, MOST_BYTES, into)
        let run = 0
        for (let i = all.length - 1; i >= 0; i--) {
          const fields = [...into.subarray(CHANGE_FIELDS * i, CHANGE_FIELDS * (i + 1))]
          const expected = looked(buffer, changes[2 * i]!, changes[2 * i + 1]!)
          const follows = run > 0 && all[i]!.op === PUT && all[i + 1]!.op === PUT
          run = expected === null ? 0 : follows && all[i]!.section === all[i + 1]!.section ? run + 1 : 1
          if (expected === null) expect(fields[0]).toBe(0)
          else expect(fields).toEqual([run, ...expected])
        }
      }),
      { numRuns: perLane(125, 1_000) },
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
        const { changes } = scanRecord(record, 0, record.length, DEFAULT_LIMITS)
        const [start, end] = [changes[0]!, changes[1]!]
        const buffer = Buffer.from(record.subarray(start, end))
        for (const [at, byte] of damages) if (buffer.length > 0) buffer[at % buffer.length] = byte
        if (check(buffer)) known++
        check(buffer.subarray(0, cut))
      }),
      { numRuns: perLane(625, 5_000) },
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), any => void check(Buffer.from(any))),
      { numRuns: perLane(625, 5_000) },
    )
    expect(known).toBeGreaterThan(perLane(62, 500))
  })
})

describe('the changes of a record', () => {
  it('have the same offsets when the addon looks for them, with any other fields between them, up to the limit', () => {
    const field = fc.oneof(
      { weight: 20, arbitrary: fc.nat(200) },
      { weight: 1, arbitrary: fc.constantFrom<number[]>([0x10, 7], [0x1a, 1, 65], [0x78, 1]) },
    )
    fc.assert(
      fc.property(fc.array(field, { maxLength: 8 }), fc.integer({ min: 1, max: 700 }), (fields, most) => {
        const parts: Uint8Array[] = []
        const expected: number[] = []
        let [at, count] = [3, 0]
        for (const each of fields) {
          const bytes = Array.isArray(each) ? Uint8Array.from(each) : encodeBody(someChanges(each))
          if (!Array.isArray(each))
            for (let start = 0; start < bytes.length; start += 2 + bytes[start + 1]!) {
              if (++count <= most) expected.push(at + start + 2, at + start + 2 + bytes[start + 1]!)
            }
          parts.push(bytes)
          at += bytes.length
        }
        const buffer = Buffer.concat([Buffer.from('abc'), ...parts])
        const limits = { ...DEFAULT_LIMITS, changesPerRecord: most }
        if (count > most) expect(() => scanRecord(buffer, 3, buffer.length, limits)).toThrow(`${count}`)
        else expect(Array.from(scanRecord(buffer, 3, buffer.length, limits).changes)).toEqual(expected)
        if (buffer.length > 4 && count > 0)
          expect(() => scanRecord(buffer, 3, buffer.length, DEFAULT_LIMITS)).not.toThrow()
      }),
      { numRuns: perLane(50, 1_000) },
    )
  })
})

/** Each is shorter than 128 bytes. */
function someChanges(count: number) {
  return Array.from({ length: count }, (_, i) => ({ section: 's', op: PUT, key: `key-${i}`, version: 1 }))
}

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
