import { describe, expect, it, onTestFinished } from 'vitest'
import { Merging } from '../../../src/daemon/service/merging.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { Segment, StateLog } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

const CHANGES = 4000

/** The segments of a member that has changed one counter, and serves on in the last of them. */
async function counted() {
  const segmentSet = new SegmentSet()
  const log = new StateLog()
  const segments = segmentSet.make([1, 2, 3]) as Segment[]
  for (const segment of segments) {
    log.startWriting(segment.share())
    const counter = log.section('counter')
    await Promise.all(Array.from({ length: CHANGES }, (_, i) => counter.put('n', Buffer.from(`${i}`))))
    if (segment !== segments.at(-1)) segment.seal()
  }
  const warnings: object[] = []
  const facts = { may: true, foreign: false, looks: 0 }
  const logger = { debug() {}, info() {}, error() {}, warn: (told: object) => void warnings.push(told) }
  const merging = new Merging({
    service: 'shop',
    segmentSet,
    logger,
    mayMerge: () => {
      facts.looks++
      return facts.may
    },
    isForeign: () => facts.foreign,
  })
  onTestFinished(() => {
    merging.close()
    segmentSet.close()
    log.close()
  })
  return { segmentSet, log, facts, warnings }
}

async function readFrom(segmentSet: SegmentSet): Promise<StateLog> {
  const log = new StateLog()
  onTestFinished(() => log.close())
  for (const segment of segmentSet.all) await log.adopt(segment.share())
  return log
}

const kinds = (segmentSet: SegmentSet) => segmentSet.all.map(({ kind, epoch }) => `${kind} ${epoch}`)

describe('the segments of a member that does not merge them', () => {
  it('merge in the daemon, and the state stays the same', async () => {
    const { segmentSet, log } = await counted()
    await until('they are merged', () => segmentSet.all.length === 2)
    expect(kinds(segmentSet)).toEqual(['snapshot 2', 'epoch 3'])
    expect(segmentSet.all[0]!.size()).toBeLessThan(1000)
    expect((await readFrom(segmentSet)).position).toEqual(log.position)
  })

  it('stay as they are while a handoff needs them', async () => {
    const { segmentSet, log, facts } = await counted()
    facts.may = false
    await until('the daemon has looked', () => facts.looks > 0)
    expect(kinds(segmentSet)).toEqual(['epoch 1', 'epoch 2', 'epoch 3'])
    facts.may = true
    await until('they are merged', () => segmentSet.all.length === 2)
    expect((await readFrom(segmentSet)).position).toEqual(log.position)
  })

  it('appear once in the log if damaged, and stay', async () => {
    const { segmentSet, warnings, facts } = await counted()
    const damaged = Segment.create(4)
    damaged.append(Buffer.alloc(100_000, 1))
    damaged.seal()
    segmentSet.seal(3, 4)
    segmentSet.put(damaged, true)
    await until('the daemon has tried', () => warnings.length > 0)
    expect(segmentSet.all.length).toBe(4)
    const { looks } = facts
    await until('the daemon has looked again', () => facts.looks > looks)
    expect(warnings.length).toBe(1)
  })
})
