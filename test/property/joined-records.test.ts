import { describe, expect, it } from 'vitest'
import { writeAt } from '../../src/kernel/index.js'
import { DEFAULT_LIMITS } from '../../src/state/limits.js'
import { recordsOf } from '../../src/state/reader.js'
import {
  DELETE,
  encodeBody,
  encodeEnvelope,
  encodeSchema,
  type NewChange,
  PUT,
} from '../../src/state/records.js'
import { frame, Segment } from '../../src/state/segment.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const LIMITS = { ...DEFAULT_LIMITS, keyBytes: 200, recordBytes: 4096 }
const EPOCH = 7

interface Given {
  readonly changes: readonly NewChange[]
  readonly request: string
  readonly schema: boolean
}

function mostly<T>(usual: T, rare: T): fc.Arbitrary<T> {
  return fc.oneof({ weight: 20, arbitrary: fc.constant(usual) }, fc.constant(rare))
}

const change: fc.Arbitrary<NewChange> = fc.record({
  section: mostly('a', 'b'),
  op: mostly(PUT, DELETE),
  key: fc.oneof(
    { weight: 20, arbitrary: fc.string({ minLength: 1 }) },
    fc.constantFrom('', 'ä', 'x'.repeat(201)),
  ),
  value: fc.oneof({ weight: 20, arbitrary: fc.uint8Array() }, fc.constant(new Uint8Array(5000))),
  version: fc.nat(300),
})
const given: fc.Arbitrary<Given> = fc.record({
  changes: fc.oneof(
    { weight: 20, arbitrary: change.map(one => [one]) },
    { weight: 1, arbitrary: fc.array(change, { maxLength: 5 }) },
  ),
  request: mostly('', 'once'),
  schema: mostly(false, true),
})

function write(records: readonly Given[]): Segment {
  const segment = Segment.create(EPOCH)
  for (const [index, { changes, request, schema }] of records.entries()) {
    const body = [encodeBody([...changes])]
    const stored = { name: 'a', version: 1, minReader: 0, codec: 'c', secret: false }
    if (schema) body.unshift(encodeSchema(stored))
    segment.append(frame(encodeEnvelope({ epoch: EPOCH, sequence: index + 1, request }), ...body))
  }
  return segment
}

/** Returns the places of all changes that the reader yields, and the error at which the records end. */
function read(segment: Segment, joined: boolean) {
  const seen: string[] = []
  let calls = 0
  try {
    for (const found of recordsOf(segment, { after: 0, live: false, limits: LIMITS, joined })) {
      if (found === undefined) continue
      calls++
      const { base, next, record } = found
      const { changes, records, sequence } = record
      const places = Array.from(changes, at => base + at)
      if (records === 1) seen.push(`${sequence} ${record.request} ${places} ${record.schemas.length} ${next}`)
      else
        for (let i = 0; i < records; i++) {
          const place = places.slice(2 * i, 2 * i + 2)
          seen.push(`${sequence - records + 1 + i}  ${place} 0 ${place[1]}`)
        }
    }
  } catch (error) {
    seen.push((error as Error).message)
  }
  return { seen, calls }
}

describe('records with one put each', () => {
  it('mean the same when the reader joins them, also where a byte is wrong', () => {
    fc.assert(
      fc.property(
        fc.array(given, { maxLength: 60, size: 'max' }),
        fc.nat(),
        fc.nat(255),
        (records, place, byte) => {
          const segment = write(records)
          try {
            expect(read(segment, true).seen).toEqual(read(segment, false).seen)
            const at = segment.start + (place % Math.max(1, segment.end - segment.start))
            if (records.length > 0) writeAt(segment.fd, Uint8Array.of(byte), 0, 1, at)
            expect(read(segment, true).seen).toEqual(read(segment, false).seen)
          } finally {
            segment.close()
          }
        },
      ),
      { numRuns: perLane(150, 2_000) },
    )
  })

  it('join, up to 128 at a time', () => {
    const put: NewChange = { section: 'a', op: PUT, key: 'k', value: Uint8Array.of(1), version: 1 }
    const segment = write(Array.from({ length: 300 }, () => ({ changes: [put], request: '', schema: false })))
    expect([read(segment, true).calls, read(segment, false).calls]).toEqual([3, 300])
    segment.close()
  })
})
