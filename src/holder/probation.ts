import { everyAfterReading, type Limit } from '../base/after-reading.js'
import type { HolderEvent, HolderState } from '../handoff/holder-machine.js'
import { type Id, NOBODY } from '../handoff/messages.js'
import { hasEnded } from '../kernel/index.js'
import { SuspendDetector } from '../os/liveness.js'
import { requesterOf } from './message-handler.js'
import type { Peer } from './peer.js'
import { type HandoffTimes, patience } from './times.js'

interface ProbationHost {
  state(): Pick<HolderState, 'owner' | 'phase'>
  dispatch(event: HolderEvent): void
  peer(id: Id): Peer | undefined
  times(): HandoffTimes
  /** Whether a probation may end now; otherwise it lasts until it may. */
  mayEnd(): boolean
  /** Called once for each unhealthy successor that keeps serving because the standby cannot take over again. */
  onKept(peer: Peer): void
}

/**
 * Judges a successor that serves, while the standby can still take over again. Probation succeeds when its time is over and a recent
 * Heartbeat reports health. Probation fails if no healthy Heartbeat arrives for the limit `silence`; time in which this process itself was
 * stopped or stalled does not count.
 *
 * An operator's rollback is decided here too, where it cannot cross the end of the probation: a successor that carries one out is not
 * released, and when its work has ended the standby takes over.
 */
export class Probation {
  readonly #host: ProbationHost
  readonly #heartbeatMs: number
  readonly #awake = new SuspendDetector()
  #ticker: Limit | undefined
  #soon: NodeJS.Immediate | undefined
  #since = 0
  /** The last successor that was reported with `onKept`. */
  #keptId: Id = NOBODY

  constructor(host: ProbationHost, heartbeatMs: number) {
    this.#host = host
    this.#heartbeatMs = heartbeatMs
  }

  start(): void {
    this.#since = performance.now()
    this.#ticker?.clear()
    this.#awake.restart()
    this.#ticker = everyAfterReading(this.#heartbeatMs, readUntil => this.#judge(readUntil))
    this.#judge(this.#since)
  }

  /** Milliseconds until probation may end, or null outside of probation. */
  get leftMs(): number | null {
    if (this.#ticker === undefined) return null
    return Math.max(0, this.#since + this.#host.times().probation - performance.now())
  }

  /** Milliseconds since the present or last probation started. */
  get sinceMs(): number {
    return performance.now() - this.#since
  }

  /** Stops judging, because the handoff has left the phase. Idempotent. */
  end(): void {
    this.#ticker?.clear()
    this.#ticker = undefined
    clearImmediate(this.#soon)
    this.#soon = undefined
  }

  /** Judges when everything that has arrived is read: the order to roll back may be an old one, after a pause of this process. */
  judgeSoon(): void {
    if (this.#ticker === undefined) return
    clearImmediate(this.#soon)
    this.#soon = setImmediate(readUntil => this.#judge(readUntil), performance.now())
  }

  /** `readUntil`: what arrived earlier is read. */
  #judge(readUntil: number): void {
    const { phase, owner } = this.#host.state()
    if (phase !== 'probation') return
    const peer = this.#host.peer(owner)
    if (peer === undefined) return
    const beat = this.#heartbeatMs
    const { probation, silence } = this.#host.times()
    const awakeSince = this.#awake.tick(beat)
    const over = readUntil - this.#since >= probation && this.#host.mayEnd() && requesterOf(peer) === null
    const fresh = readUntil - peer.heartbeatAt <= beat * 2
    // After a suspension the heartbeats arrive that were sent before: the process may have died since.
    const hears = awakeSince <= this.#since + beat || readUntil - awakeSince > beat * 2
    const lives = peer.pidfd === null || !hasEnded(peer.pidfd)
    if (peer.rollsBack) this.#host.dispatch({ type: 'unhealthy' })
    else if (over && fresh && hears && lives && peer.healthy && peer.link.open)
      this.#host.dispatch({ type: 'healthy' })
    else if (readUntil - Math.max(peer.healthyAt, awakeSince) > patience(silence, beat)) {
      const silent = readUntil - Math.max(peer.heartbeatAt, awakeSince) > patience(silence, beat)
      this.#host.dispatch({ type: silent ? 'silent' : 'unhealthy' })
      this.#noteKept(peer)
    }
  }

  #noteKept(peer: Peer): void {
    if (this.#host.state().phase !== 'probation' || this.#keptId === peer.id) return
    this.#keptId = peer.id
    this.#host.onKept(peer)
  }
}
