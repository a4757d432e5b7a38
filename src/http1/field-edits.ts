import { FdbError } from '../errors.js'

const NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const VALUE = /^(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?$/
/** What rewriting itself decides about. */
const RESERVED = new Set(['host', 'content-length', 'transfer-encoding', 'connection', 'upgrade'])

/** What to do to the field lines of every head of a route. Checked and prepared once, used for many heads. */
export interface FieldEditOptions {
  /** Names (any case) of which no line is passed on. */
  remove?: readonly string[]
  /** Lines that take the place of all lines of their name: of the first one's, at the end if there is none. */
  set?: Readonly<Record<string, string>>
}

/** One edit: the line that takes the place of the others, '' to remove them. */
interface Edit {
  line: string
  index: number
}

/**
 * A field line with its CRLF. Throws for a name or value that could be read as more than one line, that is response
 * splitting: values often come from a peer.
 */
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
  readonly #edits = new Map<string, Edit>()
  /** By name length, so that the names of other fields are not even cut out. */
  readonly #lengths: boolean[] = []

  constructor(options: FieldEditOptions = {}) {
    for (const name of options.remove ?? []) this.#add(name, '')
    for (const [name, value] of Object.entries(options.set ?? {})) this.#add(name, fieldLine(name, value))
  }

  /** False for names that no edit can concern, judged by their length alone. */
  mayConcern(nameLength: number): boolean {
    return this.#lengths[nameLength] === true
  }

  /** The edit of that name, which must be in small letters. */
  of(name: string): Readonly<Edit> | undefined {
    return this.#edits.get(name)
  }

  /** The lines whose `index` is not in `placed`. */
  rest(placed: readonly number[]): string {
    let lines = ''
    for (const edit of this.#edits.values()) if (!placed.includes(edit.index)) lines += edit.line
    return lines
  }

  #add(name: string, line: string): void {
    const key = name.toLowerCase()
    if (!NAME.test(name) || RESERVED.has(key) || this.#edits.has(key)) {
      throw new FdbError(
        'ERR_FDB_HTTP1_FIELD',
        `the field ${JSON.stringify(name)} cannot be edited: it must be a token, named once, and none of ${[...RESERVED].join(', ')}`,
        { details: { name } },
      )
    }
    this.#edits.set(key, { line, index: this.#edits.size })
    this.#lengths[key.length] = true
  }
}

export const NO_EDITS = new FieldEdits()
