import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { SegmentSet } from '../../src/holder/segment-set.js'
import { Segment } from '../../src/state/segment.js'
import { perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

const WRITABLE = 2
const READ_ONLY = 0

/** How a descriptor was opened, as the kernel says. */
function accessOf(pid: number | 'self', fd: number | string): number {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))
  return Number.parseInt(flags![1]!, 8) & 3
}

/** The segments that a process holds, by epoch: the widest access that it has. */
function segmentsOf({ pid }: App): Map<number, number> {
  const access = new Map<number, number>()
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    let target = ''
    try {
      target = readlinkSync(`/proc/${pid}/fd/${fd}`)
    } catch {}
    const epoch = Number(/^\/memfd:fdb-state-(\d+)/.exec(target)?.[1] ?? Number.NaN)
    if (!Number.isNaN(epoch)) access.set(epoch, Math.max(access.get(epoch) ?? 0, accessOf(pid, fd)))
  }
  return access
}

describe.each(perLane<('embedded' | 'daemon')[]>(['embedded'], ['embedded', 'daemon']))(
  'a process that joins (%s)',
  hosting => {
    it('holds the state by read-only descriptors, and may write only to what was made for it', async () => {
      const upgrade = { probation: 0, heartbeat: 20 }
      const scene = Scene.open({ hosting, upgrade })
      if (hosting === 'daemon') await startDaemon(scene, { upgrade })
      let serving = await scene.serve()
      for (let round = 0; round < 3; round++) {
        await serving.order('put', { key: `k${round}`, value: { item: 'x' } })
        const { epoch } = (await serving.status()) as { epoch: number }
        expect(segmentsOf(serving).get(epoch)).toBe(WRITABLE)
        const joiner = await scene.start({ hang: 'sleep' })
        await joiner.says('joined')
        const held = segmentsOf(joiner)
        expect(held.get(epoch)).toBe(READ_ONLY)
        for (const [each, access] of held)
          expect([each, access]).toEqual([each, each > epoch ? WRITABLE : READ_ONLY])
        expect([...held.keys()].filter(each => each > epoch)).toHaveLength(2)
        await joiner.kill()
        const before = serving
        serving = await scene.serve()
        await before.end()
      }
    })
  },
)

describe('segments that an elder offers and sends', () => {
  function segmentSetOf(epochs: number[]): SegmentSet {
    const segmentSet = new SegmentSet()
    segmentSet.make(epochs)
    return segmentSet
  }

  it('to a joiner is writable only where it says so', () => {
    const segmentSet = segmentSetOf([1, 2, 3, 4])
    const { items, release } = segmentSet.offer(2, [3, 4])
    expect(
      items.map(item => [
        item.role === 'segment' && [item.epoch, item.writable],
        accessOf('self', item.fd.raw),
      ]),
    ).toEqual([
      [[1, false], READ_ONLY],
      [[2, false], READ_ONLY],
      [[3, true], WRITABLE],
      [[4, true], WRITABLE],
    ])
    release()
    segmentSet.close()
  })

  it('to a generation that drains is read-only', () => {
    const segmentSet = segmentSetOf([1, 2, 3])
    const { items, release } = segmentSet.since(1)
    expect(items.map(item => accessOf('self', item.fd.raw))).toEqual([READ_ONLY, READ_ONLY])
    release()
    segmentSet.close()
  })

  it('from a descriptor that is read-only is one still when it is sent on', () => {
    const segmentSet = new SegmentSet()
    const own = Segment.create(1)
    segmentSet.put(own.readOnly(), false)
    const { items, release } = segmentSet.offer(1, [])
    expect(items.map(item => accessOf('self', item.fd.raw))).toEqual([READ_ONLY])
    release()
    segmentSet.close()
    own.close()
  })
})
