import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { nodeCrypto } from '../base/lazy.js'
import type { Mark } from './process-members.js'
import { inheritedOutput, LAST_LINES } from './successor-output.js'

/** A variable of the environment: where a successor says why it ends before it has joined. Not for those that it starts. */
const VARIABLE = 'FD_BROKER_LAST_WORDS'
const MOST_CHARACTERS = 2_000
/** Lines of stderr that are kept. */
const MOST_LINES = 12

let place = process.env[VARIABLE]
delete process.env[VARIABLE]

/**
 * The reason that a successor gives when it ends before it can report over the control path, for example a wrong configuration. It crosses
 * in a file beside that path, which only its user can write. Without it the parent would know only an exit code.
 */
export class LastWords {
  readonly env: NodeJS.ProcessEnv
  readonly #file: string
  /** The last lines on stderr of the successor, written by its preload. */
  readonly #lines: string

  constructor(control: string) {
    this.#file = `${control}.${nodeCrypto().randomBytes(8).toString('hex')}`
    this.#lines = `${this.#file}.stderr`
    this.env = { [VARIABLE]: this.#file, [LAST_LINES]: this.#lines }
    try {
      // A successor that ends when nothing is waited for finds no file, and leaves none.
      writeFileSync(this.#lines, '', { flag: 'wx', mode: 0o600 })
    } catch {
      // Its own output has the lines.
    }
  }

  /** The variable that the successor was started with, and all that it starts without changing its environment. */
  get mark(): Mark {
    return { name: VARIABLE, value: this.#file }
  }

  /** In one line; null: it said nothing. They are there once. */
  takeLine(): string | null {
    const text = readOnce(this.#file)
    return (
      text
        ?.slice(0, MOST_CHARACTERS)
        .trim()
        .replace(/\s*\n\s*/g, '; ') || null
    )
  }

  /** The last lines that it has written on stderr; null: there are none, or it is no program of Node. There are so once. */
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

  /** For the sentence that says how it ended, and for {@link below} that. There is an answer once. */
  takeReason(): { readonly why: string; readonly lines: string | null } {
    const said = this.takeLine()
    const lines = said === null ? this.takeLines() : null
    return {
      why: said ?? (lines === null ? 'see its own output' : 'its last lines on stderr are below'),
      lines,
    }
  }

  /** Nothing is waited for. */
  close(): void {
    rmSync(this.#file, { force: true })
    rmSync(this.#lines, { force: true })
  }
}

/** The text of a file, which is removed; null: there is none. */
function readOnce(path: string): string | null {
  try {
    const text = readFileSync(path, 'utf8')
    rmSync(path, { force: true })
    return text
  } catch {
    return null
  }
}

/** The last lines of a successor, behind the sentence that says how it ended. */
export function below(lines: string | null): string {
  return lines === null ? '' : `\n${lines.replaceAll(/^/gm, '  ')}`
}

/** Records the reason for this process's end. Does nothing if no process waits for it. */
export function sayLastWords(text: string): void {
  const file = place
  place = undefined
  if (file === undefined) return
  try {
    writeFileSync(file, text, { flag: 'wx', mode: 0o600 })
  } catch {
    // Its own output has it.
  }
}

/** This process serves: it reports no reason for its end any more. */
export function keepLastWords(): void {
  place = undefined
  const output = inheritedOutput()
  if (output !== null) output.lines = null
}
