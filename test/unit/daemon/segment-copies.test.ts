import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SegmentCopies } from '../../../src/daemon/service/segment-copies.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { readAt, sizeOf, statOf, truncate, writeAllAt } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { fdbroker } from '../../../src/proto/state.js'
import { frame } from '../../../src/state/segment.js'
import { Segment } from '../../fixtures/state.js'
import { holdPage } from '../../processes/held-page.js'
import { has } from '../../processes/toolchains.js'

const { Record } = fdbroker.state

function open(most?: number) {
  const segmentSet = new SegmentSet()
  const copies = new SegmentCopies(segmentSet, () => most ?? Number.POSITIVE_INFINITY)
  onTestFinished(() => {
    copies.close()
    segmentSet.close()
  })
  const [segment] = segmentSet.make([1]) as [Segment]
  /** The copies of the segments, behind their headers. */
  const copied = async () => {
    await copies.refresh()
    const { items, release } = copies.since(0)
    const texts = items.map(({ fd }) => {
      const bytes = Buffer.alloc(sizeOf(fd))
      return bytes.subarray(segment.start, readAt(fd, bytes, 0, bytes.length, 0)).toString('latin1')
    })
    release()
    return texts
  }
  return { segmentSet, copies, segment, copied }
}

/** A record of the log: one entry of the section `s`. */
function record(sequence: number, key: string): Buffer {
  const changes = [{ section: 's', key, value: Buffer.from('value') }]
  return frame(Record.encode({ epoch: 1, sequence, changes }).finish())
}

describe('the copies of segments', () => {
  it('have whole records only: what a writer cuts off was never in them', async () => {
    const { segment, copied } = open()
    const first = record(1, 'first')
    const half = record(2, 'half').subarray(0, 12)
    segment.append(first)
    segment.append(half)
    expect(await copied()).toEqual([first.toString('latin1')])
    segment.continueAt(segment.start + first.length)
    const second = record(2, 'second')
    segment.append(second)
    expect(await copied()).toEqual([Buffer.concat([first, second]).toString('latin1')])
  })

  it('have what the segments had at the call, although these grow as fast as they are copied', async () => {
    const { segment, copies } = open()
    const value = Buffer.alloc(3 * 1024 * 1024)
    let sequence = 0
    const grow = () => {
      const changes = [{ section: 's', key: 'k', value }]
      segment.append(frame(Record.encode({ epoch: 1, sequence: ++sequence, changes }).finish()))
    }
    grow()
    const had = segment.size()
    let refreshed = false
    void copies.refresh().then(() => {
      refreshed = true
    })
    let turns = 0
    for (; !refreshed && turns < 40; turns++) {
      grow()
      await new Promise(resolve => setImmediate(resolve))
    }
    expect({ refreshed, turns }).toMatchObject({ refreshed: true })
    const { items, release } = copies.since(0)
    expect(sizeOf(items[0]!.fd)).toBeGreaterThanOrEqual(had)
    release()
  })

  it('leave no descriptor if there is no memory for them', async () => {
    const { copies, segment, copied } = open()
    segment.append(record(1, 'first'))
    const before = native.openCount()
    const pwrite = vi.spyOn(native, 'pwrite').mockImplementationOnce(() => {
      throw Object.assign(new Error('no memory'), { code: 'ENOMEM' })
    })
    onTestFinished(() => pwrite.mockRestore())
    await expect(copies.refresh()).rejects.toThrow('no memory')
    expect(native.openCount()).toBe(before)
    expect(await copied()).toEqual([record(1, 'first').toString('latin1')])
  })

  it('keep the event loop turning while a follower holds pages of one that must be sealed', async ({
    skip,
  }) => {
    if (!has('python3')) skip('there is no python3')
    const { copies, segment, copied } = open()
    segment.append(record(1, 'first'))
    await copied()
    const { items, release } = copies.since(0)
    const given = Segment.open(items[0]!.fd.dup())
    release()
    const { end } = await holdPage(given, 'sys.stdin.read()')
    segment.seal()
    let turns = 0
    const counting = setInterval(() => turns++, 5)
    onTestFinished(() => clearInterval(counting))
    await expect(copies.refresh()).rejects.toMatchObject({ code: 'ERR_FDB_STATE_SEAL' })
    expect(turns).toBeGreaterThan(10)
    await end()
    await copies.refresh()
    expect(given.sealed).toBe(true)
    given.close()
  })

  it('take no more memory than their segments: pages of zeros take none', async () => {
    const { copies, segment, copied } = open()
    const zeros = Buffer.alloc(3_000_000)
    zeros.write('text', 1_000_000)
    const changes = [{ section: 's', key: 'k', value: zeros }]
    segment.append(record(1, 'first'))
    segment.append(frame(Record.encode({ epoch: 1, sequence: 2, changes }).finish()))
    segment.append(
      frame(
        Record.encode({
          epoch: 1,
          sequence: 3,
          changes: [{ ...changes[0], value: zeros.subarray(0, 9_000) }],
        }).finish(),
      ),
    )
    const bytes = Buffer.alloc(sizeOf(segment.fd))
    readAt(segment.fd, bytes, 0, bytes.length, 0)
    expect(await copied()).toEqual([bytes.toString('latin1', segment.start)])
    const { items, release } = copies.since(0)
    expect(statOf(items[0]!.fd).blocks * 512).toBeLessThan(100_000)
    release()
  })

  it('refuse a record by its length if it is larger than readers accept, however little memory it takes', async () => {
    const { copies, segment } = open()
    segment.append(record(1, 'first'))
    const head = Buffer.alloc(8)
    head.writeUInt32LE(2 ** 31, 0)
    writeAllAt(segment.fd, head, segment.end)
    truncate(segment.fd, segment.end + 8 + 2 ** 31)
    const pread = vi.spyOn(native, 'pread')
    onTestFinished(() => pread.mockRestore())
    await expect(copies.refresh()).rejects.toMatchObject({ code: 'ERR_FDB_STATE_LIMIT' })
    expect(pread.mock.calls.length).toBeLessThan(10)
  })

  it('refuse a state that is larger than others may follow', async () => {
    const { copies, segment, copied } = open(10_000)
    segment.append(record(1, 'first'))
    expect(await copied()).toHaveLength(1)
    truncate(segment.fd, 10_001)
    await expect(copies.refresh()).rejects.toMatchObject({
      code: 'ERR_FDB_STATE_LIMIT',
      details: { most: 10_000 },
    })
  })

  it('grow in short slices, however large a record is', async () => {
    const { copies, segment } = open()
    const changes = [{ section: 's', key: 'k', value: Buffer.alloc(15_000_000, 'x') }]
    segment.append(frame(Record.encode({ epoch: 1, sequence: 1, changes }).finish()))
    let turns = 0
    let working = true
    const count = () => {
      turns++
      if (working) setImmediate(count)
    }
    setImmediate(count)
    await copies.refresh()
    working = false
    expect(turns).toBeGreaterThan(2)
    const { items, release } = copies.since(0)
    expect(sizeOf(items[0]!.fd)).toBe(sizeOf(segment.fd))
    release()
  })

  it('get their seal when their segments do, and go with them', async () => {
    const { copies, segmentSet, segment } = open()
    segment.append(record(1, 'first'))
    segment.seal()
    segmentSet.make([2])
    await copies.refresh()
    const seals = (given: ReturnType<typeof copies.since>) => given.items.map(({ epoch }) => epoch)
    const both = copies.since(0)
    expect(seals(both)).toEqual([1, 2])
    both.release()
    segmentSet.dropBelow(2)
    await copies.refresh()
    const one = copies.since(0)
    expect(seals(one)).toEqual([2])
    one.release()
  })

  it('close with their segments: however many have gone, no descriptor is left', async () => {
    const { copies, segmentSet } = open()
    const counts: number[] = []
    for (const epoch of [2, 3, 4]) {
      segmentSet.make([epoch])
      await copies.refresh()
      segmentSet.dropBelow(epoch)
      await copies.refresh()
      counts.push(native.openCount())
    }
    expect(counts).toEqual(Array(3).fill(counts[0]))
  })

  it('complete and get their seal where their segments are sealed and leave the set before the next copy', async () => {
    const { copies, segmentSet, segment } = open()
    const first = record(1, 'first')
    const second = record(2, 'second')
    segment.append(first)
    await copies.refresh()
    const given = copies.since(0)
    const reader = Segment.open(given.items[0]!.fd.dup())
    onTestFinished(() => reader.close())
    given.release()
    segment.append(second)
    segment.seal()
    segmentSet.make([2])
    segmentSet.dropBelow(2)
    expect(await copies.refresh()).toBe(true)
    expect(reader.sealed).toBe(true)
    expect(reader.size()).toBe(reader.start + first.length + second.length)
  })

  it('of a large segment are made a few milliseconds at a time', async () => {
    const { copies, segment } = open()
    for (let i = 1; i <= 100; i++) segment.append(record(i, `${i}`.padEnd(100_000)))
    let turns = 0
    const count = () => {
      turns++
      later = setImmediate(count)
    }
    let later = setImmediate(count)
    expect(await copies.refresh()).toBe(true)
    clearImmediate(later)
    expect(turns).toBeGreaterThan(1)
    expect(await copies.refresh()).toBe(false)
  })
})
