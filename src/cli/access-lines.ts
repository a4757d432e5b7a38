import type { Logger } from '../index.js'

/** Longest delay of a line: lines that follow within this time are written with it. */
const LATE_MS = 20
/** If more characters than this wait, they are written immediately. */
const MOST = 64 * 1024

interface Sink {
  write(text: string): unknown
}

/** Writes log lines in pino's format, many per write. A fact is a string, a number, or undefined, which is omitted. */
export class AccessLines implements Pick<Logger, 'info'> {
  readonly #sink: Sink
  readonly #pid = `,"pid":${process.pid}`
  readonly #onTimer = (): void => this.flush()
  /** Cached pieces by position: most lines have the same keys in the same order. */
  readonly #pieces: Piece[] = []
  #text = ''
  #timer: NodeJS.Timeout | undefined

  constructor(sink: Sink) {
    this.#sink = sink
  }

  info(facts: object, message: string): void {
    const pieces = this.#pieces
    let line = `{"level":30${timeField()}${this.#pid}`
    let at = 0
    for (const key in facts) {
      const value = (facts as Record<string, unknown>)[key]
      let piece = pieces[at]
      if (piece === undefined || piece.key !== key) piece = pieces[at] = new Piece(key)
      at++
      if (value !== undefined) line += value === piece.value ? piece.text : piece.format(value)
    }
    this.line(`${line},"msg":${quoted(message)}}`)
  }

  /** Writes a line that is not JSON. */
  line(text: string): void {
    this.#timer ??= setTimeout(this.#onTimer, LATE_MS)
    this.#text += `${text}\n`
    if (this.#text.length > MOST) this.flush()
  }

  flush(): void {
    const text = this.#text
    this.#text = ''
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (text !== '') this.#sink.write(text)
  }
}

/** Caches the text of one fact: most facts repeat those of the previous line. */
class Piece {
  readonly key: string
  value: unknown = undefined
  text = ''
  readonly #start: string

  constructor(key: string) {
    this.key = key
    this.#start = `,"${key}":`
  }

  format(value: unknown): string {
    this.value = value
    this.text = this.#start + (typeof value === 'string' ? quoted(value) : value)
    return this.text
  }
}

/** Quotes text as JSON; most text needs no escapes. */
function quoted(text: string): string {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 0x20 || code === QUOTE || code === BACKSLASH || code > 0x7e) return JSON.stringify(text)
  }
  return `"${text}"`
}

const QUOTE = 0x22
const BACKSLASH = 0x5c

let lastMs = 0
let lastText = ''

/** Formats the time; cached for lines of the same millisecond. */
function timeField(): string {
  const now = Date.now()
  if (now !== lastMs) {
    lastMs = now
    lastText = `,"time":"${new Date(now).toISOString()}"`
  }
  return lastText
}
