import { closeOnThrow, type OwnedFd, socketPair } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import { MoveLog } from './move-log.js'

/** The two ends of a move channel, as named in the `spec` of a bundle item. */
export const GIVE = 'give'
export const TAKE = 'take'

/** Both ends of a channel that moves connections from one process to another, and the move log that both processes hold. Owned by the caller. */
export interface MovePair extends Disposable {
  readonly give: OwnedFd
  readonly take: OwnedFd
  readonly log: MoveLog
}

/** Throws if the kernel has no sealable memory files, or the process has reached its limit of open files. */
export function movePair(): MovePair {
  const log = MoveLog.create()
  const [give, take] = closeOnThrow([log], () => socketPair('move channel'))
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

export interface MoveChannelEnd {
  readonly spec: typeof GIVE | typeof TAKE
  readonly channel: OwnedFd
  readonly log: OwnedFd
}

/**
 * Opens a channel for connections. Each callback may use the end that it gets until its promise resolves. Rejects if the kernel has no sealable memory
 * files, or the process has reached its limit of open files.
 */
export async function createMoveChannel(ends: {
  take(end: MoveChannelEnd): void | Promise<void>
  give(end: MoveChannelEnd): void | Promise<void>
}): Promise<void> {
  using pair = movePair()
  const log = pair.log.fd
  const taken = ends.take({ spec: TAKE, channel: pair.take, log })
  const given = ends.give({ spec: GIVE, channel: pair.give, log })
  await Promise.allSettled([taken, given])
}

/** Duplicates an end. The caller owns the dups. */
export function ownEnd(end: MoveChannelEnd): { channel: OwnedFd; log: OwnedFd } {
  const channel = end.channel.dup()
  return closeOnThrow([channel], () => ({ channel, log: end.log.dup() }))
}

/** Returns the bundle items that send an end; they borrow its descriptors. `other`: the process at the other end, if the receiver cannot know it. */
export function moveChannelItems(
  { spec, channel, log }: MoveChannelEnd,
  other?: { readonly pid: number; readonly pidfd: OwnedFd | null },
): BundleItem[] {
  const items: BundleItem[] = [
    { role: 'moveChannel', spec, ...(other && { name: String(other.pid) }), fd: channel },
    { role: 'moveLog', fd: log },
  ]
  if (other?.pidfd) items.push({ role: 'pidfd', fd: other.pidfd })
  return items
}
