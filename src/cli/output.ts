import { writeSync } from 'node:fs'
import { FdbError } from '../errors.js'

/** Removes control characters, which could move a terminal's cursor: names and messages come from other processes. */
export function plain(value: unknown): string {
  if (value === undefined || value === null || value === '') return '-'
  return textOrMark(value).replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ')
}

/** As {@link plain}, but keeps line breaks: some messages have one problem per line, or the last lines of a program. */
export function plainLines(value: unknown): string {
  const lines = textOrMark(value ?? '').split('\n')
  return lines.length === 1 ? plain(value) : lines.map(line => (line === '' ? '' : plain(line))).join('\n')
}

/** Returns `?` for an object from another process that has no text, because its `toString` is no function. */
function textOrMark(value: unknown): string {
  try {
    return String(value)
  } catch {
    return '?'
  }
}

const CODES = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] } as const

export type Style = keyof typeof CODES

/** Styles text if the stream is a terminal that shows colours, and NO_COLOR is not set. */
export function style(style: Style, text: string, out: NodeJS.WriteStream = process.stdout): string {
  if (!isColoured(out)) return text
  const [on, off] = CODES[style]
  return `\x1b[${on}m${text}\x1b[${off}m`
}

function isColoured({ isTTY }: NodeJS.WriteStream): boolean {
  const { NO_COLOR = '', TERM } = process.env
  return isTTY === true && NO_COLOR === '' && TERM !== 'dumb'
}

/** Returns the first `most` names, and how many of the `count` names they leave out. */
export function namesText(names: readonly string[], most: number, count = names.length): string {
  const more = count > most ? ` and ${count - most} more` : ''
  return names.slice(0, most).map(plain).join(', ') + more
}

/** Formats rows in aligned columns; columns of numbers are aligned to the right. */
export function table(head: readonly string[], rows: readonly (readonly unknown[])[]): string[] {
  const right = head.map((_, i) => rows.length > 0 && rows.every(row => typeof row[i] === 'number'))
  const text = [head, ...rows].map(row => head.map((_, i) => plain(row[i])))
  const widths = head.map((_, i) => Math.max(...text.map(row => row[i]!.length)))
  return text.map(row =>
    row
      .map((cell, i) => (right[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd(),
  )
}

/** Formats names and values in two aligned columns. Further lines of a value are in its column too. */
export function facts(pairs: readonly (readonly [name: string, value: string])[]): string[] {
  const width = Math.max(0, ...pairs.map(([name]) => name.length))
  const indent = ' '.repeat(width + 2)
  return pairs.map(([name, value]) => `${name.padEnd(width)}  ${value.replaceAll('\n', `\n${indent}`)}`)
}

/** Writes a line to stderr synchronously. Never throws: if the line is lost (a full disk), the exit code still reports the failure. */
export function writeStderr(text: string): void {
  try {
    writeSync(2, `${text}\n`)
  } catch {
    // There is no other output for the failure.
  }
}

export function jsonText(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

/** Prints `value` as JSON if `json` is set, otherwise `text`. */
export function print(json: boolean | undefined, value: unknown, text: string | (() => string)): void {
  process.stdout.write(json ? jsonText(value) : typeof text === 'string' ? text : text())
}

export type ExitCode = keyof typeof EXIT_CODES

/** Exit codes and their meanings, which are documented: scripts depend on them. */
export const EXIT_CODES = {
  0: 'done',
  1: 'failed: the old version keeps serving',
  2: 'wrong usage',
  3: 'no service found',
  4: 'busy: try again later',
  5: 'refused',
} as const

/** Failures that were printed as JSON. */
const printedFailures = new WeakSet<object>()

/** Prints a failure as JSON, once. `more`: what else the command knows. */
export function printFailure(error: object, more: object = {}): void {
  if (printedFailures.has(error)) return
  printedFailures.add(error)
  const { code, message } = FdbError.is(error)
    ? error
    : { code: 'ERR_FDB_INTERNAL', message: error instanceof Error ? error.message : plain(error) }
  process.stdout.write(jsonText({ ok: false, ...more, code, message }))
}

/** Formats a failure as `CODE: message`. */
export function failureText(error: unknown): string {
  if (FdbError.is(error)) return codeAndMessage(error)
  if (error instanceof Error) return `ERR_FDB_INTERNAL: ${error.stack ?? error.message}`
  return `ERR_FDB_INTERNAL: ${plain(error)}`
}

export function codeAndMessage({
  code,
  message,
}: {
  readonly code: string
  readonly message: string
}): string {
  return `${plain(code)}: ${plainLines(message)}`
}

/** Interval at which a line is drawn again. */
const REDRAW_MS = 100

/** A line on a terminal (stderr) that is drawn again and again. */
class TerminalLine implements Disposable {
  protected readonly out = process.stderr
  #shown = false

  protected draw(line: string): void {
    this.#shown = true
    this.out.write(`\r\x1b[K${line.slice(0, (this.out.columns || 80) - 1)}`)
  }

  /** Removes the line, so that other text can be written. */
  clear(): void {
    if (this.#shown) this.out.write('\r\x1b[K')
    this.#shown = false
  }

  [Symbol.dispose](): void {
    this.clear()
  }
}

/** Where stderr is no terminal, long work writes a line this often. */
const LINE_MS = 10_000

/** Shows the progress of long work on stderr: on a terminal a line that moves, otherwise a line every 10 s. */
export class ProgressLine extends TerminalLine {
  #last = performance.now()

  show(line: () => string): void {
    const { isTTY } = this.out
    if (performance.now() - this.#last < (isTTY ? REDRAW_MS : LINE_MS)) return
    this.#last = performance.now()
    if (isTTY) this.draw(line())
    else writeStderr(line())
  }

  /** Shows the bytes that are done, and the total if it is known. */
  bytes(what: string, done: number, total?: number): void {
    const of = total === undefined ? '' : ` of ${mib(total)}`
    this.show(() => `${what}: ${mib(done)}${of} MiB`)
  }
}

/** Delay before a waiting command shows a line. */
const SHOWN_AFTER_MS = 1_000
const FRAMES = ['|', '/', '-', '\\']

/** Shows on stderr that a command waits, and for how long. Draws nothing in the first second, or if stderr is not a terminal. */
export class WaitingLine extends TerminalLine {
  readonly #startedAt = performance.now()
  readonly #timer: NodeJS.Timeout | undefined
  text: string

  constructor(text: string) {
    super()
    this.text = text
    if (this.out.isTTY) this.#timer = setInterval(() => this.#draw(), REDRAW_MS).unref()
  }

  #draw(): void {
    const ms = performance.now() - this.#startedAt
    if (ms < SHOWN_AFTER_MS) return
    const frame = FRAMES[Math.floor(ms / REDRAW_MS) % FRAMES.length]
    this.draw(`${frame} ${plain(this.text)}, ${(ms / 1000).toFixed(1)} s`)
  }

  override [Symbol.dispose](): void {
    clearInterval(this.#timer)
    this.clear()
  }
}

/** Delay before the first note of a waiting command. */
const NOTE_MS = 5_000

/** Shows why a command waits: on a terminal in the line, otherwise as lines on stderr after 5 s, and then every 10 s. */
export class WaitingNotes implements Disposable {
  readonly #line: WaitingLine
  readonly #reason: () => Promise<string>
  #timer: NodeJS.Timeout | undefined
  #over = false

  /** `reason` must not reject. */
  constructor(line: WaitingLine, reason: () => Promise<string>) {
    this.#line = line
    this.#reason = reason
    this.#wait(NOTE_MS)
  }

  #wait(ms: number): void {
    this.#timer = setTimeout(() => void this.#show(), ms).unref()
  }

  async #show(): Promise<void> {
    const text = await this.#reason()
    if (this.#over) return
    if (process.stderr.isTTY) this.#line.text = text
    else writeStderr(plain(text))
    this.#wait(LINE_MS)
  }

  [Symbol.dispose](): void {
    this.#over = true
    clearTimeout(this.#timer)
  }
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1)
}

/** Formats seconds in the two largest units: `3d 4h`, `5m 12s`, `7.3s`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '-'
  if (seconds < 60) return `${(Math.floor(seconds * 10) / 10).toFixed(1)}s`
  const whole = Math.floor(seconds)
  const parts: [number, string][] = [
    [Math.floor(whole / 86_400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'm'],
    [whole % 60, 's'],
  ]
  const first = parts.findIndex(([count]) => count > 0)
  return parts
    .slice(first, first + 2)
    .map(([count, unit]) => `${count}${unit}`)
    .join(' ')
}
