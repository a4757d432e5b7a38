import type { Logger } from '../index.js'
import { messageOf, say } from './say.js'

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
