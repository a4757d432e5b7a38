import type { FdbError } from '../errors.js'
import type { Holder } from '../holder/holder.js'
import type { Entry } from '../holder/registry.js'
import type { Segment } from '../state/segment.js'
import type { CancelResult } from '../versions/upgrade-attempt.js'
import type { WireEnvelope } from '../wire/link.js'

/**
 * The place that decides which process serves: the incumbent and then this process (`embedded-hosting.ts`), or a daemon
 * (`daemon-hosting.ts`).
 */
export interface Hosting {
  /** This process's own holder. Null until the incumbent has released this process, and always in daemon hosting. */
  readonly holder: Holder | null
  /** Pids of the processes that must end before another can join. */
  readonly blockedBy: readonly number[]
  /** Pid of the incumbent, if it decides and is silent. */
  readonly stuckIncumbent: number | null
  /** A standby takes the connections if this process leaves. */
  readonly standsBy: boolean
  /** This process's own holder has released the successor: this process cannot serve again. */
  readonly released: boolean
  /** The process that serves accepts reports of older generations. */
  readonly acceptsReports: boolean
  /** The process that serves accepts forwarded changes. */
  readonly acceptsWrites: boolean
  /** Merged segments can be used at once, without a new right to write from a daemon. */
  readonly mergesAtOnce: boolean

  // ---- events; a hosting that has nothing to do leaves the function out

  /** Handles a message that only this hosting knows. Returns whether the message was known. */
  handle?(envelope: WireEnvelope): boolean
  /** The holder has sent Released; the state machine gets the event next. */
  onReleased?(): void
  /** The channel is open, and the holder sends nothing. */
  onSilent?(): void
  onHeard?(): void
  /** The channel has ended; the state machine has already got the event. */
  onLost?(): void
  /** The process that serves receives this process's reports now. */
  onReportsReceived?(): void

  // ---- requests

  /**
   * Stores a descriptor where it survives this process. `bound`: this process has bound the path; the holder removes the path if this
   * process dies before it serves for good. If the promise rejects, nothing has changed and the descriptor is closed.
   */
  store(entry: Entry, bound: boolean): void | Promise<void>
  /** Drops a stored descriptor. */
  drop?(name: string): void
  /** Called before the entry of this name is replaced or dropped. */
  beforeDrop?(name: string): void
  /** Removes the paths of replaced and dropped entries if they are not needed any more. */
  removeFormerPaths?(): void
  /** Asks for a new segment. Resolves when it was asked for, or is here. */
  renew(): Promise<void>
  /** Replaces the merged segments by `snapshot`, unless a handoff needs them. */
  replaceMerged(snapshot: Segment): Promise<void>
  /** Asks for a move channel to the process that serves. */
  askForMove(): void
  /** Gives up the successor, unless Commit was sent. */
  cancelHandoff(reason: FdbError): CancelResult | Promise<CancelResult>
  /** Kills the processes that block an upgrade. Rejects with ERR_FDB_STUCK. Absent in daemon hosting, where operators ask the daemon. */
  killStuck?(): Promise<void>
  /** Releases the standby, because the service ends with this process. */
  releaseStandby(): Promise<void>

  // ---- effects of the state machine

  becomeHolder?(): void
  reconnect?(): void
  /** Rejects requests that wait for an answer. */
  fail?(why: FdbError): void
  close(): void
}
