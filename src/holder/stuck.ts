import { everyAfterReading, type Limit } from '../base/after-reading.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { type HolderPhase, waitsForSuccessor } from '../handoff/phases.js'
import { SuspendDetector } from '../os/liveness.js'
import { processStat } from '../os/main-process.js'
import { killVerified, type ProcessIdentity } from '../os/process-identity.js'
import { waitUntil } from '../versions/leftover-processes.js'
import type { Peer } from './peer.js'

/** The time in which a killed process must end. */
export const STUCK_MS = 5_000

/** Sends SIGKILL to a peer, through its pidfd if the kernel has confirmed that one. Throws ERR_FDB_STUCK. */
export function killPeer({ pid, identity, proven, pidfd }: Peer, what: string, logger: Logger): void {
  logger.warn({ pid }, `kills ${what}, at an operator's request`)
  killVerified(identity, proven ? pidfd : null)
}

/** Kills the processes for which a restarted daemon waits. Resolves when it waits for none. Rejects with ERR_FDB_STUCK. */
export async function killMissing(missing: () => readonly ProcessIdentity[], logger: Logger): Promise<void> {
  for (const identity of missing()) {
    logger.warn({ pid: identity.pid }, "kills a member that has not reconnected, at an operator's request")
    killVerified(identity, null)
  }
  await untilGone(() => missing().map(({ pid }) => pid), STUCK_MS)
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
  #ticker: Limit | undefined

  /** `everyMs`: the interval between two calls of {@link tick}. */
  constructor(everyMs: number) {
    this.#everyMs = everyMs
  }

  /**
   * At each interval, when the messages that have arrived are read, calls {@link tick} and `judge`. That one gets the time up to which
   * they are read, for {@link of}. Idempotent.
   */
  start(judge: (readUntil: number) => void): void {
    if (this.#ticker !== undefined) return
    this.#awake.restart()
    this.tick()
    const tickAndJudge = (readUntil: number) => {
      this.tick()
      judge(readUntil)
    }
    this.#ticker = everyAfterReading(this.#everyMs, tickAndJudge, { unref: true })
  }

  /** Ends {@link start}. Idempotent. */
  stop(): void {
    this.#ticker?.clear()
    this.#ticker = undefined
  }

  tick(): void {
    this.#awakeSince = this.#awake.tick(this.#everyMs)
  }

  /** Returns the milliseconds from the last heartbeat until `readUntil`; 0 for a process that has never sent one. */
  of(
    peer: Pick<Peer, 'sendsHeartbeats' | 'heartbeatAt'> | undefined,
    readUntil: number = performance.now(),
  ): number {
    if (!peer?.sendsHeartbeats) return 0
    // After a stop of this process, a request may be read before the timers run.
    this.tick()
    return Math.max(0, readUntil - Math.max(peer.heartbeatAt, this.#awakeSince))
  }
}

const HEARTBEAT_CHECK_MS = 100

interface WatchedJoiner {
  /** Returns the joiner; undefined if there is none, or if no owner could serve instead. */
  joiner(): Peer | undefined
  /** Returns the silence after which the joiner may be stuck. */
  limitMs(): number
  /** Called at each check at which the joiner is stopped, or stuck in a call. */
  stuck(): void
}

/**
 * Watches a successor while changes wait for it. A successor sends heartbeats from Ready on. If it falls silent and uses no CPU, it is
 * stopped or stuck, and the handoff fails before the limit of the phase. A silent successor that runs, or waits for a CPU, is only slow.
 */
export class SuccessorWatch {
  readonly #watched: WatchedJoiner
  readonly #silence = new HeartbeatSilence(HEARTBEAT_CHECK_MS)

  constructor(watched: WatchedJoiner) {
    this.#watched = watched
  }

  enter(phase: HolderPhase): void {
    if (waitsForSuccessor(phase)) this.#silence.start(readUntil => this.#judge(readUntil))
    else this.end()
  }

  /** Idempotent. */
  end(): void {
    this.#silence.stop()
  }

  #judge(readUntil: number): void {
    const peer = this.#watched.joiner()
    if (peer === undefined || this.#silence.of(peer, readUntil) <= this.#watched.limitMs()) return
    if (!runs(peer)) this.#watched.stuck()
  }
}

/** Whether the process runs or waits for a CPU. Returns false if its state is not visible (another PID namespace). */
function runs({ identity }: Peer): boolean {
  return identity.startTime !== undefined && processStat(identity.pid)?.state === 'R'
}
