import { writeSync } from 'node:fs'
import type { Logger } from '../index.js'

const said = new Set<string>()

/** Writes a line to stderr, once in this process: the program has no other log that this could go to. */
export function sayOnce(text: string): void {
  if (said.has(text)) return
  said.add(text)
  say(text)
}

/** Never throws: the terminal may be closed, or the pipe without a reader. */
export function say(text: string): void {
  try {
    writeSync(2, `fd-broker: ${text}\n`)
  } catch {
    // The program goes on without the line.
  }
}

export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown)
}

const LEVELS = ['debug', 'info', 'warn', 'error'] as const

/** Said by the library of a member that listens to nothing yet: here the program does so when it wants to. */
const REMINDER = 'ready() was not called'

/** The library's log on stderr: what an operator must know, or more where FD_BROKER_LOG says so. */
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
