import type { FdbError } from '../errors.js'
import type { Id } from '../handoff/messages.js'
import type { DeathWatch } from '../os/liveness.js'
import type { StatePosition } from '../wire/envelope.js'
import type { Link } from '../wire/link.js'
import type { Caller } from './admission.js'
import type { HandoffTimes } from './times.js'

/** A process that is connected to a holder, or was and must not be forgotten yet. */
export interface Peer extends Pick<Caller, 'pid' | 'identity' | 'proven' | 'pidfd'> {
  readonly id: Id
  readonly generation: number
  /** The limits that the process wants for handoffs in which it is the incumbent. */
  times: Partial<HandoffTimes>
  link: Link
  watch: DeathWatch | null
  /** The path of the state file, or '' if there is none. */
  readonly stateFile: string
  capabilities: ReadonlySet<string>
  /** The peer has reconnected but has not sent Back yet: the holder must not send it anything before. */
  returning: boolean
  /** The holder has sent descriptors to the peer. */
  holds: boolean
  /** The peer has sent a Heartbeat. A successor sends them from Ready on, unless its release is too old. */
  sendsHeartbeats: boolean
  /** When the last Heartbeat arrived (performance.now()). `healthy`, `healthProblem` and `report` are its contents. */
  heartbeatAt: number
  healthy: boolean
  /** Why the peer is not healthy, if it gave a reason. */
  healthProblem: string
  /** When the last Heartbeat with `healthy` arrived (performance.now()). */
  healthyAt: number
  report: unknown
  /** The last position in the state that the peer reported. */
  position: StatePosition | null
  /** Why the peer failed. */
  reason: FdbError | null
  /** The names in the peer's Ready, and those in `lateNames`. */
  adopted: Set<string>
  /** The names of descriptors that were sent after the Offer. The peer has adopted them even if its Ready does not list them. */
  lateNames: Set<string>
  /** Forgotten: the link is closed or rejected, and events of this peer are ignored. */
  forgotten: boolean
  /** Proved dead. */
  died: boolean
}
