import { once } from 'node:events'
import { hostname } from 'node:os'
import { jsonObject } from '../base/json.js'
import type { Logger } from '../base/logger.js'
import { wrongOption } from '../checks/place.js'
import { nonBlockingOutput, openFifo, sleepSync } from '../kernel/index.js'
import { plain, type Style, style, writeStderr } from './output.js'

interface Log {
  readonly logger: Logger
  /** Opens the log file again, for rotation. Does nothing without a file. */
  readonly reopen: () => void
}

interface LogOptions {
  readonly level: string
  /** Default: stderr. */
  readonly file?: string | undefined
  /** Writes to another log that this one cannot be written. */
  readonly other?: (facts: object, message: string) => void
}

export async function openLog({ level, file: path, other }: LogOptions): Promise<Log> {
  // Loaded lazily: other commands start faster without pino.
  const { pino } = await import('pino')
  const file = await LogFile.open(
    { option: 'log-file', path, fd: 2, sync: true, most: MOST_WAITING },
    {
      failed: error => {
        if (path !== undefined) writeStderr(`fd-broker: ${path}: ${FAILED}: ${error.message}`)
        other?.({ error: error.message }, FAILED)
      },
      missing: missing => logger.warn({ missing }, MISSING),
      reopenFailed: error => logger.warn({ err: error, file: path }, REOPEN_FAILED),
    },
  )
  const own = { pid: process.pid, hostname: hostname(), name: 'fd-broker' }
  // A fact with one of these keys replaces it, so that no line has a key twice. In a line about another process `pid` is that process, and
  // `ownPid` this one.
  const mixin = (facts: object) => ('pid' in facts ? { ...own, ownPid: process.pid } : { ...own })
  const human = path === undefined && process.stderr.isTTY
  const out = human ? { write: (text: string) => file.write(humanLine(text)) } : file
  const lines = pino({ base: null, level, mixin }, out)
  // Plain functions hide that this is pino: for a pino logger the library renames facts, so that they do not repeat keys of pino.
  const logger: Logger = {
    debug: (facts, message) => lines.debug(facts, message),
    info: (facts, message) => lines.info(facts, message),
    warn: (facts, message) => lines.warn(facts, message),
    error: (facts, message) => lines.error(facts, message),
  }
  return { logger, reopen: () => file.reopen() }
}

/** Bytes that wait for a slow reader of stderr. */
const MOST_WAITING = 4 * 1024 * 1024
const FAILED = 'the log cannot be written: its lines are dropped until it can'
export const MISSING = 'lines are missing here: this log could not be written'
export const REOPEN_FAILED = 'the log file could not be opened again: the previous file stays in use'

type Pino = typeof import('pino').pino
type Stream = ReturnType<Pino['destination']>

/** Delay before a failed write is retried. */
const WRITE_RETRY_MS = 1_000
/** Delay before a write to a slow reader is repeated. */
const READER_RETRY_MS = 50
const EXIT_RETRY_MS = 5
/** Limit for writing the last lines to a slow reader. */
const END_MS = 1_000

interface LogTarget {
  /** Command-line option that names the file; errors name the option. */
  readonly option: string
  /** The file; undefined: write to `fd`. */
  readonly path: string | undefined
  readonly fd: 1 | 2
  readonly sync: boolean
  /** Limit for unwritten bytes; lines beyond it are dropped. Default: no limit. */
  readonly most?: number
}

interface LogEvents {
  /** Writing failed: lines are dropped until writing works again. Called once per failure. */
  readonly failed: (error: Error) => void
  /** Writing works again after `lines` lines were dropped. The callee logs their number. */
  readonly missing: (lines: number) => void
  /** The file could not be opened again: the previous file stays in use. */
  readonly reopenFailed: (error: Error) => void
}

/** An open stream, and the number of lines written since its last drain. */
interface LogStream {
  readonly stream: Stream
  unwritten: number
}

/** Writes log lines. A full disk or a broken pipe never affects the service: lines are dropped and counted, and writing is retried. */
export class LogFile {
  readonly #pino: Pino
  readonly #target: LogTarget
  readonly #events: LogEvents
  #outlet!: LogStream
  #failing = false
  #errors = 0
  #missing = 0
  #timer: NodeJS.Timeout | undefined
  #reopened = Promise.resolve()
  #endsAt = Number.POSITIVE_INFINITY
  #closed = false

  /** Rejects with ERR_FDB_OPTION if the file cannot be opened. */
  static async open(target: LogTarget, events: LogEvents): Promise<LogFile> {
    const { pino } = await import('pino')
    const file = new LogFile(pino, target, events)
    try {
      file.#outlet = await file.#open()
    } catch (error) {
      const why = (error as Error).message
      throw wrongOption(target.option, target.path, `a file that can be written (${why})`)
    }
    return file
  }

  private constructor(pino: Pino, target: LogTarget, events: LogEvents) {
    this.#pino = pino
    this.#target = target
    this.#events = events
  }

  /** Writes whole lines. Never throws. */
  write(text: string): void {
    if (this.#closed) return
    if (this.#failing) this.#missing += linesIn(text)
    else {
      this.#outlet.unwritten += linesIn(text)
      this.#put(text)
    }
  }

  reopen(): void {
    if (this.#target.path === undefined) return
    // One after the other: the file that was opened last must stay in use.
    this.#reopened = this.#reopened
      .then(() => this.#open())
      .then(
        outlet => this.#replace(outlet),
        error => this.#events.reopenFailed(error),
      )
  }

  /** Closes the file when all lines are written. After {@link END_MS} no write is retried: a slow reader cannot keep the process alive. */
  end(): void {
    this.#endsAt = performance.now() + END_MS
    this.#reopened = this.#reopened.then(() => this.#close())
  }

  #close(): void {
    if (this.#closed || this.#failing || this.#missing > 0 || this.#outlet.unwritten > 0) return
    this.#closed = true
    this.#outlet.stream.end()
  }

  async #open(): Promise<LogStream> {
    const { path, fd, sync, most = 0 } = this.#target
    using _reader = path === undefined ? null : openFifo(path)
    const dest = path ?? nonBlockingOutput(fd)
    // A synchronous stream would wait in this thread.
    const retryEAGAIN = () => !sync && performance.now() < this.#endsAt
    const stream = this.#pino.destination({ dest, sync, maxLength: most, retryEAGAIN })
    // Pino's own listener would end the process.
    stream.removeAllListeners('error')
    // Pino calls flushSync() at exit: on a full disk it would retry forever.
    stream.flushSync = () => {}
    await once(stream, 'ready')
    const outlet: LogStream = { stream, unwritten: 0 }
    stream.on('error', error => this.#failed(outlet, error))
    stream.on('drop', (text: string) => {
      const lines = linesIn(text)
      outlet.unwritten -= lines
      this.#missing += lines
    })
    if (sync && path === undefined) process.on('exit', () => this.#writeAtExit())
    if (!sync) stream.on('drain', () => this.#written(outlet))
    return outlet
  }

  #put(text: string): void {
    const errors = this.#errors
    this.#outlet.stream.write(text)
    // An asynchronous write succeeds later, at the event `drain`.
    if (this.#target.sync && this.#errors === errors) this.#written(this.#outlet)
  }

  #written(outlet: LogStream): void {
    outlet.unwritten = 0
    if (outlet !== this.#outlet) return
    this.#failing = false
    const missing = this.#missing
    this.#missing = 0
    if (missing > 0) this.#events.missing(missing)
    if (this.#endsAt < Number.POSITIVE_INFINITY) this.#close()
  }

  #failed(outlet: LogStream, error: Error): void {
    this.#errors++
    if (outlet !== this.#outlet) {
      this.#missing += outlet.unwritten
      outlet.unwritten = 0
      outlet.stream.destroy()
      return
    }
    const isFull = this.#target.sync && !this.#failing && (error as NodeJS.ErrnoException).code === 'EAGAIN'
    this.#timer ??= setTimeout(() => this.#retry(), isFull ? READER_RETRY_MS : WRITE_RETRY_MS).unref()
    // The reader is slow: the stream keeps the lines, up to its limit.
    if (this.#failing || isFull) return
    this.#failing = true
    this.#events.failed(error)
  }

  /** Retries the write. The stream has kept the unwritten bytes, which may begin within a line. */
  #retry(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#put('')
  }

  /** Writes the lines that wait for a slow reader, within {@link END_MS}. */
  #writeAtExit(): void {
    const end = performance.now() + END_MS
    while (!this.#failing && this.#outlet.unwritten > 0 && performance.now() < end) {
      this.#put('')
      if (this.#outlet.unwritten > 0) sleepSync(EXIT_RETRY_MS)
    }
  }

  #replace(outlet: LogStream): void {
    const before = this.#outlet
    this.#outlet = outlet
    before.stream.end()
    if (this.#failing) this.#retry()
  }
}

function linesIn(text: string): number {
  let lines = 0
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lines++
  return lines
}

/** Keys that are not shown after the message: their values are the same in each line, or stand before the message. */
const NOT_REPEATED: ReadonlySet<string> = new Set([
  'level',
  'time',
  'pid',
  'ownPid',
  'hostname',
  'name',
  'msg',
  'err',
])
const LEVELS: readonly (readonly [least: number, name: string, style: Style])[] = [
  [50, 'error', 'red'],
  [40, 'warn', 'yellow'],
  [30, 'info', 'green'],
  [0, 'debug', 'dim'],
]

/** Formats a JSON log line for a terminal. Other text is unchanged. */
export function humanLine(text: string, out: NodeJS.WriteStream = process.stderr): string {
  const line = jsonObject(text)
  if (typeof line?.level !== 'number') return text
  const { level, time, msg, err } = line
  const [, name, colour] = LEVELS.find(([least]) => level >= least)!
  const at = Number.isFinite(time) ? timeOf(new Date(Number(time))) : '-'
  const facts = Object.entries(line)
    .filter(([key]) => !NOT_REPEATED.has(key) || (key === 'pid' && line.ownPid !== undefined))
    .map(([key, value]) => style('dim', `${key}=${valueText(value)}`, out))
  const error = err === undefined ? [] : [errorText(err)]
  const words = [style('dim', at, out), style(colour, name.padEnd(5), out), plain(msg), ...error, ...facts]
  return `${words.join(' ')}\n`
}

function timeOf(date: Date): string {
  const two = (number: number) => String(number).padStart(2, '0')
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')
}

function errorText(error: unknown): string {
  const { code, message, stack } = error as Record<string, unknown>
  if (code !== undefined) return `(${plain(code)}: ${plain(message)})`
  return `(${plain(stack ?? message ?? error)})`
}

function valueText(value: unknown): string {
  if (typeof value === 'object' && value !== null) return plain(JSON.stringify(value))
  return plain(value)
}
