/**
 * Patterns of whole paths, as `/files/*.pdf`: a `*` stands for any characters, also for slashes and for none. A pattern is compared
 * with the normalised path, as the paths of routes are (see path.ts). With a `/` at its end it matches only paths that have one there. Others are compared
 * with the path with and without the slash that the client has sent at its end: `/a*c` matches `/abc/`, and `/a/*` matches `/a/`, but not `/a`.
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
  const sample = pattern
    .replace(/^\*/, '/*')
    .replaceAll('*', 'x')
    .replace(/(.)\/$/, '$1')
  const canonical = canonicalPath(sample)
  if (canonical instanceof InvalidValue) return canonical.why.replace(/^.* is not a path: /, '')
  return canonical === sample ? null : 'paths are compared without escapes of letters and slashes'
}

/** Returns a function that compares paths with a pattern. `path` has no slash at its end (except `/`), `slash` reports whether the client has sent one. */
export function matcherOf(pattern: string): (path: string, slash: boolean) => boolean {
  const matches = textMatcher(pattern)
  if (pattern !== '/' && pattern.endsWith('/'))
    return (path, slash) => (slash || path === '/') && matches(path === '/' ? '/' : `${path}/`)
  return (path, slash) => matches(path) || (slash && matches(`${path}/`))
}

/** The first place of each part is right if any is: nothing is tried twice. */
function textMatcher(pattern: string): (text: string) => boolean {
  const [begin = '', ...rest] = pattern.split('*')
  const end = rest.pop()
  if (end === undefined) return text => text === begin
  return text => {
    if (text.length < begin.length + end.length || !text.startsWith(begin) || !text.endsWith(end))
      return false
    const limit = text.length - end.length
    let at = begin.length
    for (const part of rest) {
      const found = text.indexOf(part, at)
      if (found < 0 || found + part.length > limit) return false
      at = found + part.length
    }
    return true
  }
}
