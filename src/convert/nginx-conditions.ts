/** The condition of a route for an `if`; null if there is none. */
export function conditionOf(text: string): string | null {
  const [, variable, operator, value = ''] =
    /^\(\s*\$(\w+)\s*(?:(!?[=~]\*?)\s*"?([^"]*?)"?)?\s*\)$/.exec(text) ?? []
  if (variable === undefined || operator?.includes('*')) return null
  const not = operator?.startsWith('!') ? '!' : ''
  const exact = operator === undefined ? '' : operator.endsWith('=') ? `=${value}` : patternOf(value)
  if (exact === null || value.includes('|')) {
    const methods = /^\^?\(?((?:[A-Z]+\|)+[A-Z]+)\)?\$?$/.exec(value)?.[1]
    return variable === 'request_method' && methods !== undefined ? `${not}method=${methods}` : null
  }
  if (variable === 'request_method') return exact === '' ? null : `${not}method${exact}`
  const [, kind, name] = /^(http|arg|cookie)_(\w+)$/.exec(variable) ?? []
  if (kind === undefined) return null
  const what =
    kind === 'http'
      ? `header:${name!.replaceAll('_', '-')}`
      : `${kind === 'arg' ? 'query' : 'cookie'}:${name}`
  // `= ""` is true without the header too.
  if (exact === '=') return `${not === '' ? '!' : ''}${what}`
  return `${not}${what}${exact}`
}

/** `=TEXT` or `=BEGIN*` for a simple pattern; null for others. */
function patternOf(pattern: string): string | null {
  const [, begin, end] = /^\^([\w./:@-]*)(\$?)$/.exec(pattern) ?? []
  if (begin === undefined || begin.includes('.')) return null
  return end === '$' ? `=${begin}` : `=${begin}*`
}
