import type { FdbError } from '../errors.js'
import type { StateFileStatus } from '../state/file/state-file.js'
import type { Listener } from './listener.js'
import type { RetiredReason } from './member-options.js'

/** What the public {@link Member} lends to its driver, and is told by it. */
export interface Application {
  listeners(): Iterable<Listener>
  /** What listeners of its events threw. */
  failures(): number
  /** What it says of itself in the status. */
  details(): Record<string, unknown>
  serving(): void
  retiring(): void
  reinstated(): void
  unfit(error: FdbError): void
  resumed(): void
  /** What a hook of the application threw. */
  failed(error: unknown): void
  retired(why: RetiredReason): void
  stateFile(status: StateFileStatus): void
}
