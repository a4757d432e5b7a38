import { wrongOption } from './check-option.js'

/** The part of a pino logger that this library calls. Any of pino's loggers fits; without one it is silent. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}

export const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} }

/** Pino writes these, and does not list them. */
const WITHOUT_SAYING = ['pid', 'hostname']

/** Pino tells what it writes into each line by itself. */
interface Bound {
  bindings?(): Record<string, unknown>
}

/** The same logger, or one that renames facts which the logger writes into each line by itself: no line has a key twice. Throws as {@link checkLogger}. */
export function takenLogger(given: Logger = SILENT): Logger {
  checkLogger(given)
  const { bindings } = given as Bound
  if (typeof bindings !== 'function') return given
  const own = new Set([...WITHOUT_SAYING, ...Object.keys(bindings.call(given))])
  const apart = (facts: object) =>
    Object.keys(facts).some(key => own.has(key))
      ? Object.fromEntries(
          Object.entries(facts).map(([key, value]) => [
            own.has(key) ? `other${key.charAt(0).toUpperCase()}${key.slice(1)}` : key,
            value,
          ]),
        )
      : facts
  return {
    debug: (facts, message) => given.debug(apart(facts), message),
    info: (facts, message) => given.info(apart(facts), message),
    warn: (facts, message) => given.warn(apart(facts), message),
    error: (facts, message) => given.error(apart(facts), message),
  }
}

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
