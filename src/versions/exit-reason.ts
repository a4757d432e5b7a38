import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { nodeCrypto } from '../base/lazy.js'
import type { EnvironmentMark } from './leftover-processes.js'
import { inheritedOutput, LAST_LINES } from './successor-output.js'

/** Environment variable: the file in which a successor writes why it ends before it joins. Not for its children. */
const VARIABLE = 'FD_BROKER_LAST_WORDS'
const MOST_CHARACTERS = 2_000
/** Number of stderr lines kept: more than the preload writes of an uncaught error. */
const MOST_LINES = 24

/** Stands for a reason that is not known. */
export const NO_REASON = 'see its own output'

let reasonFile = process.env[VARIABLE]
delete process.env[VARIABLE]

/**
 * Passes the reason of a successor that ends before it can report over the control path, for example because of a wrong configuration.
 * The reason is in a file beside that path, which only its user can write. Without it the parent would know only an exit code.
 */
export class ExitReason {
  readonly env: NodeJS.ProcessEnv
  readonly #file: string
  /** File for the successor's last stderr lines, written by its preload. */
  readonly #lines: string

  constructor(control: string) {
    this.#file = `${control}.${nodeCrypto().randomBytes(8).toString('hex')}`
    this.#lines = `${this.#file}.stderr`
    this.env = { [VARIABLE]: this.#file, [LAST_LINES]: this.#lines }
    try {
      // Created here: a successor that no process waits for finds no file and leaves none.
      writeFileSync(this.#lines, '', { flag: 'wx', mode: 0o600 })
    } catch {
      // The lines are in the successor's own output.
    }
  }

  /** Environment variable of the successor and of all processes it starts with the same environment. */
  get mark(): EnvironmentMark {
    return { name: VARIABLE, value: this.#file }
  }

  /** Returns the successor's reason in one line, once; null if it wrote none. */
  takeLine(): string | null {
    const text = readOnce(this.#file)
    return (
      text
        ?.slice(0, MOST_CHARACTERS)
        .trim()
        .replace(/\s*\n\s*/g, '; ') || null
    )
  }

  /** Returns the successor's last stderr lines, once; null if there are none, or it is no Node program. */
  takeLines(): string | null {
    const lines = readOnce(this.#lines)
      ?.split('\n')
      .map(line => line.trimEnd())
    return (
      lines
        ?.filter(line => line !== '')
        .slice(-MOST_LINES)
        .join('\n')
        .slice(-MOST_CHARACTERS) || null
    )
  }

  /** Returns, once, the reason for an error message, and the stderr lines to append with {@link indented}. */
  takeReason(): { readonly why: string; readonly lines: string | null } {
    const reason = this.takeLine()
    const lines = reason === null ? this.takeLines() : null
    return {
      why: reason ?? (lines === null ? NO_REASON : 'its last lines on stderr are below'),
      lines,
    }
  }

  /** Removes the files: no reason is expected any more. */
  close(): void {
    rmSync(this.#file, { force: true })
    rmSync(this.#lines, { force: true })
  }
}

/** Reads a file and removes it; null if it does not exist. */
function readOnce(path: string): string | null {
  try {
    const text = readFileSync(path, 'utf8')
    rmSync(path, { force: true })
    return text
  } catch {
    return null
  }
}

/** Formats a successor's last lines for the end of an error message. */
export function indented(lines: string | null): string {
  return lines === null ? '' : `\n${lines.replaceAll(/^/gm, '  ')}`
}

/** Records why this process ends. Does nothing if no process waits for the reason. */
export function writeExitReason(text: string): void {
  const file = reasonFile
  reasonFile = undefined
  if (file === undefined) return
  try {
    writeFileSync(file, text, { flag: 'wx', mode: 0o600 })
  } catch {
    // The reason is in the process's own output.
  }
}

/** Called when this process serves: from now on it reports no reason for its end. */
export function dropExitReason(): void {
  reasonFile = undefined
  const output = inheritedOutput()
  if (output !== null) output.lines = null
}
