import { hostname } from 'node:os'
import type { Logger } from '../base/logger.js'
import { LogFile } from './log-file.js'
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

/** The log of a server. Rejects as {@link LogFile.open} does. */
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
  const lines = pino({ base: null, level, mixin }, file)
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
