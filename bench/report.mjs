// @ts-check
// For every long-running check: progress, a table, and the figures with their bars.
import { writeFileSync } from 'node:fs'
import { cpus, release, totalmem, type } from 'node:os'

/**
 * @typedef {{ name: string, value: number, unit: string, limit: string | null, ok: boolean }} Figure
 * `limit` is for example `>= 0.9`; null: for information, which is always ok.
 */

/** The machine, as far as it explains a figure. */
export function machine() {
  const processors = cpus()
  const memory = `${Math.round(totalmem() / 2 ** 30)} GiB`
  return `${processors.length} x ${processors[0]?.model.trim() || process.arch}, ${memory}, ${type()} ${release().split('.', 2).join('.')}, Node ${process.version}`
}

/**
 * Lines with aligned columns; the first row is the heading. Numbers and what begins with a digit stand on the right.
 * @param {(string | number)[][]} rows
 */
export function table(rows) {
  const text = rows.map(row => row.map(cell => String(cell)))
  const widths = (text[0] ?? []).map((_, column) => Math.max(...text.map(row => row[column]?.length ?? 0)))
  const right = widths.map((_, column) => text.slice(1).every(row => /^([-\d<]|$)/.test(row[column] ?? '')))
  return text.map(row =>
    row
      .map((cell, at) => (right[at] ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0)))
      .join('  ')
      .trimEnd(),
  )
}

/** Where stderr is no terminal, a line of progress comes this often. */
const PLAIN_MS = 10_000

/** Progress: redrawn in place on a terminal; otherwise a plain line every 10 s. */
export class Progress {
  #drawn = 0
  #lastPlain = 0
  #out

  /** @param {NodeJS.WriteStream} [out] */
  constructor(out = process.stderr) {
    this.#out = out
  }

  /**
   * @param {string[]} lines for a terminal
   * @param {string} [plain] for a log, at most every 10 s; default: the first line
   */
  show(lines, plain = lines[0] ?? '') {
    if (this.#out.isTTY) {
      this.clear()
      const width = this.#out.columns || 120
      this.#out.write(lines.map(line => `${line.slice(0, width - 1)}\n`).join(''))
      this.#drawn = lines.length
    } else if (performance.now() - this.#lastPlain >= PLAIN_MS) {
      this.#lastPlain = performance.now()
      this.#out.write(`${plain}\n`)
    }
  }

  /** Something that stays. @param {string} line */
  say(line) {
    this.clear()
    this.#out.write(`${line}\n`)
  }

  clear() {
    if (this.#drawn > 0) this.#out.write(`\x1b[${this.#drawn}A\x1b[0J`)
    this.#drawn = 0
  }
}

const COMPARE = {
  '>=': (/** @type {number} */ value, /** @type {number} */ bar) => value >= bar,
  '<=': (/** @type {number} */ value, /** @type {number} */ bar) => value <= bar,
  '<': (/** @type {number} */ value, /** @type {number} */ bar) => value < bar,
  '>': (/** @type {number} */ value, /** @type {number} */ bar) => value > bar,
  '=': (/** @type {number} */ value, /** @type {number} */ bar) => value === bar,
}

/** @param {number} value */
const rounded = value => Math.round(value * 1000) / 1000

/** The figures of one check. */
export class Figures {
  /** @type {Figure[]} */
  #figures = []

  /** @param {string} name of the check */
  constructor(name) {
    this.name = name
  }

  /**
   * A figure that states a promise: what does not keep to its bound makes the exit code 1, and so does what is no number.
   * @param {string} name
   * @param {number} value
   * @param {string} unit
   * @param {keyof typeof COMPARE} compare
   * @param {number} bar
   */
  add(name, value, unit, compare, bar) {
    if (COMPARE[compare] === undefined || Number.isNaN(Number(bar ?? Number.NaN)))
      throw new TypeError(`${name}: a promise has a bound; info() is for what promises nothing`)
    this.#figures.push({
      name,
      value: rounded(value),
      unit,
      limit: `${compare} ${rounded(bar)}`,
      ok: COMPARE[compare](value, bar),
    })
  }

  /**
   * A figure for information: it explains others, and promises nothing.
   * @param {string} name
   * @param {number} value
   * @param {string} unit
   */
  info(name, value, unit) {
    this.#figures.push({ name, value: rounded(value), unit, limit: null, ok: true })
  }

  /**
   * Returns how many are not ok. Prints the figures, writes them to `file` when one is given, and sets exit code 1 when one is not ok.
   * @param {string | undefined} file
   */
  finish(file) {
    const rows = this.#figures.map(({ name, value, unit, limit, ok }) => [
      limit === null ? 'info' : ok ? 'ok' : 'NOT OK',
      name,
      `${value}${unit === '' ? '' : ` ${unit}`}`,
      limit ?? '',
    ])
    console.log(['', ...table([['', 'figure', 'value', 'limit'], ...rows])].join('\n'))
    const bad = this.#figures.filter(figure => !figure.ok).length
    console.log(
      `\n${this.name}: ${bad === 0 ? 'ok' : `${bad} of ${this.#figures.length} figures not ok`} (${machine()})`,
    )
    if (file !== undefined) {
      const content = { name: this.name, machine: machine(), figures: this.#figures }
      writeFileSync(file, `${JSON.stringify(content, null, 2)}\n`)
    }
    if (bad > 0) process.exitCode = 1
    return bad
  }
}
