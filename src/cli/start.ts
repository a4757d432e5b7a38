import { existsSync, mkdirSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { InvalidArgumentError, Option } from 'commander'
import { PARENT } from '../auto/exclusion.js'
import { createPart, defaultLog, LOG_FILE, LOG_SIZE, LOG_WRITER_MS, openPart } from '../auto/log-files.js'
import { type AutoSettings, settingsOf } from '../auto/settings.js'
import { absence } from '../checks/files.js'
import { wrongOption } from '../checks/place.js'
import { FdbError } from '../errors.js'
import { OperatorClient, statusAt } from '../operator/client.js'
import {
  isDaemon,
  probationText,
  type ServiceStatus,
  STATUS_ANSWER_MS,
  type StatusAnswer,
} from '../operator/status-report.js'
import { namedPath, successorCommand } from '../os/command-line.js'
import { checkSocketPath } from '../os/connect.js'
import { removeDeadControl } from '../os/control-path.js'
import { indented, NO_REASON, withAbort } from '../versions/exit-reason.js'
import { AFTERMATH_MS, exitText, type Successor, spawnSuccessor } from '../versions/spawn-successor.js'
import { killHungText, pollUntil } from './ask-service.js'
import type { Command } from './command.js'
import { durationOption } from './options.js'
import { codeAndMessage, plain, print, WaitingLine, WaitingNotes, writeStderr } from './output.js'
import { portHolderText } from './port-holder.js'
import { CANCEL_SIGNALS } from './signals.js'
import { startTurn } from './start-turn.js'

/** Bytes at the end of a log in which the reason of a failure is searched. */
const SEARCHED = 64 * 1024
/** Number of log lines in an error message. */
const SHOWN_LINES = 10
/** Node prints this line before an uncaught error: `file:///srv/server.mjs:33`. */
const ERROR_PLACE = /^(?:file:\/\/|node:|\/)\S*:\d+$/
const ERROR_LINES = 16
const STACK = /^ {4}at /m
/** Log lines of fd-broker/auto. */
const OWN_LINE = /^fd-broker: /
/** Log lines of fd-broker/auto with a reason for an error that follows. */
const REASON = /^fd-broker: (?:a server does not listen: |.*\bruns without upgrades\b)/
/** A log line of fd-broker/auto: the program will not serve as a version. */
const LEFT_OUT = /^fd-broker: (.*\bruns without upgrades\b.*)$/m
/** In such a line. Untrue of a program that `start` has ended. */
const RUNS_ALONE = /\bruns without upgrades\b/
/** In such a line, or in that of a program that has ended: the service refused it, because another next version was taking over. */
const REFUSED_AS_BUSY = /\b(?:runs without upgrades|this version does not serve): ERR_FDB_BUSY: /

interface StartProgramFlags {
  readonly name?: string
  readonly ready?: string
  readonly logFile?: string
  readonly logSize: string
  readonly pidFile?: string
  readonly timeout: number
  readonly json?: true
}

export function addStart(program: Command): void {
  program
    .command('start')
    .description(
      'start a Node program in the background under fd-broker/auto. If the program already runs, start its next version. Wait until it serves',
    )
    .argument('<program>', '', parseProgram)
    .argument('[args...]', 'arguments of the program, after --')
    .option('--name <service>', 'name of the service; default: the name of its package or folder', parseName)
    .option(
      '--ready <how>',
      'when the program is ready: listen, call, or a path such as /health that must answer; default: listen',
      parseReady,
    )
    .option(
      '--log-file <file>',
      'file for the output; default: SERVICE.log in /var/log/fd-broker, or in the state folder',
    )
    .addOption(
      new Option('--log-size <size>', 'a log file of this size is rotated')
        .argParser(parseSize)
        .default('10M'),
    )
    .option(
      '--pid-file <file>',
      'pid file of the serving process; default: SERVICE.pid beside the control socket',
    )
    .addOption(durationOption('--timeout <duration>', 'the program must serve within this time', '60s'))
    .json()
    .notes(`The program runs in its own session: it survives the end of the terminal. Each version writes to its own file; fd-broker logs shows
these files. fd-broker status, upgrade and stop find the program by --service. Ctrl-C ends a program that does not serve yet.
start remembers nothing: give its options and arguments each time. fd-broker upgrade keeps those of the running version.`)
    .examples(
      'fd-broker start server.js',
      'fd-broker start server.js --ready /health -- --port 8080',
      'fd-broker logs --service shop --follow',
      'fd-broker stop --service shop',
    )
    .action(start)
}

function parseProgram(text: string): string {
  if (text !== '') return text
  throw new InvalidArgumentError('Give the file of a Node program.')
}

function parseName(text: string): string {
  if (text === '') throw new InvalidArgumentError('Give a name.')
  if (!/[/\0]/.test(text)) return text
  throw new InvalidArgumentError('Give the name of a file, which has no slash.')
}

function parseReady(text: string): string {
  if (text === 'listen' || text === 'call' || text.startsWith('/')) return text
  throw new InvalidArgumentError('Give listen, call, or a path such as /health.')
}

function parseSize(text: string): string {
  if (/^[1-9]\d*[BKMG]$/i.test(text)) return text.toUpperCase()
  throw new InvalidArgumentError('Give a number with its unit: 500K, 10M, 1G.')
}

async function start(program: string, args: string[], flags: StartProgramFlags): Promise<void> {
  const file = namedPath(program)
  const absent = absence(file)
  if (absent !== null) throw new FdbError('ERR_FDB_OPTION', `${absent}: give the file of a Node program`)
  const named: NodeJS.ProcessEnv = {
    ...(flags.name !== undefined && { FD_BROKER_NAME: flags.name }),
    ...(flags.ready !== undefined && { FD_BROKER_READY: flags.ready }),
  }
  const { service, control, ready } = settingsOf(file, { ...process.env, ...named })
  checkSocketPath(control)
  const givenLog = flags.logFile ?? (process.env[LOG_FILE] || undefined)
  const log = namedPath(givenLog ?? defaultLog(service, process.env))
  const pidFile = namedPath(flags.pidFile ?? control.replace(/\.sock$/, '.pid'))
  makeFolder('log-file', log, givenLog === undefined ? REMEDIES.log : undefined)
  makeFolder('pid-file', pidFile, flags.pidFile === undefined ? REMEDIES.pid : undefined)
  if (ready === 'listen' && flags.ready === undefined) await noteForgottenReady(control)
  using waiting = new WaitingLine(`starting ${program}`)
  const begun = performance.now()
  using _turn = await startTurn(control, begun + flags.timeout, () =>
    writeStderr(`another fd-broker start of ${service} is under way: waiting for its end`),
  )
  const partPath = createPart(log)
  // Signals are handled from here on: the program starts next, and a signal must end it too.
  const cancelled = firstOf(CANCEL_SIGNALS)
  const part = openPart(log, { ...process.env, [LOG_SIZE]: flags.logSize }, partPath)
  const auto = pathToFileURL(join(import.meta.dirname, 'auto.js')).href
  const command = successorCommand({
    argv: [process.execPath, '--import', auto, file, ...args],
    // If a program under fd-broker/auto runs this command, PARENT would make the started program a part of that one.
    env: { ...named, ...part.env, FD_BROKER_PID_FILE: pidFile, [PARENT]: undefined },
  })
  const child = await spawnSuccessor(command, { control, stdio: part.stdio })
  part.close()
  child.unref()
  const start = new ProgramStart(program, child, { control, ready, log: part.path })
  waiting.text = `waiting for ${start.name} to serve`
  const notes = new WaitingNotes(waiting, () => start.missingText())
  const outcome = await start.outcome(begun + flags.timeout, cancelled).finally(() => {
    notes[Symbol.dispose]()
    waiting[Symbol.dispose]()
  })
  const decided = outcome ?? (await start.late(flags.timeout))
  const generation = typeof decided === 'number' ? decided : await start.cancel(decided)
  const ms = Math.round(performance.now() - begun)
  const text = `generation ${generation} of ${service} (pid ${child.pid}) serves, after ${ms} ms\nlog: ${log}\n`
  print(flags.json, { ok: true, service, generation, pid: child.pid, log, pidFile, control, ms }, text)
}

/** Prints a note if the running version was started with --ready, and this start does not give the option. */
async function noteForgottenReady(control: string): Promise<void> {
  const answer = existsSync(control) ? await statusAt(control, STATUS_ANSWER_MS).catch(() => null) : null
  const { ready = 'listen' } = serviceStatus(answer).details ?? {}
  if (ready === 'listen') return
  writeStderr(
    `the running version was started with --ready ${plain(ready)}, but this start does not give the option, and remembers none: fd-broker upgrade keeps the options of the running version`,
  )
}

/** Resolves with the first of the signals that arrives. The same signal again ends this process. */
function firstOf(signals: readonly NodeJS.Signals[]): Promise<NodeJS.Signals> {
  return new Promise(resolve => {
    for (const signal of signals) process.once(signal, resolve)
  })
}

/** Watches a program that was started, until it serves. */
export class ProgramStart {
  readonly name: string
  readonly #child: Successor
  readonly #control: string
  readonly #ready: AutoSettings['ready']
  readonly #log: string
  readonly #newLines: NewLines
  #over = false

  constructor(
    program: string,
    child: Successor,
    { control, ready, log }: Pick<AutoSettings, 'control' | 'ready'> & { readonly log: string },
  ) {
    this.name = `${program} (pid ${child.pid})`
    this.#child = child
    this.#control = control
    this.#ready = ready
    this.#log = log
    this.#newLines = new NewLines(log)
  }

  /**
   * Resolves with the program's generation when it serves, with a signal that cancels the start, or with null at `until`. Rejects if the
   * program has ended, or reports that it does not serve as a version.
   */
  async outcome(until: number, cancelled: Promise<NodeJS.Signals>): Promise<number | NodeJS.Signals | null> {
    try {
      const attempt = async () =>
        this.#over ? 0 : ((await this.#generation()) ?? (await this.#refuseLeftOut()))
      return await Promise.race([this.#rejectAtEnd(), cancelled, pollUntil(until, attempt)])
    } finally {
      this.#over = true
    }
  }

  /** Resolves with the program's generation if it serves. Otherwise ends the program, and exits as this process would by the signal. */
  async cancel(signal: NodeJS.Signals): Promise<number> {
    writeStderr(`${signal}: cancelling the start`)
    const generation = await this.#generation()
    if (generation !== null) return generation
    const ended = await this.#end()
    const { pid, generation: other } = await this.#status()
    const serves = pid === undefined ? '' : `; process ${pid} (generation ${other}) serves on`
    const message = `the start was cancelled: ${this.name} ${ended}${serves}; its log is ${this.#log}`
    writeStderr(codeAndMessage({ code: 'ERR_FDB_ABORTED', message }))
    process.exit(128 + constants.signals[signal])
  }

  /** Resolves with what the program has not done yet. */
  async missingText(): Promise<string> {
    return `${this.name} does not serve yet: ${await this.#whyUnserved()}; its log is ${this.#log}`
  }

  /** Ends the program and rejects: it did not serve within `limit` milliseconds. Resolves with its generation if it serves by now. */
  async late(limit: number): Promise<number> {
    const [why, lines] = [await this.#whyUnserved(), await lastLines(this.#log)]
    const generation = await this.#generation()
    if (generation !== null) return generation
    const ended = await this.#end()
    throw new FdbError(
      'ERR_FDB_DEADLINE',
      `${this.name} did not serve within ${limit} ms, and ${ended}: ${why}${hintFor(lines)}; its log is ${this.#log}${indented(lines)}`,
    )
  }

  /** Rejects with the reason when the program has ended by itself. */
  async #rejectAtEnd(): Promise<never> {
    const exit = await this.#child.exited
    await new Promise(resolve => setTimeout(resolve, AFTERMATH_MS))
    // This process has ended the program, and reports the reason elsewhere.
    if (this.#over) return await new Promise<never>(() => {})
    const { why: reason, lines: last } = this.#child.exitReason.takeReason()
    const why =
      reason === NO_REASON && exit.code === 0
        ? 'none of its servers listened'
        : withAbort(reason, exit.signal === 'SIGABRT')
    this.#child.exitReason.close()
    removeDeadControl(this.#control)
    const lines = reason === NO_REASON || last !== null ? await this.#loggedReason(last) : null
    const isBusy = lines !== null && REFUSED_AS_BUSY.test(lines)
    throw new FdbError(
      isBusy ? 'ERR_FDB_BUSY' : 'ERR_FDB_SUCCESSOR_EXITED',
      `${this.name} ended ${exitText(exit)} before it served: ${why}${hintFor(lines)}; its log is ${this.#log}${indented(lines)}`,
    )
  }

  /** Resolves with lines of the log, or with `last`, the last stderr lines. Another process writes the log, and may still be writing. */
  async #loggedReason(last: string | null): Promise<string | null> {
    const until = performance.now() + LOG_WRITER_MS
    if (last === null) return await pollUntil(until, () => lastLines(this.#log))
    const error = () => uncaughtError(this.#log)
    // Node prints an uncaught error after everything else.
    return (await (STACK.test(last) ? pollUntil(until, error) : error())) ?? last
  }

  /** Resolves with the program's generation; null if it does not serve yet. */
  async #generation(): Promise<number | null> {
    const { pid, role, generation } = await this.#status()
    if (pid !== this.#child.pid || role !== 'serving') return null
    this.#child.exitReason.close()
    return generation ?? null
  }

  /** Ends the program and rejects if it reports that it does not serve as a version. Otherwise resolves with null. */
  async #refuseLeftOut(): Promise<null> {
    const [, why] = LEFT_OUT.exec(await this.#newLines.read()) ?? []
    if (why === undefined || this.#over) return null
    this.#over = true
    const isBusy = REFUSED_AS_BUSY.test(why)
    const ended = await this.#end()
    throw new FdbError(
      isBusy ? 'ERR_FDB_BUSY' : 'ERR_FDB_SUCCESSOR_LOST',
      `${this.name} does not serve as a version, and ${ended}: ${plain(why.replace(RUNS_ALONE, 'would run without upgrades'))}; its log is ${this.#log}`,
    )
  }

  /** Resolves with the reason why the program does not serve yet. */
  async #whyUnserved(): Promise<string> {
    using client = await OperatorClient.connect(this.#control, { timeout: STATUS_ANSWER_MS }).catch(
      () => null,
    )
    const answer = await client
      ?.status({ timeout: STATUS_ANSWER_MS })
      .catch((error: unknown) => FdbError.from(error))
    if (client !== null && FdbError.is(answer) && answer.code === 'ERR_FDB_DEADLINE') {
      const process =
        client.peerPid === 0
          ? `the process that listens at ${this.#control}`
          : `process ${client.peerPid}, which listens at ${this.#control},`
      return `${process} does not answer (it is stopped, overloaded, or hangs): ${killHungText(this.#control)}`
    }
    const {
      pid,
      generation,
      listeners = [],
      phase,
      probationSeconds,
    } = FdbError.is(answer) ? {} : serviceStatus(answer)
    if (pid === undefined)
      return 'none of its servers listens: it has not called listen(), or listen() has failed'
    const step = this.#child.exitReason.step
    if (pid === this.#child.pid) return `it listens, but ${step === null ? this.#unready : plain(step)}`
    if (phase === 'probation' && step === null) return probationText(pid, probationSeconds)
    const addresses = listeners.map(({ address }) => plain(address)).join(', ')
    const unknown = `it does not listen on ${addresses}${this.#ready === 'listen' ? '' : `, or ${this.#unready}`}`
    const why = step === null ? unknown : `it ${plain(step)}`
    return `${why}; process ${pid} (generation ${generation}) serves on`
  }

  get #unready(): string {
    if (this.#ready === 'call') return 'has not called ready() of fd-broker/auto'
    return this.#ready === 'listen' ? 'is not ready' : `GET ${this.#ready.path} has not succeeded`
  }

  async #status(): Promise<ServiceStatus> {
    return serviceStatus(await statusAt(this.#control, STATUS_ANSWER_MS).catch(() => null))
  }

  async #end(): Promise<string> {
    const ended = await this.#child.end()
    this.#child.exitReason.close()
    removeDeadControl(this.#control)
    return ended ? 'was ended' : 'could not be ended'
  }
}

/** Returns a hint about the cause in the last lines of a program; '' if there is none. */
function hintFor(lines: string | null): string {
  if (lines !== null && /ERR_UNKNOWN_FILE_EXTENSION.*\.[cm]?tsx?"/s.test(lines))
    return `; Node ${process.versions.node} does not run TypeScript: compile the program, or install tsx and set NODE_OPTIONS='--import tsx'`
  const holder = portHolderText(lines)
  return holder === null ? '' : `; ${holder}`
}

/** Returns the status of the service; an empty one without an answer, or if a daemon has answered. */
function serviceStatus(answer: StatusAnswer | null | undefined): ServiceStatus {
  return answer == null || isDaemon(answer) ? {} : answer
}

/** Resolves with the last lines of fd-broker/auto in a log; if there are none, with its last lines; if the log is empty, with null. */
async function lastLines(log: string): Promise<string | null> {
  const lines = (await readTail(log)).split('\n').filter(line => line.trim() !== '')
  const own = lines.filter(line => OWN_LINE.test(line))
  return (own.length > 0 ? own : lines).slice(-SHOWN_LINES).join('\n') || null
}

/**
 * Resolves with the first lines of the last uncaught error in a log, which name its file and line; null if there is none. The lines with
 * {@link REASON} are before them: a program may throw another error because of it.
 */
async function uncaughtError(log: string): Promise<string | null> {
  const lines = (await readTail(log)).split('\n')
  const first = lines.findLastIndex(line => ERROR_PLACE.test(line))
  if (first < 0) return null
  const reasons = lines.slice(0, first).filter(line => REASON.test(line))
  const error = lines.slice(first, first + ERROR_LINES).filter(line => line.trim() !== '')
  return [...reasons.slice(-SHOWN_LINES), ...error].join('\n')
}

/** Reads each line that is appended to a log once. If more than {@link SEARCHED} bytes were appended, reads only the last ones. */
export class NewLines {
  readonly #path: string
  #from = 0

  constructor(path: string) {
    this.#path = path
  }

  /** Resolves with the complete lines since the last call. */
  async read(): Promise<string> {
    const { bytes, from } = await readTailBytes(this.#path, this.#from)
    const end = bytes.lastIndexOf('\n') + 1
    this.#from = from + end
    return bytes.toString('utf8', 0, end)
  }
}

async function readTail(path: string): Promise<string> {
  return (await readTailBytes(path, 0)).bytes.toString()
}

/** Resolves with the bytes of a file after position `after`, at most the last {@link SEARCHED}; with none if it cannot be read. */
async function readTailBytes(path: string, after: number): Promise<{ bytes: Buffer; from: number }> {
  try {
    await using file = await open(path)
    const { size } = await file.stat()
    // A shorter file is a new one: the log was rotated.
    const from = Math.max(after > size ? 0 : after, size - SEARCHED)
    const { buffer, bytesRead } = await file.read(Buffer.alloc(size - from), 0, size - from, from)
    return { bytes: buffer.subarray(0, bytesRead), from }
  } catch {
    return { bytes: Buffer.alloc(0), from: after }
  }
}

/** For files whose option was not given. */
const REMEDIES = {
  log: {
    what: 'default log file',
    remedy: 'give --log-file, or set XDG_STATE_HOME to a folder of this user',
  },
  pid: {
    what: 'default pid file, beside the control socket,',
    remedy: 'set FD_BROKER_CONTROL to a path in a folder that this user can make or has',
  },
}

/** Creates the folder of a file. Throws ERR_FDB_OPTION, which names the option, or `byDefault` if the option was not given. */
function makeFolder(option: string, path: string, byDefault?: { what: string; remedy: string }): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  } catch (error) {
    const { message } = error as Error
    if (byDefault === undefined)
      throw wrongOption(option, path, `a file in a folder that can be made (${message})`)
    const { what, remedy } = byDefault
    throw new FdbError('ERR_FDB_OPTION', `the ${what} ${path} cannot be created (${message}): ${remedy}`)
  }
}
