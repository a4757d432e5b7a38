import { afterReading } from '../base/after-reading.js'
import { backoffMs, LONGEST_RESTART_MS } from '../base/backoff.js'
import type { MemberProcess, ServiceStanding } from '../daemon/service/service-operations.js'
import { FdbError } from '../errors.js'
import { type EventFacts, type EventType, failureFacts } from '../events/events.js'
import { isGranted } from '../handoff/phases.js'
import type { Upgraded } from '../operator/requests.js'
import type { WorkerReport } from '../operator/status-report.js'
import { successorCommand } from '../os/command-line.js'
import { slotOf, workerVariables } from '../os/default-control.js'
import { processStat } from '../os/main-process.js'
import { checkMemoryRoom } from '../os/memory-room.js'
import { NO_MANAGER_VARIABLES } from '../os/service-manager/service-manager.js'
import { GRACE_MS } from '../versions/leftover-processes.js'
import type { Successor } from '../versions/spawn-successor.js'
import {
  type AttemptIncumbent,
  type CancelResult,
  OWN_END_MS,
  UpgradeAttempt,
} from '../versions/upgrade-attempt.js'
import type { WorkersSettings } from './options.js'
import type { Ownership } from './ownership.js'

/** A worker that ends after it has served for this time is restarted without delay. */
const BRIEF_MS = 1_000

export interface WorkerSlotDeps {
  readonly settings: WorkersSettings
  readonly ownership: Ownership
  /** Whether another main process may take over: it is not decided yet which one starts workers. */
  isPaused(): boolean
  /** Returns null if the service is unknown because no process has joined. */
  standing(slot: string): ServiceStanding | null
  /** Records an event of the slot's service, if that is known. */
  note(slot: string, type: EventType, facts?: EventFacts): void
  /** Ends the handoff of the slot's service, unless Commit was sent. */
  cancelHandoff(slot: string, reason: FdbError): CancelResult
}

/** The place of one worker: starts its process, and starts another one when that ends. */
export class WorkerSlot {
  readonly index: number
  readonly name: string
  readonly #deps: WorkerSlotDeps
  #attempt: { readonly cancel: AbortController; readonly outcome: Promise<Upgraded> } | null = null
  #notifyAttempt = () => {}
  #backOff: NodeJS.Timeout | undefined
  #failures = 0
  #servesSince: number | null = null
  #restarts = 0
  #lastFailure: string | null = null
  #isWanted = true
  /** Whether a new process is started when this worker's process ends. */
  #restartsEnded = false
  #isStartedHere = false
  /** Whether this worker comes beside those that serve, and no process has been it yet: it needs memory of its own. */
  isAdded = false
  /** Whether the process sends no heartbeats, and so probably accepts no clients. */
  isHung = false

  constructor(index: number, deps: WorkerSlotDeps) {
    this.index = index
    this.name = slotOf(deps.settings.service, index)
    this.#deps = deps
  }

  get isWanted(): boolean {
    return this.#isWanted
  }

  /** Starts no process any more. One that serves keeps serving; one that is being started is cancelled. Resolves when this is done. */
  abandon(why: string): Promise<void> {
    this.#isWanted = false
    this.#restartsEnded = false
    this.cancelRestart()
    this.#attempt?.cancel.abort(new FdbError('ERR_FDB_ABORTED', `${this.name}: ${why}`))
    return this.whenSettled()
  }

  /** Ends the delay before a restart. {@link update} may begin another one. */
  cancelRestart(): void {
    clearTimeout(this.#backOff)
    this.#backOff = undefined
  }

  /** Makes the worker a wanted one again after {@link abandon}. */
  keepPlace(): void {
    this.#isWanted = true
  }

  /** From now on starts a process whenever none serves. */
  keepServing(): void {
    this.#isWanted = true
    this.#restartsEnded = true
    this.update()
  }

  /** Whether this main process, not a previous one, started the serving process. */
  get isStartedHere(): boolean {
    return this.#isStartedHere
  }

  get standing(): ServiceStanding | null {
    return this.#deps.standing(this.name)
  }

  get owner(): ServiceStanding['owner'] {
    return this.standing?.owner ?? null
  }

  /** Whether the service waits for {@link missing} processes. */
  get isRecovering(): boolean {
    return this.standing?.phase === 'rebuilding'
  }

  /** The processes of the previous main process that live and have not reconnected to this one. */
  get missing(): readonly MemberProcess[] {
    const { missing = [] } = this.standing ?? {}
    return missing.map(identity => ({ identity, pid: identity.pid, pidfd: null, proven: false }))
  }

  /** The processes of this worker that are connected: the one that serves, and those that join, stand by or drain. */
  get processes(): readonly MemberProcess[] {
    const { owner = null, others = [] } = this.standing ?? {}
    return owner === null ? others : [owner, ...others]
  }

  /** Whether others than the process that serves are connected, or about to connect again: they may change the state through it. */
  get hasOlder(): boolean {
    return this.living.length > (this.owner === null ? 0 : 1)
  }

  /** All living processes of this worker: {@link processes} and {@link missing}. */
  get living(): readonly MemberProcess[] {
    return [...this.processes, ...this.missing]
  }

  /**
   * Starts a new process for this worker, and resolves when it serves. Rejects if it fails to start; the previous process then keeps
   * serving. Rejects with ERR_FDB_BUSY during another start, and with ERR_FDB_CLOSED if another main process takes over or this one is
   * closed, before or meanwhile.
   */
  async start(): Promise<Upgraded> {
    this.#deps.ownership.demand()
    if (this.#attempt !== null)
      throw new FdbError('ERR_FDB_BUSY', `${this.name} is being started: try again`, { retryable: true })
    const { note } = this.#deps
    if (this.owner !== null) note(this.name, 'upgrade.ordered')
    const cancel = new AbortController()
    const outcome = this.#startSuccessor(cancel.signal)
    this.#attempt = { cancel, outcome }
    try {
      const upgraded = await outcome
      this.#isStartedHere = true
      this.#lastFailure = null
      return upgraded
    } catch (error) {
      this.#lastFailure = FdbError.from(error).message
      if (this.owner !== null) note(this.name, 'upgrade.failed', failureFacts(error))
      throw error
    } finally {
      this.#attempt = null
      this.update()
    }
  }

  async #startSuccessor(signal: AbortSignal): Promise<Upgraded> {
    const { index } = this
    const { command, control, logger, service, timeout } = this.#deps.settings
    const env = { ...NO_MANAGER_VARIABLES, ...workerVariables({ index, service, control }) }
    const successor = successorCommand({ env, ...(command !== null && { argv: command }) })
    // A worker that starts in place of one that has ended endangers none.
    if (this.owner !== null || this.isAdded) checkMemoryRoom(successor.file)
    const attempt = await UpgradeAttempt.start(this.#incumbent, {
      command: successor,
      control,
      logger,
      limitMs: timeout,
      commitMs: OWN_END_MS,
      endAfterMs: 0,
      name: pid => `worker ${index} of ${service} (pid ${pid})`,
      servesOn: () => null,
      unready: () => 'has not called ready()',
      signals: [signal, this.#deps.ownership.signal],
    })
    return await attempt.outcome
  }

  /** The slot's service, as an {@link UpgradeAttempt} observes it. */
  get #incumbent(): AttemptIncumbent {
    const slot = this
    const before = ownerKey(this.owner)
    const isNew = (owner: ServiceStanding['owner']) => owner !== null && ownerKey(owner) !== before
    let hadRight = false
    /** Whether the new process has the right to write: from then on it has clients. While the service is not known here, as it was last. */
    const hasRight = () => {
      const { standing } = slot
      if (standing !== null) hadRight = isNew(standing.owner)
      return hadRight
    }
    return {
      get phase() {
        return slot.standing?.phase
      },
      get lastFailure() {
        return slot.standing?.lastFailure ?? null
      },
      failedIn: failure => {
        const { standing } = slot
        return standing?.lastFailure === failure ? standing.failed : null
      },
      joiner: null,
      obstacle: null,
      get successorAccepts() {
        return slot.standing?.joinerAccepts ?? false
      },
      servedBy: () => {
        const { standing } = slot
        if (standing === null) return null
        const { isUnfit, owner, phase } = standing
        // An unfit process accepts, and tries again to write.
        if (owner === null || !hasRight() || isUnfit || (phase !== 'idle' && phase !== 'probation'))
          return null
        return { pid: owner.pid, generation: owner.generation }
      },
      watch: look => {
        slot.#notifyAttempt = look
        return () => {
          slot.#notifyAttempt = () => {}
        }
      },
      cancelHandoff: reason => {
        const { joinerAccepts = false, phase = 'idle' } = slot.standing ?? {}
        if (hasRight() || joinerAccepts || isGranted(phase)) return 'late'
        // A signal alone could reach the process after its Commit.
        return slot.#deps.cancelHandoff(slot.name, reason)
      },
      graceMs: () => GRACE_MS,
      whenServing: async () => {},
      failedAfterCommit: child => slot.#endLater(child),
    }
  }

  /** After `stopTimeout` ends a process that failed when it had clients, if it still has listeners. */
  #endLater(child: Successor): void {
    const { ownership, settings } = this.#deps
    const { stopTimeout } = settings
    if (stopTimeout === null) {
      child.release()
      return
    }
    const end = () => {
      const hangs = this.standing?.bound.some(pid => processStat(pid)?.session === child.pid)
      if (hangs && ownership.isHeld) void child.end()
      else child.release()
    }
    afterReading(stopTimeout, end, { unref: true })
  }

  /** Replaces a hung process. Rejects as {@link start}. */
  async replaceHung(silentMs: number): Promise<void> {
    const why = `process ${this.owner?.pid ?? 0} was silent for ${Math.round(silentMs / 1_000)} s, and was replaced`
    this.#restarts++
    await this.start()
    this.#lastFailure = why
  }

  get isStarting(): boolean {
    return this.#attempt !== null
  }

  /** Resolves when the start of a process, if one is under way, has succeeded or failed. */
  async whenSettled(): Promise<void> {
    await this.#attempt?.outcome.catch(() => {})
  }

  /** Called when the service may have changed: the process that is being started may serve, or may have failed. */
  observe(): void {
    this.#notifyAttempt()
  }

  /** As {@link observe}. If no process serves, starts one, at once or after a delay. */
  update(): void {
    this.observe()
    const { owner = null, phase = 'idle' } = this.standing ?? {}
    if (owner !== null) {
      this.isAdded = false
      this.#servesSince ??= performance.now()
      return
    }
    const { isPaused, ownership, settings } = this.#deps
    if (!ownership.mayStart || isPaused()) return
    const { logger, restartDelay } = settings
    // During recovery (phase `rebuilding`) workers of the previous main process may still reconnect.
    if (!this.#isWanted || !this.#restartsEnded || phase !== 'idle') return
    if (this.#attempt !== null || this.#backOff !== undefined) return
    const since = this.#servesSince
    this.#servesSince = null
    // The restart is immediate if the process served for at least BRIEF_MS, else delayed. If no process has served since the last restart, the delay grows.
    if (since === null) this.#failures++
    else this.#failures = performance.now() - since >= BRIEF_MS ? 1 : 2
    const bounds = { firstMs: restartDelay, longestMs: LONGEST_RESTART_MS }
    const ms = this.#failures === 1 ? 0 : backoffMs(bounds, this.#failures - 1)
    logger.warn({ worker: this.index, failures: this.#failures, ms }, 'a worker is started again')
    this.#backOff = setTimeout(() => {
      this.#backOff = undefined
      if (!this.#isWanted || this.owner !== null || this.#attempt !== null) return
      // The end of the pause calls update() again.
      if (!ownership.mayStart || isPaused()) return
      this.#restarts++
      this.start().catch(error =>
        logger.error({ worker: this.index, err: error }, 'a worker failed to start'),
      )
    }, ms)
  }

  get report(): WorkerReport {
    const { owner = null } = this.standing ?? {}
    const serving = owner !== null
    return {
      index: this.index,
      service: this.name,
      phase: !this.#isWanted
        ? 'leaving'
        : this.#attempt !== null
          ? 'starting'
          : this.isHung
            ? 'hung'
            : serving
              ? 'serving'
              : 'resting',
      pid: owner?.pid ?? (this.isHung ? (this.missing[0]?.pid ?? null) : null),
      generation: owner?.generation ?? 0,
      restarts: this.#restarts,
      lastFailure: this.#lastFailure,
    }
  }
}

function ownerKey(owner: ServiceStanding['owner']): string {
  return owner === null ? '' : `${owner.pid}/${owner.generation}`
}
