import { FdbError } from '../../errors.js'
import type { Entry } from '../../holder/entry.js'
import type { Holder } from '../../holder/holder.js'
import type { UnfitReport } from '../../operator/status-report.js'
import type { Segment } from '../../state/segment.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import type { Link, WireEnvelope } from '../../wire/link.js'

/** The next version and the daemon close a listener that was given up this long after Released, at the latest. */
export const GIVEN_UP_MS = 1_000

/**
 * The member's access to the holder, which decides which process serves. In `embedded-hosting.ts` the incumbent is the holder until it has
 * released this process, which then has a holder of its own. In `daemon-hosting.ts` a daemon is the holder.
 */
export interface Hosting {
  /** This process's own holder; always null in daemon hosting. */
  readonly holder: Holder | null
  /** Pids of the processes that must end before another can join. */
  readonly blockedBy: readonly number[]
  /** Pid of the incumbent if it is still the holder but sends no heartbeats; otherwise null. */
  readonly stuckIncumbent: number | null
  /** A standby takes over again, with the connections, if this process leaves. False if the standby is known to be unfit. */
  readonly standsBy: boolean
  /** Daemon hosting: this process joins, and another one continues to serve if it fails. */
  readonly isPreceded?: boolean
  /** Why the standby cannot take over again; null if it can, or if there is none. Always null in daemon hosting, where the daemon knows. */
  readonly unfitStandby: UnfitReport | null
  /** A handoff to a successor is under way, which may still fail. */
  readonly isHandingOver: boolean
  /** No other process can get the right to serve without a message to this process. */
  readonly isHeard: boolean
  /** Daemon hosting: the standby or a joiner can get the right to serve without a message to this process, which serves. */
  readonly mayLoseUnheard?: boolean
  /** This process's own holder has released the successor: this process cannot serve again. */
  readonly released: boolean
  /** The listeners that the process which serves does not use, if this one stands by or has stood by. Embedded: after Released. */
  readonly givenUp: ReadonlySet<string>
  /** The process that serves accepts reports of older generations. */
  readonly acceptsReports: boolean
  /** The process that serves accepts forwarded changes. */
  readonly acceptsWrites: boolean
  /** Whether segments can be merged as soon as a new one is in use. In daemon hosting the merge waits for Released. */
  readonly mergesAtOnce: boolean

  /** Milliseconds for which the previous version can take over again; null if unknown or over. Always null in daemon hosting. */
  readonly probationLeftMs: number | null

  // ---- events; an implementation leaves out those that it does not need

  /** Handles a message that only this hosting knows. Returns whether the message was known. */
  handle?(envelope: WireEnvelope): boolean
  /** The holder has made its Offer. `served`: another process serves. */
  onOffer?(served: boolean): void
  /** The holder has sent {@link givenUp}, with Retire or Released, before these. */
  onGivenUp?(names: readonly string[]): void
  /** The holder has sent Released. The state machine gets the event after this call. */
  onReleased?(): void
  /** The holder has missed heartbeats on an open channel. */
  onSilent?(): void
  onHeard?(): void
  /** The channel to the holder has ended. The state machine has got the event before this call. */
  onLost?(): void
  /** The holder has this process's descriptors and its Back over this new link. */
  onBackSent?(link: Link): void
  /** This process has the right to write, and has not told its holder yet that it serves. */
  onGranted?(): void
  /** This process serves, for the first time or again. */
  onServing?(): void

  // ---- requests

  /**
   * Gives a daemon a dup of the descriptor, so that it survives this process. `bound`: this process has bound the listener; in embedded hosting
   * the incumbent then removes the Unix path if this process dies. If the promise rejects, nothing has changed and the descriptor is closed.
   */
  store(entry: Entry, bound: boolean): void | Promise<void>
  /** Tells a daemon that this version uses an entry of the previous version that its Ready has not named. Rejects as {@link store}; closes nothing. */
  adoptLate?(entry: Entry): Promise<void>
  /** Makes a daemon close its dup. */
  drop?(name: string): void
  /**
   * Resolves when no other process has the listeners any more that this one has dropped: the daemon, a standby, a next version. Then this process
   * closes them last, and no client waits in vain. `told`: a daemon was told to drop them. Undefined if no other process has them. Rejects if a daemon
   * does not answer.
   */
  dropped(told: boolean): Promise<void> | undefined
  /** Embedded: resolves when no process has the listeners any more that was offered them in a handoff that has failed. */
  joinersEnded?(): Promise<void>
  /** Resolves when no other process has the listeners in {@link givenUp} any more, at the latest after a second. */
  givenUpClosed(): Promise<void>
  /** Makes a daemon close its dups of all listeners. Resolves when it has. */
  dropListeners?(): Promise<void>
  /** Called before the entry of this name is replaced or dropped. */
  beforeDrop?(name: string): void
  /** Removes the Unix paths of replaced and dropped entries, unless a standby may need them. `ends`: the service ends. */
  removeFormerPaths?(ends?: boolean): void
  /** Asks the holder for a new segment to write to. A daemon's answer is awaited for 1 s. */
  renew(): Promise<void>
  /** Resolves with whether `snapshot` may replace the segments that it merges, because no handoff needs them. A daemon then has it. */
  mayReplaceMerged(snapshot: Segment): Promise<boolean>
  /** Asks a daemon for a move channel to the process that serves. Returns false if there is no connection to the daemon. */
  askForMove?(): boolean
  /** Ends the handoff to the successor, unless Commit was sent. */
  cancelHandoff(reason: FdbError): CancelResult | Promise<CancelResult>
  /** As {@link cancelHandoff}, but the joiner must not take over either when this process has ended. */
  refuseJoiner(reason: FdbError): void
  /** Kills the processes that block an upgrade. Rejects with ERR_FDB_STUCK. Absent in daemon hosting, where operators ask the daemon. */
  killStuck?(): Promise<void>
  /** Waits for the next report of the standby, which shows whether it could read all changes up to now. */
  hearStandby?(): Promise<void>
  /** Embedded: resolves when it is decided which process serves, after `ms` at the latest; null if that is decided. */
  whenDecided?(ms: number): Promise<void> | null
  /** The service ends with this process: releases the standby, so that it does not take over again. */
  releaseStandby(): Promise<void>

  // ---- effects of the state machine

  becomeHolder?(): void
  /** Rejects the requests that still wait for the holder's answer. */
  fail?(why: FdbError): void
  close(): void
}

/** Returns ERR_FDB_BUSY if the previous version can take over again for longer than a next one waits. */
export function probationError(
  { probationLeftMs }: Pick<Hosting, 'probationLeftMs'>,
  timeoutMs: number,
): FdbError | null {
  if (probationLeftMs === null || probationLeftMs <= timeoutMs) return null
  return new FdbError(
    'ERR_FDB_BUSY',
    `process ${process.pid} is in probation: the previous version can take over again for another ${Math.ceil(probationLeftMs / 1_000)} s; try again when that is over, or return to the previous version (fd-broker rollback)`,
    { retryable: true },
  )
}
