/** Excuses of the remarks about a file of nginx: each remark excuses only requests that nginx leads by its line, and only the difference that it names. */
import type { Conversion } from '../../src/convert/convert.js'
import type { SourceLine } from '../../src/convert/draft.js'
import { NginxPlaces, type Reached, readOf } from './nginx-places.js'
import type { Asked, Got, Places } from './places.js'
import { type Difference, refuses, sorted, type Verdict } from './verdict.js'

/** A part of an answer, or of what its server has seen. */
type Part = 'headers' | 'set' | 'url' | 'location' | 'all'

/** A file that is not there, or the answer in its place (`@else`). */
const isMissing = ({ status, server }: Got) => server === null && /^(?:404|405|418)$/.test(String(status))

/** Rewrites that do not end, and servers that are not reached. */
const isBroken = ({ status }: Got) => /^(?:400|500|502|504)$/.test(String(status))

/** Remarks that say nothing about answers. */
const NOTHING =
  /^(?:errors of servers have it too|the proxy answers before it closes|by the whole address|left out: fd-broker servers|there is one |the client gets each answer of the service)/

/** Lines whose use is named where it is. */
const OF_OTHERS = /^(?:set|map|geo|limit_req_zone|real_ip_header|set_real_ip_from|sub_filter\w*|expires) /

/** The proxy passes paths on as they are sent, and refuses those that servers read differently. */
const AS_SENT = /%|\/\/|\/\.\//
const ODD = /%2f|\/\.\//

const CLOSES = /\b403\b|(?:is|are) refused/

/** A remark that may leave requests to other locations, or to none. */
const LEADS =
  /files need a server|serves no files|no files are tried|for files too|leads to another location|errorPages|changed by stripPrefix|only a return|stays with the service/

interface Named {
  readonly line: SourceLine
  readonly why: string
}

/** The requests of which a remark names a difference. */
class Excuses {
  readonly #places: NginxPlaces
  readonly #remarks: readonly Named[]

  constructor(text: string, { remarks }: Conversion) {
    this.#places = new NginxPlaces(text)
    this.#remarks = remarks
      .filter(({ outcome }) => outcome === 'missing' || outcome === 'near')
      .flatMap(({ line, whys }) => whys.map(why => ({ line, why })))
      .filter(({ line, why }) => !OF_OTHERS.test(line.text) && !NOTHING.test(why))
  }

  open(asked: Asked): boolean {
    return this.#of(asked).some(({ why }) => LEADS.test(why) || isTaken(why, readOf(asked.path)))
  }

  /** Whether paths are compared after escapes are read. */
  asSent(asked: Asked): boolean {
    return /%|\/\//.test(asked.path) && this.#of(asked).some(({ why }) => /after %61/.test(why))
  }

  closed(asked: Asked): boolean {
    return ODD.test(asked.path) || this.#of(asked).length > 0
  }

  /** The parts of an answer that may differ. */
  wrong(asked: Asked): ReadonlySet<Part> {
    const parts = this.#of(asked).flatMap(each => (CLOSES.test(each.why) ? [] : [partOf(each)]))
    return new Set([...parts, ...(AS_SENT.test(asked.path) ? (['url', 'location'] as const) : [])])
  }

  /** Whether nginx redirects to the path with a slash at the end, for the sake of a location. */
  isFolder(asked: Asked, { status, location }: Got): boolean {
    const path = readOf(asked.path)
    if (status !== 301 || location?.includes(`${path}/`) !== true) return false
    const server = this.#places.reached(asked)?.server
    return this.#remarks.some(
      ({ line, why }) =>
        this.#places.serverAround(line) === server &&
        (isTaken(why, path) || [`${path} itself is refused`, `nginx redirects ${path} to it`].includes(why)),
    )
  }

  #of(asked: Asked): Named[] {
    const reached = this.#places.reached(asked)
    if (reached === null) return []
    return this.#remarks.filter(each => this.#isOf(each, reached, readOf(asked.path)))
  }

  #isOf({ line, why }: Named, reached: Reached, path: string): boolean {
    if (line.text.startsWith('location ')) {
      if (this.#places.serverAround(line) !== reached.server) return false
      const named = ofPaths(why, path)
      if (named === true || (named === false && !why.startsWith('by the path '))) return named
    }
    const [, itself] = /^(\S+) itself (?:is changed too|becomes \S+)$/.exec(why) ?? []
    if (itself !== undefined) return path === itself && this.#places.concerns(line, reached)
    const rewritten = /^rewrite (\S+)/.exec(line.text)?.[1]
    if (
      rewritten !== undefined &&
      ![path, path.replace(/.\/$/, '')].some(each => new RegExp(rewritten).test(each))
    )
      return false
    return this.#places.concerns(line, reached)
  }
}

/** Whether a remark of a location names the path; null if it names none. */
function ofPaths(why: string, path: string): boolean | null {
  if (why === 'more paths are refused') return true
  const [, begin] = /^(?:by whole segments: )?(\S*)x is (?:refused too|another path)$/.exec(why) ?? []
  if (begin !== undefined) return path.startsWith(begin) && path[begin.length] !== '/' && path !== begin
  const [, itself] = /^(\S*) itself is refused$/.exec(why) ?? []
  if (itself !== undefined) return path === itself
  if (why.startsWith('nginx redirects ')) return false
  return /^(?:takes|by the path) /.test(why) ? isTaken(why, path) : null
}

/** Whether a location takes a path, or those below it, that it does not take for nginx. */
function isTaken(why: string, path: string): boolean {
  const [, word, taken] = /^(takes|by the path) (.*?)(?: too)?$/.exec(why) ?? []
  if (taken === undefined) return false
  return taken.split(' and ').some(each => (word === 'takes' ? path === each : isBelow(path, each)))
}

/** Whether a path is the one of a route, in which `*` stands for a segment, or below it. */
const isBelow = (path: string, route: string) =>
  new RegExp(`^${route.replaceAll('.', '\\.').replaceAll('*', '[^/]+')}(/|$)`).test(path)

function partOf({ line, why }: Named): Part {
  if (line.text.startsWith('proxy_set_header')) return 'headers'
  if (/^(?:add_header|proxy_hide_header)/.test(line.text)) return 'set'
  return /^(?:the path begins with|slashes in a row)/.test(why) ? 'url' : 'all'
}

/** Finds what must not be. Ours is open where theirs refuses only if a remark about a line on the way names it. */
export async function judgeNginx(
  places: Pick<Places, 'withoutNamedRefusals'>,
  text: string,
  conversion: Conversion | null,
  asked: readonly Asked[],
  theirs: readonly Got[],
  ours: readonly Got[],
): Promise<Verdict> {
  if (conversion === null) return { differences: [], strict: 0 }
  const excuses = new Excuses(text, conversion)
  const first = verdictOf(excuses, asked, theirs, theirs, ours)
  if (!first.differences.some(({ kind }) => kind === 'open')) return first
  const unnamed = await places.withoutNamedRefusals(text, conversion, asked)
  return unnamed === null ? first : verdictOf(excuses, asked, theirs, unnamed, ours)
}

/** `unnamed`: the answers of nginx without the refusals that are named. */
function verdictOf(
  excuses: Excuses,
  asked: readonly Asked[],
  theirs: readonly Got[],
  unnamed: readonly Got[],
  ours: readonly Got[],
): Verdict {
  const differences: Difference[] = []
  let strict = 0
  for (const [at, each] of asked.entries()) {
    const [one, other] = [theirs[at]!, ours[at]!]
    const find = (kind: Difference['kind']) =>
      differences.push({ kind, asked: each, theirs: one, ours: other })
    const isOpen = (got: Got) =>
      refuses(got) && !isBroken(got) && (other.server !== null || (other.status < 300 && !isMissing(got)))
    const isUnnamed = (got: Got) =>
      isOpen(got) && !excuses.asSent(each) && !(isMissing(got) && excuses.open(each))
    if (isOpen(one)) {
      if (isUnnamed(one) && isUnnamed(unnamed[at]!)) find('open')
      continue
    }
    if (excuses.isFolder(each, one)) continue
    if (refuses(other) && !refuses(one)) {
      if (!excuses.closed(each)) find('closed')
      continue
    }
    const parts = excuses.wrong(each)
    if (parts.has('all')) continue
    strict += 1
    if (!alike(one, withoutIgnored(each, one, other), parts)) find('wrong')
  }
  return { differences, strict }
}

/** nginx ignores headers with `_` in their names. Ours passes them on, except the spellings of a header that the route changes. */
function withoutIgnored({ headers }: Asked, { seen: theirs }: Got, ours: Got): Got {
  if (theirs === null || ours.seen === null || theirs.headers.x_a !== undefined) return ours
  if (theirs.headers['x-a'] !== headers['x-a']) return ours
  const { x_a: _, ...others } = ours.seen.headers
  return { ...ours, seen: { ...ours.seen, headers: others } }
}

function alike(one: Got, other: Got, without: ReadonlySet<Part>): boolean {
  if (refuses(one) && refuses(other)) return true
  const of = ({ status, location, body, server, seen, set }: Got) =>
    JSON.stringify([
      status,
      without.has('location') ? null : location,
      body,
      server,
      without.has('url') ? null : seen?.url,
      seen?.method,
      without.has('headers') ? null : sorted(seen?.headers),
      without.has('set') ? null : sorted(set),
    ])
  return of(one) === of(other)
}
