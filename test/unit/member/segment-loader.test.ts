import { readdirSync } from 'node:fs'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { FdbError } from '../../../src/errors.js'
import { copyAll, SegmentSet } from '../../../src/holder/segment-set.js'
import { SegmentLoader } from '../../../src/member/state/segment-loader.js'
import { defineSection, json, StateLog } from '../../fixtures/state.js'

const schema = defineSection<number>({ version: 1, codec: json() })

/** The state of the process that serves, and a way to continue in the segment of another epoch. */
function serving() {
  const log = new StateLog()
  const segmentSet = new SegmentSet()
  onTestFinished(() => {
    log.close()
    segmentSet.close()
  })
  const counts = log.section('counts', schema)
  const writeIn = (epoch: number) => {
    segmentSet.seal(0, epoch)
    segmentSet.make([epoch])
    log.startWriting(segmentSet.get(epoch)!.share())
  }
  const merge = async () => {
    const [snapshot] = await log.compact()
    segmentSet.replaceUpTo(snapshot!.share())
  }
  return { log, segmentSet, counts, writeIn, merge }
}

/** A process that has served in epoch 1, and drains. */
async function draining({ segmentSet }: Pick<ReturnType<typeof serving>, 'segmentSet'>) {
  const log = new StateLog()
  const own = new SegmentSet()
  const loader = new SegmentLoader(log, own, SILENT)
  onTestFinished(() => {
    log.close()
    own.close()
  })
  own.put(segmentSet.get(1)!.share(), true)
  await loader.read(1)
  loader.write(1)
  const counts = log.section('counts', schema)
  const refusal = new FdbError('ERR_FDB_FENCED', 'late')
  const fence = () => void log.forwardWriting({ timeoutMs: 1_000, refusal })
  const take = () => loader.take(segmentSet.since(own.top, { whole: true }).items, false)
  return { log, segmentSet: own, loader, counts, fence, take }
}

describe('the state of a process that does not serve any more', () => {
  it('needs no further descriptor to follow, and to write again, in the segments of a handoff', async () => {
    const next = serving()
    next.segmentSet.make([1])
    const old = await draining(next)
    old.fence()
    next.segmentSet.seal(0, 2)
    const [successors, wayBack] = next.segmentSet.make([2, 3])
    next.log.startWriting(successors!.share())
    await next.counts.put('a', 1)
    old.segmentSet.put(successors!.share(), true)
    old.segmentSet.put(wayBack!.share(), true)
    const before = readdirSync('/proc/self/fd').length
    await old.loader.follow()
    expect(old.counts.get('a')).toBe(1)
    next.segmentSet.seal(0, 3)
    await old.loader.carry(3, false)
    old.loader.write(3)
    await old.counts.put('again', 1)
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before)
  })

  it('can be written again, if the process has followed a segment by a descriptor that it cannot write', async () => {
    const next = serving()
    next.segmentSet.make([1])
    const old = await draining(next)
    old.fence()
    next.segmentSet.seal(0, 3)
    const [segment] = next.segmentSet.make([3])
    old.take()
    await old.loader.follow()
    // The right to write comes after what all processes get that follow.
    old.segmentSet.put(segment!.share(), true)
    old.loader.write(3)
    await old.counts.put('again', 1)
    expect(old.counts.get('again')).toBe(1)
  })

  it('goes on with the snapshot, if segments that the process lacks were merged', async () => {
    const next = serving()
    next.segmentSet.make([1])
    const old = await draining(next)
    await old.counts.put('old', 1)
    await next.log.adopt(next.segmentSet.get(1)!.share())
    old.fence()
    next.writeIn(3)
    await next.counts.put('merged', 2)
    next.writeIn(4)
    await next.counts.put('new', 3)
    await next.merge()
    const changed: string[] = []
    old.counts.onChange(({ key }) => changed.push(key))
    old.take()
    await old.loader.follow()
    expect(Object.fromEntries(old.counts)).toEqual({ old: 1, merged: 2, new: 3 })
    expect(changed.sort()).toEqual(['merged', 'new'])
    expect(old.segmentSet.all.map(({ kind, epoch }) => [kind, epoch])).toEqual([
      ['snapshot', 3],
      ['epoch', 4],
    ])
    await next.counts.put('later', 4)
    expect(old.counts.get('later')).toBe(4)
    // The segments after that come as before.
    next.writeIn(6)
    await next.counts.put('last', 5)
    old.take()
    await old.loader.follow()
    expect(old.counts.get('last')).toBe(5)
  })

  it('goes on with the changes of the process after the snapshot, when the process serves again', async () => {
    const next = serving()
    next.segmentSet.make([1])
    const old = await draining(next)
    await old.counts.put('old', 1)
    await next.log.adopt(next.segmentSet.get(1)!.share())
    old.fence()
    next.writeIn(3)
    await next.counts.put('merged', 2)
    next.writeIn(4)
    await next.merge()
    old.take()
    next.segmentSet.seal(0, 5)
    old.segmentSet.make([5])
    await old.loader.carry(5, false)
    old.loader.write(5)
    await old.counts.put('again', 3)
    expect(Object.fromEntries(old.counts)).toEqual({ old: 1, merged: 2, again: 3 })
  })

  it('holds no segment after a gap, until the snapshot is read', async () => {
    const next = serving()
    next.segmentSet.make([1])
    const old = await draining(next)
    await old.counts.put('old', 1)
    await next.log.adopt(next.segmentSet.get(1)!.share())
    next.writeIn(3)
    await next.counts.put('merged', 2)
    next.writeIn(4)
    await next.merge()
    old.take()
    const copies = [old.loader.after(1), old.loader.after(3)]
    onTestFinished(() => {
      for (const segment of copies.flat()) segment.close()
    })
    expect(copies.map(all => all.map(({ epoch }) => epoch))).toEqual([[], [4]])
  })
})

describe('a log to which this process writes', () => {
  it('refuses to start again from other segments', async () => {
    const { log, segmentSet, writeIn, counts } = serving()
    writeIn(1)
    await counts.put('here', 1)
    const copies = copyAll(segmentSet.all, segment => segment.readOnly())
    await expect(log.rebuild(copies)).rejects.toMatchObject({ code: 'ERR_FDB_STATE_ORDER' })
    expect(copies.every(({ fd }) => fd.closed)).toBe(true)
    await counts.put('there', 2)
    expect(Object.fromEntries(counts)).toEqual({ here: 1, there: 2 })
  })
})

it('a claimed segment counts for members that joined with it or an earlier one, not for later ones', () => {
  const set = new SegmentSet()
  set.make([2, 3, 4])
  onTestFinished(() => set.close())
  set.get(3)!.claim()
  expect([2, 3, 4].map(epoch => set.isClaimedFrom(epoch))).toEqual([true, true, false])
})
