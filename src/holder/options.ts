import { wrongOption } from '../check-option.js'

/** The part of a pino logger that this library calls. Any of pino's loggers fits; without one it is silent. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}

export const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} }

/** Every wait of a handoff has a deadline. Milliseconds. */
export interface HandoffTimes {
  /** From the Offer to Ready: the successor's own start-up lies in it. */
  ready: number
  /** For the incumbent's `onQuiesce()` hooks, before Freeze; after it the handoff goes on without them. */
  quiesce: number
  /** From Freeze to Frozen; the holder seals whether it came or not. */
  freeze: number
  /** From the seal to Prepared: the successor reads the tail. */
  prepare: number
  /** From Commit to Serving. */
  commit: number
  /** How long the successor is watched before the old one gives up its way back; 0: until its first sign of health. */
  probation: number
  /** Between two heartbeats. */
  heartbeat: number
  /** Silence in probation that counts as failure. */
  silence: number
}

export const HANDOFF_TIMES: HandoffTimes = {
  ready: 60_000,
  quiesce: 10_000,
  freeze: 1_000,
  prepare: 10_000,
  commit: 10_000,
  probation: 10_000,
  heartbeat: 250,
  silence: 3_000,
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
