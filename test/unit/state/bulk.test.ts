import { setImmediate as nextTurn } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { describe, expect, it } from 'vitest'
import { Bulk } from '../../../src/state/bulk.js'
import { SectionStore } from '../../../src/state/section-store.js'
import { seeded } from '../../fixtures/seeded.js'
import { DEFAULT_LIMITS, defineSection, json, Segment, StateLog } from '../../fixtures/state.js'
import { bytesOf, longestTurn, readBy, segmentOf, writingLog } from '../../fixtures/state-logs.js'
import { perLane } from '../../lanes/lane.js'
import { GivenTime } from '../../processes/given-time.js'
import { leastOf } from '../../processes/worked.js'

const schema = defineSection<number>({ version: 1, codec: json() })
const COUNT = 20_000
type Numbers = ReturnType<typeof StateLog.prototype.section<number>>
const numbers = (value: (i: number) => number, count = COUNT) =>
  Array.from({ length: count }, (_, i) => ({ key: `key ${i}`, value: value(i) }))

async function until(holds: () => boolean): Promise<void> {
  for (const time = new GivenTime(); !holds(); ) {
    if (time.now() > 5_000) throw new Error('it does not become so')
    await nextTurn()
  }
}

/** Calls `look` in each turn of the event loop until the work is done. */
async function whileIn(work: Promise<unknown>, look: () => void): Promise<void> {
  let done = false
  const over = work.finally(() => {
    done = true
  })
  while (!done) {
    look()
    await nextTurn()
  }
  await over
}

describe('a bulk of many changes', () => {
  it('shows to readers all at once: values, keys, size and digest', async () => {
    const { log } = writingLog({ sliceMs: 1 })
    const section = log.section('numbers', schema)
    await section.bulk(numbers(i => i))
    await section.put('stays', 1)
    const seen = new Set<string>()
    const look = () => {
      const [first, last] = [section.get('key 0'), section.get(`key ${COUNT - 2}`)]
      const some = [section.has('key 1'), section.has(`key ${COUNT - 1}`), section.has('new')]
      seen.add(JSON.stringify([first, last, ...some, section.size, section.digest.slice(0, 8)]))
    }
    look()
    const changes = Array.from({ length: COUNT }, (_, i) =>
      i % 2 === 1 ? { key: `key ${i}`, delete: true as const } : { key: `key ${i}`, value: -i },
    )
    await whileIn(section.bulk([...changes, { key: 'new', value: 1 }]), look)
    for (let i = 0; i < 100; i++) {
      look()
      await nextTurn()
    }
    expect([...seen].map(one => JSON.parse(one).slice(0, 6))).toEqual([
      [0, COUNT - 2, true, true, false, COUNT + 1],
      [0, -(COUNT - 2), false, false, true, COUNT / 2 + 2],
    ])
    expect(new Map(section).size).toBe(section.size)
    log.close()
  })

  it('may say of a key several things, of which the last counts, and of two sections', async () => {
    const { log, segment } = writingLog()
    const names = ['numbers', 'others']
    const [section, other] = names.map(name => log.section(name, schema)) as [Numbers, Numbers]
    const model = new Map<string, number>()
    const random = seeded()
    for (let bulk = 0; bulk < perLane(2, 3); bulk++) {
      const changes = Array.from({ length: 80_000 }, (_, i) => {
        const key = `${random(50) === 0 ? 'ключ' : 'key'} ${random(40_000)}`
        if (random(10) > 0) {
          model.set(key, i)
          return { key, value: i }
        }
        model.delete(key)
        return { key, delete: true as const }
      })
      await Promise.all([section.bulk(changes), other.bulk(numbers(i => i, 100))])
      expect(section.size).toBe(model.size)
    }
    expect(model.size).toBeGreaterThan(30_000)
    const reader = new StateLog()
    await reader.adopt(segment.readOnly())
    for (const each of [section, reader.section('numbers', schema)]) {
      const seen = new Map(each)
      expect(seen.size).toBe(model.size)
      for (const [key, value] of seen) if (model.get(key) !== value) expect.fail(`${key} is ${value}`)
    }
    expect(reader.position).toEqual(log.position)
    // The digest is that of what is there, however it came to be.
    const { log: plain } = writingLog()
    await plain.section('numbers', schema).bulk(Array.from(model, ([key, value]) => ({ key, value })))
    expect(plain.section('numbers', schema).digest).toBe(section.digest)
    for (const each of [log, reader, plain]) each.close()
  })

  it('shows all at once in another process that reads it, and is the same there', async () => {
    const { log, segment } = writingLog()
    await log.section('numbers', schema).bulk(numbers(i => i))
    await log.section('numbers', schema).bulk(numbers(i => i + 1))
    const reader = new StateLog({ sliceMs: 1 })
    const section = reader.section('numbers', schema)
    const seen = new Set<string>()
    await whileIn(reader.adopt(segment.readOnly()), () => {
      seen.add(`${section.size} ${section.get('key 7')} ${section.get(`key ${COUNT - 1}`)}`)
    })
    seen.add(`${section.size} ${section.get('key 7')} ${section.get(`key ${COUNT - 1}`)}`)
    expect(
      [...seen].filter(one => !['0 undefined undefined', '20000 7 19999', '20000 8 20000'].includes(one)),
    ).toEqual([])
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('takes short turns, here and where it is read, also with a million bytes in a value', async () => {
    const changes = numbers(i => i, 100_000)
    let log!: StateLog
    const turns = await leastOf(80, async () => {
      log?.close()
      const writing = writingLog()
      log = writing.log
      const section = log.section('numbers', schema)
      await section.bulk(changes.slice(0, 30_000))
      const written = await longestTurn(() => section.bulk(changes))
      const reader = new StateLog()
      const read = await longestTurn(() => reader.adopt(writing.segment.readOnly()))
      expect(reader.position).toEqual(log.position)
      reader.close()
      return [written, read]
    })
    // One turn alone took more than 300 ms when a bulk was one record.
    for (const longest of turns) expect(longest).toBeLessThan(80)
    const raw = log.section('raw')
    await raw.bulk(Array.from({ length: 40 }, (_, i) => ({ key: `${i}`, value: Buffer.alloc(1_000_000, i) })))
    expect([raw.size, raw.get('39')?.length]).toEqual([40, 1_000_000])
    log.close()
  })

  it('lets changes that are made meanwhile wait, in order', async () => {
    const { log } = writingLog({ sliceMs: 0.1 })
    const section = log.section('numbers', schema)
    const settled: string[] = []
    const bulk = section.bulk(numbers(i => i)).then(() => settled.push('bulk'))
    let at = 0
    await whileIn(bulk, () => {
      if (at++ === 50) void section.put('key 3', -3).then(() => settled.push('put'))
    })
    await section.put('end', 0)
    // Before the bulk had been encoded, or behind all of it.
    expect(section.get('key 3')).toBe(settled.indexOf('bulk') < settled.indexOf('put') ? -3 : 3)
    expect(settled.length).toBe(2)
    log.close()
  })

  it('counts for nothing if a freeze or a seal interrupts it, and comes whole in the next segment', async () => {
    const { log, segment } = writingLog({ sliceMs: 0.1 })
    const section = log.section('numbers', schema)
    await section.put('before', 1)
    const { digest } = log.position
    const bulk = section.bulk(numbers(i => i))
    while (log.position.sequence < 10) await nextTurn()
    const frozen = log.pauseWriting()
    expect([frozen.digest, section.size]).toEqual([digest, 1])
    for (let i = 0; i < 5; i++) await nextTurn()
    expect(log.position).toEqual(frozen)
    segment.seal()
    const reader = await readBy(log)
    expect(reader.position).toEqual(frozen)
    reader.close()

    log.startWriting(Segment.create(2))
    await bulk
    expect(section.size).toBe(COUNT + 1)
    const next = await readBy(log)
    expect(next.position).toEqual(log.position)
    next.close()
    log.close()
  })

  it('shows as under way until it is in the segment, so that no process goes on in another meanwhile', async () => {
    const { log } = writingLog({ sliceMs: 1 })
    const section = log.section('numbers', schema)
    const said: boolean[] = []
    await whileIn(
      section.bulk(numbers(i => i)).then(() => said.push(log.amidBulk)),
      () => said.push(log.amidBulk),
    )
    expect(said).toContain(true)
    expect(said.at(-1)).toBe(false)
  })

  it('goes on where it was when a freeze ends well', async () => {
    const { log } = writingLog({ sliceMs: 0.1 })
    const section = log.section('numbers', schema)
    const bulk = section.bulk(numbers(i => i))
    while (log.position.sequence < 10) await nextTurn()
    log.pauseWriting()
    for (let i = 0; i < 5; i++) await nextTurn()
    log.resumeWriting()
    await bulk
    expect(section.size).toBe(COUNT)
    const next = await readBy(log)
    expect(next.position).toEqual(log.position)
    next.close()
    log.close()
  })

  it('of which only the first records are there counts for nothing, wherever it was cut', async () => {
    const { log, segment } = writingLog()
    const section = log.section('numbers', schema)
    await section.put('before', 1)
    const whole = segment.size()
    const { digest } = log.position
    await section.bulk(numbers(i => i, 3000))
    const bytes = bytesOf(segment)
    for (let cut = whole; cut < bytes.length; cut += 1009) {
      const damaged = segmentOf(bytes.subarray(0, cut), { sealed: true })
      const reader = new StateLog()
      await reader.adopt(damaged)
      expect([reader.position.digest, reader.section('numbers').size]).toEqual([digest, 1])
      reader.startWriting(Segment.create(2))
      await reader.section('numbers').put('after', Buffer.from('2'))
      expect((await reader.compact()).length).toBe(2)
      const next = await readBy(reader)
      expect(next.position).toEqual(reader.position)
      expect([...next.section('numbers').keys()].sort()).toEqual(['after', 'before'])
      next.close()
      reader.close()
    }
    log.close()
  })

  it('tells listeners of each change once it counts, and bytes in force are exact', async () => {
    const { log } = writingLog()
    const section = log.section('numbers', schema)
    await section.bulk(numbers(i => i, 3000))
    const told = new Map<string, unknown>()
    section.onChange(({ op, key }) => told.set(key, [op, section.get(key)]))
    await section.bulk([...numbers(i => i + 1, 3000), { key: 'key 0', delete: true }])
    // At the moment that it counts: the rest is being told of.
    await section.put('key 2999', -1)
    const expected = numbers(i => i + 1, 3000).map(({ key, value }): [string, unknown] => [
      key,
      ['put', value],
    ])
    const all = new Map([...expected, ['key 0', ['delete', undefined]], ['key 2999', ['put', -1]]])
    await until(() => isDeepStrictEqual(told, all))
    const reader = await readBy(log)
    await until(() => reader.stats().liveBytes === log.stats().liveBytes)
    await log.section('numbers', schema).clear()
    expect(log.stats()).toMatchObject({ entries: 0, liveBytes: 0 })
    reader.close()
    log.close()
  })

  it('compacts to the same state', async () => {
    const { log } = writingLog()
    const section = log.section('numbers', schema)
    await section.bulk(numbers(i => i, 3000))
    log.segments[0]!.seal()
    log.startWriting(Segment.create(2))
    await section.bulk(numbers(i => -i, 3001))
    log.segments[1]!.seal()
    log.startWriting(Segment.create(3))
    const { position } = log
    const segments = await log.compact()
    expect(segments.length).toBe(2)
    expect(log.position).toEqual(position)
    const reader = await readBy(log)
    expect(reader.position).toEqual(position)
    expect([section.get('key 5'), section.get('key 3000')]).toEqual([-5, -3000])
    reader.close()
    log.close()
  })

  it('may be larger than what may wait: others do not wait for it with an error', async () => {
    const { log } = writingLog({ limits: { waitingBytes: 10_000 }, sliceMs: 0.1 })
    const section = log.section('numbers', schema)
    const bulk = section.bulk(numbers(i => i))
    while (log.position.sequence < 2) await nextTurn()
    await section.put('other', 1)
    await bulk
    expect(section.size).toBe(COUNT + 1)
    log.close()
  })
})

describe('the changes of a bulk', () => {
  const store = new SectionStore('s', () => {})
  const partsOf = (sizes: readonly number[]) => {
    const bulk = new Bulk(store, DEFAULT_LIMITS, '')
    for (const size of sizes)
      bulk.add({ section: 's', op: 1, key: 'k', value: Buffer.alloc(size), version: 1 })
    bulk.finish()
    bulk.finish()
    expect(bulk.count).toBe(sizes.length)
    return bulk.parts.map(({ length }) => length)
  }

  it('form parts of some kilobytes, small ones together and a large one alone', () => {
    expect(partsOf(Array.from({ length: 50 }, () => 10))).toHaveLength(1)
    const mixed = partsOf([10, 100_000, 10, 10])
    expect(mixed).toHaveLength(3)
    expect(mixed[1]).toBeGreaterThan(100_000)
    // Each part begins again: entries of earlier parts do not count.
    const many = partsOf(Array.from({ length: 1_000 }, () => 1_000))
    expect(many.length).toBeGreaterThan(1_000_000 / 17_000)
    expect(many.length).toBeLessThan(1_000_000 / 14_000)
  })
})
