import { FdbError } from '../errors.js'
import type { SourceLine } from './draft.js'

export interface Statement extends SourceLine {
  readonly words: readonly string[]
}

export interface HaproxySection extends SourceLine {
  readonly kind: string
  readonly name: string
  readonly statements: readonly Statement[]
}

/** Sections that HAProxy has; their names begin a section. */
const KINDS =
  /^(?:global|defaults|frontend|backend|listen|resolvers|peers|userlist|program|cache|mailers|ring|log-forward|http-errors|fcgi-app|crt-store|traces)$/

const LEAST_WORDS: ReadonlyMap<string, number> = new Map([
  ['use_backend', 2],
  ['default_backend', 2],
  ['monitor-uri', 2],
  ['nameserver', 3],
  ['bind', 2],
])

/** Parses a configuration of HAProxy. Throws ERR_FDB_CONFIG with file and line. */
export function parseHaproxy(text: string, file: string): HaproxySection[] {
  const sections: (HaproxySection & { statements: Statement[] })[] = []
  let place = 0
  for (const raw of text.split('\n')) {
    place += 1
    const words = wordsOf(raw, file, place)
    const [first] = words
    if (first === undefined) continue
    const line = { file, place, text: words.join(' ') }
    if (words.length < (LEAST_WORDS.get(first) ?? 1))
      throw new FdbError('ERR_FDB_CONFIG', `${file}:${place}: ${line.text}: a word is missing behind it`)
    if (KINDS.test(first)) sections.push({ ...line, kind: first, name: words[1] ?? '', statements: [] })
    else if (sections.length === 0)
      throw new FdbError(
        'ERR_FDB_CONFIG',
        `${file}:${place}: ${first} is in no section (global, defaults, frontend …)`,
      )
    else sections.at(-1)!.statements.push({ ...line, words })
  }
  return sections
}

/** Signs that a backslash takes their meaning; before others it stands for itself, as in patterns. */
const ESCAPED = /[\s#\\'"]/

/** Words are separated by spaces; quotes and backslashes keep them together. */
function wordsOf(line: string, file: string, place: number): string[] {
  const words: string[] = []
  let word: string | null = null
  let quote = ''
  for (let at = 0; at < line.length; at += 1) {
    const sign = line[at]!
    const next = line[at + 1] ?? ''
    if (sign === '\\' && quote !== "'" && ESCAPED.test(next)) {
      word = `${word ?? ''}${next}`
      at += 1
    } else if (quote !== '') {
      if (sign === quote) quote = ''
      else word = `${word ?? ''}${sign}`
    } else if (sign === '#') break
    else if (sign === '"' || sign === "'") {
      quote = sign
      word ??= ''
    } else if (/\s/.test(sign)) {
      if (word !== null) words.push(word)
      word = null
    } else word = `${word ?? ''}${sign}`
  }
  if (quote !== '')
    throw new FdbError(
      'ERR_FDB_CONFIG',
      `${file}:${place}: the text in quotes does not end: a ${quote} is missing`,
    )
  if (word !== null) words.push(word)
  return words
}

const PHASES = [/^tcp-request$/, /^monitor-uri$/, /^block$/, /^http-request$/, /^redirect$/]

/** The statements in the order in which HAProxy looks at those of different kinds: all rules about connections come before those about requests. */
export function inOrder(statements: readonly Statement[]): Statement[] {
  const phase = ({ words: [first = ''] }: Statement) => (PHASES.findIndex(each => each.test(first)) + 6) % 6
  return statements.toSorted((a, b) => phase(a) - phase(b))
}
