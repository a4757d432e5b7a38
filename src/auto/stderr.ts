import { writeSync } from 'node:fs'
import { rememberLine } from '../base/successor-output.js'
import { FdbError } from '../errors.js'
import type { Logger } from '../index.js'

const printed = new Set<string>()

/** Like {@link print}, but prints each text only once. Returns true if it has printed the text. */
export function printOnce(text: string): boolean {
  if (printed.has(text)) return false
  printed.add(text)
  print(text)
  return true
}

/** Prints a text, which the error of `fd-broker start` or `upgrade` repeats if this process fails. */
export function printReason(text: string): void {
  if (printOnce(text)) rememberLine(`fd-broker: ${text}`)
}

/** Writes a line to stderr. Never throws, even if the terminal is closed or the pipe has no reader. */
export function print(text: string): void {
  try {
    writeSync(2, `fd-broker: ${text}\n`)
  } catch {
    // The line is lost.
  }
}

export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown)
}

/** As {@link messageOf}, with the code of an error of fd-broker before it: `fd-broker start` reads it. */
export function codeAndMessageOf(thrown: unknown): string {
  return FdbError.is(thrown) ? `${thrown.code}: ${thrown.message}` : messageOf(thrown)
}

const LEVELS = ['debug', 'info', 'warn', 'error'] as const

/** Start of a warning of the library that is not written: a program under fd-broker/auto may start to listen at any time. */
const REMINDER = 'ready() was not called'

/** Returns a logger that writes to stderr; `least` is the lowest level that it writes (FD_BROKER_LOG). */
export function autoLog(least: 'debug' | 'info' | 'warn'): Logger {
  const from = LEVELS.indexOf(least)
  const line =
    (level: (typeof LEVELS)[number]) =>
    (facts: object, message: string): void => {
      if (LEVELS.indexOf(level) < from || message.startsWith(REMINDER)) return
      const { err, ...others } = facts as { err?: unknown }
      const why = err === undefined ? '' : `: ${messageOf(err)}`
      const more = least === 'warn' || Object.keys(others).length === 0 ? '' : ` ${JSON.stringify(others)}`
      print(`${message}${why}${more}`)
    }
  return { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') }
}
