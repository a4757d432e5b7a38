import { existsSync, realpathSync, type Stats } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { InvalidArgumentError, Option } from 'commander'
import { defaultLog, generationLog, LOG_FILE, newestPart, servicesWithLog } from '../auto/log-files.js'
import { absence } from '../checks/files.js'
import { FdbError } from '../errors.js'
import { procText } from '../kernel/index.js'
import { OperatorClient } from '../operator/client.js'
import { isDaemon, STATUS_ANSWER_MS } from '../operator/status-report.js'
import { lookupPaths, serviceAt } from '../os/default-control.js'
import { realPathOf } from '../os/release-link.js'
import type { Command } from './command.js'
import { addServiceOptions, controlByName, findControl, type ServiceFlags } from './find-service.js'
import { namesText, writeStderr } from './output.js'
import { KEPT_FILES, rotatedPath } from './rotated-log.js'
import { failedUpgradeText } from './status.js'

/** Interval at which followed files are read. */
const POLL_MS = 200
/** Bytes of one read. */
const BLOCK = 64 * 1024
const NEWLINE = 10
/** Number of versions whose output is followed: a replaced version still writes while it has connections. */
const FOLLOWED = 4
/** Number of services that an error names. */
const SHOWN_SERVICES = 5

interface LogsFlags {
  readonly control?: string
  readonly service?: string
  readonly logFile?: string
  readonly generation?: number
  readonly lines: number
  readonly follow?: true
}

export function addLogs(program: Command): void {
  addServiceOptions(
    program.command('logs').description('show the output of a program started by fd-broker start'),
    // The log of a service that does not run can be shown too.
    () => true,
  )
    .option('-f, --follow', 'also print new output, including that of other versions')
    .addOption(
      new Option(
        '--generation <number>',
        'output of this version; default: the version that serves, or served last',
      ).argParser(parseCount),
    )
    .addOption(
      new Option('-n, --lines <number>', 'number of last lines to print').argParser(parseCount).default(100),
    )
    .option('--log-file <file>', 'log file that was given to fd-broker start')
    .examples(
      'fd-broker logs --service shop',
      'fd-broker logs --service shop --follow',
      'fd-broker logs --service shop --generation 3 --lines 1000',
    )
    .action(logs)
}

function parseCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('Give a number.')
}

async function logs(flags: LogsFlags, command: Command): Promise<void> {
  const { generation, lines, follow } = flags
  const { path: log, note } = await findLog(flags, command)
  const linked = generation === undefined ? log : generationLog(log, generation)
  // A version that has not served has no link yet.
  const path = existsSync(linked) || generation !== undefined ? linked : (newestPart(log) ?? linked)
  const absent = absence(path, 'log')
  if (absent !== null) {
    // If no such service runs either, its name is probably wrong.
    if (flags.logFile === undefined && flags.control === undefined && flags.service !== undefined)
      controlByName(flags.service, process.env)
    const why =
      generation === undefined
        ? 'fd-broker start did not start the service, or its log is too old'
        : `fd-broker start did not start generation ${generation} of this run, or its log is too old; files of earlier runs are in ${dirname(log)}`
    throw new FdbError('ERR_FDB_OPTION', `${absent}: ${why}; give --log-file`)
  }
  const files = [new FollowedFile(realpathSync(path))]
  await files[0]!.printLast(lines, follow === true)
  if (note && generation === undefined) writeStderr(note)
  let last = files[0]
  while (follow) {
    await sleep(POLL_MS)
    const serving = realPathOf(existsSync(linked) ? linked : path)
    if (serving !== null && !files.some(file => file.path === serving)) files.push(new FollowedFile(serving))
    if (files.length > FOLLOWED) await files.splice(files[0]!.path === serving ? 1 : 0, 1)[0]!.close()
    for (const file of files)
      await file.printNew(() => {
        if (file !== last) process.stdout.write(`${last?.atLineStart ? '' : '\n'}==> ${file.path} <==\n`)
        last = file
      })
  }
  await files[0]!.close()
}

interface FoundLog {
  readonly path: string
  /** Text about another version, whose log the user may want; null if there is none. */
  readonly note?: string | null
}

async function findLog({ control, service, logFile }: LogsFlags, command: Command): Promise<FoundLog> {
  if (logFile !== undefined) return { path: logFile }
  const { env } = process
  const controlPath =
    control ?? (service === undefined ? onlyControl(command) : lookupPaths(service, env).find(existsSync))
  const answer = controlPath === undefined ? null : await logOfRunning(controlPath)
  const denied = FdbError.is(answer) ? answer : null
  const running = FdbError.is(answer) ? null : answer
  if (running?.log !== undefined) return { path: running.log, note: running.note ?? null }
  const name = running?.service ?? service ?? (running === null ? killedService(controlPath) : undefined)
  if (name === undefined) throw denied ?? unnamedError(controlPath, running !== null)
  if (running?.isElsewhere) {
    const log = defaultLog(name, env)
    const other = hasLog(log) ? `; ${log} is the log of another run (--log-file shows it)` : ''
    const why = `the process that serves "${name}" at ${controlPath} was not started by fd-broker start: its output is where that process was started${other}`
    throw new FdbError('ERR_FDB_OPTION', why)
  }
  return { path: defaultLog(name, env) }
}

/** Returns the service that had this control socket, which a killed process leaves behind; undefined if it has no log at the default path. */
function killedService(control: string | undefined): string | undefined {
  const name = control === undefined ? '' : serviceAt(control)
  const log = defaultLog(name, process.env)
  return name !== '' && hasLog(log) ? name : undefined
}

function hasLog(log: string): boolean {
  return existsSync(log) || newestPart(log) !== null
}

/** Returns undefined if no service was named and none is found. */
function onlyControl(command: Command): string | undefined {
  try {
    return findControl(command)
  } catch (error) {
    const isNamed = command.opts<ServiceFlags>().pidFile !== undefined
    if (!isNamed && FdbError.is(error) && error.code === 'ERR_FDB_NO_HOLDER') return undefined
    throw error
  }
}

/** Returns the error if the name of the service is unknown. */
function unnamedError(control: string | undefined, answers: boolean): FdbError {
  const folder = dirname(defaultLog('', process.env))
  const services = servicesWithLog(folder)
  const remedy =
    services.length === 0
      ? `there is no log in ${folder}: give --service NAME, or --log-file`
      : `${folder} has logs of ${namesText(services, SHOWN_SERVICES)}: give --service NAME`
  if (answers)
    return new FdbError(
      'ERR_FDB_OPTION',
      `the process at ${control} is a daemon, or its service has no name; ${remedy}`,
    )
  const why = control === undefined ? 'no service runs at a default path' : `no service answers at ${control}`
  return new FdbError('ERR_FDB_NO_HOLDER', `${why}; ${remedy}`, { retryable: true })
}

/** Returns the log in the environment with which a process was started; null if it has none; undefined if this process cannot see it. */
function logOfProcess(pid: number | null): string | null | undefined {
  const environment = pid === null ? '' : procText(`${pid}/environ`)
  if (environment === '') return undefined
  const variable = `${LOG_FILE}=`
  const log = environment.split('\0').find(line => line.startsWith(variable))
  return log?.slice(variable.length) || null
}

interface RunningLog {
  readonly service?: string
  readonly log?: string
  /** Whether the process was not started by `fd-broker start`, so that a log of its name is another's. */
  readonly isElsewhere?: boolean
  readonly note?: string | null
}

/** Returns null if the service does not answer, and the error if this user may not ask it. */
async function logOfRunning(control: string): Promise<RunningLog | FdbError | null> {
  try {
    using client = await OperatorClient.connect(control, { timeout: STATUS_ANSWER_MS })
    const answer = await client.status({ timeout: STATUS_ANSWER_MS })
    if (isDaemon(answer)) return {}
    const { details, pid, service } = answer
    const log = details?.log ?? logOfProcess(pid ? client.pidHere(pid) : null)
    return {
      ...(service && { service }),
      ...(typeof log === 'string' && { log }),
      isElsewhere: log === null,
      note: failedUpgradeText(answer),
    }
  } catch (error) {
    return FdbError.is(error) && error.code === 'ERR_FDB_DENIED' ? error : null
  }
}

interface OpenLog {
  readonly handle: FileHandle
  readonly stat: Stats
}

/** The output of one version, and the position read so far. */
class FollowedFile {
  readonly path: string
  atLineStart = true
  #handle: FileHandle | null = null
  #at = 0

  constructor(path: string) {
    this.path = path
  }

  /** Prints the last lines, also those of rotated files if the current one has fewer. If it `goesOn`, ends no line that the program has not ended. */
  async printLast(lines: number, goesOn: boolean): Promise<void> {
    const { size } = await this.#open()
    const blocks: Buffer[] = []
    let found = await collectLast(this.#handle!, size, lines, blocks)
    for (let count = 1; found <= lines; count++) {
      const rotated = await open(rotatedPath(this.path, count)).catch(() => null)
      if (rotated === null) break
      try {
        found += await collectLast(rotated, (await rotated.stat()).size, lines - found, blocks)
      } finally {
        await rotated.close()
      }
    }
    const text = Buffer.concat(blocks).toString()
    const whole = text.endsWith('\n') ? text.slice(0, -1).split('\n') : text.split('\n')
    const last = lines === 0 || text === '' ? [] : whole.slice(-lines)
    if (last.length > 0) {
      this.atLineStart = text.endsWith('\n') || !goesOn
      process.stdout.write(`${last.join('\n')}${this.atLineStart ? '\n' : ''}`)
    }
    this.#at = size
  }

  /**
   * Prints appended output. Calls `before` before each block of it. After a rotation the path names another file; the remainder of the
   * previous file is printed first, then the files that were rotated since, of which the oldest may be gone.
   */
  async printNew(before: () => void): Promise<void> {
    if (this.#handle === null) await this.#open()
    await this.#printRemainder(before)
    const now = await open(this.path).catch(() => null)
    if (now === null) return
    const isSame = (await now.stat()).ino === (await this.#handle!.stat()).ino
    await now.close()
    if (isSame) return
    await this.#printRemainder(before)
    const files = await this.#files()
    try {
      const own = await this.#handle!.stat()
      const at = files.findIndex(({ stat }) => stat.ino === own.ino)
      if (at < 0 && files.length > KEPT_FILES)
        writeStderr(`output is missing here: ${this.path} was rotated more often than its files are kept`)
      // If the file was removed, not rotated, those that were rotated before it are older.
      const since =
        at < 0 ? files.filter(({ stat }, i) => i === 0 || stat.mtimeMs >= own.mtimeMs) : files.slice(0, at)
      for (const { handle } of since.reverse()) {
        await this.close()
        this.#handle = handle
        this.#at = 0
        await this.#printRemainder(before)
      }
    } finally {
      for (const { handle } of files) if (handle !== this.#handle) await handle.close()
    }
  }

  /** Opens the current file and the rotated ones, the newest first: one that is rotated meanwhile is found twice, none is left out. */
  async #files(): Promise<OpenLog[]> {
    const files: OpenLog[] = []
    for (let count = 0; count <= KEPT_FILES; count++) {
      const handle = await open(count === 0 ? this.path : rotatedPath(this.path, count)).catch(() => null)
      // A path has no file for a moment while it is rotated.
      if (handle === null) continue
      const stat = await handle.stat()
      if (files.some(file => file.stat.ino === stat.ino)) await handle.close()
      else files.push({ handle, stat })
    }
    return files
  }

  async close(): Promise<void> {
    await this.#handle?.close()
  }

  async #open(): Promise<{ size: number }> {
    await this.close()
    this.#handle = await open(this.path)
    this.#at = 0
    return await this.#handle.stat()
  }

  async #printRemainder(before: () => void): Promise<void> {
    // The file may grow as fast as it is printed; the other files have their turn then.
    const { size } = await this.#handle!.stat()
    while (this.#at < size) {
      const block = await readAt(this.#handle!, this.#at, BLOCK)
      if (block.length === 0) return
      this.#at += block.length
      before()
      process.stdout.write(block)
      this.atLineStart = block.at(-1) === NEWLINE
    }
  }
}

/** Puts the last blocks of a file before `blocks`, until they have more than `lines` line breaks. Resolves with the number of line breaks. */
async function collectLast(file: FileHandle, size: number, lines: number, blocks: Buffer[]): Promise<number> {
  let found = 0
  for (let from = size; from > 0 && found <= lines; from = Math.max(0, from - BLOCK)) {
    const start = Math.max(0, from - BLOCK)
    const block = await readAt(file, start, from - start)
    found += block.reduce((sum, byte) => sum + (byte === NEWLINE ? 1 : 0), 0)
    blocks.unshift(block)
  }
  return found
}

async function readAt(file: FileHandle, at: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  const { bytesRead } = await file.read(buffer, 0, length, at)
  return buffer.subarray(0, bytesRead)
}
