/**
 * Patterns of whole paths, as `/files/*.pdf`: a `*` stands for any characters, also for slashes and for none. A pattern is compared
 * with the normalised path, as the paths of routes are (see path.ts), which has no `/` at its end.
 */
import { InvalidValue } from '../../checks/values.js'
import { canonicalPath } from './path.js'

const MOST_CHARACTERS = 256
const MOST_STARS = 8

/** Returns why no path can have the pattern; null if one can. */
export function whyNoPattern(pattern: string): string | null {
  if (!/^[/*]/.test(pattern)) return 'a pattern of paths begins with / or *, as path=*.php'
  if (pattern.length > MOST_CHARACTERS) return `a pattern has at most ${MOST_CHARACTERS} characters`
  if (pattern.includes('**')) return 'write one *: it stands for any characters'
  if (pattern.split('*').length - 1 > MOST_STARS) return `a pattern has at most ${MOST_STARS} *`
  const sample = pattern.replace(/^\*/, '/*').replaceAll('*', 'x')
  const canonical = canonicalPath(sample)
  if (canonical instanceof InvalidValue) return canonical.why.replace(/^.* is not a path: /, '')
  return canonical === sample
    ? null
    : 'paths are compared without escapes of letters, and without a / at the end'
}

/** Returns a function that compares paths with a pattern. The first place of each part is right if any is: nothing is tried twice. */
export function matcherOf(pattern: string): (path: string) => boolean {
  const [begin = '', ...rest] = pattern.split('*')
  const end = rest.pop()
  if (end === undefined) return path => path === begin
  return path => {
    if (path.length < begin.length + end.length || !path.startsWith(begin) || !path.endsWith(end))
      return false
    const limit = path.length - end.length
    let at = begin.length
    for (const part of rest) {
      const found = path.indexOf(part, at)
      if (found < 0 || found + part.length > limit) return false
      at = found + part.length
    }
    return true
  }
}
