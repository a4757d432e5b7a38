import { describe, expect, it, onTestFinished } from 'vitest'
import type { Caller } from '../../src/holder/admission.js'
import { SegmentShelf } from '../../src/holder/segment-shelf.js'
import { SegmentSupply } from '../../src/holder/segment-supply.js'
import { native } from '../../src/kernel/native.js'
import { Segment } from '../../src/state/segment.js'
import type { BundleItem } from '../../src/wire/bundle.js'
import { until } from '../processes/until.js'

function shelfWith(...epochs: number[]): SegmentShelf {
  const shelf = new SegmentShelf()
  onTestFinished(() => shelf.close())
  shelf.make(epochs)
  return shelf
}

const epochsOf = ({ all }: SegmentShelf) => all.map(({ epoch }) => epoch)

describe('the segments that a process holds', () => {
  it('are one for each epoch: a writable one takes the place of one of its kind, and nothing else does', () => {
    const before = native.openCount()
    const shelf = shelfWith()
    const readOnly = Segment.create(1)
    const writable = readOnly.dup()
    const snapshot = Segment.create(1, { kind: 'snapshot' })
    shelf.put(readOnly, false)
    expect(shelf.isWritable(1)).toBe(false)
    shelf.put(snapshot, true)
    shelf.put(readOnly.dup(), false)
    expect(shelf.get(1)).toBe(readOnly)
    shelf.put(writable, true)
    expect([shelf.get(1), shelf.isWritable(1)]).toEqual([writable, true])
    expect(native.openCount()).toBe(before + 1)
    shelf.close()
    expect([shelf.isWritable(1), native.openCount()]).toEqual([false, before])
  })

  it('are sealed for who asks later, also where they held nothing and were dropped', () => {
    const shelf = shelfWith(1, 2, 3)
    shelf.seal(2, 3)
    expect([1, 2, 3, 4].map(epoch => shelf.isSealed(epoch))).toEqual([false, true, false, false])
    shelf.prune(1)
    expect(epochsOf(shelf)).toEqual([1, 3])
    // A Reinstate that a stopped process reads late names it: that one is not to accept, and fail to write.
    expect([1, 2, 3, 4].map(epoch => shelf.isSealed(epoch))).toEqual([false, true, false, false])
  })

  it('are dropped below an epoch when they are nobody’s state, and no others', () => {
    const shelf = shelfWith(1, 2, 3, 4)
    shelf.dropBelow(3)
    expect([shelf.top, epochsOf(shelf)]).toEqual([4, [3, 4]])
    shelf.dropBelow(3)
    expect(epochsOf(shelf)).toEqual([3, 4])
  })

  it('are sealed within the bounds that are named', () => {
    const shelf = shelfWith(1, 2, 3)
    shelf.seal(2, 3)
    expect([1, 2, 3].map(epoch => shelf.isSealed(epoch))).toEqual([false, true, false])
  })

  it('are given read-only to one that drains, from the one after those that it has', () => {
    const shelf = shelfWith(1, 2, 3)
    const before = native.openCount()
    const { items, release } = shelf.since(1)
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
    shelf.replaceUpTo(Segment.create(2, { kind: 'snapshot' }))
    expect([shelf.since(1).items, epochsOf(shelf)]).toEqual([[], [2, 3]])
  })
})

describe('a generation that drains', () => {
  it('is sent what was made since, once, and nothing when there is nothing', async () => {
    const shelf = shelfWith(1, 2)
    const before = native.openCount()
    const sent: number[][] = []
    const link = {
      sendBundle: async (items: BundleItem[]) => void sent.push(items.map(({ epoch = 0 }) => epoch)),
    }
    const dropped: Caller[] = []
    const supply = new SegmentSupply(shelf, caller => dropped.push(caller))
    const caller = { hello: { top: 1 }, link } as unknown as Caller
    supply.add(caller)
    supply.share()
    shelf.make([3, 4])
    supply.share()
    supply.share()
    supply.forget(caller)
    shelf.make([5])
    supply.share()
    expect(sent).toEqual([[2], [3, 4]])
    // Three were made here; what was sent is closed.
    await until('the rest is closed', () => native.openCount() === before + 3)
    expect(dropped).toEqual([])
  })
})
