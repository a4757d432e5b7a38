import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import { type HolderState, initialHolder, restartedHolder } from '../../handoff/holder-machine.js'
import { type Epoch, NOBODY } from '../../handoff/messages.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { Segment } from '../../state/segment.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { DescriptorTable } from './descriptor-table.js'

/** A service's items for the next daemon. Borrowed. */
export function itemsOf(descriptorTable: DescriptorTable, segmentSet: SegmentSet): BundleItem[] {
  const segments = segmentSet.all.map(({ epoch, fd, kind }) => {
    const writable = segmentSet.isWritable(epoch)
    return { role: 'segment' as const, name: `${kind}-${epoch}`, epoch, writable, fd }
  })
  return [...descriptorTable.held.items(), ...segments]
}

export interface RestoreTarget {
  readonly service: string
  readonly descriptorTable: DescriptorTable
  readonly segmentSet: SegmentSet
  readonly logger: Logger
}

/**
 * Puts the former daemon's items of a service into their places. Takes them. Never throws, as no other daemon serves by now: the log names
 * lost items. If a part of the state is missing, it takes the part before.
 */
export function takeItems(
  items: readonly BundleItem[],
  { service, descriptorTable, segmentSet, logger }: RestoreTarget,
): void {
  const lost = (what: string, error: unknown) =>
    logger.error({ err: error, service, lost: what }, 'what was handed over cannot be taken')
  const segments: { readonly segment: Segment; readonly writable: boolean }[] = []
  const unread: Epoch[] = []
  for (const { role, name = '', spec = '', writable = false, fd } of items) {
    try {
      if (role === 'listener' || role === 'named') descriptorTable.held.put({ role, name, spec, fd })
      else if (role === 'segment') segments.push({ segment: Segment.open(fd), writable })
      else fd.close()
    } catch (error) {
      fd.close()
      if (role === 'segment') unread.push(epochIn(name))
      lost(`${role} ${name}`, error)
    }
  }
  const merged = segments.filter(({ segment }) => segment.kind === 'snapshot')
  const whole = Math.max(-1, ...merged.map(({ segment }) => segment.epoch))
  const end = Math.min(Number.POSITIVE_INFINITY, ...unread.filter(epoch => epoch > whole))
  for (const { segment, writable } of segments) {
    if (segment.epoch >= end) {
      const why = `what was written before it, in epoch ${end}, cannot be read`
      lost(`segment ${segment.kind}-${segment.epoch}`, new FdbError('ERR_FDB_STATE_ORDER', why))
      segment.close()
    } else if (segment.kind === 'epoch') segmentSet.put(segment, writable)
  }
  // The segments that one of them has merged may be here in part, when a daemon was killed in between.
  const snapshots = merged.map(({ segment }) => segment).filter(({ epoch }) => epoch < end)
  for (const snapshot of snapshots.sort((a, b) => a.epoch - b.epoch)) segmentSet.replaceUpTo(snapshot)
}

/** See {@link itemsOf}. Where a release named it otherwise: all. */
function epochIn(name: string): Epoch {
  const [, epoch = '0'] = /-(\d+)$/.exec(name) ?? []
  return Number(epoch)
}

/** No member serves, and nothing is kept. */
export const UNSERVED_HOLDER = initialHolder('member', NOBODY, 0, 0)

export function isEmpty({ phase, owner, epoch }: HolderState): boolean {
  return phase === 'idle' && owner === NOBODY && epoch === UNSERVED_HOLDER.epoch
}

/** It has been served, and no member serves it, or tries. */
export function isUnserved(machine: HolderState): boolean {
  return machine.phase === 'idle' && machine.owner === NOBODY && !isEmpty(machine)
}

/** Members live, and are awaited. No epoch is given twice. */
export function awaitsMembers(segmentSet: SegmentSet): HolderState {
  return { ...restartedHolder(), top: segmentSet.top }
}

/** No member of the service lives: the next one starts with what is here. */
export function heldFor(segmentSet: SegmentSet): HolderState {
  const epoch: Epoch = Math.max(1, segmentSet.top)
  return initialHolder('member', NOBODY, epoch)
}
