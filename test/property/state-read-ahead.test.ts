import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { type OwnedFd, readAt, truncate, writeAt } from '../../src/kernel/index.js'
import { BLOCK_BYTES, ReadAhead } from '../../src/state/read-ahead.js'
import { Segment } from '../../src/state/segment.js'
import fc from '../lanes/generated.js'

const RUNS = Number(process.env.FDB_RUNS ?? 60)
const SIZE = 5 * BLOCK_BYTES + 1000

const BYTES = Buffer.alloc(SIZE + 256)
for (let at = 0; at < BYTES.length; at++) BYTES[at] = at ^ (at >>> 8) ^ (at >>> 16)
/** Bytes that tell their place, and of which writing they are. */
const bytesOf = (writing: number) => BYTES.subarray(writing % 256, (writing % 256) + SIZE)

/** A segment's file, and how far it was read. */
function written(writing: number) {
  const segment = Segment.create(1)
  writeAt(segment.fd, bytesOf(writing), 0, SIZE, 0)
  return { segment, position: SIZE }
}

function direct(fd: OwnedFd, offset: number, length: number): Buffer {
  const into = Buffer.alloc(length)
  return into.subarray(0, readAt(fd, into, 0, length, offset))
}

function through(
  ahead: ReadAhead,
  held: { segment: Segment; position: number },
  offset: number,
  length: number,
) {
  const into = Buffer.alloc(length)
  return into.subarray(0, ahead.read(held, { segment: 1, offset, length }, into))
}

const length = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 1, max: 300 }) },
  fc.integer({ min: BLOCK_BYTES - 2, max: 2 * BLOCK_BYTES }),
)
/** Near the edges of blocks, and anywhere. */
const offset = fc.oneof(
  fc.integer({ min: 0, max: SIZE }),
  fc
    .tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: -300, max: 300 }))
    .map(([block, by]) => Math.max(0, block * BLOCK_BYTES + by)),
)
const load = fc.record({ kind: fc.constant('load' as const), which: fc.nat(1), offset, length })
const step = fc.oneof(
  { weight: 20, arbitrary: load },
  { weight: 1, arbitrary: fc.constant({ kind: 'turn' as const }) },
  // Bytes behind the last whole record are cut off, and written otherwise; then they count.
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('anew' as const), which: fc.nat(1), position: offset }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('cut' as const), which: fc.nat(1), size: offset }) },
)

describe('a range that is read ahead', () => {
  it('has the bytes that lie there, whatever is asked for in which order', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 200 }), async steps => {
        const ahead = new ReadAhead()
        const files = [written(0), written(77)]
        // Until it was read to there once, what lies behind may change.
        const whole = files.map(file => ({ segment: file.segment, position: 0 }))
        let writing = 100
        try {
          for (const each of steps) {
            if (each.kind === 'turn') {
              await nextTurn()
              await nextTurn()
              continue
            }
            const file = whole[each.which]!
            const { fd } = file.segment
            if (each.kind === 'load') {
              const got = through(ahead, file, each.offset, each.length)
              expect(got.equals(direct(fd, each.offset, each.length))).toBe(true)
            } else if (each.kind === 'anew') {
              truncate(fd, file.position)
              writeAt(fd, bytesOf(writing++), file.position, SIZE - file.position, file.position)
              file.position = Math.max(file.position, Math.min(each.position, SIZE))
            } else if (each.size >= file.position) truncate(fd, each.size)
          }
        } finally {
          for (const { segment } of files) segment.close()
        }
      }),
      { numRuns: RUNS, seed: 12 },
    )
  })

  it('has fewer bytes where the file was cut, and never others', () => {
    const { segment, position } = written(0)
    const ahead = new ReadAhead()
    truncate(segment.fd, BLOCK_BYTES + 100)
    expect(through(ahead, { segment, position }, BLOCK_BYTES + 50, 200)).toEqual(
      direct(segment.fd, BLOCK_BYTES + 50, 200),
    )
    expect(through(ahead, { segment, position }, BLOCK_BYTES + 50, 200)).toHaveLength(50)
    expect(through(ahead, { segment, position }, 3 * BLOCK_BYTES, 200)).toHaveLength(0)
    segment.close()
  })
})
