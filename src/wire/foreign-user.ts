import type { FdbError } from '../errors.js'
import type { ForeignFds } from '../kernel/index.js'

/** Another user at this process: counts what the connections of all its processes make this process hold and do, and limits it. */
export interface ForeignUser {
  /** Counts the descriptors that its processes have sent. */
  readonly fds: ForeignFds
  /** Returns an error if there are more descriptors than the user may send. */
  demandFds(): FdbError | null
  /** Returns an error if there are more descriptors than this process keeps for the user: fewer, so that a returning member can bring its own. */
  demandKept(): FdbError | null
  /** Counts bytes that this process holds for the user, until the same number is subtracted. Returns an error if there are too many. */
  holdBytes(by: number): FdbError | null
  /** Counts time of the event loop. */
  spend(ms: number): void
  /** Milliseconds until the user's connections may be read again; 0: now. */
  readonly waitMs: number
  /** Calls `serve` when the user does not have to wait, in the order of the calls. Returns false if too many wait already: `serve` is not called. */
  inTurn(serve: () => void): boolean
}

let charged = false

/**
 * Charges the user for the time of the event loop from now until no promise is left to settle in this turn: answers are made, encoded and sent after
 * the handler of their request has returned. A call within that time does nothing.
 */
export function chargeTurn(user: ForeignUser): void {
  if (charged) return
  charged = true
  const startedAt = performance.now()
  const spend = () => {
    charged = false
    user.spend(performance.now() - startedAt)
  }
  // Node runs a tick that a microtask queues when no microtask is left.
  queueMicrotask(() => process.nextTick(spend))
}
