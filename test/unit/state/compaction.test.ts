import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { native } from '../../../src/kernel/native.js'
import { encodeBody, encodeEnvelope } from '../../../src/state/records.js'
import { frame } from '../../../src/state/segment.js'
import { Segment, StateLog, type StateLogOptions } from '../../fixtures/state.js'
import {
  bytesOf,
  longestTurn,
  readBy,
  routeSchema,
  segmentOf,
  writingLog,
} from '../../fixtures/state-logs.js'
import { leastOf } from '../../processes/worked.js'

const over = new FdbError('ERR_FDB_FENCED', 'over')

async function filled(entries: number, options?: StateLogOptions) {
  const { log, segment } = writingLog(options)
  const routes = log.section('routes', routeSchema)
  for (let round = 0; round < 3; round++) {
    await routes.bulk(
      Array.from({ length: entries }, (_, i) => ({ key: `k${i}`, value: { to: `u${round}` } })),
    )
  }
  return { log, segment, routes }
}

describe('compaction', () => {
  it('leaves one sealed snapshot of what is in force, closes the rest, and reads the same', async () => {
    const { log, segment, routes } = await filled(1000)
    await routes.delete('k0')
    const before = { position: log.position, stats: log.stats() }
    segment.seal()
    log.endWriting(over)
    const open = native.openCount()
    const segments = await log.compact()
    expect(segments.map(one => [one.kind, one.sealed, one.epoch])).toEqual([['snapshot', true, 1]])
    expect([segment.fd.closed, native.openCount()]).toEqual([true, open])
    expect(log.position).toEqual(before.position)
    expect(log.stats().bytes).toBeLessThan(before.stats.bytes / 2)
    expect(log.stats().liveBytes).toBe(before.stats.liveBytes)
    const reader = await readBy(log)
    expect(reader.position).toEqual(before.position)
    expect(routes.get('k999')).toEqual({ to: 'u2' })
    expect(await log.compact()).toEqual(segments)
    reader.close()
    log.close()
  })

  it('calls all that follow the log, once for each merge', async () => {
    const { log, segment } = await filled(10)
    segment.seal()
    log.endWriting(over)
    let told = 0
    log.appendListeners.add(() => told++)
    await log.compact()
    expect([told, log.segments[0]!.kind]).toEqual([1, 'snapshot'])
    await log.compact()
    expect(told).toBe(1)
    log.close()
  })

  it('merges nothing that is not sealed', async () => {
    const { log, segment } = await filled(10)
    expect(await log.compact()).toEqual([segment])
    log.close()
  })

  it('loses no change that is made meanwhile, and stays exact at the end of what it merged', async () => {
    const { log, segment, routes } = await filled(5000)
    const merged = log.position
    segment.seal()
    log.startWriting(Segment.create(2))
    await routes.put('k1', { to: 'before' })
    await routes.delete('k2')
    const compaction = log.compact()
    let i = 0
    let busy = true
    const changes = (async () => {
      while (busy || i < 200) {
        await routes.put(`k${(i * 7) % 5000}`, { to: `during ${i}` })
        if (i % 5 === 0) await routes.delete(`k${(i * 11) % 5000}`)
        if (i % 50 === 0) await new Promise(resolve => setImmediate(resolve))
        i++
      }
    })()
    const [snapshot] = await compaction
    busy = false
    await changes
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    const without = new StateLog()
    await without.adopt(snapshot!.readOnly())
    expect(without.position).toEqual(merged)
    for (const one of [log, reader, without]) one.close()
  })

  it('begins again when a segment begins meanwhile', async () => {
    const { log, segment, routes } = await filled(20_000)
    segment.seal()
    const second = Segment.create(2)
    log.startWriting(second)
    await routes.put('k1', { to: 'second' })
    const open = native.openCount()
    const compaction = log.compact()
    await new Promise(resolve => setImmediate(resolve))
    second.seal()
    log.startWriting(Segment.create(3))
    await routes.put('k1', { to: 'third' })
    const segments = await compaction
    expect(segments.map(one => [one.kind, one.epoch])).toEqual([
      ['snapshot', 2],
      ['epoch', 3],
    ])
    // Two segments before, and two now: the snapshot that was too early is closed.
    expect(native.openCount()).toBe(open)
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('ends though the process makes large changes all the time, of which each leaves work', async () => {
    const { log, segment, routes } = await filled(200, { sliceMs: 0.1 })
    segment.seal()
    log.startWriting(Segment.create(2))
    const change = (turn: number) =>
      log.update(state => {
        for (let i = 0; i < 3000; i++) state.put(routes, `k${i}`, { to: `turn ${turn}` })
      })
    await change(-1)
    let ended = false
    const compaction = log.compact().finally(() => {
      ended = true
    })
    let turns = 0
    for (; !ended && turns < 1_000; turns++) {
      await change(turns)
      await nextTurn()
    }
    expect(ended).toBe(true)
    expect((await compaction).map(({ kind }) => kind)).toEqual(['snapshot', 'epoch'])
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('ends though this process reads all the time what another one writes', async () => {
    const { log, segment, routes } = await filled(5000)
    segment.seal()
    log.startWriting(Segment.create(2))
    await routes.put('k1', { to: 'first' })
    const reader = await readBy(log)
    let ended = false
    const compaction = reader.compact().finally(() => {
      ended = true
    })
    let turns = 0
    const reading = async () => {
      for (; !ended && turns < 5_000; await nextTurn()) await reader.catchUp()
    }
    const reads = [reading(), reading()]
    for (; !ended && turns < 5_000; turns++) {
      for (let i = 0; i < 500; i++) void routes.put(`k${i}`, { to: `turn ${turns}` })
      await nextTurn()
    }
    expect(ended).toBe(true)
    expect((await compaction).map(({ kind }) => kind)).toEqual(['snapshot', 'epoch'])
    await Promise.all(reads)
    await reader.catchUp()
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('of a snapshot and what came after it merges both', async () => {
    const { log, segment, routes } = await filled(100)
    segment.seal()
    const second = Segment.create(2)
    log.startWriting(second)
    await routes.put('k1', { to: 'second' })
    const [first] = await log.compact()
    second.seal()
    log.startWriting(Segment.create(3))
    await routes.delete('k2')
    const segments = await log.compact()
    expect([first!.fd.closed, segments.map(one => one.epoch)]).toEqual([true, [2, 3]])
    expect([routes.get('k1'), routes.get('k3'), routes.size]).toEqual([{ to: 'second' }, { to: 'u2' }, 99])
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('stops at the close of the log, which leaves nothing open', async () => {
    const open = native.openCount()
    const { log, segment } = await filled(20_000)
    segment.seal()
    log.endWriting(over)
    const compaction = log.compact()
    setImmediate(() => log.close())
    await expect(compaction).rejects.toThrow(expect.objectContaining({ code: 'ERR_FDB_ABORTED' }))
    await expect.poll(() => native.openCount()).toBe(open)
  })

  it('works in short turns', async () => {
    const [longest] = await leastOf(100, async () => {
      const { log, segment } = await filled(30_000)
      segment.seal()
      log.endWriting(over)
      const longest = await longestTurn(() => log.compact())
      log.close()
      return [longest]
    })
    expect(longest).toBeLessThan(100)
  })

  it('gives a snapshot that counts only when it is whole', async () => {
    const { log, segment } = await filled(500)
    segment.seal()
    log.endWriting(over)
    const [snapshot] = await log.compact()
    const bytes = bytesOf(snapshot!)
    for (const cut of [bytes.length - 1, bytes.length - 90, Math.floor(bytes.length / 2), snapshot!.start]) {
      const reader = new StateLog()
      await expect(reader.adopt(segmentOf(bytes.subarray(0, cut), { sealed: true }))).rejects.toThrow(
        expect.objectContaining({ code: 'ERR_FDB_STATE_DAMAGED' }),
      )
      reader.close()
    }
    log.close()
  })

  it('gives a snapshot that ends with its end: a record behind it is damage', async () => {
    const { log, segment } = await filled(10)
    segment.seal()
    log.endWriting(over)
    const [snapshot] = await log.compact()
    const behind = frame(
      encodeEnvelope({ epoch: 1, sequence: log.sequence }),
      encodeBody([{ section: 'routes', op: 1, key: 'behind', value: Buffer.from('{}'), version: 1 }]),
    )
    const reader = new StateLog()
    const whole = segmentOf(Buffer.concat([bytesOf(snapshot!), behind]), { sealed: true })
    await expect(reader.adopt(whole)).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_STATE_DAMAGED',
        message: expect.stringContaining('follow the end'),
      }),
    )
    expect(reader.section('routes').has('behind')).toBe(false)
    reader.close()
    log.close()
  })
})
