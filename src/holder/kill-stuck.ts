import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { killVerified } from '../os/process-identity.js'
import type { Peer } from './peer.js'

/** How long a process that was killed may take to be gone. */
export const STUCK_MS = 5_000
const LOOK_MS = 10

/** SIGKILL, by the pidfd of which the kernel has said whose it is. Throws ERR_FDB_STUCK. */
export function killPeer({ pid, identity, proven, pidfd }: Peer, what: string, logger: Logger): void {
  logger.warn({ pid }, `ends ${what}, as an operator asked`)
  killVerified(identity, proven ? pidfd : null)
}

/** Resolves when none of them is left; rejects with ERR_FDB_STUCK when one is there after `timeoutMs` still. */
export async function untilGone(pids: () => number[], timeoutMs: number): Promise<void> {
  const until = performance.now() + timeoutMs
  for (let left = pids(); left.length > 0; left = pids()) {
    if (performance.now() >= until) {
      throw new FdbError(
        'ERR_FDB_STUCK',
        `process ${left.join(', ')} did not end within ${timeoutMs} ms after SIGKILL: it waits in the kernel, or belongs to another user; end it by hand`,
        { details: { pids: left } },
      )
    }
    await new Promise(resolve => setTimeout(resolve, LOOK_MS))
  }
}
