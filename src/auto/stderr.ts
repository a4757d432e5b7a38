import { writeSync } from 'node:fs'
import type { Logger } from '../index.js'

const printed = new Set<string>()

/** Writes a line to stderr, once per process: the program has no other log for it. */
export function sayOnce(text: string): void {
  if (printed.has(text)) return
  printed.add(text)
  say(text)
}

/** Writes a line to stderr. Never throws: the terminal may be closed, or the pipe without a reader. */
export function say(text: string): void {
  try {
    writeSync(2, `fd-broker: ${text}\n`)
  } catch {
    // The line is lost.
  }
}

export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown)
}

const LEVELS = ['debug', 'info', 'warn', 'error'] as const

/** Start of the library's reminder to call ready(), which is not logged: the program decides when it listens. */
const REMINDER = 'ready() was not called'

/** Logs to stderr: warnings and errors, more with FD_BROKER_LOG. */
export function autoLog(least: 'debug' | 'info' | 'warn'): Logger {
  const from = LEVELS.indexOf(least)
  const line =
    (level: (typeof LEVELS)[number]) =>
    (facts: object, message: string): void => {
      if (LEVELS.indexOf(level) < from || message.startsWith(REMINDER)) return
      const { err, ...others } = facts as { err?: unknown }
      const why = err === undefined ? '' : `: ${messageOf(err)}`
      const more = least === 'warn' || Object.keys(others).length === 0 ? '' : ` ${JSON.stringify(others)}`
      say(`${message}${why}${more}`)
    }
  return { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') }
}
