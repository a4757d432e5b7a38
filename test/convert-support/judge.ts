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

const refuses = ({ status, server }: Got) => server === null && status >= 400

/** Differences of lines that concern no request of these. */
const HARMLESS =
  /^(?:by whole segments|takes |not in capitals|errors of servers have it too|the proxy answers before it closes|by the whole address|left out: fd-broker servers|there is one|.*is served as )/

export interface Verdict {
  readonly differences: readonly Difference[]
  /** Requests of which everything was compared. */
  readonly strict: number
}

/** Whether ours serves what theirs refuses, except for files that are not there, rewrites that do not end, and servers that are not reached. */
function isOpen(one: Got, other: Got, hasPages: boolean): boolean {
  if (!refuses(one) || ofFiles(one) || one.status === 400) return false
  return other.server !== null || (other.status < 300 && !hasPages)
}

const ofFiles = ({ status }: Got) => /^(?:404|405|50[024])$/.test(String(status))

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
  const isWhole = remarks.every(
    ({ outcome, why }) => outcome !== 'missing' && (outcome !== 'near' || HARMLESS.test(why)),
  )
  const hasPages = remarks.some(({ line }) => /^error_page/.test(line.text))
  const differences: Difference[] = []
  let strict = 0
  for (const [at, each] of asked.entries()) {
    const [one, other] = [theirs[at]!, ours[at]!]
    const find = (kind: Difference['kind']) =>
      differences.push({ kind, asked: each, theirs: one, ours: other })
    if (isOpen(one, other, hasPages)) {
      if (unnamed === null || isOpen(unnamed[at]!, other, hasPages)) find('open')
      continue
    }
    // nginx adds a slash to the path of a location that ends with one.
    if (one.status === 301 && one.location?.includes(`${each.path.replace(/\?.*/, '')}/`)) continue
    const path = each.path.replace(/\?.*/, '')
    // A folder without its slash.
    if (text.includes(` ${path}/ {`) || (FOLDER.test(path) && (ofFiles(one) || text.includes(`${path}/`))))
      continue
    if (!isWhole || TRICKY.test(each.path) || BEGINS.test(each.path)) continue
    strict += 1
    if (refuses(other) && !refuses(one)) find('closed')
    else if (!alike(one, other)) find('wrong')
  }
  return { differences, strict }
}

function alike(one: Got, other: Got): boolean {
  if (refuses(one) && refuses(other)) return true
  const of = ({ status, location, body, server, seen, set }: Got) =>
    JSON.stringify([
      status,
      location,
      body,
      server,
      seen?.url,
      seen?.method,
      sorted(seen?.headers),
      sorted(set),
    ])
  return of(one) === of(other)
}

const sorted = (record: Readonly<Record<string, string>> = {}) =>
  Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))
