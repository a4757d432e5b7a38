import type { FdbError } from '../errors.js'
import type { Id } from '../handoff/messages.js'
import type { Lineage } from '../os/lineage.js'
import type { DeathWatch } from '../os/liveness.js'
import type { StatePosition } from '../wire/envelope.js'
import type { Link } from '../wire/link.js'
import type { Caller } from './admission.js'
import type { HandoffTimes } from './times.js'

/** A process that is connected to a holder, or that has lost its channel but is still part of a handoff. */
export interface Peer extends Pick<Caller, 'pid' | 'identity' | 'proven' | 'pidfd'> {
  readonly id: Id
  readonly generation: number
  /** How the process was started, as it was seen when it joined or came back. */
  readonly lineage: Lineage
  /** The limits that the process wants for handoffs in which it is the incumbent. */
  times: Partial<HandoffTimes>
  link: Link
  watch: DeathWatch | null
  /** The path of the state file, or '' if there is none. */
  readonly stateFile: string
  capabilities: ReadonlySet<string>
  /** The peer has reconnected and has not sent Back yet. Until then the holder must not send it anything. */
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
  /** The last Heartbeat asked the holder to let the standby take over, as an operator has ordered. */
  rollsBack: boolean
  /** The last position in the state that the peer reported. */
  position: StatePosition | null
  /** Why the peer failed. */
  reason: FdbError | null
  /** The names of descriptors that the peer uses: those in its Ready and in `lateNames`, and in a daemon those that it registered. */
  adopted: Set<string>
  /**
   * The names of the previous version's listeners that the peer does not use, under any name: those in its Ready, without those that it has registered
   * since. The peer may use such a name for another socket.
   */
  refused: Set<string>
  /** The names of descriptors that were sent after the Offer. The peer has adopted them even if its Ready does not list them. */
  lateNames: Set<string>
  /** The holder has closed the link, and ignores further events of this peer. */
  forgotten: boolean
  /** Has served, or was a member of an earlier daemon: may have clients. */
  served: boolean
  /** Proved dead. */
  died: boolean
}
