import { describe, expect, it, vi } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { native } from '../../../src/kernel/native.js'
import { Segment, StateLog } from '../../fixtures/state.js'
import {
  bytesOf,
  longestTurn,
  type Route,
  readBy,
  routeSchema,
  segmentOf,
  writingLog,
} from '../../fixtures/state-logs.js'
import { leastOf } from '../../processes/worked.js'

const code = (expected: string) => expect.objectContaining({ code: expected })

describe('writing', () => {
  it('reads its own writes at once, though they are appended in one go', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    const puts = [routes.put('a', { to: 'x' }), routes.put('b', { to: 'y' }), routes.delete('a')]
    expect(segment.size()).toBe(segment.start)
    expect([routes.get('a'), routes.get('b'), routes.size, routes.has('b')]).toEqual([
      undefined,
      { to: 'y' },
      1,
      true,
    ])
    await Promise.all(puts)
    expect(log.position).toMatchObject({ epoch: 1, sequence: 3 })
    expect([...routes.entries()]).toEqual([['b', { to: 'y' }]])
    log.close()
  })

  it('waits before it has a segment, and appends what waited in order', async () => {
    const log = new StateLog()
    const routes = log.section('routes', routeSchema)
    const puts = [routes.put('a', { to: 'first' }), routes.put('a', { to: 'second' })]
    expect([routes.get('a'), log.stats().waiting]).toEqual([undefined, 2])
    log.startWriting(Segment.create(4))
    expect(routes.get('a')).toEqual({ to: 'second' })
    await Promise.all(puts)
    expect(log.position).toMatchObject({ epoch: 4, sequence: 2 })
    log.close()
  })

  it('applies a bulk whole', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('gone', { to: 'x' })
    const changes = Array.from({ length: 3000 }, (_, i) => ({ key: `k${i}`, value: { to: `u${i}` } }))
    await routes.bulk([...changes, { key: 'gone', delete: true }])
    expect([routes.size, routes.get('k2999'), routes.has('gone')]).toEqual([3000, { to: 'u2999' }, false])
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('applies nothing of a bulk with one bad value', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    const cyclic: Route & { self?: unknown } = { to: 'x' }
    cyclic.self = cyclic
    await expect(
      routes.bulk([
        { key: 'a', value: { to: 'a' } },
        { key: 'b', value: cyclic },
      ]),
    ).rejects.toThrow()
    expect([routes.size, log.position.sequence]).toEqual([0, 0])
    log.close()
  })

  it('applies a change with a request id once: while it waits, later, and for a later reader', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    const first = routes.put('a', { to: '1' }, { request: 'r1' })
    await Promise.all([first, routes.put('a', { to: '2' }, { request: 'r1' })])
    await routes.put('a', { to: '3' }, { request: 'r1' })
    expect([routes.get('a'), log.position.sequence]).toEqual([{ to: '1' }, 1])
    log.segments[0]!.seal()
    log.startWriting(Segment.create(2))
    await routes.put('b', { to: 'b' }, { request: 'r2' })
    await log.compact()
    log.segments[1]!.seal()
    const next = await readBy(log)
    next.startWriting(Segment.create(3))
    const same = next.section('routes', routeSchema)
    await same.put('a', { to: '4' }, { request: 'r1' })
    await same.put('b', { to: '5' }, { request: 'r2' })
    expect([same.get('a'), same.get('b'), next.position.sequence]).toEqual([{ to: '1' }, { to: 'b' }, 2])
    next.close()
    log.close()
  })

  it('clears a section in one change', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    await Promise.all([routes.put('a', { to: 'a' }), routes.put('b', { to: 'b' })])
    const before = log.section('other').digest
    await routes.clear()
    expect([routes.size, routes.get('a'), routes.digest, log.stats().liveBytes]).toEqual([
      0,
      undefined,
      before,
      0,
    ])
    await routes.put('a', { to: 'again' })
    const reader = await readBy(log)
    expect([reader.position, [...reader.section('routes').keys()]]).toEqual([log.position, ['a']])
    reader.close()
    log.close()
  })

  it('tells listeners of each change after it was applied, and survives one that throws', async () => {
    const warnings: string[] = []
    const { log } = writingLog({ logger: { warn: (_facts, message) => warnings.push(message) } })
    const routes = log.section('routes', routeSchema)
    const seen: unknown[] = []
    const stop = routes.onChange(change => {
      seen.push([change.op, change.key, change.origin, routes.get(change.key)?.to])
      throw new Error('listener')
    })
    await routes.put('a', { to: 'x' })
    await routes.delete('a')
    stop()
    await routes.clear()
    expect(seen).toEqual([
      ['put', 'a', 'local', 'x'],
      ['delete', 'a', 'local', undefined],
    ])
    expect(warnings.length).toBe(2)
    log.close()
  })

  it('refuses what is over a limit and goes on', async () => {
    const { log } = writingLog({
      limits: { recordBytes: 4096, keyBytes: 10, changesPerRecord: 5, sections: 2 },
    })
    const raw = log.section('raw')
    await expect(raw.put('k', Buffer.alloc(5000))).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    await expect(raw.put('k'.repeat(11), Buffer.alloc(5))).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    await expect(raw.put('k', Buffer.alloc(5), { request: 'r'.repeat(256) })).rejects.toThrow(
      code('ERR_FDB_STATE_LIMIT'),
    )
    const large = ['a', 'b'].map(key => ({ key, value: Buffer.alloc(5000) }))
    await expect(raw.bulk(large)).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    await expect(raw.put('\ud800', Buffer.alloc(1))).rejects.toThrow(code('ERR_FDB_STATE_VALUE'))
    log.section('second')
    expect(() => log.section('third')).toThrow(code('ERR_FDB_STATE_LIMIT'))
    await raw.put('k', Buffer.from('fits'))
    expect(Buffer.from(raw.get('k')!).toString()).toBe('fits')
    log.close()
  })
})

describe('freeze, seal and fence', () => {
  it('holds changes back while paused, bounded, and goes on where it was', async () => {
    const { log, segment } = writingLog({ limits: { waitingWrites: 2 } })
    const routes = log.section('routes', routeSchema)
    const before = routes.put('a', { to: '1' })
    const frozen = log.pauseWriting()
    await before
    expect(frozen.sequence).toBe(1)
    const waiting = [routes.put('a', { to: '2' }), routes.put('b', { to: '2' })]
    await expect(routes.put('c', { to: '2' })).rejects.toThrow(code('ERR_FDB_STATE_BACKPRESSURE'))
    const size = segment.size()
    expect([log.position, routes.get('a')]).toEqual([frozen, { to: '1' }])
    expect(segment.size()).toBe(size)
    log.resumeWriting()
    await Promise.all(waiting)
    expect([routes.get('a'), routes.get('b'), log.position.sequence]).toEqual([{ to: '2' }, { to: '2' }, 3])
    log.close()
  })

  it('meets a seal without losing a change: it waits for the next segment', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: 'acknowledged' })
    const { position } = log
    const fenced = new Promise<void>(resolve => {
      log.onFenced = resolve
    })
    let calls = 0
    segment.seal()
    const waiting = [routes.put('a', { to: 'late' }), routes.put('b', { to: 'later' })]
    await fenced
    log.onFenced = () => calls++
    const third = routes.put('c', { to: 'latest' })
    expect([log.position, routes.get('a'), routes.size]).toEqual([position, { to: 'acknowledged' }, 1])
    log.startWriting(Segment.create(2))
    await Promise.all([...waiting, third])
    expect([routes.get('a'), routes.size, calls]).toEqual([{ to: 'late' }, 3, 0])
    expect(log.position).toMatchObject({ epoch: 2, sequence: 4 })
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('shows one state to all reads of a synchronous block, although its segment is sealed meanwhile', async () => {
    const { log, segment } = writingLog()
    const [left, right] = [log.section('left', routeSchema), log.section('right', routeSchema)]
    await left.put('a', { to: 'before' })
    await right.put('a', { to: 'before' })
    const other = await readBy(log)
    await other.catchUp()
    const theirs = Segment.create(2)
    log.segmentsAfter = epoch => (epoch < 2 ? [theirs.readOnly()] : [])
    const both = () => [left.get('a')!.to, right.get('a')!.to]
    // The other process takes over, and changes both sections, between two reads.
    const first = left.get('a')!.to
    segment.seal()
    other.startWriting(theirs)
    const changes = ['left', 'right'].map(name => other.section(name, routeSchema).put('a', { to: 'after' }))
    expect(other.position.sequence).toBe(4)
    const from = performance.now()
    while (performance.now() < from + 2);
    expect([first, ...both()]).toEqual(['before', 'before', 'before'])
    await Promise.all(changes)
    expect(both()).toEqual(['after', 'after'])
    // The same in a log that follows already.
    const again = left.get('a')!.to
    const more = ['left', 'right'].map(name => other.section(name, routeSchema).put('a', { to: 'later' }))
    expect(other.position.sequence).toBe(6)
    expect([again, ...both()]).toEqual(['after', 'after', 'after'])
    await Promise.all(more)
    expect(both()).toEqual(['later', 'later'])
    other.close()
    log.close()
  })

  it('reads what the next one writes as soon as its segment is sealed, although nobody has told it', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: 'mine' })
    const other = await readBy(log)
    segment.seal()
    await other.catchUp()
    const theirs = Segment.create(2)
    other.startWriting(theirs)
    await other.section('routes', routeSchema).put('a', { to: 'theirs' })
    const offered: number[] = []
    log.segmentsAfter = epoch => {
      offered.push(epoch)
      return epoch < 2 ? [theirs.readOnly(), Segment.create(3)] : []
    }
    const fenced = new Promise<void>(resolve => {
      log.onFenced = resolve
    })
    // So long a read may rely on the last look.
    const from = performance.now()
    while (performance.now() < from + 2);
    expect(routes.get('a')).toEqual({ to: 'theirs' })
    await fenced
    await other.section('routes', routeSchema).put('a', { to: 'theirs again' })
    expect(routes.get('a')).toEqual({ to: 'theirs again' })
    expect(offered[0]).toBe(1)
    // The reader may continue in the last segment.
    theirs.seal()
    await log.catchUp()
    log.startWriting(log.segments.at(-1)!)
    await routes.put('a', { to: 'mine again' })
    expect(log.position).toMatchObject({ epoch: 3, sequence: 4 })
    other.close()
    log.close()
  })

  it('rejects what waits, and what comes later, once its right has ended for good', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    segment.seal()
    const late = routes.put('a', { to: 'late' })
    log.onFenced = () => log.endWriting(new FdbError('ERR_FDB_FENCED', 'epoch 1 is over'))
    await expect(late).rejects.toThrow(code('ERR_FDB_FENCED'))
    await expect(routes.put('b', { to: 'later' })).rejects.toThrow(code('ERR_FDB_FENCED'))
    expect(routes.size).toBe(0)
    log.startWriting(Segment.create(3))
    await routes.put('c', { to: 'reinstated' })
    expect(routes.size).toBe(1)
    log.close()
  })

  it('does not write anew what another writer has appended for the same request', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    segment.seal()
    const late = routes.put('a', { to: 'mine' }, { request: 'r' })
    expect(routes.size).toBe(0)
    const other = await readBy(log)
    const theirs = Segment.create(2)
    other.startWriting(theirs)
    await other.section('routes', routeSchema).put('a', { to: 'theirs' }, { request: 'r' })
    theirs.seal()
    await log.adopt(theirs.readOnly())
    log.startWriting(Segment.create(3))
    await late
    expect([routes.get('a'), log.position.sequence]).toEqual([{ to: 'theirs' }, 1])
    other.close()
    log.close()
  })

  it('keeps one writer: refuses a second segment while the first is not sealed', async () => {
    const { log, segment } = writingLog()
    const next = Segment.create(2)
    expect(() => log.startWriting(next)).toThrow(code('ERR_FDB_STATE_ORDER'))
    await expect(log.adopt(next.share())).rejects.toThrow(code('ERR_FDB_STATE_ORDER'))
    segment.seal()
    log.startWriting(next)
    expect(() => log.startWriting(Segment.create(2))).toThrow(code('ERR_FDB_STATE_ORDER'))
    log.close()
  })

  it('writes in a segment behind which it holds an empty one, made for a rollback', async () => {
    const { log, segment } = writingLog()
    segment.seal()
    log.endWriting(new FdbError('ERR_FDB_FENCED', 'epoch 1 is over'))
    const granted = Segment.create(2)
    await log.adopt(granted.share())
    await log.adopt(Segment.create(3))
    // The log has followed this one, perhaps by a descriptor that cannot be written.
    expect(log.backTo(2)).toBe(undefined)
    log.startWriting(granted.share())
    await log.section('routes', routeSchema).put('a', { to: 'mine' })
    expect(log.segments.map(({ epoch }) => epoch)).toEqual([2])
    granted.close()
    log.close()
  })

  it('closes the segments of failed handoffs in which nothing is, but not the one before them', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: 'u' })
    let own = segment
    for (let epoch = 2; epoch < 8; epoch += 2) {
      own.seal()
      log.endWriting(new FdbError('ERR_FDB_FENCED', `epoch ${epoch - 1} is over`))
      const successors = Segment.create(epoch)
      await log.adopt(successors)
      successors.seal()
      own = Segment.create(epoch + 1)
      log.startWriting(own)
    }
    expect(log.segments.map(({ epoch }) => epoch)).toEqual([1, 7])
    await routes.put('b', { to: 'v' })
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('does not go back behind a segment in which another process has written', async () => {
    const { log, segment } = writingLog()
    segment.seal()
    log.endWriting(new FdbError('ERR_FDB_FENCED', 'epoch 1 is over'))
    await log.adopt(Segment.create(2))
    const other = new StateLog()
    const theirs = Segment.create(3)
    other.startWriting(theirs)
    await other.section('routes', routeSchema).put('a', { to: 'theirs' })
    await log.adopt(theirs.share())
    const held = log.backTo(2)!
    expect(() => log.startWriting(held)).toThrow(code('ERR_FDB_STATE_ORDER'))
    other.close()
    log.close()
  })

  it('holds the next segment before the seal once it has given up its right, and reads it behind the seal', async () => {
    const { log, segment } = writingLog()
    await log.section('raw').put('a', Buffer.from('ours'))
    log.forwardWriting({ timeoutMs: 1_000, refusal: new FdbError('ERR_FDB_FENCED', 'another serves') })
    const next = Segment.create(2)
    const other = await readBy(log)
    await log.adopt(next.share())
    log.follow()
    segment.seal()
    await other.catchUp()
    other.startWriting(next)
    await other.section('raw').put('a', Buffer.from('theirs'))
    expect(log.section('raw').get('a')).toEqual(Buffer.from('theirs'))
    other.close()
    log.close()
  })

  it('refuses a change that the segment has no room for, and takes one that fits', async () => {
    const { log, segment } = writingLog({ limits: { segmentBytes: 3000 } })
    const raw = log.section('raw')
    await raw.put('a', Buffer.alloc(1000))
    await expect(raw.put('b', Buffer.alloc(2500))).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    await raw.put('c', Buffer.alloc(100))
    expect([[...raw.keys()].sort(), log.position.sequence]).toEqual([['a', 'c'], 2])
    expect(segment.size()).toBeLessThan(3000)
    log.close()
  })
})

describe('reading', () => {
  it('follows a log that is being written, to the same digest', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: '1' })
    const reader = await readBy(log)
    expect(reader.position).toEqual(log.position)
    await routes.bulk([
      { key: 'b', value: { to: '2' } },
      { key: 'a', delete: true },
    ])
    expect(await reader.catchUp()).toEqual(log.position)
    expect([...reader.section('routes', routeSchema).entries()]).toEqual([['b', { to: '2' }]])
    expect(reader.digests()).toEqual(log.digests())
    reader.close()
    log.close()
  })

  it('hands over and back: both have the same after each step', async () => {
    const elder = new StateLog()
    const first = Segment.create(1)
    const [theirs, back] = [Segment.create(2), Segment.create(3)]
    elder.startWriting(first)
    await elder.section('routes', routeSchema).put('a', { to: 'elder' })
    const younger = new StateLog()
    await younger.adopt(first.readOnly())
    elder.pauseWriting()
    const late = elder.section('routes', routeSchema).put('late', { to: 'elder' })
    first.seal()
    expect(await younger.catchUp()).toEqual(elder.position)
    younger.startWriting(theirs.share())
    await younger.section('routes', routeSchema).put('b', { to: 'younger' })
    theirs.seal()
    await elder.adopt(theirs)
    expect(elder.position).toEqual(younger.position)
    elder.startWriting(back)
    await late
    expect([...elder.section('routes').keys()].sort()).toEqual(['a', 'b', 'late'])
    expect(elder.position).toMatchObject({ epoch: 3, sequence: 3 })
    elder.close()
    younger.close()
  })

  it.each([1, 2, 3, 4])(
    'has what a writer appends that loses its right while the reader asks for the seal, in question %i',
    async last => {
      const { log, segment } = writingLog()
      const routes = log.section('routes', routeSchema)
      await routes.put('a', { to: '1' })
      const growing = segmentOf(bytesOf(segment), { sealed: false })
      const size = segment.size()
      growing.continueAt(size)
      await routes.put('b', { to: '2' })
      const seen = growing.readOnly()
      const next = new StateLog()
      await next.adopt(seen)
      let asked = 0
      vi.spyOn(seen, 'sealed', 'get').mockImplementation(() => {
        if (++asked === last) {
          growing.append(bytesOf(segment).subarray(size))
          growing.seal()
        }
        return growing.sealed
      })
      for (let round = 0; round < last; round++) await next.catchUp()
      expect(growing.sealed).toBe(true)
      expect(await next.catchUp()).toEqual(log.position)
      for (const one of [log, next, growing]) one.close()
    },
  )

  it('cuts half a record at the end, and a later writer goes on behind the last whole one', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: '1' })
    const { position } = log
    await routes.put('b', { to: '2' })
    const bytes = bytesOf(segment)
    const cut = segmentOf(bytes.subarray(0, bytes.length - 3), { sealed: false })
    const next = new StateLog()
    await next.adopt(cut)
    expect(next.position).toEqual(position)
    next.startWriting(cut)
    await next.section('routes', routeSchema).put('c', { to: '3' })
    const reader = await readBy(next)
    expect([reader.position, [...reader.section('routes').keys()].sort()]).toEqual([
      next.position,
      ['a', 'c'],
    ])
    for (const one of [log, next, reader]) one.close()
  })

  it('names offset and sequence of damage in the middle, with everything before it applied', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: '1' })
    const { position } = log
    const offset = segment.size()
    await routes.put('b', { to: '2' })
    await routes.put('c', { to: '3' })
    const bytes = bytesOf(segment)
    bytes[offset + 20]! ^= 1
    const reader = new StateLog()
    const adopted = reader.adopt(segmentOf(bytes, { sealed: true }))
    await expect(adopted).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_FDB_STATE_DAMAGED', details: { epoch: 1, offset, sequence: 1 } }),
    )
    expect(reader.position).toEqual(position)
    reader.close()
    log.close()
  })

  it('notices a segment that is missing, comes twice, or in the wrong order', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: '1' })
    segment.seal()
    log.startWriting(Segment.create(2))
    await routes.put('b', { to: '2' })
    const second = log.segments[1]!
    const reader = new StateLog()
    await expect(reader.adopt(second.readOnly())).rejects.toThrow(code('ERR_FDB_STATE_DAMAGED'))
    reader.close()
    const other = await readBy(log)
    for (const one of [segment, second]) {
      await expect(other.adopt(one.readOnly())).rejects.toThrow(code('ERR_FDB_STATE_ORDER'))
    }
    other.close()
    log.close()
  })

  it('enters the next segment only after the one before it is sealed', async () => {
    const { log, segment } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: '1' })
    const reader = await readBy(log)
    await routes.put('b', { to: '2' })
    const next = Segment.create(2)
    await reader.adopt(next.readOnly())
    await routes.put('c', { to: '3' })
    segment.seal()
    log.startWriting(next)
    await routes.put('d', { to: '4' })
    expect(await reader.catchUp()).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('reads segments that come at once one behind the other', async () => {
    const { log, segment } = writingLog()
    const numbers = log.section('numbers')
    const fill = async (epoch: number) => {
      for (let i = 0; i < 20; i++) await numbers.put(`${epoch} ${i}`, Buffer.alloc(20_000, epoch))
    }
    await fill(1)
    segment.seal()
    log.startWriting(Segment.create(2))
    await fill(2)
    const reader = new StateLog({ sliceMs: 0.01 })
    const [first, second] = log.segments.map(one => one.readOnly())
    let read = 0
    await Promise.all([
      reader.adopt(first!).then(() => {
        read = reader.sequence
      }),
      reader.adopt(second!),
    ])
    expect(read).toBe(20)
    expect(reader.position).toEqual(log.position)
    reader.close()
    log.close()
  })

  it('refuses to write behind records that it has not read', async () => {
    const { log, segment } = writingLog()
    await log.section('routes', routeSchema).put('a', { to: '1' })
    const other = new StateLog()
    const shared = segment.share()
    expect(() => other.startWriting(shared)).toThrow(code('ERR_FDB_STATE_BEHIND'))
    shared.close()
    await other.adopt(segment.share())
    await log.section('routes', routeSchema).put('b', { to: '1' })
    expect(() => other.startWriting(other.segments[0]!)).toThrow(code('ERR_FDB_STATE_BEHIND'))
    await other.catchUp()
    other.startWriting(other.segments[0]!)
    other.close()
    log.close()
  })

  it('reads 100,000 entries in short turns', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    for (let part = 0; part < 10; part++) {
      await routes.bulk(
        Array.from({ length: 10_000 }, (_, i) => ({ key: `${part}/${i}.example`, value: { to: 'u' } })),
      )
    }
    const [longest] = await leastOf(100, async () => {
      const reader = new StateLog()
      const longest = await longestTurn(() => reader.adopt(log.segments[0]!.readOnly()))
      expect(reader.position).toEqual(log.position)
      reader.close()
      return [longest]
    })
    expect(longest).toBeLessThan(100)
    log.close()
  })

  it('leaves no descriptor open when it is closed, also in the middle of reading', async () => {
    const before = native.openCount()
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    for (let i = 0; i < 20_000; i++) void routes.put(`k${i}`, { to: 'x' })
    await routes.put('last', { to: 'x' })
    const reader = new StateLog({ sliceMs: 1 })
    const adopted = reader.adopt(log.segments[0]!.readOnly())
    await new Promise(resolve => setImmediate(resolve))
    reader.close()
    await expect(adopted).rejects.toThrow(code('ERR_FDB_ABORTED'))
    log.segments[0]!.seal()
    const compaction = log.compact()
    const late = routes.put('late', { to: 'x' })
    log.close()
    await expect(compaction).rejects.toThrow(FdbError)
    await expect(late).rejects.toThrow(code('ERR_FDB_STATE_CLOSED'))
    await expect.poll(() => native.openCount()).toBe(before)
  })
})
