import { afterReading } from '../base/after-reading.js'
import { FdbError } from '../errors.js'
import type { Upgraded, UpgradeProgress } from '../operator/requests.js'
import type { Release } from '../os/release-link.js'
import type { SupervisorEvent } from '../versions/version-machine.js'
import { Pending } from '../wire/pending.js'

export interface SupervisorUpgradeOptions {
  /** Command line of the next version and of later ones, with argv[0]. Absent or empty: unchanged. */
  readonly argv?: readonly string[]
  /** Time in milliseconds for the version to serve; limits the configured readiness timeout too. 0 or absent: no limit. */
  readonly timeoutMs?: number
  /** The release link to switch before the version is started. */
  readonly release?: Release | undefined
  readonly progress?: (step: UpgradeProgress) => void
}

/** Added to a request's timeout: the readiness timeout, whose error names the failed health check, must elapse first. */
const READY_FIRST_MS = 1_000

interface PendingRequest extends SupervisorUpgradeOptions {
  readonly pending: Pending<Upgraded>
  /** The time limit of the request has passed. */
  isLate?: boolean
}

/** Requests for an upgrade or a rollback that are not answered yet, by the id that the state machine calls `asker`. */
export class UpgradeRequests {
  readonly #waiting = new Map<number, PendingRequest>()
  #count = 0

  /** Adds a request and dispatches its event. If `cancel` aborts or the timeout elapses, dispatches the event `cancel`. */
  ask(
    options: SupervisorUpgradeOptions,
    cancel: AbortSignal | undefined,
    dispatch: (event: SupervisorEvent) => void,
    type: 'upgrade' | 'rollback' = 'upgrade',
  ): Promise<Upgraded> {
    const id = ++this.#count
    const pending = new Pending<Upgraded>()
    this.#waiting.set(id, { ...options, pending })
    dispatch({ type, asker: id })
    const cancelled = () => dispatch({ type: 'cancel', asker: id })
    if (cancel?.aborted) cancelled()
    else cancel?.addEventListener('abort', cancelled, { once: true })
    const { timeoutMs = 0 } = options
    const late = () => {
      const asker = this.#waiting.get(id)
      if (asker !== undefined) asker.isLate = true
      cancelled()
    }
    const limit = timeoutMs > 0 ? afterReading(timeoutMs + READY_FIRST_MS, late) : null
    return pending.answer.finally(() => {
      limit?.clear()
      cancel?.removeEventListener('abort', cancelled)
    })
  }

  /** Returns the command of the last request that has one; null: unchanged. */
  argvOf(ids: readonly number[]): readonly string[] | null {
    const wanted = ids.map(id => this.#waiting.get(id)?.argv ?? []).filter(argv => argv.length > 0)
    return wanted.at(-1) ?? null
  }

  /** Returns the release of the last request that names one. */
  releaseOf(ids: readonly number[]): Release | null {
    return ids.map(id => this.#waiting.get(id)?.release).findLast(release => release !== undefined) ?? null
  }

  /** Returns the longest timeout of the requests in milliseconds; 0 if one of them has none. */
  timeoutOf(ids: readonly number[]): number {
    const timeouts = ids.map(id => this.#waiting.get(id)?.timeoutMs ?? 0)
    return timeouts.includes(0) ? 0 : Math.max(0, ...timeouts)
  }

  report(ids: readonly number[], phase: string, pid: number): void {
    for (const id of ids) this.#waiting.get(id)?.progress?.({ phase, at: Date.now(), pid })
  }

  succeeded(ids: readonly number[], { id, pid }: { readonly id: number; readonly pid: number }): void {
    this.report(ids, 'serving', pid)
    for (const { pending } of this.#take(ids)) pending.resolve({ pid, generation: id })
  }

  failed(ids: readonly number[], error: FdbError): void {
    for (const { pending } of this.#take(ids)) pending.reject(error)
  }

  /** Rejects requests that were cancelled, or are late. `goesOn`: the version that starts without them; null if it was cancelled too. `reason`: default that. */
  cancelled(ids: readonly number[], goesOn: number | null, reason?: FdbError): void {
    const rest =
      goesOn === null
        ? null
        : `version ${goesOn} goes on to start, for another request or because no healthy version serves`
    for (const { isLate, pending, timeoutMs = 0 } of this.#take(ids))
      pending.reject(isLate ? servesLateError(timeoutMs, rest) : (reason ?? cancelledError(rest)))
  }

  #take(ids: readonly number[]): PendingRequest[] {
    const taken = ids.flatMap(id => this.#waiting.get(id) ?? [])
    for (const id of ids) this.#waiting.delete(id)
    return taken
  }
}

function servesLateError(ms: number, rest: string | null): FdbError {
  const why = `the next version did not serve within ${ms} ms${rest === null ? ' and was cancelled' : ''}: this time includes --healthy-for, and the wait for an upgrade that was under way; ${rest === null ? '' : `${rest}: see fd-broker status, or `}give a longer --timeout`
  return new FdbError('ERR_FDB_DEADLINE', why, { phase: 'trial' })
}

/** Returns the error for a request that ended although no version failed. `rest`: what goes on without it. */
export function cancelledError(rest: string | null = null): FdbError {
  return new FdbError(
    'ERR_FDB_ABORTED',
    `the upgrade was cancelled; ${rest ?? 'the serving version keeps serving'}`,
  )
}

export function endingError(): FdbError {
  return new FdbError('ERR_FDB_ABORTED', `process ${process.pid}, the supervisor, was told to end`)
}

export function busyError(): FdbError {
  const why = `process ${process.pid} is just starting a version, or waits for another process to end: try again when that is done`
  return new FdbError('ERR_FDB_BUSY', why, { retryable: true })
}

export function noPreviousVersionError(): FdbError {
  const why = `process ${process.pid} knows no previous version that it could start again: upgrade to the previous release (fd-broker rollback --at PATH if upgrade --binary has kept it, else fd-broker upgrade -- COMMAND); if the program uses fd-broker itself, give the control socket of the program`
  return new FdbError('ERR_FDB_NO_STANDBY', why)
}

export interface RollbackOrder {
  /** Text for logs and status that names the operator and the request. */
  readonly reason: string
  /** The release link that the rollback must switch back; null if the caller names none. */
  readonly at: string | null
}
