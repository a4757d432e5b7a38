import type { FdbError } from '../errors.js'
import type { Disk } from './durable.js'
import type { History } from './history.js'
import type { StateLimits } from './limits.js'
import type { Store } from './store.js'
import type { DeferredWork } from './time-slices.js'
import type { WriteQueue } from './write-queue.js'

/** A log's callbacks to its owner. None may throw. */
export interface LogOwner {
  /** Another process has ended the right to write; changes wait until startWriting or endWriting. Called once for each seal, in a microtask. */
  onFenced: (() => void) | null
  /** The limit `logBytes` has refused a change. */
  onFull: (() => void) | null
  /** See {@link StateLog.hasStaleSecrets}. */
  onStaleSecret: (() => void) | null
  /** A followed process's records cannot be read any more, or may not be (ERR_FDB_SCHEMA). */
  onUnreadable: ((error: unknown) => void) | null
  /** Called, often, after changes were applied or segments merged. */
  readonly appended: ReadonlySet<() => void>
  /** Why awaiting a waiting change would never end; null: it may be awaited. */
  premature: (() => FdbError | null) | null
  /** Brings `durable` changes to the disk. */
  disk: Disk | null
}

export interface LogCore {
  readonly owner: LogOwner
  readonly store: Store
  readonly history: History
  readonly queue: WriteQueue
  readonly deferred: DeferredWork
  readonly limits: Readonly<StateLimits>
  /** Most milliseconds of work in one turn. */
  readonly sliceMs: number
  readonly closing: AbortSignal
  /** Reads and appends as much as possible. */
  flush(): void
  warn(facts: object, message: string): void
}
