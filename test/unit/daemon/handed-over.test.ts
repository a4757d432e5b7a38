import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { DescriptorTable } from '../../../src/daemon/service/descriptor-table.js'
import { takeItems } from '../../../src/daemon/service/restored-service.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { memoryFile, type OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import type { BundleItem } from '../../../src/wire/bundle.js'
import { Segment, type SegmentKind } from '../../fixtures/state.js'

const item = (name: string, fd: OwnedFd): BundleItem => ({ role: 'segment', name, writable: true, fd })
const readable = (epoch: number, kind: SegmentKind = 'epoch') =>
  item(`${kind}-${epoch}`, Segment.create(epoch, { kind }).fd)
const damaged = (epoch: number, kind: SegmentKind = 'epoch') =>
  item(`${kind}-${epoch}`, memoryFile('damaged', 'a memory file'))

/** Takes them; what the log names then, and what is there. */
function taken(items: BundleItem[]) {
  const before = native.openCount() - items.length
  const [descriptorTable, segmentSet] = [new DescriptorTable(SILENT), new SegmentSet()]
  const lost: string[] = []
  const logger = { ...SILENT, error: (facts: { lost: string }) => void lost.push(facts.lost) }
  onTestFinished(() => {
    descriptorTable.close()
    segmentSet.close()
  })
  const events = { adopt: (fd: OwnedFd) => fd.close() }
  takeItems(items, { service: 'shop', descriptorTable, segmentSet, events, logger: logger as typeof SILENT })
  const segments = segmentSet.all.map(({ kind, epoch }) => `${kind}-${epoch}`)
  expect(native.openCount() - before).toBe(segments.length + descriptorTable.held.size)
  return { lost, segments, names: descriptorTable.held.names }
}

describe('a daemon that has taken over', () => {
  it('goes on where a segment cannot be read: with the listeners, and the state as it was before that', () => {
    const web: BundleItem = { role: 'named', name: 'web', fd: memoryFile('web', 'a memory file') }
    expect(taken([readable(1), damaged(3), readable(5), web])).toEqual({
      lost: ['segment epoch-3', 'segment epoch-5'],
      segments: ['epoch-1'],
      names: ['web'],
    })
  })

  it('loses nothing where what cannot be read was merged, and all with what all was merged into', () => {
    expect(taken([damaged(1), readable(3, 'snapshot'), readable(5)])).toMatchObject({
      lost: ['segment epoch-1'],
      segments: ['snapshot-3', 'epoch-5'],
    })
    expect(taken([damaged(3, 'snapshot'), readable(5)])).toMatchObject({
      lost: ['segment snapshot-3', 'segment epoch-5'],
      segments: [],
    })
  })
})
