import { writeSync } from 'node:fs'

/** A line on stderr, now. A full disk there ends nothing: the exit code is what is left then. */
export function sayOnStderr(text: string): void {
  try {
    writeSync(2, `${text}\n`)
  } catch {
    // There is nobody else to be told.
  }
}
