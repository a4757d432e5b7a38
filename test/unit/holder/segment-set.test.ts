import { describe, expect, it, onTestFinished } from 'vitest'
import type { Caller } from '../../../src/holder/admission.js'
import { SegmentSet, SegmentSupply } from '../../../src/holder/segment-set.js'
import { native } from '../../../src/kernel/native.js'
import type { BundleItem } from '../../../src/wire/bundle.js'
import { Segment } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

function segmentsOf(...epochs: number[]): SegmentSet {
  const segmentSet = new SegmentSet()
  onTestFinished(() => segmentSet.close())
  segmentSet.make(epochs)
  return segmentSet
}

const epochsOf = ({ all }: SegmentSet) => all.map(({ epoch }) => epoch)

describe('the segments that a process holds', () => {
  it('number one for each epoch: a writable one takes the place of one of its kind, and nothing else does', () => {
    const before = native.openCount()
    const segmentSet = segmentsOf()
    const readOnly = Segment.create(1)
    const writable = readOnly.share()
    const snapshot = Segment.create(1, { kind: 'snapshot' })
    segmentSet.put(readOnly, false)
    expect(segmentSet.isWritable(1)).toBe(false)
    segmentSet.put(snapshot, true)
    segmentSet.put(readOnly.share(), false)
    expect(segmentSet.get(1)).toBe(readOnly)
    segmentSet.put(writable, true)
    expect([segmentSet.get(1), segmentSet.isWritable(1)]).toEqual([writable, true])
    expect(native.openCount()).toBe(before + 1)
    segmentSet.close()
    expect([segmentSet.isWritable(1), native.openCount()]).toEqual([false, before])
  })

  it('keep the highest epoch where its segment held nothing and was dropped: a restarted daemon must not grant it again', () => {
    const segmentSet = segmentsOf(3, 4)
    segmentSet.seal(3, 5)
    segmentSet.prune(3)
    expect([epochsOf(segmentSet), segmentSet.top]).toEqual([[3], 4])
  })

  it('begin anew after a close: those of a service that was started again have low epochs', () => {
    const segmentSet = segmentsOf(3, 4)
    segmentSet.seal(3, 5)
    segmentSet.prune(3)
    segmentSet.close()
    expect([segmentSet.top, segmentSet.isSealed(1)]).toEqual([0, false])
  })

  it('come sealed to later callers, also where they held nothing and were dropped', () => {
    const segmentSet = segmentsOf(1, 2, 3)
    segmentSet.seal(2, 3)
    expect([1, 2, 3, 4].map(epoch => segmentSet.isSealed(epoch))).toEqual([false, true, false, false])
    segmentSet.prune(1)
    expect(epochsOf(segmentSet)).toEqual([1, 3])
    // A Reinstate that a stopped process reads late names it: that one is not to accept, and fail to write.
    expect([1, 2, 3, 4].map(epoch => segmentSet.isSealed(epoch))).toEqual([false, true, false, false])
  })

  it('go below an epoch when they are part of no state, and no others do', () => {
    const segmentSet = segmentsOf(1, 2, 3, 4)
    segmentSet.dropBelow(3)
    expect([segmentSet.top, epochsOf(segmentSet)]).toEqual([4, [3, 4]])
    segmentSet.dropBelow(3)
    expect(epochsOf(segmentSet)).toEqual([3, 4])
  })

  it('of a dead process get their seals also if this process may only read them', () => {
    const segmentSet = segmentsOf(2)
    const first = Segment.create(1)
    segmentSet.put(first.readOnly(), false)
    expect(() => segmentSet.seal(0, 2)).toThrow()
    segmentSet.sealForDead(0, 2)
    expect([first.sealed, segmentSet.isSealed(1), segmentSet.isSealed(2)]).toEqual([true, true, false])
    first.close()
  })

  it('get their seals within the named bounds', () => {
    const segmentSet = segmentsOf(1, 2, 3)
    segmentSet.seal(2, 3)
    expect([1, 2, 3].map(epoch => segmentSet.isSealed(epoch))).toEqual([false, true, false])
  })

  it('get their seals within the same bounds aside', async () => {
    const segmentSet = segmentsOf(1, 2, 3)
    await segmentSet.sealAside(2, 3)
    expect([1, 2, 3].map(epoch => segmentSet.isSealed(epoch))).toEqual([false, true, false])
  })

  it('go read-only to a draining process, from the one after those that it has', () => {
    const segmentSet = segmentsOf(1, 2, 3)
    const before = native.openCount()
    const { items, release } = segmentSet.since(1)
    expect(items.map(({ epoch, writable }) => [epoch, writable])).toEqual([
      [2, false],
      [3, false],
    ])
    for (const { fd } of items) {
      const given = Segment.open(fd.dup())
      expect(() => given.seal()).toThrow()
      given.close()
    }
    release()
    expect(native.openCount()).toBe(before)
    segmentSet.replaceUpTo(Segment.create(2, { kind: 'snapshot' }))
    expect([segmentSet.since(1).items, epochsOf(segmentSet)]).toEqual([[], [2, 3]])
  })
})

/** A draining generation, and the epochs of each bundle of segments that it gets. */
function draining(...capabilities: string[]): { caller: Caller; sent: number[][] } {
  const sent: number[][] = []
  const link = {
    sendBundle: async (items: BundleItem[]) => void sent.push(items.map(({ epoch = 0 }) => epoch)),
  }
  const hello = { top: 1, capabilities }
  return { caller: { hello, link, intent: 'draining' } as unknown as Caller, sent }
}

describe('a generation that drains', () => {
  it('gets the segments made since, once, and nothing when there is nothing', async () => {
    const segmentSet = segmentsOf(1, 2)
    const before = native.openCount()
    const dropped: Caller[] = []
    const supply = new SegmentSupply(segmentSet, caller => dropped.push(caller))
    const { caller, sent } = draining()
    supply.add(caller)
    supply.share()
    segmentSet.make([3, 4])
    supply.share()
    supply.share()
    supply.forget(caller)
    segmentSet.make([5])
    supply.share()
    expect(sent).toEqual([[2], [3, 4]])
    // Three were made here; what was sent is closed.
    await until('the rest is closed', () => native.openCount() === before + 3)
    expect(dropped).toEqual([])
  })

  it('gets all segments from a snapshot on if it can read the state again, and otherwise none of them', () => {
    const segmentSet = segmentsOf(3, 4)
    segmentSet.replaceUpTo(Segment.create(3, { kind: 'snapshot' }))
    const sentTo = (...capabilities: string[]) => {
      const { caller, sent } = draining(...capabilities)
      new SegmentSupply(segmentSet, () => {}).add(caller)
      return sent
    }
    expect(sentTo('writes', 'snapshots')).toEqual([[3, 4]])
    expect(sentTo('writes')).toEqual([])
  })
})
