import { existsSync, readFileSync } from 'node:fs'

/** The lines of a file to which another process appends: without one that is not yet whole, none if the file does not exist. */
export function wholeLines(file: string): string[] {
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : []
}
