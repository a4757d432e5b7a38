import type { HolderEvent, HolderState } from '../handoff/holder-state.js'
import { type Id, NOBODY } from '../handoff/messages.js'
import { SuspendDetector } from '../os/liveness.js'
import type { Peer } from './peer.js'
import { type HandoffTimes, patience } from './times.js'

export interface Watched {
  state(): Pick<HolderState, 'owner' | 'phase'>
  dispatch(event: HolderEvent): void
  peer(id: Id): Peer | undefined
  /** The limits of the handoff that is under way. */
  times(): HandoffTimes
  /** An unhealthy successor stays: no standby can come back in its place. Told once of each. */
  kept(peer: Peer): void
}

/**
 * Watches a successor that serves, as long as its predecessor can come back. Probation ends by evidence: a Heartbeat that says
 * healthy and is younger than the probation's end. It fails by silence; but when this process itself was stopped or stalled,
 * its own lateness is no evidence against the other.
 */
export class Probation {
  readonly #watched: Watched
  readonly #heartbeatMs: number
  readonly #awake = new SuspendDetector()
  #ticker: NodeJS.Timeout | undefined
  #since = 0
  /** A process waits to join. */
  #hurry = false
  #keptOn: Id = NOBODY

  constructor(watched: Watched, heartbeatMs: number) {
    this.#watched = watched
    this.#heartbeatMs = heartbeatMs
  }

  start(): void {
    this.#since = performance.now()
    clearInterval(this.#ticker)
    this.#awake.restart()
    this.#ticker = setInterval(() => this.#judge(), this.#heartbeatMs)
    this.#judge()
  }

  /** Until it may end, at the earliest; null: there is none. */
  get leftMs(): number | null {
    if (this.#ticker === undefined) return null
    return Math.max(0, this.#since + this.#watched.times().probation - performance.now())
  }

  /** Probation ends as soon as there is fresh evidence of health, however early. */
  endSoon(): void {
    this.#hurry = true
    this.#judge()
  }

  /** The handoff is in another phase. Idempotent. */
  end(): void {
    clearInterval(this.#ticker)
    this.#ticker = undefined
    this.#hurry = false
  }

  #judge(): void {
    const { phase, owner } = this.#watched.state()
    if (phase !== 'probation') return
    const peer = this.#watched.peer(owner)
    if (peer === undefined) return
    const now = performance.now()
    const beat = this.#heartbeatMs
    const { probation, silence } = this.#watched.times()
    const awakeSince = this.#awake.tick(beat, now)
    const over = this.#hurry || now - this.#since >= probation
    const fresh = now - peer.beatAt <= beat * 2
    if (over && fresh && peer.healthy && peer.link.open) this.#watched.dispatch({ type: 'healthy' })
    else if (now - Math.max(peer.wellAt, awakeSince) > patience(silence, beat)) {
      const silent = now - Math.max(peer.beatAt, awakeSince) > patience(silence, beat)
      this.#watched.dispatch({ type: silent ? 'silent' : 'unhealthy' })
      this.#noteKept(peer)
    }
  }

  #noteKept(peer: Peer): void {
    if (this.#watched.state().phase !== 'probation' || this.#keptOn === peer.id) return
    this.#keptOn = peer.id
    this.#watched.kept(peer)
  }
}
