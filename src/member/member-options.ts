import type { FdbError } from '../errors.js'
import type { OptionChange } from '../listeners/index.js'
import type { UpgradeProgress } from '../operator/requests.js'
import type { StateFileStatus } from '../state/file/state-file.js'

/**
 * Why a member does not serve any more. `replaced`: another version serves. `closed`: {@link Member.close} was called. `lost`: the right to
 * serve was taken back, in probation or by an operator.
 */
export type RetiredReason = 'replaced' | 'closed' | 'lost'

/** A check passes unless it throws, rejects or returns false. `signal` aborts when the result is not needed any more. */
export type Check = (context: { readonly signal: AbortSignal }) => unknown

export interface ReadyOptions {
  /**
   * Each check must pass before this process takes over. The first that fails ends the handoff, and the incumbent continues to serve. A
   * check that never settles is awaited until `timeout`, or until the incumbent ends the handoff.
   */
  checks?: readonly Check[]
  /** The limit for the checks and the handoff, in milliseconds. Default: the incumbent's own limits. */
  timeout?: number
  /**
   * The listeners that may be without a server, by name; true: all. Otherwise `ready()` rejects with ERR_FDB_UNSERVED if an adopted stream
   * listener has no server and was not borrowed, or if the incumbent opened a listener after this version joined.
   */
  unserved?: boolean | readonly string[]
}

/** Options of {@link Member.upgrade}. */
export interface UpgradeOptions {
  argv?: readonly string[]
  env?: NodeJS.ProcessEnv
  signal?: AbortSignal
  /** The limit for the whole upgrade, in milliseconds. Default: the handoff's own limits. */
  timeout?: number
  progress?: (step: UpgradeProgress) => void
}

/** Options of {@link Member.close}. */
export interface CloseOptions {
  /** The time in which the last connections must end, in milliseconds. Default: `drain.timeout`. */
  timeout?: number
  /**
   * Whether the previous version, if it stands by in probation, serves again and takes the connections, as after a crash. Default true.
   * False: the service ends with this process.
   */
  handBack?: boolean
}

export interface MemberEvents {
  /** @internal This process serves and writes for the first time. */
  serving: []
  /** Another process serves now; this one stands by. Connections stay open. */
  retiring: []
  /** @internal The successor failed, and this process serves again. */
  reinstated: []
  /** @internal The upgrade failed after the work of {@link Member.whileServing} was stopped: this process serves, and starts the work again. */
  resumed: []
  /** The last connection has ended, or was closed. */
  retired: [RetiredReason]
  /** The options of an adopted listener differed from those of this version, and were changed. */
  listenerChanged: [name: string, changes: readonly OptionChange[]]
  /** The state file could not be written (`ok` is false: the state is in memory only), or is complete again. */
  stateFile: [StateFileStatus]
  /** A server could not be attached to its listener. */
  listenerError: [error: unknown]
  /**
   * This process should serve and cannot write. The error (ERR_FDB_UNFIT) has the reason, for example a schema of the successor that this
   * version cannot read. While no other process serves, this one serves reads; the next version starts with every acknowledged change.
   */
  unfit: [error: FdbError]
}
