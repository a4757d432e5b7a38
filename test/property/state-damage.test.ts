import { crc32 } from 'node:zlib'
import { beforeAll, describe, expect, it } from 'vitest'
import { FdbError } from '../../src/errors.js'
import { fdbroker } from '../../src/proto/state.js'
import { frame, Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { readSegment } from '../fixtures/read-segment.js'
import { bytesOf, routeSchema, segmentOf } from '../fixtures/state-logs.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const RUNS = Number(process.env.FDB_RUNS ?? perLane(125, 1500))
const SEED = 11

/** Two segments and, by sequence, the digest that a correct prefix has. */
let first: Buffer
let second: Buffer
let snapshot: Buffer
const digests = new Map<number, string>([[0, '0'.repeat(64)]])

beforeAll(async () => {
  // Bulks of more than three changes take several records.
  const log = new StateLog({ sliceMs: 60_000, limits: { changesPerRecord: 3 } })
  const routes = log.section('routes', routeSchema)
  const raw = log.section('raw')
  const note = () => digests.set(log.position.sequence, log.position.digest)
  const fill = async (round: number) => {
    for (let i = 0; i < 12; i++) {
      await routes.put(`k${i % 5}`, { to: `u${i + round}`, weight: i })
      note()
      await raw.put(`r${i}`, Buffer.alloc(i * 7, i), { request: `q${round}-${i}` })
      note()
    }
    await routes.bulk([
      { key: 'x', value: { to: 'x' } },
      { key: 'k1', delete: true },
    ])
    note()
    // The first records change nothing.
    const { sequence, digest } = log.position
    await routes.bulk(
      Array.from({ length: 14 }, (_, i) => ({ key: `k${i}`, value: { to: `v${i + round}` } })),
    )
    for (let part = sequence + 1; part < log.position.sequence; part++) digests.set(part, digest)
    expect(log.position.sequence).toBeGreaterThan(sequence + 3)
    note()
    await raw.delete('r3')
    note()
  }
  log.startWriting(Segment.create(1))
  await fill(0)
  log.segments[0]!.seal()
  log.startWriting(Segment.create(2))
  await fill(100)
  ;[first, second] = log.segments.map(bytesOf) as [Buffer, Buffer]
  await log.compact()
  snapshot = bytesOf(log.segments[0]!)
  log.close()
})

/** Reads a log; whatever it is, what was applied is a state that the log once had, or there is an error. */
async function read(parts: Buffer[], sealed: boolean): Promise<string> {
  const log = new StateLog()
  try {
    for (const part of parts) await log.adopt(segmentOf(part, { sealed }))
    return 'read'
  } catch (error) {
    if (!FdbError.is(error)) throw error
    expect(error.code).toMatch(/^ERR_FDB_STATE_(DAMAGED|FORMAT|LIMIT)$/)
    return error.code
  } finally {
    const { sequence, digest } = log.position
    if (log.segments[0]?.kind === 'epoch') expect(digests.get(sequence)).toBe(digest)
    log.close()
  }
}

const seals = fc.boolean()
const place = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })

describe('a damaged log', () => {
  it('reads whole when nothing is damaged', async () => {
    expect(await read([first, second], true)).toBe('read')
    expect(await read([snapshot, second], true)).toBe('read')
  })

  it('cut at any byte gives a correct prefix', async () => {
    for (let cut = 23; cut <= first.length; cut += perLane(3, 1)) {
      expect(await read([first.subarray(0, cut)], cut % 2 === 0)).toBe('read')
    }
  })

  it('gives a correct prefix when it was compacted and is cut behind its snapshot', async () => {
    for (let cut = 23; cut <= second.length; cut += perLane(7, 3)) {
      const log = new StateLog()
      await log.adopt(segmentOf(snapshot, { sealed: true }))
      await log.adopt(segmentOf(second.subarray(0, cut), { sealed: true }))
      const { sequence, digest } = log.position
      expect(digest).toBe(digests.get(sequence))
      log.close()
    }
  })

  it('cut in a segment that is not the last gives an error: no record goes missing unnoticed', async () => {
    for (let cut = 23; cut < first.length; cut += 7) {
      expect(await read([first.subarray(0, cut), second], true)).toBe('ERR_FDB_STATE_DAMAGED')
    }
  })

  it('with any bit flipped gives an error or a correct prefix', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('first', 'second', 'snapshot'),
        place,
        fc.nat(7),
        seals,
        async (which, at, bit, sealed) => {
          const parts =
            which === 'snapshot' ? [Buffer.from(snapshot), second] : [Buffer.from(first), Buffer.from(second)]
          const part = parts[which === 'second' ? 1 : 0]!
          part[Math.floor(at * part.length)]! ^= 1 << bit
          if (which === 'snapshot') expect(await read(parts, true)).not.toBe('read')
          else await read(parts, sealed)
        },
      ),
      { numRuns: RUNS, seed: SEED },
    )
  })

  it('with bytes replaced, inserted or left out gives an error or a correct prefix', async () => {
    await fc.assert(
      fc.asyncProperty(
        place,
        fc.uint8Array({ maxLength: 40 }),
        fc.nat(40),
        seals,
        async (at, bytes, gone, sealed) => {
          const from = Math.floor(at * first.length)
          await read(
            [Buffer.concat([first.subarray(0, from), bytes, first.subarray(from + gone)]), second],
            sealed,
          )
        },
      ),
      { numRuns: RUNS, seed: SEED },
    )
  })
})

describe('a hostile log with right checksums', () => {
  const header = () => first.subarray(0, 23)

  it('of any bytes in the frames gives an error or a state, and no crash', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 4 }), async payloads => {
        const log = new StateLog()
        const bytes = Buffer.concat([header(), ...payloads.map(payload => frame(payload))])
        await log
          .adopt(segmentOf(bytes, { sealed: true }))
          .catch(error => expect(FdbError.is(error)).toBe(true))
        log.close()
      }),
      { numRuns: RUNS, seed: SEED },
    )
  })

  it('with any byte of a record changed and its checksum made right gives an error or a state', async () => {
    const frames: Buffer[] = []
    for (let at = 23; at < first.length; at += 8 + first.readUInt32LE(at)) {
      frames.push(first.subarray(at, at + 8 + first.readUInt32LE(at)))
    }
    await fc.assert(
      fc.asyncProperty(fc.nat(frames.length - 1), place, fc.nat(255), async (which, at, byte) => {
        const changed = frames.map(one => Buffer.from(one))
        const one = changed[which]!
        one[8 + Math.floor(at * (one.length - 8))] = byte
        one.writeUInt32LE(crc32(one.subarray(8)), 4)
        const log = new StateLog()
        const segment = segmentOf(Buffer.concat([header(), ...changed]), { sealed: true })
        await log.adopt(segment).catch(error => expect(FdbError.is(error)).toBe(true))
        for (const { name } of log.digests())
          for (const [key] of log.section(name)) expect(typeof key).toBe('string')
        log.close()
      }),
      { numRuns: RUNS, seed: SEED },
    )
  })

  it('costs no memory when it claims huge lengths and counts', async () => {
    const huge = Buffer.alloc(64)
    huge.writeUInt32LE(0xffff_fff0, 0)
    const changes = Buffer.alloc(2_000_000)
    for (let i = 0; i < changes.length; i += 2) changes[i] = (4 << 3) | 2
    const envelope = fdbroker.state.Record.encode({ epoch: 1, sequence: 1 }).finish()
    const before = process.memoryUsage()
    for (const [body, code] of [
      [huge, 'ERR_FDB_STATE_DAMAGED'],
      [frame(envelope, changes), 'ERR_FDB_STATE_LIMIT'],
      [frame(envelope, Buffer.from([0x22, 0xff, 0xff, 0xff, 0xff, 0x0f])), 'ERR_FDB_STATE_DAMAGED'],
    ] as const) {
      const log = new StateLog()
      const adopted = log.adopt(segmentOf(Buffer.concat([header(), body]), { sealed: true }))
      await expect(adopted).rejects.toThrow(expect.objectContaining({ code }))
      log.close()
    }
    const after = process.memoryUsage()
    expect(after.rss - before.rss).toBeLessThan(64 * 1024 * 1024)
  })
})

describe('scanning in place', () => {
  it('finds what the generated decoder finds', async () => {
    const segment = segmentOf(first, { sealed: true })
    let at = segment.start
    for await (const found of readSegment(segment)) {
      const length = first.readUInt32LE(at)
      const decoded = fdbroker.state.Record.decode(first.subarray(at + 8, at + 8 + length))
      const { offset, ...rest } = found
      expect(offset).toBe(at)
      expect(rest.changes.map(change => ({ ...change, value: [...change.value] }))).toEqual(
        decoded.changes.map(({ section, op, key, value, version }) => ({
          section,
          op,
          key,
          value: [...value!],
          version,
        })),
      )
      expect([rest.epoch, rest.sequence, rest.request]).toEqual([
        decoded.epoch,
        decoded.sequence,
        decoded.request,
      ])
      expect(rest.schemas.map(schema => schema.name)).toEqual(decoded.schemas.map(schema => schema.name))
      at += 8 + length
    }
    expect(at).toBe(first.length)
    segment.close()
  })
})
