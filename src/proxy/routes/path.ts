/**
 * Path prefixes of routes, and the normalised form of a request's path that is compared with them. Servers get the target as the client sent it, unless
 * the route changes its begin (see {@link resourceFor}).
 *
 * Two spellings that some server takes for the same path must not reach different routes: otherwise a client could get around a route that answers
 * `/admin` with 403. Normalisation
 *
 * - removes query and fragment;
 * - decodes percent-encoded letters, digits and `-._~!$&'()+,=:@` once (`/%61dmin` becomes `/admin`), and changes other escapes to upper case; escapes
 *   all characters except these and `%` (`/caf\xc3\xa9` becomes `/caf%C3%A9`);
 * - merges consecutive slashes (`//admin` becomes `/admin`), and removes one at the end;
 * - removes the parameters of each segment (`/admin;v=1` becomes `/admin`).
 *
 * Servers disagree on whether an escaped slash, backslash or semicolon counts as one, and some decode twice. Such a path has several readings (see
 * {@link readings}). The proxy refuses the path if its readings lead to different routes.
 *
 * The proxy always refuses dot segments in any reading (`..`, `.`, `%2e%2e`, `..;x`, `..%2f`, `%252e`), NUL in any reading, a backslash, and a path
 * without a leading slash (except `*`, which is compared as `/`). Clients resolve dot segments before they send a request.
 */
import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'

const MAX_PATH_CHARACTERS = 4096

/** The segment of a route's path that stands for any one segment. No normalised path of a request has it: a client's `*` becomes `%2A`. */
export const ANY_SEGMENT = '*'
const MOST_STARS = 8

/** Matches paths that need no normalisation. */
const PLAIN = /^(?:\/|(?:\/[A-Za-z0-9_-][A-Za-z0-9._~-]*)+)$/

/** Returns the canonical spelling of a route's path prefix: without a slash at the end (except `/`), and with normalised escapes. `stars`: it may have {@link ANY_SEGMENT}. */
export function canonicalPath(prefix: string, stars = false): string | InvalidValue {
  if (prefix.length <= MAX_PATH_CHARACTERS && PLAIN.test(prefix)) return prefix
  const refuse = (why: string) => new InvalidValue(`${shortJson(prefix)} is not a path: ${why}`)
  if (!prefix.startsWith('/')) return refuse('it must begin with /')
  if (prefix.length > MAX_PATH_CHARACTERS)
    return refuse(`it has ${prefix.length} characters, at most ${MAX_PATH_CHARACTERS} are allowed`)
  if (/[?#]/.test(prefix))
    return refuse('leave out the query (?) and the fragment (#), only the path is compared')
  const segments = prefix.split('/')
  const star = segments.find(each => each.includes('*') && (each !== ANY_SEGMENT || !stars))
  if (star === '**' || (star !== undefined && !stars))
    return refuse(`a path is a prefix by itself, write it without ${star === '**' ? star : '*'}`)
  if (star !== undefined) return refuse('a * stands for a whole segment; write %2A for the character')
  if (segments.filter(each => each === ANY_SEGMENT).length > MOST_STARS)
    return refuse(`it has more than ${MOST_STARS} segments *`)
  if (prefix.includes(';')) return refuse('parameters (;) are not compared, leave them out')
  if (prefix.includes('//')) return refuse('write one slash where there are several')
  const odd = /[^A-Za-z0-9\-._~!$&'()+,=:@%/*]/u.exec(prefix)?.[0]
  if (odd !== undefined) {
    const escapeByte = /\p{Surrogate}/u.test(odd) ? '' : `; write ${encodeURIComponent(odd)}`
    return refuse(`${shortJson(odd)} must be percent-encoded${escapeByte}`)
  }
  if (/%(?![0-9A-Fa-f]{2})/.test(prefix))
    return refuse('two hexadecimal digits must follow a %; write %25 for the sign itself')
  const all = readings(prefix)
  if (all === null) return refuse('a route must not contain NUL, or . and .. as segments')
  const withStars = (path: string) =>
    path
      .split('/')
      .map((each, at) => (segments[at] === ANY_SEGMENT ? ANY_SEGMENT : each))
      .join('/')
  return all.length === 1
    ? withStars(all[0]!)
    : refuse(
        'servers do not agree about escaped slashes (%2F, %5C, %252F) and semicolons (%3B): a route must not contain them',
      )
}

/** Matches the bytes that normalisation escapes in a latin1 target. */
const TO_ESCAPE = /[^A-Za-z0-9\-._~!$&'()+,;=:@%/]/g
/** 1 for ASCII characters that may need normalisation. */
const NOT_PLAIN = new Uint8Array(128)
for (let code = 0; code < 128; code++)
  if (/[%;\\]|[^A-Za-z0-9\-._~!$&'()+,;=:@%/]/.test(String.fromCharCode(code))) NOT_PLAIN[code] = 1

/** Returns the index at which the target's path ends, or -1 if the path needs normalisation. */
export function plainEnd(target: string): number {
  const length = target.length
  if (length === 0 || target.charCodeAt(0) !== SLASH) return -1
  let before = SLASH
  for (let at = 1; at < length; at++) {
    const code = target.charCodeAt(at)
    if (code === QUESTION || code === HASH) return at
    if (code > 0x7f || NOT_PLAIN[code] === 1) return -1
    if (before === SLASH && (code === SLASH || code === DOT)) return -1
    before = code
  }
  return length
}

/** Matches escapes that servers read differently, including a lone `%`, which may become an escape when the bytes after it are decoded. */
const AMBIGUOUS_ESCAPE = /%(?:2[Ff5]|5[Cc]|3[Bb]|00|(?![0-9A-Fa-f]{2}))/

/**
 * Returns the paths for which different servers may take a target: the path as sent; the path with escaped slashes, backslashes and semicolons
 * decoded; the fully decoded path. Returns null if the target must be refused.
 */
export function readings(target: string): string[] | null {
  const all = readingsWithEnd(target)?.map(({ path }) => path)
  return all === undefined ? null : [...new Set(all)]
}

/** As {@link readings}, with what the client has sent at the end of the path. */
export function readingsWithEnd(target: string): Reading[] | null {
  if (target === '*') return [{ path: '/', slash: false }]
  const end = target.search(/[?#]/)
  const sent = end < 0 ? target : target.slice(0, end)
  if (!sent.startsWith('/') || sent.includes('\\')) return null
  const raw = sent.replace(TO_ESCAPE, escaped)
  const decoded = raw.includes('%') ? raw.replace(/%[0-9A-Fa-f]{2}/g, decode) : raw
  const texts = AMBIGUOUS_ESCAPE.test(raw)
    ? [decoded, decodeSeparators(decoded), decodeFully(raw)]
    : [decoded]
  const found: Reading[] = []
  for (const text of texts) {
    const path = joinSegments(text)
    if (path === null) return null
    const slash = path !== '/' && /\/(?:;[^/]*)?$/.test(text)
    if (!found.some(each => each.path === path && each.slash === slash)) found.push({ path, slash })
  }
  return found
}

export interface Reading {
  readonly path: string
  /** Whether the path has a slash at its end, which {@link path} lacks. */
  readonly slash: boolean
}

/** Joins the segments without their parameters. Returns null for dot segments and NUL. */
function joinSegments(text: string): string | null {
  if (text.includes('\0') || text.includes('%00')) return null
  let path = ''
  for (const segment of text.split('/')) {
    if (segment === '') continue
    const parts = segment.split(';')
    if (parts.includes('.') || parts.includes('..')) return null
    if (parts[0] !== '') path += `/${parts[0]}`
  }
  return path === '' ? '/' : path
}

function decode(escaped: string): string {
  const plain = String.fromCharCode(Number.parseInt(escaped.slice(1), 16))
  return /[A-Za-z0-9\-._~!$&'()+,=:@]/.test(plain) ? plain : escaped.toUpperCase()
}

function escaped(byte: string): string {
  return `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`
}

function decodeSeparators(decoded: string): string {
  return decoded.replace(/%(?:2F|5C)/g, '/').replace(/%3B/g, ';')
}

/** The characters whose escapes are decoded, also if escaped more than once (`%252F`): those of {@link decode}, and `/`, `\\`, `;`, `%` and NUL. */
const DECODED_CHARACTERS = /[A-Za-z0-9\-._~!$&'()+,=:@/\\;%\0]/

function decodeFully(raw: string): string {
  const out: string[] = []
  for (const character of raw) {
    out.push(character)
    // The last byte may have completed an escape: `%252F` becomes `%2F`, then `/`.
    while (out.length >= 3 && out.at(-3) === '%') {
      const digits = `${out.at(-2)}${out.at(-1)}`
      if (!/^[0-9A-Fa-f]{2}$/.test(digits)) break
      const plain = String.fromCharCode(Number.parseInt(digits, 16))
      if (!DECODED_CHARACTERS.test(plain)) break
      out.splice(-3, 3, plain === '\\' ? '/' : plain)
    }
  }
  // Escapes a lone `%`, and changes escapes to upper case, as in the other readings.
  return out.join('').replace(/%(?:[0-9A-Fa-f]{2})?/g, each => (each === '%' ? '%25' : each.toUpperCase()))
}

/**
 * Returns a function that gives the server another path than the client's: without the begin `strip`, and with `add` before it. The rest keeps its
 * bytes, except that one slash replaces several at its begin, which servers could take for a host.
 */
export function resourceFor(strip = '', add = ''): (sent: string) => string {
  let segments = 0
  for (const character of strip) if (character === '/') segments++
  return sent => {
    if (!sent.startsWith('/')) return sent
    const rest = sent.slice(endOf(sent, segments))
    const path = rest.startsWith('/') ? rest.replace(/^\/+/, '/') : rest
    return add === '' && !path.startsWith('/') ? `/${path}` : `${add}${path}`
  }
}

/** Returns the segment with this number, from 1, as the client has sent it, without parameters; '' if the path has fewer. */
export function segmentOf(sent: string, number: number): string {
  const from = endOf(sent, number - 1)
  const [, segment = ''] =
    /^(?:\/(?:;[^/?#]*)?)*\/([^/;?#]+)/.exec(sent.slice(from, endOf(sent, number))) ?? []
  return segment
}

/** Returns where the first `count` segments end, as {@link joinSegments} counts them: empty ones, also with parameters (`/;a`), do not count. */
function endOf(sent: string, count: number): number {
  let at = 0
  for (let left = count; left > 0 && sent.charCodeAt(at) === SLASH; ) {
    const start = at + 1
    let name = -1
    for (at = start; at < sent.length; at++) {
      const code = sent.charCodeAt(at)
      if (code === SLASH || code === QUESTION || code === HASH) break
      if (code === SEMICOLON && name < 0) name = at
    }
    if ((name < 0 ? at : name) > start) left--
  }
  return at
}

const HASH = 0x23
const DOT = 0x2e
const SLASH = 0x2f
const SEMICOLON = 0x3b
const QUESTION = 0x3f
