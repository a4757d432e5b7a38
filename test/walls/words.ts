import type { Sources } from './imports.js'
import { codeOf } from './source-text.js'
import { hardTitles } from './titles.js'

/** Openings of a sentence that make its reader look for the noun: "Who waits …", "Of what a client …". */
const OPENING = /^(?:Who|Whoever|Whom|Of|What|So many|Is to|It is to)\b/
/** A clause in the place of a noun that has a name (the client, the successor, the operator), and words that the field does not use. */
const NAMELESS = /\b(?:whoever|whom|nobody|somebody|anew|by hand|comes? to serve|version before)\b/i
/** Openings of a comment whose noun stands somewhere else: in the name below it, or nowhere. */
const PRONOUN = /^(?:It|Its|They|Their|These|Those|Null:|Undefined:|Absent:|False:|True:)(?:\s|$)/
/** Names that the code had for what the field calls otherwise; `docs/glossary.md` has the words in their place. */
const RETIRED = new Set(
  'surroundings desk duty crew evening custody shelf deposit deposits safekeeping governor overseer trial foster fosters courier giver taker visitor visitors guest reminder reminders shaker shakers stranger strangers sayer complaints crowd'.split(
    ' ',
  ),
)

/** How often texts use words that take two readings. */
export interface HardWords {
  /** Lines of comments. */
  readonly comments: number
  /** Lines of comments with a sentence that begins with a pronoun. */
  readonly pronouns: number
  /** Lines of pages, without their blocks of code. */
  readonly pages: number
  /** Retired names in code, each as often as it stands there. */
  readonly names: number
}

/** Places with words that take two readings, each as `path:line: text`. */
export interface HardPlaces {
  readonly comments: readonly string[]
  readonly pronouns: readonly string[]
  readonly names: readonly string[]
  readonly titles: readonly string[]
}

/** Looks at files of TypeScript, JavaScript, C, Go, Python and shells, by their paths. */
export function hardPlaces(files: Sources): HardPlaces {
  const found = {
    comments: [] as string[],
    pronouns: [] as string[],
    names: [] as string[],
    titles: [] as string[],
  }
  for (const [path, source] of files) {
    for (const [index, text] of commentsOf(path, source).entries()) {
      if (text === null) continue
      if (isHard(text)) found.comments.push(`${path}:${index + 1}: ${text}`)
      if (opensWith(text, PRONOUN)) found.pronouns.push(`${path}:${index + 1}: ${text}`)
    }
    found.names.push(
      ...retiredNames(hasHashes(path) ? source.replace(HASHED, '') : source).map(name => `${path}: ${name}`),
    )
    if (!path.endsWith('.test.ts')) continue
    found.titles.push(...hardTitles(source).map(({ line, text }) => `${path}:${line}: ${text}`))
  }
  return found
}

export function hardWords(sources: readonly string[], pages: readonly string[]): HardWords {
  return {
    comments: sum(sources, source => commentLines(source).filter(isHard).length),
    pronouns: sum(sources, source => commentLines(source).filter(line => opensWith(line, PRONOUN)).length),
    pages: sum(pages, page => proseLines(page).filter(isHard).length),
    names: sum(sources, source => retiredNames(source).length),
  }
}

function sum(texts: readonly string[], count: (text: string) => number): number {
  return texts.reduce((total, text) => total + count(text), 0)
}

function isHard(line: string): boolean {
  return NAMELESS.test(line) || opensWith(line, OPENING)
}

function opensWith(line: string, opening: RegExp): boolean {
  return line.split(/(?<=[.:;]) /).some(sentence => opening.test(sentence))
}

/** Lines that are a comment, or a part of one, without what marks them as such. */
export function commentLines(source: string): string[] {
  return source
    .split('\n')
    .map(commentIn)
    .filter(text => text !== null)
}

function commentIn(line: string): string | null {
  return /^\s*(?:\/\*\*?|\*(?!\/)|\/\/)\s*(.*?)\s*(?:\*\/)?$/.exec(line)?.[1] ?? null
}

/** The text of each line that is a comment, or a part of one; null for all others. */
function commentsOf(path: string, source: string): (string | null)[] {
  const lines = source.split('\n')
  if (!hasHashes(path)) return lines.map(commentIn)
  let inside = false
  return lines.map(line => {
    const quotes = path.endsWith('.py') ? line.split('"""').length - 1 : 0
    const isText = inside || quotes > 0
    if (quotes % 2 === 1) inside = !inside
    return isText ? line.trim().replaceAll('"""', '') : (/^\s*#(?!!)\s*(.*)$/.exec(line)?.[1] ?? null)
  })
}

/** Texts and comments of Python and of shells. */
const HASHED = /"""[\s\S]*?"""|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|#.*/g

function hasHashes(path: string): boolean {
  return /\.(?:py|sh)$/.test(path)
}

export function proseLines(page: string): string[] {
  const prose = page.replace(/^```.*?^```$/gms, '')
  return prose.split('\n').map(line => line.replace(/^[\s#>|*-]*(?:\d+\. )?/, ''))
}

export function retiredNames(source: string): string[] {
  const names = codeOf(source).match(/[A-Za-z_$][\w$]*/g) ?? []
  return names.filter(name => name.split(/(?=[A-Z])|[_$\d]+/).some(word => RETIRED.has(word.toLowerCase())))
}
