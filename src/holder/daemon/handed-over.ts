import type { BundleItem } from '../../protocol/bundle.js'
import { type HolderState, initialHolder, restartedHolder } from '../../protocol/holder-machine.js'
import { type Epoch, NOBODY } from '../../protocol/messages.js'
import { Segment } from '../../state/segment.js'
import type { SegmentShelf } from '../segment-shelf.js'
import type { Custody } from './custody.js'

/** What a daemon has of a service, for the one after it. Borrowed. */
export function itemsOf(custody: Custody, shelf: SegmentShelf): BundleItem[] {
  const segments = shelf.all.map(({ epoch, fd, kind }) => {
    const writable = shelf.isWritable(epoch)
    return { role: 'segment' as const, name: `${kind}-${epoch}`, epoch, writable, fd }
  })
  return [...custody.held.items(), ...segments]
}

/** Puts what the daemon before had of a service where it belongs. Takes it. */
export function takeItems(items: readonly BundleItem[], custody: Custody, shelf: SegmentShelf): void {
  const snapshots: Segment[] = []
  for (const { role, name = '', spec = '', writable = false, fd } of items) {
    if (role === 'listener' || role === 'named') custody.held.put({ role, name, spec, fd })
    else if (role === 'segment') {
      const segment = Segment.open(fd)
      if (segment.kind === 'snapshot') snapshots.push(segment)
      else shelf.put(segment, writable)
    } else fd.close()
  }
  // What one of them has merged may be here in part, when a daemon was killed in the middle.
  for (const snapshot of snapshots.sort((a, b) => a.epoch - b.epoch)) shelf.replaceUpTo(snapshot)
}

/** Nobody serves, and nothing is kept. */
export const EMPTY = initialHolder('member', NOBODY, 0, 0)

export function isEmpty({ phase, owner, epoch }: HolderState): boolean {
  return phase === 'idle' && owner === NOBODY && epoch === EMPTY.epoch
}

/** It has been served, and nobody serves it, or tries. */
export function isUnserved(machine: HolderState): boolean {
  return machine.phase === 'idle' && machine.owner === NOBODY && !isEmpty(machine)
}

/** Members live, and are awaited. No epoch is given twice. */
export function awaitsMembers(shelf: SegmentShelf): HolderState {
  return { ...restartedHolder(), top: shelf.top }
}

/** Nobody of the service lives: the next member begins with what is here. */
export function heldFor(shelf: SegmentShelf): HolderState {
  const epoch: Epoch = Math.max(1, shelf.top)
  return initialHolder('member', NOBODY, epoch)
}
