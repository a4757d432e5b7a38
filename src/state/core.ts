import type { FdbError } from '../errors.js'
import type { Disk } from './durable.js'
import type { History } from './history.js'
import type { StateLimits } from './limits.js'
import type { Segment } from './segment.js'
import type { Store } from './store.js'
import type { DeferredWork } from './time-slices.js'
import type { WriteQueue } from './write-queue.js'

/** A log's callbacks to its owner; they must not throw. */
export interface LogOwner {
  /** Another process has sealed the segment; changes wait until startWriting or endWriting. Called once per seal, in a microtask. */
  onFenced: (() => void) | null
  /** Returns the next segments, of epochs above `epoch`, which the log then owns. Called when the log's own segment is sealed: another process may write. */
  segmentsAfter: ((epoch: number) => readonly Segment[]) | null
  /** A change was refused because of the limit `logBytes`. */
  onFull: (() => void) | null
  /** {@link StateLog.hasStaleSecrets} may have become true. */
  onStaleSecret: (() => void) | null
  /** The log can no longer follow another process: its records are unreadable, or a schema forbids reading them (ERR_FDB_SCHEMA). */
  onUnreadable: ((error: unknown) => void) | null
  /** Called after each append and each merge of segments, so it must be fast. */
  readonly appendListeners: ReadonlySet<() => void>
  /** Returns an error before ready(), when awaiting a queued change would block forever; otherwise null. */
  prematureError: (() => FdbError | null) | null
  /** Whether a check of ready() runs, which may wait for a change that this process makes only after it: then a change resolves when it is queued. */
  readonly inCheck: (() => boolean) | null
  /** Whether this process has clients already, although it may not write yet: their `durable` changes wait, as all others do. */
  readonly accepts: (() => boolean) | null
  /** An iteration skips entries that cannot be decoded. If false, it throws. */
  readonly skipInvalid: boolean
  /** Writes `durable` changes to disk. */
  disk: Disk | null
}

export interface LogCore {
  readonly owner: LogOwner
  readonly store: Store
  readonly history: History
  readonly queue: WriteQueue
  readonly deferred: DeferredWork
  readonly limits: Readonly<StateLimits>
  /** Maximum time of work per turn, in milliseconds. */
  readonly sliceMs: number
  readonly closing: AbortSignal
  /** Reads and appends as much as possible. */
  flush(): void
  warn(facts: object, message: string): void
}
