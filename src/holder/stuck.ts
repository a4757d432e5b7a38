import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { SuspendDetector } from '../os/liveness.js'
import { killVerified } from '../os/process-identity.js'
import { waitUntil } from '../versions/leftover-processes.js'
import type { Peer } from './peer.js'

/** The time in which a killed process must end. */
export const STUCK_MS = 5_000

/** Sends SIGKILL to a peer, through its pidfd if the kernel has confirmed that one. Throws ERR_FDB_STUCK. */
export function killPeer({ pid, identity, proven, pidfd }: Peer, what: string, logger: Logger): void {
  logger.warn({ pid }, `kills ${what}, at an operator's request`)
  killVerified(identity, proven ? pidfd : null)
}

/** Resolves when no process is left; rejects with ERR_FDB_STUCK if one is still alive after `timeoutMs`. */
export async function untilGone(pids: () => number[], timeoutMs: number): Promise<void> {
  if (await waitUntil(() => pids().length === 0, timeoutMs)) return
  const alive = pids()
  throw new FdbError(
    'ERR_FDB_STUCK',
    `process ${alive.join(', ')} did not end within ${timeoutMs} ms after SIGKILL: it waits in the kernel, or belongs to another user; end it manually`,
    { details: { pids: alive } },
  )
}

/** Measures how long peers have sent no heartbeat. Time in which this process itself was stopped does not count. */
export class HeartbeatSilence {
  readonly #awake = new SuspendDetector()
  readonly #everyMs: number
  #awakeSince = performance.now()
  #ticker: NodeJS.Timeout | undefined
  #reading: NodeJS.Immediate | undefined

  /** `everyMs`: the interval between two calls of {@link tick}. */
  constructor(everyMs: number) {
    this.#everyMs = everyMs
  }

  /** Calls {@link tick} at each interval, then `judge` when the messages that have arrived are read. Idempotent. */
  start(judge: () => void): void {
    if (this.#ticker !== undefined) return
    this.#awake.restart()
    this.tick()
    this.#ticker = setInterval(() => {
      this.tick()
      clearImmediate(this.#reading)
      this.#reading = setImmediate(judge)
    }, this.#everyMs).unref()
  }

  /** Ends {@link start}. Idempotent. */
  stop(): void {
    clearInterval(this.#ticker)
    clearImmediate(this.#reading)
    this.#ticker = undefined
  }

  tick(): void {
    this.#awakeSince = this.#awake.tick(this.#everyMs)
  }

  /** Returns the milliseconds since the last heartbeat; 0 for a process that has never sent one. */
  of(peer: Pick<Peer, 'sendsHeartbeats' | 'heartbeatAt'> | undefined): number {
    if (!peer?.sendsHeartbeats) return 0
    return Math.max(0, performance.now() - Math.max(peer.heartbeatAt, this.#awakeSince))
  }
}
