import type { StdioOptions } from 'node:child_process'
import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { EventLog } from '../../events/event-log.js'
import { failureFacts } from '../../events/events.js'
import { orderFacts, type Requester } from '../../events/requester.js'
import type { Id } from '../../handoff/messages.js'
import type { Peer } from '../../holder/peer.js'
import { refuseWithout, type Upgraded, type UpgradeProgress } from '../../operator/requests.js'
import { askServing } from '../../operator/serving.js'
import { type Failure, probationText, type UpgradeReport } from '../../operator/status-report.js'
import { successorCommand } from '../../os/command-line.js'
import { checkGivenUp, givingUp, type NamedAddress } from '../../os/given-up.js'
import type { Lineage } from '../../os/lineage.js'
import { pidOf } from '../../os/liveness.js'
import { descendsFrom, processStat } from '../../os/main-process.js'
import { checkMemoryRoom } from '../../os/memory-room.js'
import { canNameMainProcess, type MainProcess } from '../../os/service-manager/service-manager.js'
import { GRACE_MS } from '../../versions/leftover-processes.js'
import type { Successor } from '../../versions/spawn-successor.js'
import type { CancelResult } from '../../versions/upgrade-attempt.js'
import { type AttemptIncumbent, OWN_END_MS, UpgradeAttempt } from '../../versions/upgrade-attempt.js'
import type { Hosting } from '../lifecycle/hosting.js'
import { probationError } from '../lifecycle/hosting.js'
import { type Machine, type Origin, SELF } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { RetiredReason, UpgradeOptions } from '../options/member-options.js'
import type { Settings } from '../options/options.js'
import { refuseMainProcess } from '../options/options.js'

/** Within this time a cancelled upgrade is over: its successor has ended, and this process writes again. */
const GIVEN_UP_MS = 10_000
/** Within this time after a cancellation the incumbent writes again. */
const SERVING_MS = 2_000

export interface UpgradesDeps {
  readonly settings: Settings
  readonly origin: Pick<Origin, 'generation'>
  readonly machine: Machine
  readonly hosting: Hosting
  readonly shutdown: Shutdown
  readonly events: Pick<EventLog, 'note'>
}

interface SuccessorStart {
  /** Whether this process only holds the descriptors of a killed one. Errors then do not say that it serves on. */
  readonly isStandIn?: boolean
  /** Default: the folder in which this process was started. */
  readonly cwd?: string
  /** The operator. */
  readonly by?: Requester
  readonly isForwarded?: boolean
}

/** The output of a successor, if it does not share that of this process. */
export interface SuccessorOutput {
  readonly stdio: StdioOptions
  readonly env: NodeJS.ProcessEnv
  /** Called when the successor has been started, or could not be started. */
  close(): void
}

/** The upgrades that this process starts, one at a time. Owns the successors. */
export class Upgrades implements AttemptIncumbent {
  readonly #deps: UpgradesDeps
  readonly started: Successor[] = []
  /** Opens the output of the next successor. Null if successors share the output of this process. */
  output: (() => SuccessorOutput) | null = null
  /** Returns the step that a successor has missed if it has joined and is not ready. */
  unready: () => string = () => 'has not called ready()'
  /** Returns the listeners at which a successor must listen. Null if its own code decides that. */
  required: (() => readonly NamedAddress[]) | null = null
  /** Returns the joiner that waits for the end of this process's probation; null if there is none. */
  waitingPid: () => number | null = () => null
  #underWay: { end(reason: FdbError, graceMs: number): Promise<void> } | null = null
  /** The upgrade under way, once its successor has been started. */
  #attempt: UpgradeAttempt | null = null
  /** The last reported step of the upgrade under way. */
  #step: UpgradeProgress | null = null
  /** The time between SIGTERM and SIGKILL for the successor of a cancelled upgrade. */
  #graceMs = GRACE_MS
  /** The successor serves, although this process has not heard of the commit. */
  #isReplaced = false
  /** No process has told whether the successor serves. */
  successorAccepts = false
  /** The last failure of an upgrade that the handoff itself has not recorded. */
  #failure: Failure | null = null

  constructor(deps: UpgradesDeps) {
    this.#deps = deps
  }

  /** Returns the variables of a successor that gives up these addresses. Throws ERR_FDB_OPTION if they are none of this process. */
  givingUp(addresses: readonly string[]): NodeJS.ProcessEnv {
    const listeners = this.required?.() ?? []
    if (this.required === null) refuseWithout(addresses, 'is not under fd-broker/auto')
    checkGivenUp(addresses, listeners, process.pid)
    return givingUp(addresses)
  }

  get underWay(): boolean {
    return this.#underWay !== null
  }

  get lastFailure(): Failure | null {
    const own = this.#failure
    const handoff = this.#deps.hosting.holder?.timeline.lastFailure ?? null
    return own !== null && (handoff === null || own.at >= handoff.at) ? own : handoff
  }

  get report(): UpgradeReport | null {
    if (this.#attempt === null || this.#step === null) return null
    const { pid, phase, at } = this.#step
    const { missingStep, leftMs } = this.#attempt
    const { ready } = this.#deps.settings.times
    // The successor must be ready within the limit of its phase, which may end before that of the upgrade.
    const left = phase === 'offering' ? Math.min(leftMs, Math.max(0, at + ready - Date.now())) : leftMs
    return { pid, phase, missing: missingStep === null ? null : `it ${missingStep}`, leftMs: left }
  }

  get phase(): string | undefined {
    return this.#deps.machine.holder?.phase
  }

  /**
   * Returns the process that has replaced this one; null if this one still serves, or has left without a successor. If `started` is the pid of
   * a wrapper, the process that serves has another pid.
   */
  servedBy(started: number): Upgraded | null {
    const { machine, origin } = this.#deps
    if (machine.phase !== 'standby' && this.#whyLeft !== 'replaced' && !this.#isReplaced) return null
    // In daemon hosting the successor's pid is not known here.
    const peer = this.#peer(machine.holder?.owner)
    return { pid: peer?.pid ?? started, generation: peer?.generation ?? origin.generation + 1 }
  }

  /** The successor that serves. Null if there is none, its pid is unknown in this PID namespace, or the holder is a daemon. */
  get servingSuccessor(): MainProcess | null {
    const peer = this.#peer(this.#deps.machine.holder?.owner)
    if (peer === undefined) return null
    const pid = peer.pidfd === null ? peer.pid : pidOf(peer.pidfd)
    return pid > 0 ? { pid, pidfd: peer.pidfd } : null
  }

  /** Returns the living process that this one has started as its successor, or whose descendant `successor` is. Null if another process has started it. */
  startedAs(successor: MainProcess | null): Successor | null {
    const last = this.started.findLast(({ pid }) => processStat(pid)?.hasEnded === false)
    if (last === undefined) return null
    return successor === null || descendsFrom(successor.pid, last.pid) ? last : null
  }

  get joiner(): Lineage | null {
    return this.#peer(this.#deps.machine.holder?.joiner)?.lineage ?? null
  }

  get isHandingOver(): boolean {
    return this.#deps.hosting.isHandingOver
  }

  failedIn(failure: Failure): Lineage | null {
    return this.#deps.hosting.holder?.timeline.failedIn(failure) ?? null
  }

  get obstacle(): string | null {
    const { probationLeftMs } = this.#deps.hosting
    return probationLeftMs === null ? null : probationText(process.pid, probationLeftMs / 1_000)
  }

  cancelHandoff(reason: FdbError): CancelResult | Promise<CancelResult> {
    return this.#deps.hosting.cancelHandoff(reason)
  }

  watch(onChange: () => void): () => void {
    return this.#deps.machine.changes.watch(onChange)
  }

  /** A successor that has not joined has no descriptors to release, so it gets no time before SIGKILL. */
  graceMs(cancelled: CancelResult): number {
    return cancelled === 'idle' && this.#deps.machine.phase === 'serving' ? 0 : this.#graceMs
  }

  /** Null if this process does not leave. */
  get #whyLeft(): RetiredReason | null {
    const { hosting, machine, shutdown } = this.#deps
    return machine.phase === 'leaving' ? shutdown.whyLeft(hosting.released) : null
  }

  /** Fails the upgrade under way if this process has lost the right to serve to another process than its successor. Called when it leaves. */
  async failIfLost(): Promise<void> {
    const { control, service } = this.#deps.settings
    const attempt = this.#attempt
    if (attempt === null || this.#whyLeft !== 'lost') return
    // A daemon that this process could not hear may have given the right to the successor.
    const serving = await askServing(control, service)
    if (this.#attempt !== attempt) return
    this.successorAccepts = FdbError.is(serving)
    if (
      serving !== null &&
      !FdbError.is(serving) &&
      serving.pid !== null &&
      attempt.hasStarted(serving.pid)
    ) {
      this.#isReplaced = true
      this.#deps.machine.changes.notify()
      return
    }
    const why = `process ${process.pid} has lost the right to serve, and starts no successor any more: see fd-broker status`
    this.#recordFailure(new FdbError('ERR_FDB_LOST', why))
  }

  async whenServing(): Promise<void> {
    const { machine } = this.#deps
    const settled = () => machine.phase !== 'frozen' && machine.holder?.phase !== 'returning'
    await machine.changes.until(settled, SERVING_MS)
  }

  /** Starts this process's successor and waits until it serves. See `Member.upgrade`. */
  async start(options: UpgradeOptions, where: SuccessorStart = {}): Promise<Upgraded> {
    // If the successor of a failed upgrade is still ending, wait for its end instead of failing with ERR_FDB_BUSY.
    const beingEnded = () => this.#attempt?.isCancelled === true
    if (beingEnded()) await this.#deps.machine.changes.until(() => !beingEnded(), GIVEN_UP_MS)
    this.#refuseNow()
    options.signal?.throwIfAborted()
    const { events } = this.#deps
    // A daemon that forwards an order records it, its sender and its failure.
    const note: EventLog['note'] = (type, facts) => {
      if (where.isForwarded !== true) events.note(type, facts)
    }
    note('upgrade.ordered', orderFacts(where.by))
    const ended = new AbortController()
    this.#graceMs = GRACE_MS
    const failureBefore = this.lastFailure
    const upgraded = this.#run({ ...options, ...where }, ended.signal)
    this.#underWay = {
      end: async (reason, ms) => {
        this.#graceMs = Math.min(ms, GRACE_MS)
        ended.abort(reason)
        await upgraded.catch(() => {})
      },
    }
    this.#deps.machine.changes.notify()
    try {
      return await upgraded
    } catch (error) {
      // Keep the failure that the handoff has recorded, unless the attempt knows more.
      const { lastFailure } = this
      const isOther = lastFailure === failureBefore || lastFailure === this.#attempt?.failureOfAnother
      const unknown = isOther || this.#attempt?.hasMoreDetail === true
      if (FdbError.is(error) && unknown) this.#recordFailure(error)
      note('upgrade.failed', failureFacts(error))
      throw error
    } finally {
      this.#underWay = null
      this.#attempt = null
      this.#step = null
      this.#deps.machine.changes.notify()
    }
  }

  /** Ends a successor that is starting, unless Commit was sent; kills it after `graceMs`. Resolves when the upgrade is over. */
  async end(graceMs: number): Promise<void> {
    const why = `process ${process.pid} was asked to end during its upgrade`
    await this.#underWay?.end(new FdbError('ERR_FDB_ABORTED', why), graceMs)
  }

  /** This process ends, perhaps before an upgrade that it has cancelled is over: its successor leaves no reason any more. */
  close(): void {
    this.#attempt?.child.exitReason.close()
  }

  async #run(options: UpgradeOptions & SuccessorStart, ended: AbortSignal): Promise<Upgraded> {
    const output = this.output?.() ?? null
    const attempt = await this.#begin(options, ended, output).finally(() => output?.close())
    this.#attempt = attempt
    this.started.push(attempt.child)
    return await attempt.outcome
  }

  async #begin(
    options: UpgradeOptions & SuccessorStart,
    ended: AbortSignal,
    output: SuccessorOutput | null,
  ): Promise<UpgradeAttempt> {
    const { settings, shutdown } = this.#deps
    const { control, logger, systemd, times, timeout } = settings
    const { argv = [], cwd, env, isStandIn = false, signal } = options
    const { ready, quiesce, freeze, prepare, commit } = times
    const report = guardedProgress(options.progress, logger)
    const command = successorCommand({
      argv: argv.length > 0 ? argv : undefined,
      env: { ...givingUp([]), ...env, ...output?.env },
      cwd,
    })
    // A stand-in has no clients that could be lost: the service is down until a version starts.
    if (!isStandIn) checkMemoryRoom(command.file)
    return await UpgradeAttempt.start(this, {
      command,
      control: control!,
      stdio: output?.stdio,
      isGuarded: systemd === 'auto' && canNameMainProcess(),
      logger,
      limitMs: options.timeout ?? ready + quiesce + freeze + prepare + commit + timeout,
      commitMs: commit + prepare + OWN_END_MS,
      endAfterMs: OWN_END_MS,
      name: pid => `the successor ${pid}`,
      servesOn: () =>
        isStandIn || shutdown.closing || shutdown.over || this.#whyLeft === 'lost'
          ? null
          : `process ${process.pid} serves on`,
      unready: () => this.unready(),
      progress: step => {
        this.#step = step
        report(step)
      },
      signals: signal === undefined ? [ended] : [ended, signal],
    })
  }

  #refuseNow(): void {
    const { machine, settings, shutdown } = this.#deps
    const { phase } = machine
    if (shutdown.over || phase === 'gone') {
      const error =
        'this process has left the service, and can start no successor: start the next version as you start the first'
      throw new FdbError('ERR_FDB_CLOSED', error, { phase })
    }
    if (settings.control === null) {
      throw new FdbError(
        'ERR_FDB_NO_CONTROL',
        'this process runs with control: false and cannot be upgraded: give join() a control path',
      )
    }
    refuseMainProcess(this.#deps, 'its successor')
    // A successor that joins the process that serves afterwards would not be known here, and would be ended as late.
    if (shutdown.closing)
      throw new FdbError(
        'ERR_FDB_BUSY',
        `process ${process.pid} is leaving, and another version may serve next: try again when it has left`,
        { retryable: true, phase },
      )
    // An unfit process may be upgraded, because the next version may be able to write.
    const serves = phase === 'serving' || phase === 'unfit'
    const joining = this.#underWay === null ? this.joiner : null
    if (joining !== null)
      throw new FdbError(
        'ERR_FDB_BUSY',
        `process ${joining.pid} is taking over (phase ${this.phase}): try again when that is over`,
        { retryable: true, phase },
      )
    const waiting = this.#underWay === null ? this.waitingPid() : null
    if (waiting !== null)
      throw new FdbError(
        'ERR_FDB_BUSY',
        `process ${waiting}, which was started before, waits to take over when the probation ends: try again when that is over`,
        { retryable: true, phase },
      )
    if (serves && this.#underWay === null) {
      const tooEarly = probationError(this.#deps.hosting, settings.timeout)
      if (tooEarly !== null) throw tooEarly
      return
    }
    const step =
      this.#step === null
        ? ''
        : `: process ${this.#step.pid} is its successor (${this.#step.phase}), and its end cancels the upgrade`
    const why =
      this.#underWay === null
        ? `this process does not serve (it is ${phase})`
        : `an upgrade is under way${step}`
    throw new FdbError('ERR_FDB_BUSY', `${why}; try again later`, { retryable: true, phase })
  }

  #recordFailure({ code, message, phase = 'starting' }: FdbError): void {
    this.#failure = { code, message, phase, at: Date.now() }
    this.#deps.machine.changes.notify()
  }

  #peer(id: Id = SELF): Peer | undefined {
    return id === SELF ? undefined : this.#deps.hosting.holder?.peer(id)
  }
}

/** Logs the exceptions of the caller's function, because they must not end the upgrade. */
export function guardedProgress(
  progress: ((step: UpgradeProgress) => void) | undefined,
  logger: Logger,
): (step: UpgradeProgress) => void {
  return step => {
    try {
      progress?.(step)
    } catch (err) {
      logger.error(
        { err, phase: step.phase },
        'a function for the progress of an upgrade threw; the upgrade continues',
      )
    }
  }
}
