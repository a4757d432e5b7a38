import type { FdbError } from '../errors.js'
import type { Caller } from '../holder/admission.js'
import type { OwnedFd } from '../kernel/index.js'

/**
 * What a process is that has members of its own (a daemon): others than its successors call at its control socket. What it holds for them
 * is in its registry, so that it crosses its upgrade as a server's listeners do.
 */
export interface Desk {
  /** Bound at the control path by a service manager, whose the path is; null: it is not. Owned by whoever starts. */
  readonly passed: OwnedFd | null
  /** Whether to take over from the one that is there, or to be refused: ERR_FDB_CONTROL_TAKEN. */
  readonly takesOver: boolean
  /** Takes a caller. `own`: receives one as every service does; it may be called later. */
  receive(caller: Caller, own: (caller: Caller) => void): void
  /** Whether another user than this process's, or root, may say Hello. */
  mayConnect(uid: number): boolean
  /** Counts a connection until it has closed; why it is one too many, or null. */
  connected(uid: number, closed: Promise<void>): FdbError | null
  /** Permission bits of the control socket. */
  readonly controlMode: number
  /** What it is for those outside. */
  describe(): string
}
