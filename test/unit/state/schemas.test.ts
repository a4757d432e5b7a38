import { describe, expect, it } from 'vitest'
import { PUT } from '../../../src/state/records.js'
import { defineSection, encodeImport, json, Segment, type StateLog } from '../../fixtures/state.js'
import { importRecord, readBy, writingLog } from '../../fixtures/state-logs.js'

const TOO_OLD = expect.objectContaining({ code: 'ERR_FDB_SCHEMA' })

function schema(version: number, minReader = 1, secret = false) {
  return defineSection<unknown>({ version, minReader, codec: json(), secret })
}

async function nextProcess(log: StateLog): Promise<StateLog> {
  for (const segment of log.segments) if (!segment.sealed) segment.seal()
  const next = await readBy(log)
  next.startWriting(Segment.create(log.segments.at(-1)!.epoch + 1))
  return next
}

const told = (log: StateLog) => log.schemas().find(({ name }) => name === 's')

describe('the lowest reader of a section', () => {
  it('never falls: a later version that asks for less does not open what an earlier one wrote', async () => {
    const { log: second } = writingLog()
    await second.section('s', schema(2, 2)).put('k', 'new meaning')
    const third = await nextProcess(second)
    await third.section('s', schema(3)).put('other', 3)
    expect(told(third)).toMatchObject({ version: 3, minReader: 2 })
    const first = await readBy(third)
    expect(told(first)).toMatchObject({ version: 3, minReader: 2 })
    expect(() => first.section('s', schema(1))).toThrow(TOO_OLD)
    third.segments.at(-1)!.seal()
    third.startWriting(Segment.create(9))
    await third.compact()
    const later = await readBy(third)
    expect(told(later)).toMatchObject({ version: 3, minReader: 2 })
    for (const log of [second, third, first, later]) log.close()
  })

  it('goes into the log when it rises at the same version', async () => {
    const { log: before } = writingLog()
    await before.section('s', schema(2, 1)).put('k', 1)
    const after = await nextProcess(before)
    await after.section('s', schema(2, 2)).bulk([{ key: 'k', value: 'other meaning' }])
    const first = await readBy(after)
    expect(told(first)).toMatchObject({ version: 2, minReader: 2 })
    expect(() => first.section('s', schema(1))).toThrow(TOO_OLD)
    for (const log of [before, after, first]) log.close()
  })

  it('neither falls nor is lost by an import', async () => {
    const { log } = writingLog()
    await log.section('s', schema(2, 2)).put('k', 1)
    const file = { name: 's', version: 3, minReader: 1, codec: 'json', secret: false }
    const change = { section: 's', op: PUT, key: 'i', value: Buffer.from('1'), version: 3 }
    await importRecord(log, encodeImport([file], [change]), { replace: true })
    expect(told(log)).toMatchObject({ version: 3, minReader: 2 })
    const raised = { ...file, version: 3, minReader: 3 }
    const other = await readBy(log)
    log.segments[0]!.seal()
    other.startWriting(Segment.create(2))
    await importRecord(other, encodeImport([raised], [change]))
    expect(told(other)).toMatchObject({ version: 3, minReader: 3 })
    for (const one of [log, other]) one.close()
  })
})

describe('a section that becomes secret', () => {
  it.each([1, 2])(
    'at version %i, written with version 1 before: whoever reads the log knows, for good',
    async version => {
      const { log: before } = writingLog()
      await before.section('s', schema(1)).put('k', 1)
      const after = await nextProcess(before)
      await after.section('s', schema(version, 1, true)).put('k', 'password')
      const reader = await readBy(after)
      expect([reader.secret, reader.section('s').secret]).toEqual([true, true])
      const later = await nextProcess(after)
      await later.section('s', schema(3)).put('k', 'password')
      expect([later.secret, told(later)]).toMatchObject([true, { version: 3, secret: true }])
      for (const log of [before, after, reader, later]) log.close()
    },
  )

  it('says so once, not with each change', async () => {
    const { log } = writingLog()
    const section = log.section('s', schema(1, 1, true))
    await section.put('a', 1)
    const { bytes } = log.stats()
    await section.put('a', 1)
    const second = log.stats().bytes - bytes
    await section.put('a', 1)
    expect(log.stats().bytes - bytes).toBe(2 * second)
    expect(second).toBeLessThan(bytes - log.segments[0]!.start)
    log.close()
  })
})
