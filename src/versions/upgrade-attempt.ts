import type { StdioOptions } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { afterReading } from '../base/after-reading.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { isCommitted } from '../handoff/phases.js'
import type { ProgramStart } from '../kernel/index.js'
import type { Upgraded, UpgradeProgress } from '../operator/requests.js'
import { anotherFailed, type Failure } from '../operator/status-report.js'
import { isOfAnother, type Lineage, lineageOf } from '../os/lineage.js'
import { statIfSeen } from '../os/main-process.js'
import { identify } from '../os/process-identity.js'
import { Pending } from '../wire/pending.js'
import { indented, withAbort } from './exit-reason.js'
import { isAnyAlive } from './leftover-processes.js'
import { AFTERMATH_MS, type Exit, exitText, type Successor, spawnSuccessor } from './spawn-successor.js'

/** Time for a failed successor to report why, and to end by itself, before it is ended. */
export const OWN_END_MS = 5_000
/** The error code if the joiner's application closed its member. */
const LEFT_CODE = 'ERR_FDB_CLOSED'
/**
 * Time for a joiner after the command has ended with code 0 and none of its processes runs: the command may have told a service manager to
 * start the successor.
 */
const JOIN_MS = 2_000
/** Interval at which processes of such a command are searched. */
const JOINER_SEARCH_MS = 250
/** Time to wait for the end of a successor whose handoff broke: its exit code and last lines explain the failure. */
export const REASON_MS = 1_000
/** Error codes of a handoff that broke because the successor's connection or process ended. */
export const BROKEN_CODES: ReadonlySet<string> = new Set([
  'ERR_FDB_SUCCESSOR_LOST',
  'ERR_FDB_SUCCESSOR_DIED',
  'ERR_FDB_CLOSED',
])

export type CancelResult =
  /** The joiner is abandoned; the incumbent keeps serving. */
  | 'cancelled'
  /** The Commit was sent already: the handoff decides which process serves. */
  | 'late'
  /** No process was joining. */
  | 'idle'

/** The process to replace, and the progress of its handoff, as far as the starting process knows it. */
export interface AttemptIncumbent {
  /** Phase of the handoff; undefined if another process knows it. */
  readonly phase: string | undefined
  /** The last failure of any handoff. */
  readonly lastFailure: Failure | null
  /** Returns the process whose handoff has failed; null if it is unknown. */
  failedIn(failure: Failure): Lineage | null
  /** The joining process; null if there is none, or if it is unknown. */
  readonly joiner: Lineage | null
  /** Whether a process may be joining, if {@link phase} is undefined. */
  readonly isHandingOver?: boolean
  /** The reason why no process can join at present: "process 4711 is in probation, …". Null if there is none, or if it is not known here. */
  readonly obstacle: string | null
  /** Whether the successor has clients already, although it does not serve: it must not be ended by a signal. */
  readonly successorAccepts?: boolean
  /** Returns the process that has replaced the incumbent; null if none has. `started`: pid of the successor's command. */
  servedBy(started: number): Upgraded | null
  /** Calls `look` after each change. Returns a function that ends the calls. */
  watch(look: () => void): () => void
  cancelHandoff(reason: FdbError): CancelResult | Promise<CancelResult>
  /** Returns the time for a cancelled successor to end before it is killed. */
  graceMs(cancelled: CancelResult): number
  /** Resolves when the incumbent or another process serves. */
  whenServing(): Promise<unknown>
  /** Called if the successor fails when it may have clients, as after its Commit: it must keep serving if the incumbent cannot serve again. */
  failedAfterCommit?(successor: Successor): void
}

export interface AttemptOptions {
  readonly command: ProgramStart
  readonly control: string
  readonly stdio?: StdioOptions | undefined
  /** See `spawnSuccessor()`. */
  readonly isGuarded?: boolean
  readonly logger: Logger
  /** Time for the successor to serve, or at least to get its Commit. */
  readonly limitMs: number
  /** If `limitMs` elapses after the Commit, the additional time for the successor to serve. */
  readonly commitMs: number
  /** Time between a report that the successor failed and the signal that ends it. */
  readonly endAfterMs: number
  /** Returns the successor's name for messages. */
  name(pid: number): string
  /** Returns the text of errors about the incumbent: "process 4711 serves on". Null if they do not mention it. */
  servesOn(): string | null
  /** Returns the step that a successor has missed if it has joined and is not ready: "has not called ready()". */
  readonly unready?: () => string
  /** Never throws. */
  readonly progress?: (step: UpgradeProgress) => void
  /** An abort of any of them cancels the attempt. */
  readonly signals: readonly AbortSignal[]
}

/** One attempt to start a successor, until it serves, fails or is cancelled. */
export class UpgradeAttempt {
  /** Owned by the attempt until the successor serves. */
  readonly child: Successor
  readonly outcome: Promise<Upgraded>
  readonly #incumbent: AttemptIncumbent
  readonly #options: AttemptOptions
  readonly #failureBefore: Failure | null
  readonly #startedAt = performance.now()
  readonly #settled = new Pending<Upgraded>()
  #phase = 'idle'
  #isCancelling = false
  /** The command ended with code 0: it was a wrapper, and another process that it started is the successor. */
  #wrapperEnded = false
  /** The exit of the command, if it has failed. */
  #failedExit: Exit | null = null
  #isSettled = false
  #isFailing = false
  #hasMoreDetail = false
  /** The last failure of a process that another command has started, unless the command of this attempt has a service manager start its successor. */
  #failureOfAnother: Failure | null = null
  /** The command has ended with code 0, and none of its processes is known to live: a service manager may start its successor. */
  #isDelegated = false

  /** Starts the successor. Rejects with ERR_FDB_SPAWN. */
  static async start(replaced: AttemptIncumbent, options: AttemptOptions): Promise<UpgradeAttempt> {
    // The handoff may fail before this process hears that the successor runs.
    const failureBefore = replaced.lastFailure
    const child = await spawnSuccessor(options.command, options)
    child.unref()
    return new UpgradeAttempt(replaced, child, options, failureBefore)
  }

  private constructor(
    replaced: AttemptIncumbent,
    child: Successor,
    options: AttemptOptions,
    failureBefore: Failure | null,
  ) {
    this.child = child
    this.#incumbent = replaced
    this.#options = options
    this.#failureBefore = failureBefore
    this.#report('started', child.pid)
    const { limitMs, signals } = options
    // After a pause of this process the successor may have reported meanwhile.
    const limit = afterReading(limitMs, () => void this.#cancel(this.#lateError(limitMs)))
    const stop = replaced.watch(() => this.#check())
    const cancel = ({ target }: { target: EventTarget | null }) =>
      void this.#cancel((target as AbortSignal).reason)
    this.outcome = this.#settled.answer.finally(() => {
      this.#isSettled = true
      stop()
      limit.clear()
      for (const signal of signals) signal.removeEventListener('abort', cancel)
      child.exitReason.close()
    })
    void child.exited.then(exit => {
      if (exit.code === 0) {
        this.#wrapperEnded = true
        this.#expectJoiner(performance.now())
        return
      }
      this.#failedExit = exit
      this.#check()
      setTimeout(() => {
        if (this.#isSettled || this.#isCancelling || this.#isFailing) return
        const { why: reason, lines } = child.exitReason.takeReason()
        const why = withAbort(reason, exit.signal === 'SIGABRT')
        this.#exited(
          `ended ${exitText(exit)} before it served: ${why}${this.#meanwhile}${this.#keepsServing}${indented(lines)}`,
          exit,
        )
      }, AFTERMATH_MS).unref()
    })
    for (const signal of signals) {
      if (signal.aborted) void this.#cancel(signal.reason)
      else signal.addEventListener('abort', cancel, { once: true })
    }
    this.#check()
  }

  /** Waits for a joiner after the command has ended with code 0: while a process that it started runs, and for {@link JOIN_MS} more. */
  #expectJoiner(lastLived: number): void {
    if (this.#isSettled || this.#isCancelling) return
    const { exitReason } = this.child
    const now = performance.now()
    const lives = isAnyAlive(exitReason.mark, now - this.#startedAt)
    this.#isDelegated = lives !== true
    this.#check()
    if (this.#isSettled || this.#isFailing || this.#phase !== 'idle' || this.#joinerPid !== null) return
    const isOver = lives === false && this.#incumbent.isHandingOver !== true
    const since = isOver ? lastLived : now
    if (now - since < JOIN_MS) {
      afterReading(JOINER_SEARCH_MS, () => this.#expectJoiner(since), { unref: true })
      return
    }
    const reason = exitReason.takeLine()
    const text = `ended with code 0, and nothing that it started lives or joined within ${JOIN_MS} ms${reason === null ? ': check the command' : `: ${reason}`}${this.#meanwhile}${this.#keepsServing}`
    this.#exited(text, { code: 0, signal: null })
  }

  #exited(text: string, { code, signal }: { code: number | null; signal: string | null }): void {
    const { command } = this.#options
    const why = `${this.#name} (${command.argv[0]} …) ${text}`
    this.#settled.reject(new FdbError('ERR_FDB_SUCCESSOR_EXITED', why, { details: { code, signal } }))
    // A process that the command has left behind, as a wrapper does, must not join after this failure.
    if (!isCommitted(this.#incumbent.phase ?? this.#phase)) void this.child.end()
  }

  get #name(): string {
    return this.#options.name(this.child.pid)
  }

  /** The part of an error about a process that may be the successor all the same. */
  get #meanwhile(): string {
    const failure = this.#failureOfAnother
    if (failure === null) return ''
    return `; ${anotherFailed(failure)}`
  }

  get #keepsServing(): string {
    const text = this.#options.servesOn()
    return text === null ? '' : `; ${text}`
  }

  #report(phase: string, pid: number): void {
    this.#options.progress?.({ phase, at: Date.now(), pid })
  }

  /** Whether the attempt is cancelled and only waits for the successor's end. */
  get isCancelled(): boolean {
    return this.#isCancelling
  }

  /** Ends the successor and rejects the outcome. If the Commit was sent already, the attempt continues. */
  async #cancel(reason: unknown): Promise<void> {
    if (this.#isCancelling || this.#isSettled) return
    this.#isCancelling = true
    try {
      await this.#giveUp(reason)
    } catch (error) {
      this.#settled.reject(error)
    }
  }

  async #giveUp(reason: unknown): Promise<void> {
    const replaced = this.#incumbent
    if (FdbError.is(reason) && isCommitted(reason.phase)) throw reason
    // A daemon reports that the handoff has failed. An owner that is closed itself cancels with LEFT_CODE.
    if (FdbError.is(reason) && BROKEN_CODES.has(reason.code) && reason.code !== LEFT_CODE) {
      const { code, message, phase = 'starting' } = reason
      await this.#failed({ code, message, phase, at: Date.now() })
      return
    }
    const phase = replaced.phase ?? this.#phase
    const cancelled = await replaced.cancelHandoff(reasonFor(reason))
    if (cancelled === 'late') {
      this.#isCancelling = false
      this.#check()
      this.#limitAfterCommit()
      return
    }
    const { pid } = this.child
    const ended = await this.child.end(replaced.graceMs(cancelled))
    await replaced.whenServing()
    // The successor serves after all: this process did not see it join.
    if (this.#hasServed()) return
    const childEnd = ended
      ? `its successor ${pid} was ended`
      : `its successor ${pid} could not be ended (it is another user's, or has left its session)`
    this.#settled.reject(
      cancelledError(reason, `${childEnd}${this.#keepsServing}`, phase === 'idle' ? 'starting' : phase),
    )
  }

  /** After the Commit the holder's deadlines decide which process serves. Limits the wait in case the holder reports nothing. */
  #limitAfterCommit(): void {
    const why = `${this.#name} was sent its Commit and has not reported since: see fd-broker status`
    const limit = afterReading(this.#options.commitMs, () => {
      if (this.#settled.reject(new FdbError('ERR_FDB_DEADLINE', why)))
        this.#incumbent.failedAfterCommit?.(this.child)
    })
    void this.outcome.catch(() => {}).finally(() => limit.clear())
  }

  /** Settles the attempt if a successor serves. */
  #hasServed(): boolean {
    const served = this.#incumbent.servedBy(this.child.pid)
    if (served === null) return false
    const { pid } = this.child
    const isOther = served.pid !== pid && this.#isOfAnother(lineageOf(identify(served.pid)))
    // The exit decides: this process hears of it in this turn or the next one.
    if (isOther && this.#hasEndedUnheard) return false
    this.#isSettled = true
    // A command that lives, or has ended with 0, may have had that process started: by a service manager, or in a container.
    if (isOther && this.#failedExit !== null) {
      this.#overtaken(served, this.#failedExit)
      return true
    }
    this.child.release()
    this.#report('serving', served.pid)
    if (isOther) this.#report('unserved', pid)
    this.#settled.resolve(served)
    return true
  }

  /** Whether the command has ended, and this process, which was busy or stopped, has not heard of that yet. */
  get #hasEndedUnheard(): boolean {
    if (this.#failedExit !== null || this.#wrapperEnded) return false
    const stat = statIfSeen(this.child.pid)
    return stat === null || stat?.hasEnded === true
  }

  /** Whether the command of this attempt has started the process. */
  hasStarted(pid: number): boolean {
    return !this.#isOfAnother(lineageOf(identify(pid)))
  }

  #isOfAnother(process: Lineage): boolean {
    const { exitReason, pid } = this.child
    return isOfAnother(process, pid, exitReason.mark.value)
  }

  /** Whether the handoff of this process is none of this attempt: another command has started it. */
  #isForeign(process: Lineage | null): boolean {
    return process !== null && !this.#isDelegated && this.#isOfAnother(process)
  }

  /** The pid of the successor that joins; null if none does, or if it is unknown. */
  get #joinerPid(): number | null {
    const { joiner } = this.#incumbent
    return this.#isForeign(joiner) ? null : (joiner?.pid ?? null)
  }

  /** The phase of the successor's handoff; undefined if another process knows it. */
  get #handoffPhase(): string | undefined {
    const { joiner, phase } = this.#incumbent
    // Before the handoff, the incumbent returns to serving only because its state goes on in a new segment.
    const isRenewal = phase === 'returning' && this.#phase === 'idle'
    return isRenewal || this.#isForeign(joiner) ? 'idle' : phase
  }

  #overtaken({ pid, generation }: Upgraded, exit: Exit): void {
    const what = `process ${pid} (generation ${generation}), which another command or a service manager has started, serves: ${this.#name} ended ${exitText(exit)} before it served`
    this.#settled.reject(new FdbError('ERR_FDB_BUSY', what, { retryable: true }))
  }

  #check(): void {
    if (this.#isSettled || this.#hasServed() || this.#isCancelling) return
    const { lastFailure: failure } = this.#incumbent
    if (failure !== null && failure !== this.#failureBefore) {
      if (!this.#isForeign(this.#incumbent.failedIn(failure))) {
        void this.#failed(failure)
        return
      }
      this.#failureOfAnother = failure
    }
    const phase = this.#handoffPhase ?? this.#phase
    // Instead of these phases `serving` is reported, by `#hasServed()`.
    if (phase === this.#phase || phase === 'probation' || phase === 'released') return
    this.#phase = phase
    this.#report(phase, this.#joinerPid ?? this.child.pid)
  }

  /** Milliseconds until this attempt fails unless the successor serves. */
  get leftMs(): number {
    return Math.max(0, Math.round(this.#startedAt + this.#options.limitMs - performance.now()))
  }

  /** The step that a successor that has joined has not completed: `has not called ready()`. Null if it has not joined, or is ready. */
  get missingStep(): string | null {
    return this.#joinerPid === null ? null : this.#stepAt(this.#handoffPhase)
  }

  #stepAt(phase: string | undefined): string | null {
    return phase === 'offering' ? (this.child.exitReason.step ?? this.#options.unready?.() ?? null) : null
  }

  /** The last failure that is none of this attempt; null if there is none. */
  get failureOfAnother(): Failure | null {
    return this.#failureOfAnother
  }

  /** Whether the error has facts from the successor's process (exit code, reason, stderr) that the handoff does not know. */
  get hasMoreDetail(): boolean {
    return this.#hasMoreDetail
  }

  /** Reports the handoff's failure, and later ends the successor, which usually ends by itself when it has reported why it failed. */
  async #failed({ code, message, phase }: Failure): Promise<void> {
    if (this.#isFailing) return
    this.#isFailing = true
    let how: string | null = null
    let lines: string | null = null
    let reason: string | null = null
    const mayHaveClients = isCommitted(phase) || this.#incumbent.successorAccepts === true
    if (BROKEN_CODES.has(code) && !mayHaveClients) {
      const exit = await Promise.race([this.child.exited, delay(REASON_MS, undefined, { ref: false })])
      how = exit === undefined ? null : exitText(exit)
      reason = this.child.exitReason.takeLine()
      lines = this.child.exitReason.takeLines()
    }
    // The handoff knows only the limit that has passed.
    const step = code === 'ERR_FDB_DEADLINE' ? this.#stepAt(phase) : null
    if (step !== null) reason = `${message}; ${this.#name} has joined, but ${step}`
    this.#hasMoreDetail = how !== null || lines !== null || reason !== null
    const name = this.#options.servesOn() !== null ? '' : `${this.#name} did not start to serve: `
    const end = how === null ? '' : `; it ended ${how}`
    const why =
      reason === null
        ? `${message}${end} (phase ${phase}${this.#keepsServing})${indented(lines)}`
        : `${reason}${this.#keepsServing}`
    this.#settled.reject(new FdbError(code, name + why, { phase }))
    if (mayHaveClients) {
      this.#incumbent.failedAfterCommit?.(this.child)
      return
    }
    // A successor whose application closed its member does not end by itself. That of a process that was replaced must not serve meanwhile.
    const endAfterMs = code === LEFT_CODE || code === 'ERR_FDB_LOST' ? AFTERMATH_MS : this.#options.endAfterMs
    setTimeout(() => this.#endFailed(), endAfterMs).unref()
  }

  /** Ends the failed successor, unless it has clients by now: its program, or a wrapper, may have joined once more. */
  #endFailed(): void {
    const incumbent = this.#incumbent
    const served = incumbent.servedBy(this.child.pid)
    const joiner = isCommitted(incumbent.phase) ? incumbent.joiner : null
    const server = served === null ? joiner : lineageOf(identify(served.pid))
    if (server === null || this.#isOfAnother(server)) void this.child.end()
    else this.child.release()
  }

  /** Returns the error for an attempt that took longer than `limit`. */
  #lateError(limit: number): FdbError {
    const reason = this.child.exitReason.takeLine() ?? this.#whyLate()
    const what = this.#wrapperEnded
      ? `the command ${this.child.pid} ended with code 0, and nothing that it started has served`
      : `${this.#name} did not serve`
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `${what} within ${limit} ms${reason === null ? '' : `: ${reason}`}${this.#meanwhile}`,
    )
  }

  /** Returns what the successor, which does not serve, has not done; null if that is unknown. */
  #whyLate(): string | null {
    const { obstacle } = this.#incumbent
    const [joinerPid, phase] = [this.#joinerPid, this.#handoffPhase]
    if (joinerPid === null && obstacle !== null) return obstacle
    if (joinerPid === null && phase === 'idle')
      return 'it has not joined: it has called neither join() nor, under fd-broker/auto, listen()'
    const step = this.#stepAt(phase ?? 'offering')
    if (step === null) return null
    if (joinerPid !== null) return `process ${joinerPid} has joined, but ${step}`
    return phase === undefined ? `it ${step}, or has not joined` : `it has joined, but ${step}`
  }
}

/** Returns the reason of a cancellation for the successor and for `status`. */
function reasonFor(reason: unknown): FdbError {
  return FdbError.is(reason) ? reason : new FdbError('ERR_FDB_ABORTED', 'the upgrade was cancelled')
}

function cancelledError(reason: unknown, who: string, phase: string): FdbError {
  const { code, message } = reasonFor(reason)
  return new FdbError(code, `${message} (phase ${phase}): ${who}`, {
    phase,
    cause: reason,
  })
}
