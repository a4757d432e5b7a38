import { resolve } from 'node:path'
import type { Command } from 'commander'
import { LOG_WRITER_MS, openPart, ownPart, unservedPart } from '../auto/log-files.js'
import { FdbError } from '../errors.js'
import { isCommitted } from '../handoff/phases.js'
import { openFileOf } from '../kernel/index.js'
import { OperatorClient, statusAt } from '../operator/client.js'
import type { UpgradeProgress } from '../operator/requests.js'
import { CHANGES, type ChangeReport, readChanges, UPGRADE_SELF } from '../operator/service-commands.js'
import { DAEMON_ITSELF } from '../operator/service-name.js'
import { isDaemon, type StatusAnswer } from '../operator/status-report.js'
import { givenUp, means } from '../os/given-up.js'
import type { Release } from '../os/release-link.js'
import type { SupervisorStatus } from '../run/status.js'
import {
  type AnswerFlags,
  type AskFlags,
  commandService,
  IDEMPOTENT_RETRY_CODES,
  killHungText,
  pollUntil,
} from './ask-service.js'
import { addServiceOptions } from './find-service.js'
import { durationOption } from './options.js'
import { plain, print, printFailure, style, WaitingLine, WaitingNotes } from './output.js'
import { portHolderText } from './port-holder.js'
import { type ReleaseChange, ReleasePath, upgradeTo } from './release-path.js'
import { reload } from './reload.js'
import { CANCEL_SIGNALS } from './signals.js'
import { narrowAnswer, type ServiceAddress, serviceOf } from './status-answer.js'

/** Limit for the answer of the running server. The upgrade itself may take the whole `--timeout`. */
const FIRST_ANSWER_MS = 5_000

/** Limit for the time in which the previous version reports how long it stands by. */
const STANDBY_MS = 1_000

/** Limit for the status of a server that is being upgraded. */
const STATUS_MS = 2_000

interface UpgradeFlags extends AnswerFlags {
  killStuck?: true
  binary?: string
  without?: readonly string[]
  at?: string
  smart?: true
  self?: true
}

interface ReportedPhase {
  readonly phase: string
  /** Milliseconds since the request. */
  readonly ms: number
  readonly pid: number
}

export function addUpgrade(program: Command): void {
  addServiceOptions(program.command('upgrade'))
    .description('start the next version of the running server, and wait until it serves')
    .argument('[command...]', 'command of the next version, after --; default: the current one')
    .addOption(durationOption('--timeout <duration>', 'limit for the answer', '60s'))
    .option(
      '--kill-stuck',
      'first kill processes that block the upgrade; listeners and state are kept until the next version serves, at most for --timeout',
    )
    .option(
      '--without <address>',
      'under fd-broker/auto: an address that the next version gives up; repeatable. Without it the next version serves only when it listens on all addresses of the running one',
      (address: string, all: readonly string[] = []) => [...all, address],
    )
    .option('--binary <new>', 'release to install at --at before the upgrade; undone if the upgrade fails')
    .option('--at <path>', 'the server’s link to a release folder, or its executable')
    .option('--smart', 'reload, upgrade or do nothing, depending on what has changed (fd-broker proxy)')
    .option('--self', 'replace fd-broker run, or the daemon, with the installed release')
    .option('--json', 'print the answer as JSON')
    .addHelpText(
      'after',
      `
The next version runs as the server's user, in its working folder and with its environment. INT (Ctrl-C), TERM and HUP
cancel the upgrade: before the commit the next version is ended, and the running one keeps serving. The answer names the version that
serves. A second signal, or kill -9, ends only this command.

Examples:
  $ fd-broker upgrade --control /run/shop/upgrade.sock
  $ fd-broker upgrade --control /run/shop/upgrade.sock --timeout 2m
  $ fd-broker upgrade --service edge --smart
  $ fd-broker upgrade --service shop --binary /srv/shop/releases/8 --at /srv/shop/current
  $ fd-broker upgrade --control /run/shop/upgrade.sock -- node /srv/shop-2/server.mjs --verbose`,
    )
    .action(upgrade)
}

async function upgrade(argv: string[], flags: UpgradeFlags, command: Command): Promise<void> {
  const { control, json, timeout, service: serviceOption = '', killStuck, binary, at, smart, self } = flags
  const { without = [] } = flags
  const [word = ''] = argv
  if (argv.length === 1 && !word.includes('/') && !process.argv.includes('--'))
    command.error(
      `error: name the service by --service ${word}, or give the command of the next version after --: -- ${word}`,
    )
  const daemon = self === true && isDaemon(await statusAt(control, timeout))
  const service = daemon ? DAEMON_ITSELF : serviceOption
  const ask: AskFlags = { control, timeout, service }
  if (self && !daemon) {
    if (argv.length > 0 || binary !== undefined || smart || without.length > 0)
      command.error('error: --self cannot be combined with a command, --binary, --without or --smart')
    return await upgradeSelf(ask, json)
  }
  if ((binary === undefined) !== (at === undefined)) command.error('error: give --binary and --at together')
  using waiting = new WaitingLine('waiting for the server')
  const printLine = (line: string) => {
    waiting.clear()
    if (!json) process.stdout.write(`${line}\n`)
  }
  if (smart && (argv.length > 0 || binary !== undefined || killStuck))
    command.error('error: --smart cannot be combined with a command, --binary or --kill-stuck')
  const plan = smart ? await planFor(ask) : null
  if (plan !== null && plan.done !== 'upgrade') {
    await executePlan(plan, ask, json)
    return
  }
  if (plan !== null) printLine(`${plain(plan.because)}: upgrading`)
  const decided = plan === null ? {} : { done: plan.done, changes: plan.changes }
  const answerMs = Math.min(FIRST_ANSWER_MS, timeout)
  using client = await OperatorClient.connect(control, { timeout: answerMs })
  let log: unknown
  let serving: number | null | undefined
  let lasting: string[] = []
  // Printed with the first step: a refused upgrade (ERR_FDB_BUSY) starts nothing.
  let headline: string | null = null
  const printHeadline = () => {
    if (headline !== null) printLine(headline)
    headline = null
  }
  const hung = await client.status({ timeout: answerMs }).then(
    answer => {
      const now = serviceOf(answer, service)
      // A variable of a unit outlives the upgrade that it was made for.
      const listeners = now?.listeners ?? []
      lasting = givenUp(process.env).filter(text =>
        listeners.some(({ name = '', address = '' }) => means(text, { name, address })),
      )
      log = now?.details?.log
      // A supervisor's program takes its socket from its parent.
      serving = now?.hosting === 'supervisor' ? null : now?.pid
      // A member of an earlier release ignores a wrong service name; a daemon refuses it.
      if (!isDaemon(answer)) narrowAnswer(answer, { control, service })
      headline = headlineOf(answer, service)
      return false
    },
    error => {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_DEADLINE') throw error
      if (killStuck) return true
      throw new FdbError(error.code, `${error.message}; ${killHungText(control)}`, { retryable: true })
    },
  )
  const phases: ReportedPhase[] = []
  const begun = Date.now()
  const since = () => Math.max(0, Date.now() - begun)
  const progress = ({ phase, at, pid }: UpgradeProgress) => {
    const ms = at > 0 ? Math.max(0, Math.round(at - begun)) : since()
    phases.push({ phase, ms, pid })
    waiting.text = `${phase} (pid ${pid})`
    printHeadline()
    printLine(`${String(ms).padStart(7)} ms  ${plain(phase).padEnd(11)} pid ${pid}`)
  }
  const interrupted = new AbortController()
  const cancel = (signal: NodeJS.Signals) => {
    if (interrupted.signal.aborted) process.exit(1)
    waiting.clear()
    process.stderr.write(`${signal}: cancelling the upgrade\n`)
    interrupted.abort()
  }
  for (const signal of CANCEL_SIGNALS) process.on(signal, cancel)
  try {
    const limits = { argv, without: [...without, ...lasting], timeout, progress, signal: interrupted.signal }
    const upgrade = async (release?: Release) => {
      using _notes = new WaitingNotes(waiting, async () => {
        const { missing, leftMs = timeout } = await missingStep({ control, service }, phases.at(-1))
        const left = Math.max(0, Math.round(Math.min(timeout - since(), leftMs) / 1000))
        const part = typeof log === 'string' ? unservedPart(log, begun) : null
        const logText = part == null ? '' : `; its log is ${part}`
        return `${missing}${logText}; waiting for at most ${left} s more`
      })
      return hung
        ? await (await import('../member/joining/hung-incumbent.js')).replaceHung({
            ...limits,
            timeoutMs: timeout,
            control,
            report: printLine,
            openOutput: env => {
              const own = ownPart(env)
              log = own?.log
              return own === null ? null : openPart(own.log, env)
            },
          })
        : await client.upgrade({ ...limits, service, killStuck: killStuck ?? false, release })
    }
    const { pid, generation } =
      binary === undefined || at === undefined
        ? await upgrade()
        : await upgradeTo({ control, service }, resolve(binary), releaseChange(binary, at), upgrade)
    printHeadline()
    printLine(style('green', `generation ${generation} (pid ${pid}) serves, after ${since()} ms`))
    const unserved = phases.find(({ phase }) => phase === 'unserved')
    if (unserved !== undefined)
      printLine(
        `process ${unserved.pid}, which this upgrade started, does not serve: another command, or a service manager, started process ${pid}`,
      )
    const output = client.inOtherPidNamespace
      ? undefined
      : { stdout: openFileOf(pid, 1) ?? undefined, stderr: openFileOf(pid, 2) ?? undefined }
    // The output of a program started by fd-broker start is a socket: another process reads it and writes the log.
    const logText = typeof log === 'string' ? `its log is ${log}` : null
    const note = logText ?? (output === undefined ? null : outputText(output))
    if (note !== null) printLine(plain(note))
    const seconds = await standbySeconds({ control, service }, { pid, generation, begun })
    if (seconds > 0) printLine(standbyText(seconds, at))
    print(json, { ok: true, ...decided, pid, generation, ms: since(), phases, output }, '')
  } catch (error) {
    if (FdbError.is(error)) {
      const { message } = error
      if (json) printFailure(error, { ...decided, ms: since(), phases })
      const holder = phases.length === 0 ? null : portHolderText(message, serving)
      if (holder !== null) printLine(holder)
      if (typeof log === 'string' && phases.length > 0) await printFailedLog(log, begun, printLine)
    }
    throw error
  } finally {
    for (const signal of CANCEL_SIGNALS) process.off(signal, cancel)
  }
}

/** A step of the next version, and the time that its service gives it. */
interface MissingStep {
  readonly missing: string
  readonly leftMs?: number | undefined
}

/** Resolves with the step that the next version has not done yet. `last`: the last phase of the upgrade; undefined if no process was started. */
async function missingStep(
  { control, service }: ServiceAddress,
  last: ReportedPhase | undefined,
): Promise<MissingStep> {
  const answer = await statusAt(control, STATUS_MS).catch(() => null)
  const { pid: starting, missing = null, leftMs } = (answer && serviceOf(answer, service)?.upgrade) ?? {}
  if (last === undefined) {
    const first =
      starting === undefined ? '' : `: process ${starting} does not serve yet (${missing ?? 'it starts'})`
    return { missing: `the server has not started the next version yet${first}`, leftMs }
  }
  const { pid, phase } = last
  const unjoined = 'it has not joined: it still loads, or does not use fd-broker'
  const why = missing ?? (phase === 'started' ? unjoined : `it is in phase ${phase}`)
  return { missing: `process ${pid}, the next version, does not serve yet: ${why}`, leftMs }
}

/**
 * Resolves with the seconds for which the previous version still stands by; 0 if it does not, or if that stays unknown. Rejects if the new
 * version has already failed, so that the previous one serves again.
 */
async function standbySeconds(
  { control, service }: ServiceAddress,
  { pid, generation, begun }: { readonly pid: number; readonly generation: number; readonly begun: number },
): Promise<number> {
  const until = performance.now() + STANDBY_MS
  const seconds = await pollUntil(until, async leftMs => {
    const answer = await statusAt(control, leftMs).catch(() => null)
    const now = answer && serviceOf(answer, service)
    if (now == null) return null
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

function headlineOf(answer: StatusAnswer, name: string): string {
  const now = serviceOf(answer, name)
  // The daemon refuses an unknown name itself.
  if (now === undefined) return 'upgrading'
  return `upgrading ${plain(now.service)} from generation ${plain(now.generation)} (pid ${plain(now.pid)})`
}

interface Plan {
  readonly done: 'upgrade' | 'reload' | 'nothing'
  readonly because: string
  readonly changes: ChangeReport
}

/** Asks the serving process for changes. Rejects with ERR_FDB_COMMAND_UNKNOWN if the process does not know the request. */
async function planFor(flags: AskFlags): Promise<Plan> {
  const reply = await commandService(flags, IDEMPOTENT_RETRY_CODES, CHANGES).catch(error => {
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_COMMAND_UNKNOWN') throw error
    const why =
      'this service cannot tell what has changed since its start (fd-broker proxy can): omit --smart'
    throw new FdbError(error.code, why, { cause: error })
  })
  const changes = readChanges(reply)
  const { code, next, configuration } = changes
  if (code.length > 0) return { done: 'upgrade', because: `the code has changed (${summary(code)})`, changes }
  if (next.length > 0) {
    const because = `the configuration has changes that only the next process applies (${summary(next)})`
    return { done: 'upgrade', because, changes }
  }
  if (configuration.length > 0) {
    return { done: 'reload', because: `the configuration has changed (${summary(configuration)})`, changes }
  }
  return { done: 'nothing', because: 'nothing has changed', changes }
}

const SHOWN = 3

function summary(names: readonly string[]): string {
  const more = names.length > SHOWN ? ` and ${names.length - SHOWN} more` : ''
  return names.slice(0, SHOWN).join(', ') + more
}

/** Carries out a plan without an upgrade: a reload, or nothing. */
async function executePlan(
  { done, because, changes }: Plan,
  flags: AskFlags,
  json: boolean | undefined,
): Promise<void> {
  const begun = Date.now()
  const reply = done === 'reload' ? await reload(flags) : null
  const by = reply && `: generation ${reply.generation} (pid ${reply.pid}) has read it`
  const ms = Math.max(0, Date.now() - begun)
  print(json, { ok: true, done, changes, ...reply, ms }, `${plain(because)}${by ?? ''}\n`)
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

/** Replaces a supervisor by the installed release, and waits until the new one answers. */
async function upgradeSelf(flags: AskFlags, json: boolean | undefined): Promise<void> {
  const { control, timeout } = flags
  const begun = performance.now()
  const before = await supervisorAt(control, timeout)
  try {
    await commandService(flags, new Set(), UPGRADE_SELF)
  } catch (error) {
    // The supervisor's next image does not inherit this connection.
    if (!FdbError.is(error) || error.code !== 'ERR_FDB_CHANNEL_CLOSED') throw error
  }
  const after = await pollUntil(begun + timeout, async left => {
    const now = await supervisorAt(control, left).catch(() => null)
    return now && now.replaced > (before?.replaced ?? 0) ? now : null
  })
  if (after === null)
    throw new FdbError(
      'ERR_FDB_DEADLINE',
      `the supervisor at ${control} closed the connection, but the installed release that replaces it does not answer: see the log of the supervisor`,
    )
  const { pid } = after
  const ms = Math.round(performance.now() - begun)
  print(json, { ok: true, pid, ms }, `supervisor ${pid} runs the installed release, after ${ms} ms\n`)
}

/** Resolves with undefined if the process is not a supervisor. Such a process refuses the command itself. */
async function supervisorAt(
  control: string,
  timeout: number,
): Promise<SupervisorStatus['supervisor'] | undefined> {
  return ((await statusAt(control, timeout)) as Partial<SupervisorStatus>).supervisor
}
