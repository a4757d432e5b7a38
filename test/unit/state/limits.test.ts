import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import type { FdbError } from '../../../src/errors.js'
import { native } from '../../../src/kernel/native.js'
import { limitsFrom, mostBodyBytes } from '../../../src/state/limits.js'
import { PUT } from '../../../src/state/records.js'
import {
  defineSection,
  encodeImport,
  json,
  Segment,
  type StateLimits,
  type StateLog,
} from '../../fixtures/state.js'
import { importRecord, readBy, writingLog } from '../../fixtures/state-logs.js'

const KiB = 1024

describe('the limit of a segment', () => {
  it('never exceeds 32 bits, whatever was asked for', () => {
    expect(limitsFrom({ segmentBytes: 2 ** 40 }).segmentBytes).toBe(0xffff_ffff)
    expect(limitsFrom({ segmentBytes: 4096 }).segmentBytes).toBe(4096)
    expect(limitsFrom({ segmentBytes: undefined })).toEqual(limitsFrom({}))
  })
})

describe('the limit of a record', () => {
  it('admits a change that is as large as its error said, with the longest names of request and section', async () => {
    const limits = { recordBytes: 16 * KiB }
    const { log } = writingLog({ limits })
    const name = 's'.repeat(255)
    const schema = defineSection<string>({ version: 1, codec: json(), secret: true })
    const section = log.section(name, schema)
    const put = (bytes: number) => section.put('k', 'x'.repeat(bytes), { request: 'r'.repeat(255) })
    const refused = await put(16 * KiB).then(
      () => expect.fail('it was not refused'),
      (error: FdbError & { details: { got: number; most: number } }) => error,
    )
    expect(refused).toMatchObject({ code: 'ERR_FDB_STATE_LIMIT', details: { limit: 'recordBytes' } })
    // By so much less, and no more.
    await put(16 * KiB - (refused.details.got - refused.details.most))
    const reader = await readBy(log, { limits })
    expect([reader.position, reader.section(name, schema).size]).toEqual([log.position, 1])
    for (const one of [reader, log]) one.close()
  })
})

describe('the limit of the whole log', () => {
  it('refuses a change with the numbers, and takes changes again when a compaction has made room', async () => {
    const { log } = writingLog({ limits: { logBytes: 64 * KiB } })
    let full = 0
    log.onFull = () => full++
    const raw = log.section('raw')
    const refused = await (async () => {
      for (let i = 0; ; i++) {
        try {
          await raw.put('same', Buffer.alloc(4 * KiB, i))
        } catch (error) {
          return error as Error
        }
      }
    })()
    expect(refused).toMatchObject({
      code: 'ERR_FDB_STATE_LIMIT',
      details: { limit: 'logBytes', most: 64 * KiB },
    })
    expect(refused.message).toMatch(
      /would have 6\d{4} bytes, the limit "logBytes" is 65536; its current entries have 41\d\d bytes\. The log is being compacted: try again/,
    )
    expect(full).toBe(1)
    expect(raw.get('same')![0]).toBe(14)
    log.segments[0]!.seal()
    log.startWriting(Segment.create(2))
    await expect(raw.put('more', Buffer.alloc(4 * KiB))).rejects.toThrow(/logBytes/)
    await log.compact()
    await raw.put('more', Buffer.alloc(4 * KiB))
    expect(log.stats().bytes).toBeLessThan(10 * KiB)
    expect((await readBy(log)).position).toEqual(log.position)
    log.close()
  })

  it('refuses a bulk whole, before any of it is appended', async () => {
    const { log, segment } = writingLog({ limits: { logBytes: 200 * KiB } })
    const raw = log.section('raw')
    await raw.put('before', Buffer.alloc(10))
    const { size } = { size: segment.size() }
    const bulk = Array.from({ length: 300 }, (_, i) => ({ key: `k${i}`, value: Buffer.alloc(KiB) }))
    await expect(raw.bulk(bulk)).rejects.toThrow(expect.objectContaining({ code: 'ERR_FDB_STATE_LIMIT' }))
    expect(segment.size()).toBe(size)
    expect([...raw.keys()]).toEqual(['before'])
    await raw.bulk(bulk.slice(0, 150))
    expect(raw.size).toBe(151)
    await expect(raw.bulk(bulk)).rejects.toThrow(/Upgrade to a version with a higher limit/)
    log.close()
  })
})

describe('the limit of an import', () => {
  it('refuses the piece that is too much; nothing of it is there', async () => {
    const { log } = writingLog({ limits: { importBytes: 40 * KiB } })
    const piece = (i: number) =>
      encodeImport(
        [{ name: 'raw', version: 1, minReader: 1, codec: 'bytes', secret: false }],
        [{ section: 'raw', op: PUT, key: `k${i}`, value: Buffer.alloc(15 * KiB), version: 1 }],
      )
    const staged = log.stageImport()
    await staged.add(piece(1))
    await staged.add(piece(2))
    await expect(staged.add(piece(3))).rejects.toThrow(
      /an import is 46\d{3} bytes, the limit "importBytes" is 40960/,
    )
    expect(log.sequence).toBe(0)
    expect(await staged.commit('')).toEqual({ puts: 2 })
    expect(log.section('raw').size).toBe(2)
    log.close()
  })
})

describe('changes that are made while a large bulk is appended', () => {
  it('wait for it, in order, within `waitingBytes`, and come after it', async () => {
    const { log } = writingLog({ limits: { waitingBytes: 64 * KiB } })
    const raw = log.section('raw')
    const order: string[] = []
    const bulk = raw
      .bulk(Array.from({ length: 20_000 }, (_, i) => ({ key: `k${i}`, value: Buffer.alloc(100) })))
      .then(() => order.push('bulk'))
    // Encoding comes first, and delays no other work.
    while (log.sequence === 0) await nextTurn()
    const small = Array.from({ length: 100 }, (_, i) =>
      raw.put(`k${i}`, Buffer.alloc(KiB, 1)).then(() => order.push(`small ${i}`)),
    )
    const settled = await Promise.allSettled([bulk, ...small])
    const refused = settled.filter(one => one.status === 'rejected')
    const taken = small.length - refused.length
    expect(taken).toBeGreaterThan(50)
    expect(refused.length).toBeGreaterThan(20)
    for (const { reason } of refused)
      expect(reason).toMatchObject({ code: 'ERR_FDB_STATE_BACKPRESSURE', retryable: true })
    expect(order.filter(one => one !== 'bulk')).toEqual(Array.from({ length: taken }, (_, i) => `small ${i}`))
    expect(raw.get('k3')!.length).toBe(KiB)
    log.close()
  })
})

describe('a record of several changes', () => {
  const limits = { recordBytes: 16 * KiB }

  it('has no record above `recordBytes`, where that is little: a bulk', async () => {
    for (const count of [30, 300]) {
      const { log } = writingLog({ limits })
      const bulk = Array.from({ length: count }, (_, i) => ({ key: `k${i}`, value: Buffer.alloc(KiB) }))
      await log.section('raw').bulk(bulk)
      const reader = await readBy(log, { limits })
      expect(reader.section('raw').size).toBe(count)
      for (const one of [reader, log]) one.close()
    }
  })

  it('has none either: an import that empties many sections first', async () => {
    const { log } = writingLog({ limits })
    const names = Array.from({ length: 30 }, (_, i) => `${i}`.padEnd(200, '-'))
    const schemas = names.map(name => ({ name, version: 1, minReader: 1, codec: 'bytes', secret: false }))
    const change = { section: names[0]!, op: PUT, key: 'k', value: Buffer.alloc(7 * KiB), version: 1 }
    await importRecord(log, encodeImport(schemas, [change]), { replace: true })
    const reader = await readBy(log, { limits })
    expect(reader.section(names[0]!).size).toBe(1)
    for (const one of [reader, log]) one.close()
  })

  it('has none either: an update is refused that would be one with what the log must be told of its sections', async () => {
    const { log } = writingLog({ limits })
    const sections = Array.from({ length: 4 }, (_, i) => log.section(`${i}`.padEnd(250, '-')))
    const update = (bytes: number) =>
      log.update(state => {
        for (const section of sections) state.put(section, 'k', Buffer.alloc(1))
        state.put(sections[0]!, 'large', Buffer.alloc(bytes))
      })
    const refusal = (bytes: number) =>
      update(bytes).then(
        () => expect.fail('it was not refused'),
        error => error as FdbError & { details: { got: number; most: number } },
      )
    const { got, most } = (await refusal(16 * KiB)).details
    const largest = 16 * KiB - (got - most)
    expect(await refusal(largest)).toMatchObject({
      code: 'ERR_FDB_STATE_LIMIT',
      message: expect.stringMatching(
        /^the record of a change, .*, is 16\d{3} bytes, the limit "recordBytes" is 16384;/,
      ),
    })
    // The update hinders no other, and the log knows the sections by then.
    await update(8 * KiB)
    await update(largest)
    const reader = await readBy(log, { limits })
    expect([reader.position, log.sequence]).toEqual([log.position, 2])
    for (const one of [reader, log]) one.close()
  })
})

describe('the result of a compaction', () => {
  /** Merges all of it but for a new segment, and reads what is there then, as the next process would. */
  async function merged({ log }: { log: StateLog }, limits: Partial<StateLimits>): Promise<void> {
    log.segments.at(-1)!.seal()
    log.startWriting(Segment.create(log.segments.at(-1)!.epoch + 1))
    const [snapshot] = await log.compact()
    expect(snapshot!.kind).toBe('snapshot')
    const reader = await readBy(log, { limits })
    expect(reader.position).toEqual(log.position)
    for (const one of [reader, log]) one.close()
  }

  it('has no record above `recordBytes`: a change that is just within it stands by itself', async () => {
    const limits = limitsFrom({ recordBytes: 256 * KiB })
    const { log } = writingLog({ limits })
    const raw = log.section('raw')
    for (let i = 0; i < 50; i++) await raw.put(`k${i}`, Buffer.alloc(KiB))
    await raw.put('large', Buffer.alloc(mostBodyBytes(limits) - 32))
    await raw.put('after', Buffer.alloc(KiB))
    await merged({ log }, limits)
  })

  it('has none either where that is little, however many entries, sections and requests there are', async () => {
    const limits = { recordBytes: 4 * KiB }
    const { log } = writingLog({ limits })
    for (let i = 0; i < 100; i++) {
      const raw = log.section(`section-${i}`.padEnd(200, '-'))
      await raw.put('k', Buffer.alloc(100), { request: `request-${i}`.padEnd(200, '-') })
      await raw.delete('none', { request: `another-${i}` })
    }
    await merged({ log }, limits)
  })

  it('never exceeds `segmentBytes`: the error has the numbers, and all is as it was', async () => {
    const limits = { segmentBytes: 256 * KiB }
    const { log, segment } = writingLog({ limits })
    const raw = log.section('raw')
    const fill = async (name: string) => {
      for (let i = 0; i < 150; i++) await raw.put(`${name}${i}`, Buffer.alloc(KiB, i))
    }
    await fill('a')
    segment.seal()
    const second = Segment.create(2)
    log.startWriting(second)
    await fill('b')
    second.seal()
    log.startWriting(Segment.create(3))
    await raw.put('last', Buffer.alloc(1))
    const [before, open] = [log.position, native.openCount()]
    const refused = await log.compact().then(
      () => expect.fail('it was not refused'),
      error => error as FdbError,
    )
    expect(refused).toMatchObject({
      code: 'ERR_FDB_STATE_LIMIT',
      details: { limit: 'segmentBytes', most: 256 * KiB },
    })
    expect(refused.message).toMatch(
      /the snapshot of epoch 2 is \d{6} bytes, the limit "segmentBytes" is 262144; raise/,
    )
    expect([log.segments.length, log.position, native.openCount()]).toEqual([3, before, open])
    const reader = await readBy(log, { limits })
    expect(reader.position).toEqual(before)
    // Segments that fit are merged.
    for (let i = 0; i < 150; i++) await raw.delete(`a${i}`)
    await merged({ log }, limits)
    reader.close()
  })
})
