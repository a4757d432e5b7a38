// @ts-check
// Functions that the sources of a workspace call (see workspace.ts). `switch.json` beside it chooses the mistake.
import { openSync, readFileSync, writeSync } from 'node:fs'

/** @type {{ mutant?: number, notes?: string }} */
const { mutant, notes } = JSON.parse(readFileSync(new URL('switch.json', import.meta.url), 'utf8'))
/** The environment reaches C sources too; a process that was given another one is told by the file. */
const chosen = Number(process.env.FDB_MUTANT ?? mutant)
/** Open from the beginning: what is done without descriptors is noted too. */
const book = notes === undefined ? null : openSync(notes, 'a')

/** @param {number} id */
export function mutated(id) {
  return id === chosen
}

/** Notes that the test file at hand has come to this function, in whatever process. @param {string} name */
export function noted(name) {
  try {
    if (book !== null) writeSync(book, `${process.env.FDB_TEST_FILE}\t${name}\n`)
    return true
  } catch {
    // No room: when it is come to the next time, perhaps.
    return false
  }
}
