import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { nodeCrypto } from '../base/lazy.js'
import { inheritedOutput, LAST_LINES, LAST_WORDS, stepFile } from '../base/successor-output.js'
import type { EnvironmentMark } from './leftover-processes.js'

const MOST_CHARACTERS = 2_000
/** Number of stderr lines in an error message: more than the preload `output-preload.ts` writes of an uncaught error. */
const MOST_LINES = 24

/** After this time the files belong to no upgrade that is under way: its process was killed. */
const LEFT_MS = 24 * 3_600_000

/** Replaces an unknown reason in messages. */
export const NO_REASON = 'see its own output'

/** Adds to an unknown reason why Node itself may have ended by SIGABRT: before a program runs, Node can tell only its stderr. */
export function withAbort(why: string, isAborted: boolean): string {
  if (!isAborted || why !== NO_REASON) return why
  return `${why}; Node aborts where it cannot start a thread (see pids.max, TasksMax= and ulimit -u)`
}

let reasonFile = process.env[LAST_WORDS]
/** Whether another process has started this one as its successor. */
export const isStartedSuccessor = reasonFile !== undefined
delete process.env[LAST_WORDS]

/**
 * Gets the reason why a successor ended before it could report over the control path, for example a wrong configuration. The successor
 * writes the reason to a file beside that path, where only its user can write; an exit code alone would not explain the failure.
 */
export class ExitReason {
  readonly env: NodeJS.ProcessEnv
  readonly #file: string
  /** File to which the successor's preload writes its last stderr lines. */
  readonly #lines: string
  /** File to which the successor writes the step that it has not completed. */
  readonly #step: string

  /** `file`: the file of a successor that a previous image of this process has started. */
  constructor(control: string, file: string | null = null) {
    this.#file = file ?? `${control}.${nodeCrypto().randomBytes(8).toString('hex')}`
    this.#lines = `${this.#file}.stderr`
    this.#step = stepFile(this.#file)
    this.env = { [LAST_WORDS]: this.#file, [LAST_LINES]: this.#lines }
    if (file !== null) return
    removeLeft(control)
    try {
      // Created here, not by the successor: if this process no longer waits, the successor finds no file and leaves none.
      writeFileSync(this.#lines, '', { flag: 'wx', mode: 0o600 })
      writeFileSync(this.#step, '', { flag: 'wx', mode: 0o600 })
    } catch {
      // The lines are in the successor's own output.
    }
  }

  /** Identifies the successor, and the processes that it started with its environment. */
  get mark(): EnvironmentMark {
    return { name: LAST_WORDS, value: this.#file }
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

  /** The step that the successor has not completed: `does not listen on …`. Null if it reported none. */
  get step(): string | null {
    return readIfThere(this.#step)?.slice(0, MOST_CHARACTERS).replace(/\s+/g, ' ').trim() || null
  }

  /** Returns the successor's last stderr lines, once. Null if there are none, or if the successor is not a Node program. */
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

  /** Returns, once, the reason for an error message, and the stderr lines that {@link indented} appends to it. */
  takeReason(): { readonly why: string; readonly lines: string | null } {
    const reason = this.takeLine()
    const lines = reason === null ? this.takeLines() : null
    return {
      why: reason ?? (lines === null ? NO_REASON : 'its last lines on stderr are below'),
      lines,
    }
  }

  /** Removes the files, first the one by which the successor sees that it is awaited. Never throws. */
  close(): void {
    for (const file of [this.#step, this.#lines, this.#file]) remove(file)
  }
}

/** Removes a file of an {@link ExitReason}. Never throws: the outcome of an upgrade does not depend on it. */
function remove(path: string): void {
  try {
    rmSync(path, { force: true })
  } catch {
    // The folder is read-only by now. A later upgrade removes the file.
  }
}

/** Removes the files of processes that were killed during an upgrade at this control path. */
function removeLeft(control: string): void {
  const folder = dirname(control)
  try {
    for (const name of readdirSync(folder))
      if (isReasonFile(name, basename(control))) removeIfOld(join(folder, name))
  } catch {
    // The folder is unreadable: nothing is removed.
  }
}

/** Whether this is the name of one of the files of an {@link ExitReason}. */
function isReasonFile(name: string, control: string): boolean {
  return name.startsWith(`${control}.`) && /^\.[0-9a-f]{16}(?:\.\w+)?$/.test(name.slice(control.length))
}

function removeIfOld(path: string): void {
  try {
    const { mtimeMs, uid } = lstatSync(path)
    if (uid === process.geteuid?.() && Date.now() - mtimeMs > LEFT_MS) rmSync(path)
  } catch {
    // Another process has just removed the file.
  }
}

/** Reads a file and removes it; null if it does not exist. */
function readOnce(path: string): string | null {
  const text = readIfThere(path)
  if (text !== null) remove(path)
  return text
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}

/** Formats a successor's last stderr lines, to append to an error message. */
export function indented(lines: string | null): string {
  return lines === null ? '' : `\n${lines.replaceAll(/^/gm, '  ')}`
}

/** Reports to the process that started this one, if it waits, why this one ends. Does nothing if this process is not a successor. */
export function writeExitReason(text: string): void {
  const file = reasonFile
  reasonFile = undefined
  if (file === undefined) return
  try {
    writeFileSync(file, text, { flag: 'wx', mode: 0o600 })
    // No process would remove the file. Looked at after the write: the other process may stop waiting meanwhile.
    if (!existsSync(stepFile(file))) remove(file)
  } catch {
    // The reason is in the process's own output.
  }
}

/** Reports the step that this process must complete before it serves. Does nothing if this process is not a successor. */
export function writeStep(text: string): void {
  if (reasonFile === undefined) return
  const path = stepFile(reasonFile)
  try {
    // Fails if the file does not exist: the process that started this one no longer waits.
    truncateSync(path)
    writeFileSync(path, text, { flag: 'r+' })
  } catch {
    // The step is missing in the error message.
  }
}

/** Called when this process starts to serve: from now on the reason of its end is not reported. */
export function dropExitReason(): void {
  reasonFile = undefined
  const output = inheritedOutput()
  if (output !== null) output.lines = null
}
