import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { EventLog } from '../../events/event-log.js'
import {
  type HolderEvent,
  type HolderState,
  initialHolder,
  restartedHolder,
} from '../../handoff/holder-machine.js'
import { type Epoch, NOBODY } from '../../handoff/messages.js'
import { isGranted } from '../../handoff/phases.js'
import { entryItem, isEntryItem, parseEntry } from '../../holder/entry.js'
import type { Peer } from '../../holder/peer.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { Segment } from '../../state/segment.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { DescriptorTable } from './descriptor-table.js'

/** A descriptor of a service, as daemons hand it over. */
export interface ServiceItem extends BundleItem {
  /** A member has named it in its probation: if the member before it serves again, the service keeps it, and gives up its own of that name. */
  readonly isProvisional?: boolean
}

/** Returns a service's items for the next daemon. The caller borrows the descriptors. */
export function itemsOf(
  descriptorTable: DescriptorTable,
  owner: Peer | undefined,
  segmentSet: SegmentSet,
  events: EventLog,
): ServiceItem[] {
  const segments = segmentSet.all.map(({ epoch, fd, kind }) => {
    const writable = segmentSet.isWritable(epoch)
    return { role: 'segment' as const, name: `${kind}-${epoch}`, epoch, writable, fd }
  })
  const named = descriptorTable.undecided(owner).map(entry => ({ ...entryItem(entry), isProvisional: true }))
  return [...descriptorTable.held.items(), ...named, ...segments, ...events.items()]
}

export interface RestoreTarget {
  readonly service: string
  readonly descriptorTable: DescriptorTable
  readonly segmentSet: SegmentSet
  readonly events: Pick<EventLog, 'adopt'>
  readonly logger: Logger
}

/**
 * Distributes the previous daemon's items of a service; takes ownership of them. Never throws, because no other daemon serves any more: the log names
 * the lost items. If a segment is unreadable, restores only the state before it.
 */
export function takeItems(
  items: readonly ServiceItem[],
  { service, descriptorTable, segmentSet, events, logger }: RestoreTarget,
): void {
  const lost = (what: string, error: unknown) =>
    logger.error(
      { err: error, service, lost: what },
      'an item that the previous daemon handed over cannot be used and is lost',
    )
  const segments: { readonly segment: Segment; readonly writable: boolean }[] = []
  const unread: Epoch[] = []
  for (const item of items) {
    const { role, name = '', writable = false, fd } = item
    try {
      if (isEntryItem(item)) {
        if (item.isProvisional) descriptorTable.keepLate([parseEntry(item, fd)])
        else descriptorTable.held.put(parseEntry(item, fd))
      } else if (role === 'segment') segments.push({ segment: Segment.open(fd), writable })
      else if (role === 'events') events.adopt(fd)
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
      const reason = `the earlier segment of epoch ${end} cannot be read`
      lost(`segment ${segment.kind}-${segment.epoch}`, new FdbError('ERR_FDB_STATE_ORDER', reason))
      segment.close()
    } else if (segment.kind === 'epoch') segmentSet.put(segment, writable)
  }
  // If the previous daemon was killed while it replaced segments by a snapshot, some of the merged segments are still here.
  const snapshots = merged.map(({ segment }) => segment).filter(({ epoch }) => epoch < end)
  for (const snapshot of snapshots.sort((a, b) => a.epoch - b.epoch)) segmentSet.replaceUpTo(snapshot)
}

/** Returns the epoch in a segment's name, see {@link itemsOf}; 0 if another release named the segment differently. */
function epochIn(name: string): Epoch {
  const [, epoch = '0'] = /-(\d+)$/.exec(name) ?? []
  return Number(epoch)
}

/** The state of a service without members and items. */
export const UNSERVED_HOLDER = initialHolder('member', NOBODY, 0, 0)

export function isEmpty({ phase, owner, epoch }: HolderState): boolean {
  return phase === 'idle' && owner === NOBODY && epoch === UNSERVED_HOLDER.epoch
}

/** Whether a member has served, and now no member serves or is about to. */
export function isUnserved(machine: HolderState): boolean {
  return machine.phase === 'idle' && machine.owner === NOBODY && !isEmpty(machine)
}

/** Returns the state of a service with living members, for which the daemon waits. `top`: no epoch is granted twice. */
export function awaitsMembers(segmentSet: SegmentSet): HolderState {
  return { ...restartedHolder(), top: segmentSet.top }
}

/** Returns the state of a service of which no member lives: the next one starts with the restored items. */
export function heldFor(segmentSet: SegmentSet): HolderState {
  const epoch: Epoch = Math.max(1, segmentSet.top)
  return initialHolder('member', NOBODY, epoch)
}

/** Whether from this step on the serving member serves for good: no standby can take over again. */
export function settles(
  before: HolderState,
  { phase, owner, epoch }: HolderState,
  event: HolderEvent,
): boolean {
  if (phase !== 'idle') return false
  // A deadline during the rollback settles nothing: the standby, if it was only paused, or another member may still take over.
  if (before.phase === 'returning' && event.type === 'deadline') return false
  if (before.phase !== 'idle') return isGranted(before.phase)
  const message = event.type === 'message' && event.from === owner ? event.message : null
  return message?.kind === 'serving' && message.epoch === epoch
}
