/** Openings of a title that hide its actor or its noun: "is refused", "what arrives", "that has ended". */
const HARD_OPENING = /^(?:is|are|that|whose|who|whoever|whom|what|which|nobody|somebody)\b/i

/** A title of a test or of a suite. */
export interface Title {
  readonly word: 'describe' | 'it' | 'test'
  readonly text: string
  /** The offset of the text in the source. */
  readonly at: number
  readonly line: number
  /** The column of the call: more than that of the suites around it. */
  readonly indent: number
  /** Names behind the word: `.skip.each`. */
  readonly methods: string
}

/** The titles of a test file that hide their actor, with their lines. */
export function hardTitles(source: string): { line: number; text: string }[] {
  return titlesOf(source).filter(({ text }) => HARD_OPENING.test(text))
}

/** Titles in a source that the formatter has indented, also behind `.each(…)`, `.runIf(…)` and the like. */
export function titlesOf(source: string): Title[] {
  const calls = source.matchAll(/^([ \t]*)(describe|it|test)(?=[.(<])((?:\.\w+)*)/gm)
  return [...calls].flatMap(({ 0: { length }, 1: space = '', 2: word, 3: methods = '', index }) => {
    const at = titleFrom(source, index + length)
    if (at === null) return []
    const text = source.slice(at, endOf(source, at - 1) - 1)
    const line = source.slice(0, index).split('\n').length
    return [{ word: word as Title['word'], text, at, line, indent: space.length, methods }]
  })
}

/** The offset of the text in the first pair of brackets that begins with a string. */
function titleFrom(source: string, from: number): number | null {
  let at = from
  while (at < source.length) {
    const method = /^(?:\s*\.\w+)+/.exec(source.slice(at, at + 100))
    if (method) at += method[0].length
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
  const isText = `'"\``.includes(open)
  for (let at = from + 1; at < source.length; at++) {
    const char = source[at]!
    if (char === '\\') at++
    else if (char === close) return at + 1
    else if (open === '`' && source.startsWith('${', at)) at = endOf(source, at + 1) - 1
    else if (!isText && (`'"\``.includes(char) || (char in CLOSING && (char !== '<' || open === '<'))))
      at = endOf(source, at) - 1
  }
  return source.length
}
