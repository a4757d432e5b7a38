import { type OwnedFd, socketPair } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import { MoveLog } from './move-log.js'

/** Which end of a move channel a descriptor is: in the `spec` of its item. */
export const GIVE = 'give'
export const TAKE = 'take'

/** A way for connections from one process to another: both ends, and the log that both hold. Owned by the caller. */
export interface MovePair extends Disposable {
  readonly give: OwnedFd
  readonly take: OwnedFd
  readonly log: MoveLog
}

/** Throws where there are no memory files that can be sealed, or no descriptors left. */
export function movePair(): MovePair {
  const log = MoveLog.create()
  let ends: [OwnedFd, OwnedFd]
  try {
    ends = socketPair('move channel')
  } catch (error) {
    log.close()
    throw error
  }
  const [give, take] = ends
  return {
    give,
    take,
    log,
    [Symbol.dispose]() {
      give.close()
      take.close()
      log.close()
    },
  }
}

export interface MigrationChannelEnd {
  readonly spec: typeof GIVE | typeof TAKE
  readonly channel: OwnedFd
  readonly log: OwnedFd
}

/** Opens a way for connections: each process gets its end until it has resolved. Rejects for lack of memory files or descriptors, or when one is refused. */
export async function createMigrationChannel(ends: {
  take(end: MigrationChannelEnd): void | Promise<void>
  give(end: MigrationChannelEnd): void | Promise<void>
}): Promise<void> {
  using pair = movePair()
  const log = pair.log.fd
  const taken = ends.take({ spec: TAKE, channel: pair.take, log })
  const given = ends.give({ spec: GIVE, channel: pair.give, log })
  await Promise.allSettled([taken, given])
}

/** Dups of an end: the caller's own. */
export function ownEnd(end: MigrationChannelEnd): { channel: OwnedFd; log: OwnedFd } {
  const channel = end.channel.dup()
  try {
    return { channel, log: end.log.dup() }
  } catch (error) {
    channel.close()
    throw error
  }
}

/** An end as it crosses. `other`: who is at the other one, where the receiver cannot see it. Borrowed. */
export function migrationItems(
  { spec, channel, log }: MigrationChannelEnd,
  other?: { readonly pid: number; readonly pidfd: OwnedFd | null },
): BundleItem[] {
  const items: BundleItem[] = [
    { role: 'moveChannel', spec, ...(other && { name: String(other.pid) }), fd: channel },
    { role: 'moveLog', fd: log },
  ]
  if (other?.pidfd) items.push({ role: 'pidfd', fd: other.pidfd })
  return items
}
