import type { HolderState } from '../../handoff/holder-machine.js'
import { isServing } from '../../handoff/holder-reconnect.js'
import type { Id } from '../../handoff/messages.js'
import { isCommitted } from '../../handoff/phases.js'
import { entryItem } from '../../holder/entry.js'
import type { Peer } from '../../holder/peer.js'
import { closeAll } from '../../kernel/index.js'
import { adoptBrought, type ReattachTarget } from './reattach.js'

const GIVE_MS = 10_000

type Parts = Pick<ReattachTarget, 'descriptorTable' | 'logger'>

/**
 * Gives a member that serves again the descriptors that its successor has registered: at a rollback, and after a restart of the daemon, also if the
 * successor has left meanwhile or does not answer. Call it before the member is told to serve.
 */
export function handBack(
  before: HolderState,
  now: HolderState,
  peer: (id: Id) => Peer | undefined,
  parts: Parts,
): void {
  // The new owner may have named descriptors as a joiner: now they are items of the service.
  if (before.owner !== now.owner) parts.descriptorTable.held.changed()
  if (before.phase === 'rebuilding') {
    handBackAfterRestart(before, now, peer, parts)
    return
  }
  // After a restart, a standby takes over from a serving member that was given the right again and does not answer.
  const takesOver = before.phase === 'returning' && now.phase === 'committing'
  if (!takesOver && (!isCommitted(before.phase) || now.phase !== 'returning')) return
  const from = peer(before.phase === 'committing' ? before.joiner : before.owner)
  const to = peer(takesOver ? now.joiner : now.owner)
  if (from === undefined || to === undefined) return
  parts.descriptorTable.handBack(from, to)
  // Otherwise the member gets them when it has returned.
  if (to.link.open && !to.returning) giveOwed(to, parts)
}

function handBackAfterRestart(
  { returned }: HolderState,
  now: HolderState,
  peer: (id: Id) => Peer | undefined,
  parts: Parts,
): void {
  if (now.phase === 'rebuilding') return
  const hasServed = returned.some(({ id, role }) => id === now.owner && isServing(role))
  adoptBrought(now, peer, parts.descriptorTable, hasServed)
  const owner = peer(now.owner)
  if (owner?.link.open) giveOwed(owner, parts)
}

export function giveOwed(peer: Peer, { descriptorTable, logger }: Parts): void {
  const items = descriptorTable.takeOwed(peer).map(entry => ({ ...entryItem(entry), fd: entry.fd.share() }))
  if (items.length === 0) return
  peer.link
    .sendBundle(items, GIVE_MS)
    .catch(err =>
      logger.warn(
        { err, pid: peer.pid },
        'a member that serves again did not take the descriptors that its successor has named',
      ),
    )
    .finally(() => closeAll(items.map(({ fd }) => fd)))
}
