import { FdbError } from '../errors.js'
import { TOKEN_LOWER } from './bytes.js'

const NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const VALUE = /^(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?$/
/** Fields that the relay sets itself, in `rewrite.ts`. */
const RESERVED = new Set(['host', 'content-length', 'transfer-encoding', 'connection', 'upgrade'])

export interface FieldEditOptions {
  /** Removes all lines with these names (any case). */
  remove?: readonly string[]
  /** Each line replaces all lines with the same name, at the position of the first; if the head has none, the line is appended. */
  set?: Readonly<Record<string, string>>
  /** Lines to append, besides those of the head with the same name. */
  add?: Readonly<Record<string, string>>
}

export interface Edit {
  /** The lower-case name. */
  readonly name: string
  /** Replaces all lines with this name; '' removes them. */
  readonly line: string
}

/** Returns a field line with CRLF. Throws for an invalid name or value, which a reader could take for several lines (response splitting). */
export function fieldLine(name: string, value: string): string {
  if (!NAME.test(name) || !VALUE.test(value)) {
    throw new FdbError(
      'ERR_FDB_HTTP1_FIELD',
      `${JSON.stringify(name)}: ${JSON.stringify(value)} is not a valid field line: the name must be a token; the value must not contain control characters, line ends or characters beyond latin1, nor begin or end with white space`,
      { details: { name, value } },
    )
  }
  return `${name}: ${value}\r\n`
}

/** Checks the edits once, for use with many heads. */
export class FieldEdits {
  readonly #byLength: (Edit[] | undefined)[] = []
  /** 1 for the first letter of each name, in both cases. */
  readonly #firstLetters = new Uint8Array(256)
  readonly #setLines: Edit[] = []
  #added = ''

  constructor(options: FieldEditOptions = {}) {
    for (const name of options.remove ?? []) this.#add(name, '')
    for (const [name, value] of Object.entries(options.set ?? {})) this.#add(name, fieldLine(name, value))
    for (const [name, value] of Object.entries(options.add ?? {})) {
      if (RESERVED.has(name.toLowerCase())) throw reservedError(name)
      this.#added += fieldLine(name, value)
    }
  }

  find(bytes: Uint8Array, start: number, end: number): Edit | undefined {
    if (this.#firstLetters[bytes[start]!] === 0) return undefined
    const length = end - start
    const candidates = length < this.#byLength.length ? this.#byLength[length] : undefined
    if (candidates === undefined) return undefined
    for (let c = 0; c < candidates.length; c++) {
      if (matchesName(candidates[c]!.name, bytes, start)) return candidates[c]
    }
    return undefined
  }

  /** Returns the lines to append to the head. `placed`: the edits that have replaced lines of the head. */
  unplacedLines(placed: readonly Edit[]): string {
    if (this.#setLines.length === 0) return this.#added
    let lines = this.#added
    for (const edit of this.#setLines) if (!placed.includes(edit)) lines += edit.line
    return lines
  }

  #add(name: string, line: string): void {
    const key = name.toLowerCase()
    const others = (this.#byLength[key.length] ??= [])
    if (!NAME.test(name) || RESERVED.has(key) || others.some(other => other.name === key)) {
      throw reservedError(name)
    }
    this.#firstLetters[key.charCodeAt(0)] = 1
    this.#firstLetters[key.toUpperCase().charCodeAt(0)] = 1
    const edit = { name: key, line }
    others.push(edit)
    if (line !== '') this.#setLines.push(edit)
  }
}

function reservedError(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_HTTP1_FIELD',
    `the field ${JSON.stringify(name)} cannot be edited: its name must be a token, must appear only once in the edits, and must not be ${[...RESERVED].join(', ')}`,
    { details: { name } },
  )
}

/** Reports whether the bytes from `start` on are `name`, ignoring case. `name` must be lower-case. */
function matchesName(name: string, bytes: Uint8Array, start: number): boolean {
  for (let i = 0; i < name.length; i++) {
    if (TOKEN_LOWER[bytes[start + i]!] !== name.charCodeAt(i)) return false
  }
  return true
}

export const NO_EDITS = new FieldEdits()
