import { describe, expect, it } from 'vitest'
import { json } from '../../src/state/codec.js'
import { encodeImport } from '../../src/state/import.js'
import { PUT, type StoredSchema } from '../../src/state/records.js'
import { defineSection } from '../../src/state/schema.js'
import type { StateLog } from '../../src/state/state-log.js'
import { readBy, writingLog } from '../fixtures/state-logs.js'

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
  await log.importRecord(encodeImport(schemas, [entry(version)]))
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

  it('is refused where entries are newer than all that is said of their section', async () => {
    const { log } = writingLog()
    const section = log.section('prices', prices(2))
    await section.put('pear', 2)
    const { digest } = log.position
    for (const schemas of [[], [schema(1, 1)], [schema(4, 1)]]) {
      await expect(take(log, schemas, 5)).rejects.toThrow(
        expect.objectContaining({
          code: 'ERR_FDB_STATE_IMPORT',
          message: expect.stringContaining('key "apple" is of schema version 5, and only up to'),
        }),
      )
    }
    expect(log.position.digest).toBe(digest)
    await take(log, [], 2)
    expect(section.get('apple')).toBe(1)
    log.close()
  })
})
