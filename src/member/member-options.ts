import type { UpgradeProgress } from '../operator/requests.js'

/**
 * Why a member does not serve any more: another version serves, {@link Member.close} was called, or the right to serve was taken back (in
 * probation, or by an operator).
 */
export type RetiredReason = 'replaced' | 'closed' | 'lost'

/** Passes unless it throws, rejects or returns false. `signal`: the check is not awaited any more. */
export type Check = (context: { readonly signal: AbortSignal }) => unknown

export interface ReadyOptions {
  /**
   * Each must pass before this process takes over; the first that does not ends the handoff, and the incumbent serves on. One
   * that never settles is not waited for longer than `timeout`, nor when the incumbent has ended the handoff.
   */
  checks?: readonly Check[]
  /** For the checks and the handoff, milliseconds. Default: the incumbent's own limits decide. */
  timeout?: number
  /**
   * Listeners that may be without a server, by name; true: any. Without it `ready()` refuses (ERR_FDB_UNSERVED) while a stream listener
   * that was taken over has no server and was not borrowed, and if the incumbent has opened one since this version joined.
   */
  unserved?: boolean | readonly string[]
}

/** Options of {@link Member.upgrade}. */
export interface UpgradeOptions {
  argv?: readonly string[]
  env?: NodeJS.ProcessEnv
  signal?: AbortSignal
  /** Milliseconds for all of it. Default: the handoff's own limits. */
  timeout?: number
  progress?: (step: UpgradeProgress) => void
}

/** Options of {@link Member.close}. */
export interface CloseOptions {
  /** Milliseconds for the last connections to end. Default: `drain.timeout`. */
  timeout?: number
  /**
   * In probation the version before stands by. True, the default: it serves again, as after a crash, and takes the connections.
   * False: the service ends with this process.
   */
  handBack?: boolean
}
