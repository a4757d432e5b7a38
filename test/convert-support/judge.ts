import type { Conversion } from '../../src/convert/convert.js'
import type { Asked, Got } from './places.js'

/** `open`: ours serves what theirs refuses. `closed`: ours refuses what theirs serves. `wrong`: another server, path, header or status. */
export interface Difference {
  readonly kind: 'open' | 'closed' | 'wrong'
  readonly asked: Asked
  readonly theirs: Got
  readonly ours: Got
}

/** Paths that servers read differently: a slash at the end, dots, escapes, a name that begins as another. */
const TRICKY = /\/\/|%|;|\/\.\/|.\/$|.\/\?/
/** Differences of names that begin alike. */
const BEGINS = /^\/(?:ax|axphp|a\.php|dx|a\/bc|a\/b\.php|e)/

const FOLDER = /^\/(?:[ad]|a\/b)$/

export const refuses = ({ status, server }: Got) => server === null && status >= 400

/** Differences of lines that concern no request of these. */
const HARMLESS =
  /^(?:by whole segments|takes |not in capitals|errors of servers have it too|the proxy answers before it closes|the path begins with|.* is refused too|by the whole address|left out: fd-broker servers|there is one|.*is served as )/

export interface Verdict {
  readonly differences: readonly Difference[]
  /** Requests of which everything was compared. */
  readonly strict: number
}

/** Whether ours serves what theirs refuses, except for files that are not there, rewrites that do not end, and servers that are not reached. */
function isOpen(one: Got, other: Got, hasPages: boolean, isNginx: boolean): boolean {
  if (!refuses(one) || (isNginx && ofFiles(one)) || one.status === 400) return false
  if (!isNginx && /^50/.test(String(one.status))) return false
  return other.server !== null || (other.status < 300 && !hasPages)
}

const ofFiles = ({ status }: Got) => /^(?:404|405|418|50[024])$/.test(String(status))

/** A file that is not there, or the answer in its place (`@else`). */
const isMissing = ({ status, server }: Got) => server === null && (status === 404 || status === 405)

/** Whether a location for the path is named as one of files, or a rewrite as one that leads to another location. */
function isNamed(text: string, path: string, { remarks }: Conversion, hasPages: boolean): boolean {
  const read = readOf(path)
  return remarks.some(({ line, outcome, why }) => {
    const [, taken] = /^(?:takes|by the path) (.*?)(?: too)?$/.exec(why) ?? []
    if (outcome === 'near') return taken?.split(' and ').some(each => isBelow(read, each)) === true
    if (outcome !== 'missing') return false
    if (/leads to another location|changed by stripPrefix|only a return/.test(why)) return true
    if (hasPages && /^error_page/.test(line.text)) return true
    const isOfFiles = /files need a server/.test(why) || line.text.startsWith('try_files')
    return isOfFiles && locationsAround(text, line.place).every(each => fits(each, read))
  })
}

/** A path as nginx compares it. */
const readOf = (path: string) =>
  decodeURIComponent(path.replace(/\?.*/, '')).replaceAll(/\/+/g, '/').replaceAll('/./', '/')

/** Whether a path fits a location. */
function fits(location: string, path: string): boolean {
  const [, modifier = '', text = ''] = /^location (?:(=|~\*?|\^~) )?(\S+)/.exec(location) ?? []
  if (text === '') return false
  if (modifier.startsWith('~')) return new RegExp(text, modifier === '~*' ? 'i' : '').test(path)
  return modifier === '=' ? path === text : path.startsWith(text)
}

/** Whether a line may concern requests outside of the locations around it. */
const isOfAll = (line: string, why: string) =>
  /^(?:error_page|try_files)|^location @/.test(line) ||
  /another location|itself is refused|^by the path|^more paths/.test(why)

/** The locations around a line, and that of the line itself. */
function locationsAround(text: string, place: number | string): string[] {
  const found: string[] = []
  if (typeof place !== 'number') return found
  const lines = text.split('\n')
  const indent = (line: string) => /^ */.exec(line)![0].length
  let inner = Number.POSITIVE_INFINITY
  for (const line of lines.slice(0, place).toReversed()) {
    if (indent(line) >= inner) continue
    inner = indent(line)
    if (/^\s*location /.test(line)) found.push(line.trim())
  }
  return found
}

/** Whether a path is the one of a route, in which `*` stands for a segment, or below it. */
const isBelow = (path: string, route: string) =>
  new RegExp(`^${route.replaceAll('.', '\\.').replaceAll('*', '[^/]+')}(/|$)`).test(path)

/** A difference for paths that have escaped letters, or several slashes in a row. */
const AS_SENT = /after %61/

/**
 * Finds what must not be. Ours is open where theirs refuses only if the refusal is named: `unnamed` has the answers of the other server without the refusals that are
 * named, null if there are none.
 */
export function judge(
  text: string,
  conversion: Conversion | null,
  asked: readonly Asked[],
  theirs: readonly Got[],
  ours: readonly Got[],
  unnamed: readonly Got[] | null = null,
): Verdict {
  if (conversion === null) return { differences: [], strict: 0 }
  const { remarks } = conversion
  const blocking = remarks
    .filter(({ outcome, why }) => outcome === 'missing' || (outcome === 'near' && !HARMLESS.test(why)))
    .map(each => ({ ...each, within: locationsAround(text, each.line.place) }))
  const isStrict = (path: string) =>
    blocking.every(
      ({ line, why, within }) =>
        !isOfAll(line.text, why) && within.length > 0 && !within.every(of => fits(of, path)),
    )
  const hasOtherPaths = remarks.some(({ why }) => why.startsWith('the path begins'))
  const isNginx = /^http \{/m.test(text)
  const hasPages = remarks.some(({ line }) => /^error_page/.test(line.text))
  const differences: Difference[] = []
  let strict = 0
  for (const [at, each] of asked.entries()) {
    const [one, other] = [theirs[at]!, ours[at]!]
    const find = (kind: Difference['kind']) =>
      differences.push({ kind, asked: each, theirs: one, ours: other })
    if (isOpen(one, other, hasPages, isNginx)) {
      const isKnown = /%|\/\//.test(each.path) && remarks.some(({ why }) => AS_SENT.test(why))
      if (!isKnown && (unnamed === null || isOpen(unnamed[at]!, other, hasPages, isNginx))) find('open')
      continue
    }
    if (
      isNginx &&
      isMissing(one) &&
      other.server !== null &&
      !isNamed(text, each.path, conversion, hasPages)
    ) {
      find('open')
      continue
    }
    // nginx adds a slash to the path of a location that ends with one.
    if (one.status === 301 && one.location?.includes(`${each.path.replace(/\?.*/, '')}/`)) continue
    const path = each.path.replace(/\?.*/, '')
    // A folder without its slash.
    if (text.includes(` ${path}/ {`) || (FOLDER.test(path) && (ofFiles(one) || text.includes(`${path}/`))))
      continue
    if (remarks.some(({ why }) => why.startsWith('takes ') && why.split(/ and | /).includes(path))) continue
    if (!isStrict(readOf(each.path)) || TRICKY.test(each.path) || BEGINS.test(each.path)) continue
    strict += 1
    if (refuses(other) && !refuses(one)) find('closed')
    else if (!alike(one, other, !hasOtherPaths)) find('wrong')
  }
  return { differences, strict }
}

/** `withPaths`: servers see the same path. */
function alike(one: Got, other: Got, withPaths: boolean): boolean {
  if (refuses(one) && refuses(other)) return true
  const of = ({ status, location, body, server, seen, set }: Got) =>
    JSON.stringify([
      status,
      location,
      body,
      server,
      withPaths ? seen?.url : null,
      seen?.method,
      sorted(seen?.headers),
      sorted(set),
    ])
  return of(one) === of(other)
}

export const sorted = (record: Readonly<Record<string, string>> = {}) =>
  Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))
