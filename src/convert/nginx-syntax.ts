import { dirname } from 'node:path'
import { FdbError } from '../errors.js'
import type { SourceLine } from './draft.js'

/** A directive, with its block if it has one. */
export interface Directive extends SourceLine {
  readonly name: string
  readonly args: readonly string[]
  readonly block: readonly Directive[] | null
  /** The folder of the first file: paths are relative to it, also those in included files. */
  readonly folder: string
  /** An `include` whose files are not there. */
  readonly absent?: true
}

/** Files that an `include` names, with their contents; none if they are not there. Throws if one cannot be read. */
export type Included = (pattern: string) => readonly { readonly file: string; readonly text: string }[]

const MOST_DEPTH = 20
const MOST_BLOCKS = 100
/** Directives that nginx reads only with an argument. */
const WITH_ARGUMENT =
  /^(?:location|upstream|include|listen|keepalive|keepalive_timeout|hash|proxy_\w+|add_header|limit_\w+|map|root|ssl_\w+|worker_processes)$/

/**
 * Parses a configuration of nginx. Throws ERR_FDB_CONFIG with file and line.
 */
export function parseNginx(
  text: string,
  file: string,
  included: Included,
  folder: string = dirname(file),
  depth = 0,
): Directive[] {
  if (depth > MOST_DEPTH) throw wrong(file, 1, `more than ${MOST_DEPTH} files include each other`)
  const words = new Words(text, file)
  const parse = (within: number): Directive[] => {
    const closing = within > 0
    if (within > MOST_BLOCKS)
      throw wrong(file, words.line, `more than ${MOST_BLOCKS} blocks are within each other`)
    const all: Directive[] = []
    for (;;) {
      const first = words.next()
      if (first === null) {
        if (closing) throw wrong(file, words.line, 'the file ends within a block: a } is missing')
        return all
      }
      if (first.mark === '}') {
        if (closing) return all
        throw wrong(file, first.line, 'a } without a block')
      }
      if (first.mark !== '') throw wrong(file, first.line, `${first.mark} without a directive`)
      const args: string[] = []
      let end = words.next()
      for (; end !== null && end.mark === ''; end = words.next()) args.push(end.text)
      if (end === null || end.mark === '}')
        throw wrong(file, first.line, `the directive ${first.text} does not end: a ; is missing`)
      const name = first.text
      const line = { folder, file, place: first.line, text: [name, ...args].join(' ') }
      const block =
        end.mark === '{' ? (name.endsWith('_by_lua_block') ? words.skipBlock() : parse(within + 1)) : null
      if (args.length === 0 && WITH_ARGUMENT.test(name))
        throw wrong(file, first.line, `the directive ${name} has no argument`)
      if (name === 'include' && block === null && args.length === 1) {
        const files = included(args[0]!)
        const absent = files.length === 0 && !isPattern(args[0]!)
        all.push({ ...line, name, args, block: null, ...(absent && { absent }) })
        for (const each of files) all.push(...parseNginx(each.text, each.file, included, folder, depth + 1))
      } else all.push({ ...line, name, args, block })
    }
  }
  return parse(0)
}

/** Whether `include` names all paths that match, as glob(7) has it. */
export function isPattern(text: string): boolean {
  return /[*?[]/.test(text)
}

interface Word {
  readonly line: number
  readonly text: string
  /** `;`, `{` or `}` for the sign itself, else empty. */
  readonly mark: '' | ';' | '{' | '}'
}

const CONTROLS: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' }

class Words {
  line = 1
  #at = 0

  constructor(
    readonly text: string,
    readonly file: string,
  ) {}

  /** The next word or sign; null at the end. */
  next(): Word | null {
    this.#skipSpace()
    const first = this.text[this.#at]
    if (first === undefined) return null
    const { line } = this
    if (first === ';' || first === '{' || first === '}') {
      this.#at += 1
      return { line, text: first, mark: first }
    }
    return { line, text: first === '"' || first === "'" ? this.#quoted(first) : this.#plain(), mark: '' }
  }

  /** Skips the rest of a block that is not of nginx's language. */
  skipBlock(): readonly Directive[] {
    for (let depth = 1; depth > 0; this.#at += 1) {
      const sign = this.text[this.#at]
      if (sign === undefined)
        throw wrong(this.file, this.line, 'the file ends within a block: a } is missing')
      if (sign === '\n') this.line += 1
      depth += sign === '{' ? 1 : sign === '}' ? -1 : 0
    }
    return []
  }

  #skipSpace(): void {
    for (;;) {
      const sign = this.text[this.#at]
      if (sign === '#') while (this.#at < this.text.length && this.text[this.#at] !== '\n') this.#at += 1
      else if (sign === undefined || !/\s/.test(sign)) return
      else {
        if (sign === '\n') this.line += 1
        this.#at += 1
      }
    }
  }

  #quoted(quote: string): string {
    const start = this.line
    let text = ''
    for (this.#at += 1; ; this.#at += 1) {
      const sign = this.text[this.#at]
      if (sign === undefined)
        throw wrong(this.file, start, `the text that begins here does not end: a ${quote} is missing`)
      if (sign === quote) break
      if (sign === '\n') this.line += 1
      const next = this.text[this.#at + 1] ?? ''
      if (sign === '\\' && (next === quote || next === '\\' || next in CONTROLS)) {
        this.#at += 1
        text += CONTROLS[next] ?? next
      } else text += sign
    }
    this.#at += 1
    return text
  }

  #plain(): string {
    const start = this.#at
    for (; this.#at < this.text.length; this.#at += 1) {
      const sign = this.text[this.#at]!
      if (sign === '\\') this.#at += 1
      // `${name}` is a variable, not a block.
      else if (sign === '$' && this.text[this.#at + 1] === '{') {
        const end = this.text.indexOf('}', this.#at)
        this.#at = end < 0 ? this.text.length - 1 : end
      } else if (/[\s;{}]/.test(sign)) break
    }
    return this.text.slice(start, this.#at).replaceAll(/\\([nrt])/g, (_, letter: string) => CONTROLS[letter]!)
  }
}

function wrong(file: string, line: number, what: string): FdbError {
  return new FdbError('ERR_FDB_CONFIG', `${file}:${line}: ${what}`)
}
