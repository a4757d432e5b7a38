import { wrongOption } from './check-option.js'

/** The part of a pino logger that this library calls. Any of pino's loggers fits; without one it is silent. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}

export const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} }

/** Throws ERR_FDB_OPTION unless it has what this library calls, or is not given. */
export function checkLogger(logger: Logger | undefined): void {
  if (logger === undefined) return
  const missing = Object.keys(SILENT).filter(level => typeof logger?.[level as keyof Logger] !== 'function')
  if (missing.length === 0) return
  throw wrongOption(
    'logger',
    logger,
    `an object with the methods ${Object.keys(SILENT).join(', ')} (it lacks ${missing.join(', ')}), as pino() makes; console is one too`,
  )
}
