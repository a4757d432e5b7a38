import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { HolderState } from '../../handoff/holder-machine.js'
import type { Epoch } from '../../handoff/messages.js'
import type { Peer } from '../../holder/peer.js'
import type { Entry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { closeAll, type OwnedFd } from '../../kernel/index.js'
import { Segment } from '../../state/segment.js'
import { epochIsSane } from '../../wire/envelope.js'
import type { DescriptorTable, Limited } from './descriptor-table.js'

/** The service that members bring something to. */
export interface ReattachTarget {
  readonly machine: HolderState
  readonly descriptorTable: DescriptorTable
  readonly segmentSet: SegmentSet
  readonly logger: Logger
  readonly limited: Limited
}

/** Takes what a member has registered: at once from one that serves for good, else when it does. Returns the last failure. */
export function takeRegistered(peer: Peer, forGood: boolean, to: ReattachTarget): FdbError | null {
  let failure: FdbError | null = null
  for (const { role, name = '', spec = '', epoch = 0, fd } of to.descriptorTable.takeArrived(peer)) {
    try {
      if (role === 'segment') takeCompacted(fd, epoch, peer, to)
      else if (role !== 'listener' && role !== 'named') fd.close()
      else takeNamed(peer, { name, role, spec, fd }, forGood, to)
    } catch (error) {
      failure = FdbError.from(error)
    }
  }
  return failure
}

/** Takes the descriptor, also when it throws. */
function takeNamed(
  peer: Peer,
  entry: Entry,
  forGood: boolean,
  { descriptorTable, limited }: ReattachTarget,
): void {
  try {
    descriptorTable.demandRoom(peer, entry, forGood, limited)
  } catch (error) {
    entry.fd.close()
    throw error
  }
  if (forGood) descriptorTable.hold(peer, entry)
  else descriptorTable.holdProvisionally(peer, entry)
}

/** Takes what a member that came back has sent. Returns the highest epoch known to have been given: no number is given twice. */
export function reattach(peer: Peer, forGood: boolean, to: ReattachTarget): Epoch {
  const { machine, descriptorTable, logger } = to
  let { top } = machine
  const brought: Entry[] = []
  for (const { role, name = '', spec = '', writable = false, fd } of descriptorTable.takeArrived(peer)) {
    if (role === 'listener' || role === 'named') brought.push({ role, name, spec, fd })
    else if (role === 'segment') {
      try {
        top = Math.max(top, takeSegment(fd, writable, peer, to))
      } catch (error) {
        logger.warn({ err: error, pid: peer.pid }, 'a member brought back a segment that cannot be taken')
      }
    } else fd.close()
  }
  if (machine.phase === 'rebuilding') descriptorTable.bring(peer, brought)
  else if (forGood) descriptorTable.complete(peer, brought)
  else closeAll(brought.map(({ fd }) => fd))
  return top
}

/** Everybody who may write is here or dead: of the dead there may be read-only descriptors alone. */
export function sealForTheDead(segmentSet: SegmentSet): void {
  const snapshot = segmentSet.all.findLast(segment => segment.kind === 'snapshot')
  if (snapshot !== undefined) segmentSet.replaceUpTo(snapshot.dup())
  for (const segment of segmentSet.all) segment.sealForDead()
}

function takeSegment(
  fd: OwnedFd,
  writable: boolean,
  { id }: Peer,
  { machine, segmentSet }: ReattachTarget,
): Epoch {
  const { phase, owner, joiner, standby, top } = machine
  const segment = Segment.open(fd)
  const { epoch } = segment
  if (!epochIsSane(epoch)) {
    segment.close()
    throw new FdbError('ERR_FDB_STATE_FORMAT', `a segment of epoch ${epoch} cannot be: it is not taken`)
  }
  if (phase === 'rebuilding') {
    segmentSet.put(segment, writable)
    return epoch
  }
  // All segments that count are held. An unknown process that may still write somewhere loses that right now.
  if (writable && ![owner, joiner, standby].includes(id)) segment.seal()
  segment.close()
  return top
}

/**
 * The member that serves has merged what is sealed: one segment in place of many, unless a handoff counts on them. A member that served
 * before, and was stopped while it merged, is late: two snapshots of one state can not be read.
 */
function takeCompacted(
  fd: OwnedFd,
  epoch: Epoch,
  { id }: Peer,
  { machine, segmentSet }: ReattachTarget,
): void {
  const { phase, owner } = machine
  const snapshot = Segment.open(fd)
  const counts = phase === 'idle' && id === owner && snapshot.kind === 'snapshot' && epoch < machine.epoch
  if (counts && !segmentSet.all.some(one => one.kind === 'snapshot' && one.epoch >= epoch))
    segmentSet.replaceUpTo(snapshot)
  else snapshot.close()
}
