import type { FdbError } from '../../errors.js'
import type { OptionChange } from '../../listeners/index.js'
import type { UpgradeProgress } from '../../operator/requests.js'
import type { StateFileStatus } from '../../state/file/state-file.js'

/**
 * Why a member does not serve any more. `replaced`: another version serves. `closed`: {@link Member.close} was called, or an operator has rolled
 * this version back. `lost`: the right to serve was taken back in the probation.
 */
export type RetiredReason = 'replaced' | 'closed' | 'lost'

/** A check passes unless it throws, rejects or returns false. `signal` aborts when the result is not needed any more. */
export type Check = (context: { readonly signal: AbortSignal }) => unknown

export interface ReadyOptions {
  /**
   * Each check must pass before this process takes over. The first that fails ends the handoff, and the incumbent continues to serve. A
   * check that never settles is awaited until `timeout`, or until the incumbent ends the handoff.
   */
  checks?: readonly Check[] | undefined
  /** The limit for the checks and the handoff, in milliseconds. Default: the incumbent's own limits. */
  timeout?: number | undefined
  /**
   * The listeners that may be without a server, by name; true: all. Otherwise `ready()` rejects with ERR_FDB_UNSERVED if a stream
   * listener has no server and was not borrowed, or if the incumbent opened a listener after this version joined.
   */
  unserved?: boolean | readonly string[] | undefined
  /**
   * Serve although entries of the state cannot be decoded by this version: iterations skip them, with a warning, and `get` throws. Default
   * false: `ready()` rejects with ERR_FDB_STATE_VALUE. `ready()` decodes the entries of other schema versions, and all of sections with `validate`.
   */
  skipInvalid?: boolean | undefined
}

/** Options of {@link Member.upgrade}. */
export interface UpgradeOptions {
  argv?: readonly string[] | undefined
  env?: NodeJS.ProcessEnv | undefined
  signal?: AbortSignal | undefined
  /** The limit for the whole upgrade, in milliseconds. Default: the handoff's own limits. */
  timeout?: number | undefined
  progress?: ((step: UpgradeProgress) => void) | undefined
}

/** Options of {@link Member.close}. */
export interface CloseOptions {
  /** The time after which remaining connections are closed, in milliseconds. Default: `drain.timeout`. A later call can shorten it. */
  timeout?: number | undefined
  /**
   * Whether a standby of the previous version takes over again, with the connections, as after a crash. Default true. With false the service
   * ends with this process. No effect in a worker: its main process ends the service.
   */
  handBack?: boolean | undefined
}

export interface MemberEvents {
  /** @internal This process serves and writes for the first time. */
  serving: []
  /** Another process serves now, and this one stands by, with open connections. */
  retiring: []
  /** @internal The successor failed, and this process serves again. */
  reinstated: []
  /** @internal The upgrade failed after the work of {@link Member.whileServing} was stopped. This process serves, and starts the work again. */
  resumed: []
  /** The last connection has ended, or was closed. */
  retired: [RetiredReason]
  /** An adopted listener had other options than this version asked for; they were changed to this version's. */
  listenerChanged: [name: string, changes: readonly OptionChange[]]
  /** The state file could not be written (`ok` is false, and changes are in memory only), or is complete again (`ok` is true). */
  stateFile: [StateFileStatus]
  /** A server could not be attached to its listener. */
  listenerError: [error: unknown]
  /**
   * This process has the right to serve but cannot write. The error (ERR_FDB_UNFIT) has the reason, for example a schema of the successor
   * that this version cannot read. While no other process serves, this one serves reads. The next version gets every acknowledged change.
   */
  unfit: [error: FdbError]
}
