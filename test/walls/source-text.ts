/**
 * A TypeScript source without its comments, and without what its strings say (their quotes stay), so that a rule looks at code
 * only. Lines stay lines.
 */
export function codeOf(source: string): string {
  return strip(source, false)
}

/** The same with its strings: what is imported is one. */
export function codeWithStrings(source: string): string {
  return strip(source, true)
}

/** After these a slash begins a regular expression, not a division. */
const BEFORE_REGEX = /(?:^|[=([{},;:!&|?+\-*%<>~^]|\b(?:return|typeof|case|in|of|void|throw|await|else))$/

function strip(source: string, strings: boolean): string {
  let out = ''
  let at = 0
  /** Depths of braces at which a `${` of a template ends. */
  const templates: number[] = []
  let depth = 0

  const quoted = (from: number, to: number): void => {
    const text = source.slice(from, to)
    // As the name of a property it is code.
    const named = out.at(-1) === '[' && source[to] === ']'
    out += strings || named ? text : text[0] + text.slice(1, -1).replace(/[^\n]/g, '') + text.at(-1)
    at = to
  }
  /** From behind its opening quote, or behind the brace that ends a `${`, to the next `${` or the end. */
  const template = (): void => {
    let end = at + 1
    while (end < source.length && source[end] !== '`' && !source.startsWith('${', end)) {
      end += source[end] === '\\' ? 2 : 1
    }
    if (source[end] === '$') {
      templates.push(depth++)
      quoted(at, end + 2)
    } else {
      quoted(at, end + 1)
    }
  }

  while (at < source.length) {
    const char = source[at]!
    if (source.startsWith('//', at)) {
      const end = source.indexOf('\n', at)
      at = end < 0 ? source.length : end
    } else if (source.startsWith('/*', at)) {
      const end = source.indexOf('*/', at + 2)
      const to = end < 0 ? source.length : end + 2
      out += source.slice(at, to).replace(/[^\n]/g, '')
      at = to
    } else if (char === "'" || char === '"') {
      quoted(at, endOf(source, at, char))
    } else if (char === '/' && BEFORE_REGEX.test(out.trimEnd())) {
      quoted(at, endOfRegex(source, at))
    } else if (char === '`') {
      template()
    } else if (char === '}' && templates.at(-1) === depth - 1) {
      templates.pop()
      depth--
      template()
    } else {
      if (char === '{') depth++
      if (char === '}') depth--
      out += char
      at++
    }
  }
  return out
}

function endOf(source: string, from: number, quote: string): number {
  let at = from + 1
  while (at < source.length && source[at] !== quote && source[at] !== '\n') at += source[at] === '\\' ? 2 : 1
  return at + 1
}

function endOfRegex(source: string, from: number): number {
  let at = from + 1
  let inClass = false
  while (at < source.length && source[at] !== '\n' && (inClass || source[at] !== '/')) {
    if (source[at] === '[') inClass = true
    if (source[at] === ']') inClass = false
    at += source[at] === '\\' ? 2 : 1
  }
  return at + 1
}
