import type { FdbError } from '../errors.js'
import type { Disk } from './durable.js'
import type { History } from './history.js'
import type { StateLimits } from './limits.js'
import type { DeferredWork } from './slices.js'
import type { Store } from './store.js'
import type { WriteQueue } from './write-queue.js'

/** Events of a log for its owner. None of them may throw. */
export interface LogOwner {
  /** Another process ended this one's right to write; changes wait until startWriting or endWriting. Called once for each seal met, in a microtask. */
  onFenced: (() => void) | null
  /** A change was refused because of the limit `logBytes`. */
  onFull: (() => void) | null
  /** See {@link StateLog.hasStaleSecrets}. */
  onStaleSecret: (() => void) | null
  /** Records of another process that this one follows cannot be read any more, or may not be (ERR_FDB_SCHEMA). */
  onUnreadable: ((error: unknown) => void) | null
  /** Called, often, when changes were appended and applied, or segments merged. */
  readonly appended: ReadonlySet<() => void>
  /** Why a change that waits must not be awaited now; null: it may be. */
  premature: (() => FdbError | null) | null
  /** Where `durable` changes come to. */
  disk: Disk | null
}

/** The state that the parts of one log share. */
export interface LogCore {
  readonly owner: LogOwner
  readonly store: Store
  readonly history: History
  readonly queue: WriteQueue
  readonly deferred: DeferredWork
  readonly limits: Readonly<StateLimits>
  /** The most milliseconds of work in one turn of the event loop. */
  readonly sliceMs: number
  /** Aborted when the log is closed. */
  readonly closing: AbortSignal
  /** Reads and appends everything that can be. */
  flush(): void
  warn(facts: object, message: string): void
}
