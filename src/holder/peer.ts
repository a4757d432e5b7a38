import type { FdbError } from '../errors.js'
import type { Id } from '../handoff/messages.js'
import type { OwnedFd } from '../kernel/index.js'
import type { DeathWatch } from '../os/liveness.js'
import type { ProcessIdentity } from '../os/process-identity.js'
import type { StatePosition } from '../wire/envelope.js'
import type { Link } from '../wire/link.js'
import type { HandoffTimes } from './times.js'

/** A process that a holder talks to, or has talked to and may not forget yet. */
export interface Peer {
  readonly id: Id
  /** The pid as the kernel says; where that is 0 (another PID namespace), as the process says. */
  readonly pid: number
  readonly generation: number
  readonly identity: ProcessIdentity
  /** The kernel has said that the pidfd is its own. */
  readonly proven: boolean
  /** Limits that it wants for handoffs in which it is the incumbent. */
  times: Partial<HandoffTimes>
  link: Link
  readonly pidfd: OwnedFd | null
  watch: DeathWatch | null
  /** Where it keeps the state; empty: in no file. */
  readonly stateFile: string
  /** Its capabilities; see versions.ts. */
  capabilities: ReadonlySet<string>
  /** The peer has a channel again but has not said Back yet: nothing is told to it before it has. */
  returning: boolean
  /** The peer has descriptors of ours (or we have sent some). */
  holds: boolean
  /** A Heartbeat has come: a successor of this release beats from its Ready on. */
  beats: boolean
  /** Last Heartbeat, performance.now(); and what it said. */
  beatAt: number
  healthy: boolean
  /** Why it is not, if it said so. */
  unwell: string
  /** When it last said that it is healthy, performance.now(). */
  wellAt: number
  report: unknown
  /** Its last reported position in the state. */
  position: StatePosition | null
  /** Why it failed, when it said so. */
  reason: FdbError | null
  /** The names that it has adopted, by its Ready. */
  adopted: Set<string>
  /** Names of what crossed to it behind its Offer: it has adopted these, whether its Ready tells of them or not. */
  late: Set<string>
  /** Proved dead, or gone and forgotten. */
  over: boolean
  /** Proved dead. */
  died: boolean
}
