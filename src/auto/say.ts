import { writeSync } from 'node:fs'

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
