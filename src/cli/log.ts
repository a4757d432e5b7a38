import { once } from 'node:events'
import { hostname } from 'node:os'
import { wrongOption } from '../base/check-option.js'
import type { Logger } from '../base/logger.js'
import { sayOnStderr } from './output.js'

export interface Log {
  readonly logger: Logger
  /** Opens its file, if any, anew. */
  readonly reopen: () => void
}

export interface LogOptions {
  readonly level: string
  /** In place of stderr. */
  readonly file?: string | undefined
  /** The other log, if any, says why this one cannot be written. */
  readonly other?: (facts: object, message: string) => void
}

export async function openLog({ level, file: path, other }: LogOptions): Promise<Log> {
  // Loaded here: the other commands start faster without.
  const { pino } = await import('pino')
  const file = await LogFile.open(
    { option: 'log-file', path, fd: 2, sync: true },
    {
      failed: error => {
        if (path !== undefined) sayOnStderr(`fd-broker: ${path}: ${FAILED}: ${error.message}`)
        other?.({ error: error.message }, FAILED)
      },
      missing: missing => logger.warn({ missing }, MISSING),
      kept: error => logger.warn({ err: error, file: path }, KEPT),
    },
  )
  const own = { pid: process.pid, hostname: hostname(), name: 'fd-broker' }
  // A fact stands in place of one of these: no line has a key twice. `ownPid` is this process where a line tells of another.
  const mixin = (facts: object) => ('pid' in facts ? { ...own, ownPid: process.pid } : { ...own })
  const human = path === undefined && process.stderr.isTTY
  const { humanLine } = human ? await import('./human-log.js') : { humanLine: null }
  const out = humanLine === null ? file : { write: (text: string) => file.write(humanLine(text)) }
  const lines = pino({ base: null, level, mixin }, out)
  // Without pino's own functions, by which the library would know a logger that writes keys of its own.
  const logger: Logger = {
    debug: (facts, message) => lines.debug(facts, message),
    info: (facts, message) => lines.info(facts, message),
    warn: (facts, message) => lines.warn(facts, message),
    error: (facts, message) => lines.error(facts, message),
  }
  return { logger, reopen: () => file.reopen() }
}

const FAILED = 'the log cannot be written: its lines are dropped until it can'
export const MISSING = 'lines are missing here: this log could not be written'
export const KEPT = 'the file of a log could not be opened anew: the one before stays in use'

type Pino = typeof import('pino').pino
type Stream = ReturnType<Pino['destination']>

/** A log that could not be written is tried again after so long. */
const AGAIN_MS = 1_000
/** At the end a reader that is slow has so long. */
const END_MS = 1_000

interface LogPlace {
  /** Names the file. */
  readonly option: string
  /** Undefined: where `fd` leads. */
  readonly path: string | undefined
  readonly fd: 1 | 2
  readonly sync: boolean
  /** Bytes that are not taken yet: lines beyond are dropped. Default: no limit. */
  readonly most?: number
}

interface LogEvents {
  /** It cannot be written: lines are dropped until it can. Told once. */
  readonly failed: (error: Error) => void
  /** It can be written, and so many lines are not there: to be said in it. */
  readonly missing: (lines: number) => void
  /** Its file could not be opened anew: the one before stays in use. */
  readonly kept: (error: Error) => void
}

/** One descriptor that is written to, and how many lines it was given since it had written all. */
interface Outlet {
  readonly stream: Stream
  unwritten: number
}

/** Where the lines of a log go. That it is full, or broken, is no matter of the service: lines are dropped, and it is tried again. */
export class LogFile {
  readonly #pino: Pino
  readonly #place: LogPlace
  readonly #events: LogEvents
  #outlet!: Outlet
  #failing = false
  #errors = 0
  #missing = 0
  #timer: NodeJS.Timeout | undefined
  #reopened = Promise.resolve()
  #endsAt = Number.POSITIVE_INFINITY
  #closed = false

  /** Rejects with ERR_FDB_OPTION where its file cannot be opened. */
  static async open(place: LogPlace, events: LogEvents): Promise<LogFile> {
    const { pino } = await import('pino')
    const file = new LogFile(pino, place, events)
    try {
      file.#outlet = await file.#open()
    } catch (error) {
      const why = (error as Error).message
      throw wrongOption(place.option, place.path, `a file that can be written (${why})`)
    }
    return file
  }

  private constructor(pino: Pino, place: LogPlace, events: LogEvents) {
    this.#pino = pino
    this.#place = place
    this.#events = events
  }

  /** Whole lines. Never throws. */
  write(text: string): void {
    if (this.#closed) return
    if (this.#failing) this.#missing += linesIn(text)
    else {
      this.#outlet.unwritten += linesIn(text)
      this.#put(text)
    }
  }

  reopen(): void {
    if (this.#place.path === undefined) return
    // One after the other: what was opened last is what counts.
    this.#reopened = this.#reopened
      .then(() => this.#open())
      .then(
        outlet => this.#replace(outlet),
        error => this.#events.kept(error),
      )
  }

  /** The log closes its file when all is written. Output without a reader does not keep the process. */
  end(): void {
    this.#endsAt = performance.now() + END_MS
    this.#reopened = this.#reopened.then(() => this.#close())
  }

  #close(): void {
    if (this.#closed || this.#failing || this.#missing > 0 || this.#outlet.unwritten > 0) return
    this.#closed = true
    this.#outlet.stream.end()
  }

  async #open(): Promise<Outlet> {
    const { path, fd, sync, most = 0 } = this.#place
    const retryEAGAIN = () => performance.now() < this.#endsAt
    const stream = this.#pino.destination({ dest: path ?? fd, sync, maxLength: most, retryEAGAIN })
    // Pino's own ends the process.
    stream.removeAllListeners('error')
    // Pino calls it at the end: where there is no room it would try for ever.
    stream.flushSync = () => {}
    await once(stream, 'ready')
    const outlet: Outlet = { stream, unwritten: 0 }
    stream.on('error', error => this.#failed(outlet, error))
    stream.on('drop', (text: string) => {
      const lines = linesIn(text)
      outlet.unwritten -= lines
      this.#missing += lines
    })
    if (!sync) stream.on('drain', () => this.#written(outlet))
    return outlet
  }

  #put(text: string): void {
    const errors = this.#errors
    this.#outlet.stream.write(text)
    // A write by a thread reports later.
    if (this.#place.sync && this.#errors === errors) this.#written(this.#outlet)
  }

  #written(outlet: Outlet): void {
    outlet.unwritten = 0
    if (outlet !== this.#outlet) return
    this.#failing = false
    const missing = this.#missing
    this.#missing = 0
    if (missing > 0) this.#events.missing(missing)
    if (this.#endsAt < Number.POSITIVE_INFINITY) this.#close()
  }

  #failed(outlet: Outlet, error: Error): void {
    this.#errors++
    if (outlet !== this.#outlet) {
      this.#missing += outlet.unwritten
      outlet.unwritten = 0
      outlet.stream.destroy()
      return
    }
    this.#timer ??= setTimeout(() => this.#again(), AGAIN_MS).unref()
    if (this.#failing) return
    this.#failing = true
    this.#events.failed(error)
  }

  /** The stream has kept what it could not write, half a line perhaps. */
  #again(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#put('')
  }

  #replace(outlet: Outlet): void {
    const before = this.#outlet
    this.#outlet = outlet
    before.stream.end()
    if (this.#failing) this.#again()
  }
}

function linesIn(text: string): number {
  let lines = 0
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lines++
  return lines
}
