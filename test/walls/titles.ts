import { codeWithStrings } from './source-text.js'

/** Openings of a title that hide the actor: "is refused", "what arrives", "that has ended". */
const HARD_OPENING = /^(?:is|are|that|whose|who|whoever|whom|what|which|nobody|somebody)\b/i

export interface Title {
  readonly kind: 'describe' | 'it'
  readonly text: string
  /** The offset of the text in the source. */
  readonly at: number
}

/** The titles of a test file that take two readings. */
export function hardTitles(source: string): string[] {
  return titlesOf(codeWithStrings(source))
    .map(({ text }) => text)
    .filter(text => HARD_OPENING.test(text))
}

/** Titles of `describe` and `it`, also behind `.each(…)`, `.runIf(…)` and the like. */
export function titlesOf(source: string): Title[] {
  const starts = source.matchAll(/^[ \t]*(describe|it)(?=[.(<])/gm)
  return [...starts].flatMap(({ 0: { length }, 1: kind, index }) => {
    const at = titleFrom(source, index + length)
    return at === null
      ? []
      : [{ kind: kind as Title['kind'], text: source.slice(at, endOf(source, at - 1) - 1), at }]
  })
}

/** The offset of the first argument's text, in the first call whose first argument is a string. */
function titleFrom(source: string, from: number): number | null {
  let at = from
  while (at < source.length) {
    const member = /^(?:\s*\.\w+)+/.exec(source.slice(at, at + 100))
    if (member) at += member[0].length
    else if (source[at] === '`' || source[at] === '<') at = endOf(source, at)
    else if (source[at] !== '(') return null
    else {
      const quote = /^\(\s*['"`]/.exec(source.slice(at, at + 100))
      if (quote) return at + quote[0].length
      at = endOf(source, at)
    }
  }
  return null
}

const CLOSING: Readonly<Record<string, string>> = { '(': ')', '<': '>', '[': ']', '{': '}' }

/** The offset behind the string or the brackets that begin at `from`. */
function endOf(source: string, from: number): number {
  const open = source[from]!
  const close = CLOSING[open] ?? open
  for (let at = from + 1; at < source.length; at++) {
    const char = source[at]!
    if (char === '\\') at++
    else if (char === close) return at + 1
    else if (close === '`' ? source.startsWith('${', at) : close !== "'" && close !== '"') {
      if (close === '`') at = endOf(source, at + 1) - 1
      else if (`'"\``.includes(char) || (char in CLOSING && (char !== '<' || open === '<')))
        at = endOf(source, at) - 1
    }
  }
  return source.length
}
