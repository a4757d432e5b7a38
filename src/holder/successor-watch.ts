import { type HolderPhase, waitsForSuccessor } from '../handoff/phases.js'
import { statOf } from '../os/main-process.js'
import type { Peer } from './peer.js'
import { HeartbeatSilence } from './stuck.js'

const CHECK_MS = 100

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
  readonly #silence = new HeartbeatSilence(CHECK_MS)

  constructor(watched: WatchedJoiner) {
    this.#watched = watched
  }

  enter(phase: HolderPhase): void {
    if (waitsForSuccessor(phase)) this.#silence.start(() => this.#judge())
    else this.end()
  }

  /** Idempotent. */
  end(): void {
    this.#silence.stop()
  }

  #judge(): void {
    const peer = this.#watched.joiner()
    if (peer !== undefined && this.#silence.of(peer) > this.#watched.limitMs() && !runs(peer))
      this.#watched.stuck()
  }
}

/** Whether the process runs or waits for a CPU. Returns false if its state is not visible (another PID namespace). */
function runs({ identity }: Peer): boolean {
  return identity.startTime !== undefined && statOf(identity.pid)?.state === 'R'
}
