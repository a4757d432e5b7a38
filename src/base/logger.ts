/** The logger methods that this library calls; any pino logger fits. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}

export const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} }

/** Keys that pino adds to each line but does not list in `bindings()`. */
const UNLISTED_KEYS = ['pid', 'hostname']

/** A pino logger: `bindings()` returns the keys and values that the logger adds to each line. */
interface BoundLogger {
  bindings?(): Record<string, unknown>
}

/**
 * Returns a logger that calls `given`. Renames a fact if pino adds a field of that key to each line, so that no line has a key twice.
 */
export function wrappedLogger(given: Logger): Logger {
  const { bindings } = given as BoundLogger
  if (typeof bindings !== 'function') return given
  const own = new Set([...UNLISTED_KEYS, ...Object.keys(bindings.call(given))])
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
