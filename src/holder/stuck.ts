import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { SuspendDetector } from '../os/liveness.js'
import { killVerified } from '../os/process-identity.js'
import { within } from '../versions/process-members.js'
import type { Peer } from './peer.js'

/** How long a process that was killed may take to be gone. */
export const STUCK_MS = 5_000

/** SIGKILL, by the pidfd of which the kernel has said whose it is. Throws ERR_FDB_STUCK. */
export function killPeer({ pid, identity, proven, pidfd }: Peer, what: string, logger: Logger): void {
  logger.warn({ pid }, `ends ${what}, as an operator asked`)
  killVerified(identity, proven ? pidfd : null)
}

/** Resolves when none of them is left; rejects with ERR_FDB_STUCK when one is there after `timeoutMs` still. */
export async function untilGone(pids: () => number[], timeoutMs: number): Promise<void> {
  if (await within(() => pids().length === 0, timeoutMs)) return
  const left = pids()
  throw new FdbError(
    'ERR_FDB_STUCK',
    `process ${left.join(', ')} did not end within ${timeoutMs} ms after SIGKILL: it waits in the kernel, or belongs to another user; end it by hand`,
    { details: { pids: left } },
  )
}

/** How long processes that beat have been silent, while this one could hear them. */
export class HeartbeatSilence {
  readonly #awake = new SuspendDetector()
  readonly #everyMs: number
  #awakeSince = performance.now()

  /** `everyMs`: between two calls of {@link tick}. */
  constructor(everyMs: number) {
    this.#everyMs = everyMs
  }

  tick(): void {
    this.#awakeSince = this.#awake.tick(this.#everyMs)
  }

  /** Milliseconds; 0 of a process that does not beat. */
  of(peer: Pick<Peer, 'beats' | 'beatAt'> | undefined): number {
    if (!peer?.beats) return 0
    return Math.max(0, performance.now() - Math.max(peer.beatAt, this.#awakeSince))
  }
}
