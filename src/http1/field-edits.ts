import { FdbError } from '../errors.js'
import { TOKEN_LOWER } from './bytes.js'

const NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const VALUE = /^(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?$/
/** Fields that rewriting decides. */
const RESERVED = new Set(['host', 'content-length', 'transfer-encoding', 'connection', 'upgrade'])

/** Edits of a route's field lines: checked and prepared once, used for many heads. */
export interface FieldEditOptions {
  /** Names (any case) whose lines are dropped. */
  remove?: readonly string[]
  /** Lines that replace all lines of their name, in place of the first one; at the end if there is none. */
  set?: Readonly<Record<string, string>>
}

/** The line that replaces the others; '' removes them. */
export interface Edit {
  /** In small letters. */
  readonly name: string
  readonly line: string
}

/** A field line with its CRLF. Throws for a name or value that could be read as several lines (response splitting). */
export function fieldLine(name: string, value: string): string {
  if (!NAME.test(name) || !VALUE.test(value)) {
    throw new FdbError(
      'ERR_FDB_HTTP1_FIELD',
      `${JSON.stringify(name)}: ${JSON.stringify(value)} is no field line: the name must be a token, the value without control characters, line ends, characters beyond latin1 and white space around it`,
      { details: { name, value } },
    )
  }
  return `${name}: ${value}\r\n`
}

export class FieldEdits {
  readonly #byLength: (Edit[] | undefined)[] = []
  /** 1 for the first letter of each name, small and capital. */
  readonly #first = new Uint8Array(256)
  readonly #written: Edit[] = []

  constructor(options: FieldEditOptions = {}) {
    for (const name of options.remove ?? []) this.#add(name, '')
    for (const [name, value] of Object.entries(options.set ?? {})) this.#add(name, fieldLine(name, value))
  }

  of(bytes: Uint8Array, start: number, end: number): Edit | undefined {
    if (this.#first[bytes[start]!] === 0) return undefined
    const length = end - start
    const candidates = length < this.#byLength.length ? this.#byLength[length] : undefined
    if (candidates === undefined) return undefined
    for (let c = 0; c < candidates.length; c++) {
      if (isSpelt(candidates[c]!.name, bytes, start)) return candidates[c]
    }
    return undefined
  }

  unplacedLines(placed: readonly Edit[]): string {
    if (this.#written.length === 0) return ''
    let lines = ''
    for (const edit of this.#written) if (!placed.includes(edit)) lines += edit.line
    return lines
  }

  #add(name: string, line: string): void {
    const key = name.toLowerCase()
    const others = (this.#byLength[key.length] ??= [])
    if (!NAME.test(name) || RESERVED.has(key) || others.some(other => other.name === key)) {
      throw new FdbError(
        'ERR_FDB_HTTP1_FIELD',
        `the field ${JSON.stringify(name)} cannot be edited: it must be a token, named once, and none of ${[...RESERVED].join(', ')}`,
        { details: { name } },
      )
    }
    this.#first[key.charCodeAt(0)] = 1
    this.#first[key.toUpperCase().charCodeAt(0)] = 1
    const edit = { name: key, line }
    others.push(edit)
    if (line !== '') this.#written.push(edit)
  }
}

/** The bytes from `start` spell `name` (in small letters), in any case. */
function isSpelt(name: string, bytes: Uint8Array, start: number): boolean {
  for (let i = 0; i < name.length; i++) {
    if (TOKEN_LOWER[bytes[start + i]!] !== name.charCodeAt(i)) return false
  }
  return true
}

export const NO_EDITS = new FieldEdits()
