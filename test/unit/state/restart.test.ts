import { describe, expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { defineSection, json, Segment, StateLog, type StateLogOptions } from '../../fixtures/state.js'
import { longestTurn, segmentOf } from '../../fixtures/state-logs.js'
import { perLane } from '../../lanes/lane.js'
import { until } from '../../processes/until.js'
import { leastOf } from '../../processes/worked.js'

const schema = defineSection<number>({ version: 1, codec: json() })
const code = (expected: string) => expect.objectContaining({ code: expected })

/** A log that writes, and one that has read it. */
async function pair(options?: StateLogOptions): Promise<{ writer: StateLog; reader: StateLog }> {
  const writer = new StateLog(options)
  writer.startWriting(Segment.create(1))
  const counts = writer.section('counts', schema)
  for (const [key, value] of Object.entries({ a: 1, b: 2, c: 3 })) await counts.put(key, value)
  const reader = new StateLog()
  await reader.adopt(writer.segments[0]!.readOnly())
  onTestFinished(() => {
    writer.close()
    reader.close()
  })
  return { writer, reader }
}

/** All that it has, for another process. */
const whole = (log: StateLog) => log.segments.map(segment => segment.readOnly())

/** Continues the log in the segment of this epoch. */
function goOn(writer: StateLog, epoch: number): void {
  writer.segments.at(-1)!.seal()
  writer.startWriting(Segment.create(epoch))
}

function told(log: StateLog) {
  const all: { op: string; key: string; previous: number | undefined; origin: string }[] = []
  log
    .section('counts', schema)
    .onChange(({ op, key, previous, origin }) => all.push({ op, key, previous, origin }))
  return all
}

describe('a log that is read anew in place of another', () => {
  it('tells what is different, with what was before, and follows from there', async () => {
    const { writer, reader } = await pair()
    const counts = writer.section('counts', schema)
    await reader.catchUp()
    goOn(writer, 2)
    await counts.put('a', 1)
    await counts.put('b', 20)
    await counts.delete('c')
    await counts.put('d', 4)
    goOn(writer, 4)
    await writer.compact()
    const changes = told(reader)
    await reader.rebuild(whole(writer))
    expect(changes.toSorted((a, b) => (a.key < b.key ? -1 : 1))).toEqual([
      { op: 'put', key: 'b', previous: 2, origin: 'replay' },
      { op: 'delete', key: 'c', previous: 3, origin: 'replay' },
      { op: 'put', key: 'd', previous: undefined, origin: 'replay' },
    ])
    expect(reader.position).toEqual(writer.position)
    expect(Object.fromEntries(reader.section('counts', schema))).toEqual({ a: 1, b: 20, d: 4 })
    reader.follow()
    await counts.put('e', 5)
    expect(reader.section('counts', schema).get('e')).toBe(5)
    expect(changes).toHaveLength(4)
    // And what it holds can be merged as ever.
    goOn(writer, 5)
    await counts.put('f', 6)
    await reader.adopt(writer.segments.at(-1)!.readOnly())
    await reader.compact()
    expect(reader.position).toEqual(writer.position)
    expect(reader.stats().segments).toBe(2)
  })

  it('may be of a service that has begun again, with lower epochs and sections of its own', async () => {
    const { reader } = await pair()
    const other = new StateLog()
    onTestFinished(() => other.close())
    other.startWriting(Segment.create(1))
    await other.section('counts', schema).put('z', 26)
    await other.section('more', schema).put('y', 25)
    const changes = told(reader)
    await reader.rebuild(whole(other))
    expect(changes).toHaveLength(4)
    expect(reader.position).toEqual(other.position)
    expect([...reader.section('counts', schema).keys()]).toEqual(['z'])
    expect(reader.section('more', schema).get('y')).toBe(25)
    expect(reader.digests()).toEqual(other.digests())
  })

  it('knows the requests that were made there', async () => {
    const { writer, reader } = await pair()
    await writer.section('counts', schema).put('a', 9, { request: 'once' })
    await reader.rebuild(whole(writer))
    writer.segments[0]!.seal()
    reader.startWriting(Segment.create(7))
    await reader.section('counts', schema).put('a', 9, { request: 'once' })
    expect(reader.sequence).toBe(writer.sequence)
  })

  it('leaves all as it was when it cannot be read', async () => {
    const { writer, reader } = await pair()
    const before = reader.position
    const changes = told(reader)
    const torn = Buffer.from('no log at all, and no header')
    await expect(
      Promise.resolve()
        .then(() => segmentOf(torn, { sealed: true }))
        .then(segment => reader.rebuild([segment])),
    ).rejects.toThrow()
    const [first, second] = [writer.segments[0]!.readOnly(), writer.segments[0]!.readOnly()]
    await expect(reader.rebuild([first, second])).rejects.toEqual(code('ERR_FDB_STATE_ORDER'))
    expect([reader.position, changes]).toEqual([before, []])
    await writer.section('counts', schema).put('a', 2)
    await reader.catchUp()
    expect(reader.section('counts', schema).get('a')).toBe(2)
    reader.close()
    await expect(reader.rebuild([writer.segments[0]!.readOnly()])).rejects.toEqual(
      code('ERR_FDB_STATE_CLOSED'),
    )
  })

  it('reads the rest of a bulk that is not whole yet when it comes', async () => {
    // A part of it in each turn.
    const { writer, reader } = await pair({ sliceMs: 0, limits: { recordBytes: 4096 } })
    const many = Array.from({ length: 2_000 }, (_, i) => ({ key: `key-${i}`, value: i }))
    const bulk = writer.section('counts', schema).bulk(many)
    const changes = told(reader)
    // A part comes in each turn: a poll by time may see it whole on a busy machine.
    while (writer.sequence <= 3) await new Promise(resolve => setImmediate(resolve))
    await reader.rebuild(whole(writer))
    expect(reader.section('counts', schema).size).toBe(3)
    reader.follow()
    await bulk
    await reader.catchUp()
    expect(reader.position).toEqual(writer.position)
    expect(changes).toHaveLength(2_000)
  })

  it('goes on behind a bulk that the end of its writer has cut', async () => {
    const { writer, reader } = await pair({ sliceMs: 0 })
    const many = Array.from({ length: 20_000 }, (_, i) => ({ key: `key-${i}`, value: i }))
    const cut = writer.section('counts', schema).bulk(many)
    await until('a part of it is there', () => writer.sequence > 3)
    writer.segments[0]!.seal()
    writer.endWriting(new FdbError('ERR_FDB_FENCED', 'over'))
    await expect(cut).rejects.toEqual(code('ERR_FDB_FENCED'))
    const next = new StateLog()
    onTestFinished(() => next.close())
    await next.adopt(writer.segments[0]!.readOnly())
    next.startWriting(Segment.create(2))
    await reader.rebuild([next.segments[0]!.readOnly()])
    await next.section('counts', schema).put('d', 4)
    await reader.adopt(next.segments[1]!.readOnly())
    expect(reader.position).toEqual(next.position)
    expect(reader.section('counts', schema).size).toBe(4)
  })

  it('continues for iterations that run meanwhile, however little it is', async () => {
    const { writer, reader } = await pair()
    const counts = reader.section('counts', schema)
    const many = Array.from({ length: 40_000 }, (_, i) => ({ key: `key-${i}`, value: i }))
    await writer.section('counts', schema).bulk(many)
    await reader.catchUp()
    const other = new StateLog()
    onTestFinished(() => other.close())
    other.startWriting(Segment.create(1))
    const few = many.slice(0, 50).map(({ key }) => ({ key, value: -1 }))
    await other.section('counts', schema).bulk(few)
    const entries = counts.entries()
    for (let i = 0; i < 100; i++) entries.next()
    await reader.rebuild(whole(other))
    for (const [key, value] of entries) expect([key, value]).toEqual([key, -1])
    expect([...counts.keys()]).toHaveLength(50)
  })

  it('holds the event loop for no long turn, however much is different, and lets go of what was before when all is told', async () => {
    // A turn of 150 ms when all was put in place in one; V8's collections are in it.
    const [longest] = await leastOf(80, async () => {
      const { writer, reader } = await pair()
      const counts = writer.section('counts', schema)
      const count = perLane(100_000, 200_000)
      const numbered = function* (value: number) {
        for (let i = 0; i < count; i++) yield { key: `key-${i}`, value }
      }
      await counts.bulk(numbered(1))
      await reader.catchUp()
      goOn(writer, 2)
      await counts.bulk(numbered(2))
      goOn(writer, 3)
      await writer.compact()
      let wrong = 0
      let changes = 0
      const copy = reader.section('counts', schema)
      copy.onChange(({ key, previous }) => {
        changes++
        if (previous !== 1 || copy.get(key) !== 2) wrong++
      })
      const [before] = reader.segments
      const turn = await longestTurn(() => reader.rebuild(whole(writer)))
      expect({ changes, wrong }).toEqual({ changes: count, wrong: 0 })
      expect(before!.fd.closed).toBe(true)
      expect(reader.position).toEqual(writer.position)
      return [turn]
    })
    expect(longest).toBeLessThan(80)
  })

  it('lets go of everything when it is closed before all are told', async () => {
    const { writer, reader } = await pair()
    const many = Array.from({ length: 2_000 }, (_, i) => ({ key: `key-${i}`, value: i }))
    await writer.section('counts', schema).bulk(many)
    const held = [...reader.segments]
    const next = whole(writer)
    let changes = 0
    reader.section('counts', schema).onChange(() => {
      if (++changes === 100) reader.close()
    })
    await expect(reader.rebuild(next)).rejects.toEqual(code('ERR_FDB_ABORTED'))
    await until('all are closed', () => [...held, ...next].every(({ fd }) => fd.closed))
    expect(changes).toBeLessThan(2_000)
  })
})
