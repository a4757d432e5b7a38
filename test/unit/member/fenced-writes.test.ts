import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { FdbError } from '../../../src/errors.js'
import type { MemberPhase } from '../../../src/handoff/phases.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { SealWatch } from '../../../src/member/hosting/seal-watch.js'
import { Shutdown } from '../../../src/member/lifecycle/shutdown.js'
import { FencedWrites } from '../../../src/member/state/fenced-writes.js'
import { SegmentLoader } from '../../../src/member/state/segment-loader.js'
import type { BundleItem } from '../../../src/wire/bundle.js'
import { ChangeNotifier } from '../../../src/wire/pending.js'
import { Segment, StateLog } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

describe('a process that may not write any more', () => {
  function late(facts: {
    phase: MemberPhase
    closing?: boolean
    over?: boolean
    sealed?: boolean
    alone?: boolean
    scope?: 'holder' | 'member'
    /** How often newer segments cannot be read at first, because descriptors are short. */
    short?: number
  }) {
    const log = new StateLog()
    const segmentSet = new SegmentSet()
    const steps: string[] = []
    const { phase, closing = false, over = false, sealed = false, alone = false, scope = 'member' } = facts
    const followed: (number | undefined)[] = []
    const segments = new SegmentLoader(log, segmentSet, SILENT)
    let { short = 0 } = facts
    const follow = async (below?: number) => {
      followed.push(below)
      if (short-- > 0) throw Object.assign(new Error('too many open files'), { code: 'EMFILE' })
    }
    const loader = { follow, take: segments.take.bind(segments) }
    const { order, cannotServe } = new Shutdown()
    const shutdown = { closing, over, order, cannotServe }
    const machine = {
      phase,
      sealed,
      isReleased: false,
      changes: new ChangeNotifier(),
      member: { epoch: 1, link: alone ? 'local' : 'up', scope } as const,
      holder: alone ? ({ phase: 'idle' } as const) : null,
      step: ({ type }: { type: string }) => void steps.push(type),
    }
    const writes = new FencedWrites({
      shutdown,
      machine,
      settings: { timeout: 1_000, logger: SILENT },
      state: { log, file: null, loader },
      connection: { open: () => true, reconnect: () => {} },
      changes: { settled: async () => {}, followed: { startForwarding: () => void steps.push('followed') } },
    })
    const leadership = { quiesce: async () => {} }
    const seal = new SealWatch({ machine, shutdown, segmentSet, writes, leadership })
    onTestFinished(() => {
      writes.forwarder.end()
      log.close()
      segmentSet.close()
    })
    return { writes, seal, log, segmentSet, steps, followed }
  }

  it('forwards its changes when it stands by, leaves or was cut off, and ends them when it is unfit, or the only one', async () => {
    for (const facts of [
      { phase: 'standby' },
      { phase: 'leaving' },
      { phase: 'leaving', closing: true },
    ] as const) {
      const { writes } = late(facts)
      await writes.end()
      expect(writes.forwarder.active).toBe(true)
    }
    for (const facts of [{ phase: 'unfit' }, { phase: 'leaving', alone: true }] as const) {
      const { writes } = late(facts)
      writes.forwarder.start(new FdbError('ERR_FDB_FENCED', 'late'))
      await writes.end()
      writes.leave()
      expect(writes.forwarder.active).toBe(false)
    }
  })

  it('forwards the changes of a followed state as soon as it is not the one to serve', async () => {
    const { writes, steps } = late({ phase: 'standby' })
    await writes.end()
    expect(steps).toEqual(['followed'])
    const orphan = late({ phase: 'leaving' })
    orphan.writes.leave()
    expect(orphan.steps).toEqual(['followed'])
  })

  it('keeps its changes while its commit is undone, and refuses them if the incumbent is dead', async () => {
    const undone = late({ phase: 'unfit', scope: 'holder' })
    await undone.writes.end()
    expect(undone.writes.forwarder.active).toBe(true)
    const last = late({ phase: 'unfit', scope: 'holder', alone: true })
    await last.writes.end()
    await expect(last.log.section('notes').put('a', Buffer.alloc(1))).rejects.toMatchObject({
      code: 'ERR_FDB_UNFIT',
    })
  })

  it('forwards them when it leaves if it finds its segment sealed, and else asks where it stands', () => {
    const leaving = late({ phase: 'leaving', closing: true, sealed: true })
    leaving.seal.check()
    expect([leaving.writes.forwarder.active, leaving.steps]).toEqual([true, []])
    const serving = late({ phase: 'serving', sealed: true })
    serving.seal.check()
    expect([serving.writes.forwarder.active, serving.steps]).toEqual([false, ['sealed']])
    for (const facts of [{ phase: 'serving' }, { phase: 'gone', over: true, sealed: true }] as const) {
      const quiet = late(facts)
      quiet.seal.check()
      expect(quiet.steps).toEqual([])
    }
  })

  it('takes segments that are newer than those that it has, and closes the rest', () => {
    const bring = (over: boolean) => {
      const { writes, segmentSet } = late({ phase: 'standby', over })
      segmentSet.make([2])
      const segments = [1, 2, 3].map(epoch => Segment.create(epoch))
      const other = OwnedFd.own(native.memfd('other'), 'other')
      const items: BundleItem[] = segments.map(({ epoch, fd }) => ({ role: 'segment', epoch, fd }))
      writes.takeNewer([...items, { role: 'named', epoch: 9, fd: other }])
      return [
        segmentSet.all.map(({ epoch }) => epoch),
        [...segments.map(({ fd }) => fd), other].map(fd => fd.closed),
      ]
    }
    expect(bring(false)).toEqual([
      [2, 3],
      [true, true, false, true],
    ])
    expect(bring(true)).toEqual([[2], [true, true, true, true]])
  })

  it('reads newer segments in each phase in which another may write, and catches up when it leaves', async () => {
    for (const phase of ['standby', 'orphan', 'leaving'] as const) {
      const { writes, followed } = late({ phase })
      await writes.end()
      writes.takeNewer([{ role: 'segment', epoch: 3, fd: Segment.create(3).fd }])
      expect([phase, followed]).toEqual([phase, [undefined, undefined]])
      writes.leave()
      expect(followed).toHaveLength(3)
    }
    for (const phase of ['ready', 'beginning', 'serving', 'frozen'] as const) {
      const { writes, followed } = late({ phase })
      writes.takeNewer([{ role: 'segment', epoch: 3, fd: Segment.create(3).fd }])
      expect([phase, followed]).toEqual([phase, []])
    }
  })

  it('tries again to read newer segments as long as descriptors are short, from when it loses its right', async () => {
    const { writes, followed } = late({ phase: 'standby', short: 2 })
    await writes.end()
    await until('it has read them', () => followed.length === 3)
  })

  it('reads only the segments of others in place of a silent holder, if it has never served', () => {
    const { writes, followed } = late({ phase: 'orphan' })
    writes.followOn()
    expect(followed).toEqual([1])
  })
})
