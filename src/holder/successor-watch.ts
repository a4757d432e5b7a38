import { type HolderPhase, waitsForSuccessor } from '../handoff/phases.js'
import { SuspendDetector } from '../os/liveness.js'
import { statOf } from '../os/main-process.js'
import type { Peer } from './peer.js'

const LOOK_MS = 100

export interface WatchedJoiner {
  /** Returns undefined if no process could serve in its place. */
  joiner(): Peer | undefined
  /** Milliseconds of silence. */
  limitMs(): number
  /** The joiner is stopped, or stuck in a call. Told at each look. */
  stuck(): void
}

/**
 * Watches a successor while changes wait for it. A successor beats from its Ready on; one that falls silent and does not run either is
 * stopped or stuck, and the changes need not wait for the limit of the phase. A silent one that runs, or waits for a processor, is slow.
 */
export class SuccessorWatch {
  readonly #watched: WatchedJoiner
  readonly #awake = new SuspendDetector()
  #ticker: NodeJS.Timeout | undefined
  #reading: NodeJS.Immediate | undefined

  constructor(watched: WatchedJoiner) {
    this.#watched = watched
  }

  enter(phase: HolderPhase): void {
    if (!waitsForSuccessor(phase)) this.end()
    else if (this.#ticker === undefined) {
      this.#awake.restart()
      this.#ticker = setInterval(() => this.#check(), LOOK_MS).unref()
    }
  }

  /** Idempotent. */
  end(): void {
    clearInterval(this.#ticker)
    clearImmediate(this.#reading)
    this.#ticker = undefined
  }

  #check(): void {
    const awakeSince = this.#awake.tick(LOOK_MS)
    // Arrived messages are read before the joiner is called silent.
    clearImmediate(this.#reading)
    this.#reading = setImmediate(() => this.#judge(awakeSince))
  }

  #judge(awakeSince: number): void {
    const peer = this.#watched.joiner()
    if (peer === undefined || !peer.beats) return
    const silentMs = performance.now() - Math.max(peer.beatAt, awakeSince)
    if (silentMs > this.#watched.limitMs() && !runs(peer)) this.#watched.stuck()
  }
}

/** Returns false also for a process that cannot be seen from here: its silence is all that there is. */
function runs({ identity }: Peer): boolean {
  return identity.startTime !== undefined && statOf(identity.pid)?.state === 'R'
}
