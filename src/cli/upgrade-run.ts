import { resolve } from 'node:path'
import { LOG_WRITER_MS, openPart, ownPart, unservedPart } from '../auto/log-files.js'
import { FdbError } from '../errors.js'
import { isCommitted } from '../handoff/phases.js'
import { openFileOf } from '../kernel/index.js'
import { OperatorClient } from '../operator/client.js'
import type { Upgraded, UpgradeProgress } from '../operator/requests.js'
import { isDaemon, probationText, STATUS_ANSWER_MS, type StatusAnswer } from '../operator/status-report.js'
import { givenUp, means } from '../os/given-up.js'
import type { Release } from '../os/release-link.js'
import type { TimelineRecorder } from '../timeline/recorder.js'
import type { TimelineOutcome } from '../timeline/timeline.js'
import { type AskFlags, killHungText, pollUntil } from './ask-service.js'
import { plain, print, printFailure, style, WaitingLine, WaitingNotes, writeStderr } from './output.js'
import { portHolderText } from './port-holder.js'
import { type ReleaseChange, ReleasePath, upgradeTo } from './release-path.js'
import { CANCEL_SIGNALS } from './signals.js'
import { askStatus, narrowAnswer, type ServiceAddress, serviceOf } from './status-answer.js'
import type { Plan } from './upgrade-plan.js'

/** Limit for the answer of the running server. The upgrade itself may take the whole `--timeout`. */
const FIRST_ANSWER_MS = 5_000

/** Limit for the time in which the previous version reports how long it stands by. */
const STANDBY_MS = 1_000

/** Limit for the time in which --timeline records the drain. */
const TIMELINE_MS = 30_000

interface UpgradeOrder extends Required<AskFlags> {
  /** The command of the next version; empty: the present one. */
  readonly argv: readonly string[]
  readonly without: readonly string[]
  readonly binary: string | undefined
  readonly at: string | undefined
  readonly json: boolean | undefined
  readonly killStuck: boolean
  /** Why `--smart` upgrades; null without that option. */
  readonly plan: Plan | null
  /** The file for the page of --timeline. */
  readonly timeline: string | undefined
}

interface ReportedPhase {
  readonly phase: string
  /** Milliseconds since the request. */
  readonly ms: number
  readonly pid: number
}

/** One upgrade, as the command line shows it: the headline, the phases, what it waits for, and the outcome. */
export class UpgradeRun implements Disposable {
  readonly #order: UpgradeOrder
  readonly #waiting = new WaitingLine('waiting for the server')
  readonly #phases: ReportedPhase[] = []
  #begun = Date.now()
  /** The log of the service, if `fd-broker start` has started it. */
  #log: unknown
  /** The process that serves now; null: its sockets are those of a supervisor. */
  #serving: number | null | undefined
  /** Addresses of the variable FD_BROKER_WITHOUT that the running version has: a unit's variable outlives the upgrade that it was made for. */
  #lasting: readonly string[] = []
  #recorder: TimelineRecorder | null = null
  /** Printed with the first phase: a refused upgrade (ERR_FDB_BUSY) starts nothing. */
  #headline: string | null = null

  constructor(order: UpgradeOrder) {
    this.#order = order
  }

  [Symbol.dispose](): void {
    this.#waiting[Symbol.dispose]()
    this.#recorder?.[Symbol.dispose]()
  }

  /** Rejects with the failure of the upgrade, which it has explained. */
  async toEnd(): Promise<void> {
    const { control, plan, timeline, timeout } = this.#order
    if (plan !== null) this.#print(`${plain(plan.because)}: upgrading`)
    const answerMs = Math.min(FIRST_ANSWER_MS, timeout)
    using client = await OperatorClient.connect(control, { timeout: answerMs })
    const hung = await this.#examine(client, answerMs)
    if (timeline !== undefined) {
      const { recordTimeline } = await import('./record-timeline.js')
      this.#recorder = await recordTimeline(timeline, this.#order)
    }
    this.#begun = Date.now()
    const interrupted = new AbortController()
    const cancel = (signal: NodeJS.Signals) => {
      if (interrupted.signal.aborted) process.exit(1)
      this.#waiting.clear()
      process.stderr.write(`${signal}: cancelling the upgrade\n`)
      interrupted.abort()
    }
    for (const signal of CANCEL_SIGNALS) process.on(signal, cancel)
    let outcome = null
    try {
      outcome = { ok: true, text: doneText(await this.#execute(client, hung, interrupted.signal)) }
    } catch (error) {
      if (FdbError.is(error)) await this.#explain(error)
      if (this.#isOwnWithout(error)) throw new FdbError(error.code, error.message, { cause: error })
      outcome = { ok: false, text: `The upgrade failed after ${this.#ms} ms: ${error}` }
      throw error
    } finally {
      for (const signal of CANCEL_SIGNALS) process.off(signal, cancel)
      if (outcome !== null) await this.#finishTimeline(outcome)
    }
  }

  /** Whether the running version has refused --without: wrong usage, though another process says so. */
  #isOwnWithout(error: unknown): error is FdbError {
    const isFirst = this.#order.without.length > 0 && this.#phases.length === 0
    return isFirst && FdbError.is(error) && error.code === 'ERR_FDB_OPTION'
  }

  async #finishTimeline(outcome: TimelineOutcome): Promise<void> {
    const { timeline } = this.#order
    if (this.#recorder === null || timeline === undefined) return
    this.#waiting.text = 'recording until the older versions have no connection'
    try {
      const { writeTimeline } = await import('./record-timeline.js')
      await writeTimeline(this.#recorder, timeline, outcome, TIMELINE_MS)
      this.#print(`the timeline is ${plain(timeline)}`)
    } catch (error) {
      // The outcome of the upgrade is what this command reports.
      writeStderr(plain(error))
    }
  }

  /** Asks the running version for its status. Resolves with whether it hangs, and --kill-stuck was given. */
  async #examine(client: OperatorClient, answerMs: number): Promise<boolean> {
    const { control, killStuck, service } = this.#order
    let answer: StatusAnswer
    try {
      answer = await client.status({ timeout: answerMs })
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_DEADLINE') throw error
      if (killStuck) return true
      throw new FdbError(error.code, `${error.message}; ${killHungText(control)}`, { retryable: true })
    }
    const now = serviceOf(answer, service)
    const listeners = now?.listeners ?? []
    this.#lasting = givenUp(process.env).filter(text =>
      listeners.some(({ name = '', address = '' }) => means(text, { name, address })),
    )
    this.#log = now?.details?.log
    // A supervisor's program takes its socket from its parent.
    this.#serving = now?.hosting === 'supervisor' ? null : now?.pid
    // A member of an earlier release ignores a wrong service name; a daemon refuses it.
    if (!isDaemon(answer)) narrowAnswer(answer, { control, service })
    this.#headline = headlineOf(answer, service)
    return false
  }

  /** Upgrades, to the release of --binary if that was given, and reports it. That may tell a failure, after which the former release is restored. */
  async #execute(client: OperatorClient, hung: boolean, signal: AbortSignal): Promise<Done> {
    const { at, binary, control, service } = this.#order
    const upgrade = async (release?: Release) => {
      const upgraded = await this.#upgrade(client, hung, { signal, release })
      const done = { ...upgraded, ms: this.#ms }
      await this.#report(client, upgraded)
      return done
    }
    return binary === undefined || at === undefined
      ? await upgrade()
      : await upgradeTo({ control, service }, resolve(binary), releaseChange(binary, at), upgrade)
  }

  async #upgrade(
    client: OperatorClient,
    hung: boolean,
    { signal, release }: { readonly signal: AbortSignal; readonly release: Release | undefined },
  ): Promise<Upgraded> {
    const { argv, killStuck, service, timeout, without } = this.#order
    const progress = (step: UpgradeProgress) => this.#progress(step)
    const limits = { argv, without: [...without, ...this.#lasting], timeout, progress, signal }
    using _notes = new WaitingNotes(this.#waiting, () => this.#waitedFor())
    if (hung) return await this.#replaceHung(limits)
    const command = argv.length > 0 ? argv : undefined
    return await client.upgrade({ ...limits, argv: command, service, killStuck, release })
  }

  async #replaceHung(limits: UpgradeLimits): Promise<Upgraded> {
    const { control, timeout } = this.#order
    const { replaceHung } = await import('../member/joining/hung-incumbent.js')
    return await replaceHung({
      ...limits,
      timeoutMs: timeout,
      control,
      report: line => this.#print(line),
      openOutput: env => {
        const own = ownPart(env)
        this.#log = own?.log
        return own === null ? null : openPart(own.log, env)
      },
    })
  }

  #progress({ phase, at, pid }: UpgradeProgress): void {
    const ms = at > 0 ? Math.max(0, Math.round(at - this.#begun)) : this.#ms
    this.#phases.push({ phase, ms, pid })
    this.#recorder?.step({ phase, at: this.#begun + ms, pid })
    this.#waiting.text = `${phase} (pid ${pid})`
    this.#printHeadline()
    this.#print(`${String(ms).padStart(7)} ms  ${plain(phase).padEnd(11)} pid ${pid}`)
  }

  /** The note of an upgrade that takes long: the step that the next version has not done, its log, and the time that is left. */
  async #waitedFor(): Promise<string> {
    const { timeout } = this.#order
    const { missing, leftMs = timeout } = await missingStep(this.#order, this.#phases.at(-1))
    const left = Math.max(0, Math.round(Math.min(timeout - this.#ms, leftMs) / 1000))
    const part = typeof this.#log === 'string' ? unservedPart(this.#log, this.#begun) : null
    const logText = part == null ? '' : `; its log is ${part}`
    return `${missing}${logText}; waiting for at most ${left} s more`
  }

  async #report(client: OperatorClient, { pid, generation }: Upgraded): Promise<void> {
    const { at, json } = this.#order
    this.#printHeadline()
    this.#print(style('green', `generation ${generation} (pid ${pid}) serves, after ${this.#ms} ms`))
    const unserved = this.#phases.find(({ phase }) => phase === 'unserved')
    if (unserved !== undefined)
      this.#print(
        `process ${unserved.pid}, which this upgrade started, does not serve: another command, or a service manager, started process ${pid}`,
      )
    const output = client.inOtherPidNamespace
      ? undefined
      : { stdout: openFileOf(pid, 1) ?? undefined, stderr: openFileOf(pid, 2) ?? undefined }
    // The output of a program started by fd-broker start is a socket: another process reads it and writes the log.
    const logText = typeof this.#log === 'string' ? `its log is ${this.#log}` : null
    const note = logText ?? (output === undefined ? null : outputText(output))
    if (note !== null) this.#print(plain(note))
    const since = { pid, generation, begun: this.#begun }
    const seconds = await standbySeconds(this.#order, since)
    if (seconds > 0) this.#print(standbyText(seconds, at))
    print(json, { ok: true, ...this.#plan, pid, generation, ms: this.#ms, phases: this.#phases, output }, '')
  }

  /** Prints the process that has the port of the version that failed, and that version's log. */
  async #explain(error: FdbError): Promise<void> {
    if (this.#order.json) printFailure(error, { ...this.#plan, ms: this.#ms, phases: this.#phases })
    if (this.#phases.length === 0) return
    const holder = portHolderText(error.message, this.#serving)
    if (holder !== null) this.#print(holder)
    if (typeof this.#log === 'string') await printFailedLog(this.#log, this.#begun, line => this.#print(line))
  }

  get #plan(): Partial<Pick<Plan, 'done' | 'changes'>> {
    const { plan } = this.#order
    return plan === null ? {} : { done: plan.done, changes: plan.changes }
  }

  /** Milliseconds since the request. */
  get #ms(): number {
    return Math.max(0, Date.now() - this.#begun)
  }

  #print(line: string): void {
    this.#waiting.clear()
    if (!this.#order.json) process.stdout.write(`${line}\n`)
  }

  #printHeadline(): void {
    if (this.#headline !== null) this.#print(this.#headline)
    this.#headline = null
  }
}

/** An upgrade, with the milliseconds from the request until the next version served. */
interface Done extends Upgraded {
  readonly ms: number
}

/** The options of both ways to upgrade. */
interface UpgradeLimits {
  readonly argv: readonly string[]
  readonly without: readonly string[]
  readonly timeout: number
  readonly progress: (step: UpgradeProgress) => void
  readonly signal: AbortSignal
}

/** A step of the next version, and the time that its service gives it. */
interface MissingStep {
  readonly missing: string
  readonly leftMs?: number | undefined
}

/** Resolves with the step that the next version has not done yet. `last`: the last phase of the upgrade; undefined if no process was started. */
async function missingStep(address: ServiceAddress, last: ReportedPhase | undefined): Promise<MissingStep> {
  const now = await askStatus(address, STATUS_ANSWER_MS)
  const { pid: starting, missing = null, leftMs } = now?.upgrade ?? {}
  if (last === undefined) {
    const first =
      starting === undefined ? '' : `: process ${starting} does not serve yet (${missing ?? 'it starts'})`
    return { missing: `the server has not started the next version yet${first}`, leftMs }
  }
  const { pid, phase } = last
  const unjoined =
    now?.phase === 'probation' && now.pid !== pid
      ? probationText(now.pid, now.probationSeconds)
      : 'it has not joined: it still loads, or does not use fd-broker'
  const why = missing ?? (phase === 'started' ? unjoined : `it is in phase ${phase}`)
  return { missing: `process ${pid}, the next version, does not serve yet: ${why}`, leftMs }
}

/**
 * Resolves with the seconds for which the previous version still stands by; 0 if it does not, or if that stays unknown. Rejects if the new
 * version has already failed, so that the previous one serves again.
 */
async function standbySeconds(
  address: ServiceAddress,
  { pid, generation, begun }: { readonly pid: number; readonly generation: number; readonly begun: number },
): Promise<number> {
  const until = performance.now() + STANDBY_MS
  const seconds = await pollUntil(until, async leftMs => {
    const now = await askStatus(address, leftMs)
    if (now === undefined) return null
    if (now.pid === pid) return now.phase === 'probation' ? (now.probationSeconds ?? null) : 0
    const { lastFailure: failure, role } = now
    if (role !== 'serving' || !failure || failure.at < begun || !isCommitted(failure.phase)) return null
    throw new FdbError(
      failure.code,
      `generation ${generation} (pid ${pid}) has served and failed: ${plain(failure.message)}; process ${now.pid} (generation ${now.generation}) serves again`,
      { phase: failure.phase },
    )
  })
  return Math.round(seconds ?? 0)
}

function standbyText(seconds: number, at: string | undefined): string {
  // Without --at a rollback would leave the link, or the executable, at the new release.
  const rollback = `fd-broker rollback${at === undefined ? '' : ` --at ${at}`}`
  return `the previous version stands by for ${seconds} s: ${rollback} returns to it`
}

/** Prints the path of the log of the version that was started since `begun` and does not serve. */
async function printFailedLog(log: string, begun: number, printLine: (line: string) => void): Promise<void> {
  const until = performance.now() + LOG_WRITER_MS
  let failed: string | null | undefined
  // The log writer creates the file at the first output of the version.
  await pollUntil(until, async () => {
    failed = unservedPart(log, begun)
    return failed === undefined ? null : true
  })
  if (failed === null) return
  const text =
    failed === undefined
      ? 'the version that failed wrote nothing to its log'
      : `the log of the version that failed is ${failed}`
  printLine(plain(text))
}

function doneText({ generation, pid, ms }: Done): string {
  return `Version ${generation} (pid ${pid}) serves, ${ms} ms after the request.`
}

function headlineOf(answer: StatusAnswer, name: string): string {
  const now = serviceOf(answer, name)
  // The daemon refuses an unknown name itself.
  if (now === undefined) return 'upgrading'
  return `upgrading ${plain(now.service)} from generation ${plain(now.generation)} (pid ${plain(now.pid)})`
}

function releaseChange(binary: string, at: string): ReleaseChange {
  const installed = new ReleasePath(at)
  return {
    path: installed.path,
    apply: () => installed.install(binary),
    revert: () => installed.revert(),
    commit: () => installed.commit(),
  }
}

/** The open files to which a process writes its output; undefined if /proc does not show them. */
interface OutputOf {
  readonly stdout: string | undefined
  readonly stderr: string | undefined
}

/** Returns a warning if the reader of the output may end before the process; null if the output is a file, or none. */
function outputText({ stdout, stderr }: OutputOf): string | null {
  const targets = [...new Set([stdout, stderr])].flatMap(target =>
    target === undefined ? [] : (describe(target) ?? []),
  )
  return targets.length === 0 ? null : `its output goes to ${targets.join(' and ')}`
}

function describe(target: string): string | null {
  const lost = 'output after its end is lost'
  if (/^\/dev\/(?:pts\/|tty|console)/.test(target)) return `the terminal ${target} (${lost})`
  if (target.startsWith('pipe:')) return `a pipe (${lost})`
  return target.startsWith('socket:') ? `a socket (${lost})` : null
}
