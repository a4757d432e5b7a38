/**
 * Paths: the prefixes that routes name, and what a request's path is compared as. Only the comparison works on a
 * normalised path; upstreams get the target as the client sent it.
 *
 * Two spellings that some server takes for the same path must not reach different routes, or a route that answers
 * `/admin` with 403 is passed by. Before it is compared,
 *
 * - query and fragment are cut off;
 * - percent-encoded letters, digits and `-._~` are decoded once (`/%61dmin` is `/admin`; `%2561` stays as it is), other
 *   escapes stay and compare in upper case (`%2f` is `%2F`, which is no separator);
 * - slashes that follow each other count as one (`//admin` is `/admin`), and one at the end as none;
 * - the parameters of a segment are cut off (`/admin;v=1` is `/admin`).
 *
 * Refused, because servers disagree about them: dot segments in any spelling (`..`, `.`, `%2e%2e`, `..;x`, `..%2f`,
 * `..%5c`), a backslash, and what does not begin with a slash (except `*`, which is compared as `/`). Clients resolve
 * dot segments themselves before they send a request.
 */
import { shown, Wrong } from '../check/wrong.js'

const MOST = 4096

/** The one spelling of a path prefix: no slash at its end (except `/`), escapes as they are compared. */
export function canonicalPath(prefix: string): string | Wrong {
  const refuse = (why: string) => new Wrong(`${shown(prefix)} is no path: ${why}`)
  if (!prefix.startsWith('/')) return refuse('it must begin with /')
  if (prefix.length > MOST) return refuse(`it has ${prefix.length} characters, at most ${MOST} are allowed`)
  if (/[?#]/.test(prefix)) return refuse('leave out what begins with ? or #, only the path is compared')
  if (prefix.includes('*')) return refuse('a path is a prefix by itself, write it without *')
  if (prefix.includes(';')) return refuse('parameters (;) are not compared, leave them out')
  if (prefix.includes('//')) return refuse('write one slash where there are several')
  const odd = /[^A-Za-z0-9\-._~!$&'()+,=:@%/]/u.exec(prefix)?.[0]
  if (odd !== undefined) {
    const escaped = /\p{Surrogate}/u.test(odd) ? '' : `; write ${encodeURIComponent(odd)}`
    return refuse(`${shown(odd)} must be percent-encoded${escaped}`)
  }
  if (/%(?![0-9A-Fa-f]{2})/.test(prefix))
    return refuse('a % is followed by two hexadecimal digits; write %25 for the sign')
  return normalised(prefix) ?? refuse('. and .. are no segments of a route')
}

/** Where the path of a target ends if it is compared as it stands; -1: it must be normalised first. */
export function plainEnd(target: string): number {
  const length = target.length
  if (length === 0 || target.charCodeAt(0) !== SLASH) return -1
  let before = SLASH
  for (let at = 1; at < length; at++) {
    const code = target.charCodeAt(at)
    if (code === QUESTION || code === HASH) return at
    if (code === PERCENT || code === SEMICOLON || code === BACKSLASH) return -1
    if (before === SLASH && (code === SLASH || code === DOT)) return -1
    before = code
  }
  return length
}

/** The path of any target, as it is compared; null: it is refused. */
export function normalised(target: string): string | null {
  if (target === '*') return '/'
  const end = target.search(/[?#]/)
  const raw = end < 0 ? target : target.slice(0, end)
  if (!raw.startsWith('/') || raw.includes('\\')) return null
  const decoded = raw.includes('%') ? raw.replace(/%[0-9A-Fa-f]{2}/g, decode) : raw
  let path = ''
  for (const segment of decoded.split('/')) {
    if (segment === '') continue
    if (
      /^\.\.?$|[%;]/.test(segment) &&
      segment.split(/%2F|%5C|%3B|;/).some(part => part === '.' || part === '..')
    ) {
      return null
    }
    const parameters = segment.indexOf(';')
    const name = parameters < 0 ? segment : segment.slice(0, parameters)
    if (name !== '') path += `/${name}`
  }
  return path === '' ? '/' : path
}

function decode(escaped: string): string {
  const plain = String.fromCharCode(Number.parseInt(escaped.slice(1), 16))
  return /[A-Za-z0-9\-._~]/.test(plain) ? plain : escaped.toUpperCase()
}

const HASH = 0x23
const PERCENT = 0x25
const DOT = 0x2e
const SLASH = 0x2f
const SEMICOLON = 0x3b
const QUESTION = 0x3f
const BACKSLASH = 0x5c
