import { describe, expect, it } from 'vitest'
import { PUT, type StoredSchema } from '../../../src/state/records.js'
import { defineSection, encodeImport, json, Segment, type StateLog } from '../../fixtures/state.js'
import { importRecord, readBy, writingLog } from '../../fixtures/state-logs.js'

const entry = (version: number) => ({
  section: 'prices',
  op: PUT,
  key: 'apple',
  value: Buffer.from('1'),
  version,
})
const schema = (version: number, minReader: number): StoredSchema => {
  return { name: 'prices', version, minReader, codec: 'json', secret: false }
}
const prices = (version: number, minReader = 1) =>
  defineSection({ version, minReader, codec: json<number>(), secret: version === 2 })

async function take(log: StateLog, schemas: StoredSchema[], version: number): Promise<void> {
  await importRecord(log, encodeImport(schemas, [entry(version)]))
}

describe('an import', () => {
  it('of a newer schema that this version may read makes it the section’s: who may not read it is refused then', async () => {
    const { log } = writingLog()
    log.section('prices', prices(2))
    await take(log, [schema(3, 2)], 3)
    expect(log.schemas()).toEqual([{ ...schema(3, 2), secret: true }])
    const reader = await readBy(log)
    expect(reader.section('prices', prices(2)).get('apple')).toBe(1)
    reader.close()
    const older = await readBy(log)
    expect(() => older.section('prices', prices(1))).toThrow(/needs a reader of version 2 or newer/)
    older.close()
    log.close()
  })

  it('of an older schema leaves the section with the one of this process', async () => {
    const { log } = writingLog()
    const section = log.section('prices', prices(2))
    await take(log, [schema(1, 1)], 1)
    expect(log.schemas()).toEqual([{ ...schema(2, 1), secret: true }])
    expect(section.get('apple')).toBe(1)
    log.close()
  })

  it('fails where entries are newer than every schema of their section', async () => {
    const { log } = writingLog()
    const section = log.section('prices', prices(2))
    await section.put('pear', 2)
    const { digest } = log.position
    for (const schemas of [[], [schema(1, 1)], [schema(4, 1)]]) {
      await expect(take(log, schemas, 5)).rejects.toThrow(
        expect.objectContaining({
          code: 'ERR_FDB_STATE_IMPORT',
          message: expect.stringContaining(
            'key "apple" has schema version 5, but the declared schemas go up to',
          ),
        }),
      )
    }
    expect(log.position.digest).toBe(digest)
    await take(log, [], 2)
    expect(section.get('apple')).toBe(1)
    log.close()
  })

  it.each([
    ['a record', 50],
    ['many', 20_000],
  ])(
    'leaves the digest of its entries if it replaces (%s), here, for readers, and after a compaction',
    async (_, count) => {
      const put = (key: string, value: string) => ({
        section: 'prices',
        op: PUT,
        key,
        value: Buffer.from(value),
        version: 1,
      })
      const brought = Array.from({ length: count }, (_, i) => put(`k${i}`, `${i}`))
      const { log: fresh } = writingLog()
      await importRecord(fresh, encodeImport([schema(1, 1)], brought))
      const { log } = writingLog()
      const old = Array.from({ length: 1000 }, (_, i) => put(`k${i * 2}`, `${i + 7}`))
      await importRecord(log, encodeImport([schema(1, 1)], [...old, put('gone', '1')]))
      await log.section('other').put('k', Buffer.from('stays'))
      await fresh.section('other').put('k', Buffer.from('stays'))
      expect(log.position.digest).not.toBe(fresh.position.digest)
      const staged = log.stageImport({ replace: true })
      for (let from = 0; from < count; from += 5000)
        await staged.add(encodeImport([schema(1, 1)], brought.slice(from, from + 5000)))
      await staged.commit('')
      expect(log.digests()).toEqual(fresh.digests())
      expect(log.stats()).toMatchObject({ entries: count + 1, liveBytes: fresh.stats().liveBytes })
      const reader = await readBy(log)
      expect(reader.digests()).toEqual(fresh.digests())
      // And afterwards, too.
      for (const one of [log, fresh]) await one.section('prices').put('k1', Buffer.from('2'))
      expect(log.digests()).toEqual(fresh.digests())
      log.segments[0]!.seal()
      log.startWriting(Segment.create(2))
      await log.compact()
      const last = await readBy(log)
      expect(last.digests()).toEqual(fresh.digests())
      for (const one of [log, fresh, reader, last]) one.close()
    },
  )
})
