import type { FdbError } from '../errors.js'
import type { Holder } from '../holder/holder.js'
import type { Entry } from '../holder/registry.js'
import type { Segment } from '../state/segment.js'
import type { CancelResult } from '../versions/upgrade-attempt.js'
import type { WireEnvelope } from '../wire/link.js'

/** Where it is decided who serves: in the incumbent and then here (`embedded-hosting.ts`), or in a daemon (`daemon-hosting.ts`). */
export interface Hosting {
  /** This process's own: null before it decides for itself, and always where a daemon decides. */
  readonly holder: Holder | null
  /** Processes that have to end before another can join. */
  readonly blockedBy: readonly number[]
  /** The one of those that decides, and says nothing. */
  readonly stuckIncumbent: number | null
  /** Another stands by, and takes the connections when this process leaves. */
  readonly standsBy: boolean
  /** Another serves for good, by the word of this process's own holder. */
  readonly released: boolean
  /** The process that serves hears the reports of older generations. */
  readonly hearsReports: boolean
  /** False: the process that serves has said in its Hello that it takes no changes of others. */
  readonly takesWrites: boolean
  /** Merged segments can be used without a grant. */
  readonly mergesAtOnce: boolean

  // ---- what it says; a hosting that has nothing to do then leaves the function out

  /** Takes a message that only this hosting knows. Returns whether it was one of those. */
  handle?(envelope: WireEnvelope): boolean
  /** The holder has said Released; the machine hears of it next. */
  heardReleased?(): void
  /** The holder has a channel to us and says nothing on it. */
  silent?(): void
  /** It says something again. */
  heard?(): void
  /** The channel has ended, as the machine has heard. */
  lost?(): void
  /** The process that serves hears our reports now. */
  reported?(): void

  // ---- what it is asked for

  /**
   * Keeps a descriptor beyond this process. If this process has `made` a path for it, the holder removes that when this process dies before
   * it serves for good. When it rejects nothing has changed, and the descriptor is closed.
   */
  keep(entry: Entry, made: boolean): void | Promise<void>
  /** Asks for it no more. */
  drop?(name: string): void
  /** The entry of this name is replaced, or not asked for any more. */
  giveUp?(name: string): void
  /** Entries that were given up are not needed any more. */
  settleFormer?(): void
  /** Goes on in a new segment. Resolves when it was asked for, or is there. */
  renew(): Promise<void>
  /** A compacted segment takes the place of what it merged, unless a handoff counts on that. */
  shelve(snapshot: Segment): Promise<void>
  /** Asks for a way for connections to the process that serves. */
  askForMove(): void
  /** The successor is not wanted any more: it is given up, unless its Commit has left. */
  cancelHandoff(reason: FdbError): CancelResult | Promise<CancelResult>
  /** Ends the processes that block an upgrade. Rejects with ERR_FDB_STUCK. Absent: operators ask the daemon itself. */
  killStuck?(): Promise<void>
  /** The service ends with this process: its standby does not come back, and leaves. */
  releaseStandby(): Promise<void>

  // ---- effects

  becomeHolder?(): void
  reconnect?(): void
  /** Rejects waiting answers. */
  fail?(why: FdbError): void
  close(): void
}
