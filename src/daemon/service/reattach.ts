import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { EventLog } from '../../events/event-log.js'
import type { HolderState } from '../../handoff/holder-machine.js'
import type { Epoch, Id } from '../../handoff/messages.js'
import { type Entry, type EntryTexts, isEntryItem, parseEntry } from '../../holder/entry.js'
import { repeatUntilDone } from '../../holder/holder.js'
import type { Peer } from '../../holder/peer.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { closeAll, closeOnThrow, inspectOne, type OwnedFd, sealsOf } from '../../kernel/index.js'
import { Segment } from '../../state/segment.js'
import type { BundleItem } from '../../wire/bundle.js'
import { epochIsSane } from '../../wire/envelope.js'
import { type DescriptorTable, MOST_NAME_CHARACTERS, type NamedLimits } from './descriptor-table.js'

const MOST_SPEC_CHARACTERS = 4_096

/** The service to which members bring descriptors. */
export interface ReattachTarget {
  readonly machine: HolderState
  readonly descriptorTable: DescriptorTable
  readonly segmentSet: SegmentSet
  readonly events: Pick<EventLog, 'adopt'>
  readonly logger: Logger
  readonly limits: NamedLimits
}

/** Takes the descriptors that a member has registered: for the service if the member serves for good (`forGood`), otherwise provisionally. Returns the last failure. */
export function takeRegistered(peer: Peer, forGood: boolean, to: ReattachTarget): FdbError | null {
  let failure: FdbError | null = null
  for (const item of to.descriptorTable.takeUnclaimed(peer)) {
    try {
      if (item.role === 'segment') takeCompacted(item.fd, item.epoch ?? 0, peer, to)
      else if (isEntryItem(item)) takeEntry(peer, item, forGood, to)
      else item.fd.close()
    } catch (error) {
      failure = FdbError.from(error)
    }
  }
  // The next daemon gets what this member has named.
  if (!forGood && peer.id === to.machine.owner) to.descriptorTable.held.changed()
  return failure
}

/** Takes ownership of the descriptor, also if it throws. */
function takeEntry(
  peer: Peer,
  item: BundleItem & EntryTexts,
  forGood: boolean,
  { descriptorTable, limits: limited }: ReattachTarget,
): void {
  const entry = closeOnThrow([item.fd], () => {
    const entry = checkedEntry(peer, item)
    const tooMany = peer.link.channel.foreignUser?.demandKept() ?? null
    if (tooMany !== null) throw tooMany
    descriptorTable.demandRoom(peer, entry, forGood, limited)
    return entry
  })
  if (forGood) descriptorTable.hold(peer, entry)
  else descriptorTable.holdProvisionally(peer, entry)
}

/** Throws ERR_FDB_OPTION if a text is longer than members of this release can choose: the next daemon could not take over such an entry. */
function checkedEntry({ pid }: Peer, item: BundleItem & EntryTexts): Entry {
  const { name = '', spec = '' } = item
  if (name.length <= MOST_NAME_CHARACTERS && spec.length <= MOST_SPEC_CHARACTERS)
    return parseEntry(item, item.fd)
  const reason = `process ${pid} sent a descriptor whose name has ${name.length} characters (at most ${MOST_NAME_CHARACTERS}) and whose specification has ${spec.length} (at most ${MOST_SPEC_CHARACTERS}): it is faulty`
  throw new FdbError('ERR_FDB_OPTION', reason)
}

/** Takes the descriptors that a returning member has sent. Returns the highest known epoch, because no epoch may be granted twice. */
export function reattach(peer: Peer, forGood: boolean, to: ReattachTarget): Epoch {
  const { machine, descriptorTable, logger } = to
  let { top } = machine
  const brought: Entry[] = []
  for (const item of descriptorTable.takeUnclaimed(peer)) {
    const { role, writable = false, fd } = item
    try {
      if (isEntryItem(item)) brought.push(checkedEntry(peer, item))
      else if (role === 'segment') top = Math.max(top, takeSegment(fd, writable, peer, to))
      else if (role === 'events') to.events.adopt(fd)
      else fd.close()
    } catch (error) {
      fd.close()
      logger.warn(
        { err: error, pid: peer.pid },
        'a returning member sent a descriptor that the daemon cannot use and ignores',
      )
    }
  }
  if (machine.phase === 'rebuilding') descriptorTable.setBrought(peer, brought)
  else if (forGood) descriptorTable.complete(peer, brought, to.limits)
  else closeAll(brought.map(({ fd }) => fd))
  return top
}

/** Keeps what members brought that leave before all others are back: if these end too, only the daemon has it. */
export function keepOfLeft(
  before: HolderState,
  now: HolderState,
  peer: (id: Id) => Peer | undefined,
  table: DescriptorTable,
): void {
  if (now.phase !== 'rebuilding') return
  for (const back of before.returned) {
    const left = now.returned.every(({ id }) => id !== back.id) ? peer(back.id) : undefined
    if (left !== undefined) table.keepBrought(left, back)
  }
}

/**
 * All members are back: makes the entries of the one that serves those of the service. Notes which listeners it does not use and its standby has: the
 * daemon before this one may have been killed before it told the standby.
 */
export function adoptBrought(
  { joiner, owner, standsByAgain }: HolderState,
  peer: (id: Id) => Peer | undefined,
  table: DescriptorTable,
  hasServed: boolean,
): void {
  const [serving, standby] = [peer(owner), standsByAgain ? peer(joiner) : undefined]
  if (serving !== undefined && standby !== undefined)
    serving.refused = new Set(table.notBrought(standby, serving))
  table.adopt(serving, hasServed)
}

/**
 * Seals all segments of a service after a restart of the daemon, when every rights-holder is back or dead. While a process uses pages of them, tries
 * again, without holding up the event loop or the daemon's other services.
 */
export class LastSeals {
  readonly #segmentSet: SegmentSet
  readonly #logger: Logger
  #running = false
  #closed = false

  constructor(segmentSet: SegmentSet, logger: Logger) {
    this.#segmentSet = segmentSet
    this.#logger = logger
  }

  /**
   * Returns whether all segments are sealed. Otherwise calls `again` when it has sealed them; meanwhile members may have brought further ones.
   * `aside`: the segments are another user's, whose processes may use pages of them for as long as they like.
   */
  seal(aside: boolean, again: () => void): boolean {
    if (this.#running || this.#closed) return false
    let waits = aside
    const attempt = () => {
      const now = waits
      waits = true
      return sealForTheDead(this.#segmentSet, now)
    }
    const sealing = repeatUntilDone(attempt, 'seal', this.#logger, () => this.#closed)
    if (sealing === undefined) return true
    this.#running = true
    void sealing.then(() => {
      this.#running = false
      if (!this.#closed) again()
    })
    return false
  }

  close(): void {
    this.#closed = true
  }
}

/** The daemon may have only read-only descriptors of dead members. Throws or rejects with ERR_FDB_STATE_SEAL. */
function sealForTheDead(segmentSet: SegmentSet, aside: boolean): void | Promise<void> {
  const snapshot = segmentSet.all.findLast(segment => segment.kind === 'snapshot')
  if (snapshot !== undefined) segmentSet.replaceUpTo(snapshot.share())
  const open = segmentSet.all.filter(({ sealed }) => !sealed)
  if (aside && open.length > 0)
    return Promise.all(open.map(segment => segment.sealForDeadAside())).then(() => {})
  for (const segment of open) segment.sealForDead()
}

/**
 * Opens a segment that a member has sent. Another user's must be a memory file: reading any other may wait for as long as that user likes. Throws
 * ERR_FDB_STATE_FORMAT.
 */
function openSegment(fd: OwnedFd, { link }: Peer): Segment {
  if (link.channel.foreignUser !== undefined && sealsOf(fd) === null)
    throw new FdbError(
      'ERR_FDB_STATE_FORMAT',
      'a member of another user sent a segment that is no memory file: the daemon does not read it',
    )
  return Segment.open(fd)
}

function takeSegment(
  fd: OwnedFd,
  writable: boolean,
  peer: Peer,
  { machine, segmentSet }: ReattachTarget,
): Epoch {
  const { id } = peer
  const { phase, owner, joiner, standby, top } = machine
  const segment = openSegment(fd, peer)
  const { epoch } = segment
  if (!epochIsSane(epoch)) {
    segment.close()
    throw new FdbError(
      'ERR_FDB_STATE_FORMAT',
      `the epoch ${epoch} of a segment is impossible: the daemon ignores the segment`,
    )
  }
  if (phase === 'rebuilding') {
    segmentSet.put(segment, writable)
    return epoch
  }
  // The daemon already has all valid segments, and seals those itself. Sealing another one ends the right of any unknown process to write to it.
  const held = segmentSet.get(epoch)
  const isHeld = held !== undefined && inspectOne(held.fd).ino === inspectOne(segment.fd).ino
  if (writable && !isHeld && ![owner, joiner, standby].includes(id)) {
    if (peer.link.channel.foreignUser === undefined) segment.seal()
    // If it maps the segment writable, it cannot be sealed; as before no other process reads it.
    else void segment.sealAside().catch(() => {})
  }
  segment.close()
  return top
}

/**
 * Replaces the sealed segments by the snapshot into which the serving member has merged them, unless a handoff still uses them. Ignores a late
 * snapshot of a previous member that was stopped while it merged: two snapshots of one state cannot be read.
 */
function takeCompacted(fd: OwnedFd, epoch: Epoch, peer: Peer, { machine, segmentSet }: ReattachTarget): void {
  const { id } = peer
  const { phase, owner } = machine
  const snapshot = closeOnThrow([fd], () => openSegment(fd, peer))
  const valid = phase === 'idle' && id === owner && snapshot.kind === 'snapshot' && epoch < machine.epoch
  if (valid && !segmentSet.all.some(each => each.kind === 'snapshot' && each.epoch >= epoch))
    segmentSet.replaceUpTo(snapshot)
  else snapshot.close()
}
