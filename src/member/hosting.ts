import type { FdbError } from '../errors.js'
import type { Cancelled } from '../holder/cancel.js'
import type { Holder } from '../holder/holder.js'
import type { Entry } from '../holder/registry.js'
import type { WireEnvelope } from '../protocol/link.js'
import type { Segment } from '../state/segment.js'

/**
 * Where it is decided who serves: in the incumbent, and then in this process itself (`embedded-hosting.ts`), or in a daemon
 * (`daemon-hosting.ts`).
 */
export interface Hosting {
  /** Of this process: null before it decides for itself, and always where a daemon decides. */
  readonly holder: Holder | null
  /** Processes that have to end before another can join. */
  readonly blockedBy: readonly number[]
  /** Of those: the one that decides, and says nothing. */
  readonly stuckIncumbent: number | null
  /** Another stands by, and takes the connections when this process leaves. */
  readonly standsBy: boolean
  /** By the word of this process's own holder another serves, for good. */
  readonly released: boolean
  /** Whoever serves hears what older generations report. */
  readonly hearsReports: boolean
  /** What was merged can be used without anybody's leave. */
  readonly mergesAtOnce: boolean

  // ---- what it says

  /** Whether it was something that is said in this hosting alone. */
  hear(envelope: WireEnvelope): boolean
  /** It may have no word for us any more, in this hosting. */
  heardReleased(): void
  /** Ready was said: from now on it wants to hear from us. */
  readonly beatsFromReady: boolean
  silent(): void
  lost(): void
  /** Whoever serves hears our reports now. */
  reported(): void

  // ---- what it is asked for

  /** Keeps a descriptor beyond this process. When it rejects nothing has changed, and the descriptor is closed. */
  keep(entry: Entry): void | Promise<void>
  drop(name: string): void
  /** What has this name here is replaced, or not asked for any more. */
  giveUp(name: string): void
  /** What was given up is not needed by anybody any more. */
  settleFormer(): void
  /** Goes on in a new segment. */
  renew(): Promise<void>
  /** A compacted segment takes the place of what it merged, unless a handoff counts on that. */
  shelve(snapshot: Segment): Promise<void>
  /** A way for connections to the process that serves. */
  askForMove(): void
  cancelHandoff(reason: FdbError): Cancelled | Promise<Cancelled>
  killStuck(): Promise<void>
  /** The service ends with this process: whoever stands by for it does not come back, and leaves. */
  releaseStandby(): Promise<void>

  // ---- effects

  becomeHolder(): void
  reconnect(): void
  /** Nobody waits any more. */
  fail(why: FdbError): void
  close(): void
}
