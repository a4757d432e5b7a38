/** The rules for the paths of a server, in the order in which nginx looks at its locations: the first that fits counts. */
import { type Action, CLOSED } from './draft.js'
import { commonPath } from './matches.js'
import { isGuarded } from './nginx-guards.js'
import { segmentPaths } from './nginx-location.js'
import { type PathPattern, patternsOf } from './patterns.js'

/** Requests of one kind, and what they get. */
export interface Branch {
  readonly when: readonly string[]
  readonly action: Action
}

export interface Rule extends Branch {
  readonly path: string
}

/** A location, with the locations in it. */
export interface Located {
  readonly text: string
  /** `=`, `~`, `~*`, `^~` or none. */
  readonly modifier: string
  /** The first that fits counts, and the last fits always; null if the location around it has its requests. */
  readonly branches: readonly Branch[] | null
  readonly inner: readonly Located[]
  /** Whether nginx redirects its path without the slash at the end. */
  readonly redirects: boolean
  /** Is told what the proxy takes in place of the location: null if nothing. */
  readonly tell: (how: string | null, isNear: boolean) => void
}

/**
 * Returns the rules of a server's locations: those of `=`, then of each plain one, the longest first, the patterns that come before it, then its own. `otherwise`:
 * the answers to requests that no location takes. A location that keeps no request out comes before a location that does only if its paths can be said as they are; a
 * location that keeps requests out takes more paths rather than fewer.
 */
export function rulesOf(locations: readonly Located[], otherwise: () => readonly Branch[]): Rule[] {
  return new Order(locations).rules(otherwise)
}

/** Whether a location does not let each request pass. */
const guards = ({ branches }: Located) => branches?.some(keepsOut) === true
const keepsOut = ({ action, when }: Branch) => isGuarded(action) || when.some(each => /address=/.test(each))
const isNotFound = ({ action: { respond } }: Branch) => (respond as { status?: number })?.status === 404

const isPattern = ({ modifier }: Located) => modifier.startsWith('~')
const withoutSlash = (path: string) => (path === '/' ? '/' : path.replace(/\/+$/, ''))
const isPath = (text: string) => /^\/[^\s%;*?#]*$/.test(text)

class Order {
  readonly #all: readonly Located[]
  readonly #rules: Rule[] = []
  /** The patterns that come before a plain location. */
  readonly #before = new Map<Located, readonly Located[]>()
  /** The server keeps out requests that no location takes. */
  #isRestKept = false

  constructor(all: readonly Located[]) {
    this.#all = all
  }

  rules(otherwise: () => readonly Branch[]): Rule[] {
    const isWhole = this.#all.some(
      ({ modifier, text, branches }) =>
        text === '/' && /^(?:\^~)?$/.test(modifier) && branches?.at(-1)?.when.length === 0,
    )
    const rest = isWhole ? null : otherwise()
    this.#isRestKept = rest?.some(each => keepsOut(each) && !isNotFound(each)) === true
    this.#order(this.#all, [])
    this.#level(this.#all)
    if (rest !== null) this.#leaf('/', this.#all.filter(isPattern), rest, this.#isRestKept)
    for (const each of flat(this.#all)) if (isPattern(each)) this.#tellPattern(each)
    return this.#rules
  }

  /** `outer`: patterns that come behind those of this level. */
  #order(level: readonly Located[], outer: readonly Located[]): void {
    const patterns = level.filter(isPattern)
    for (const each of level) {
      const after = each.modifier === '^~' ? outer : [...patterns, ...outer]
      this.#before.set(each, [...each.inner.filter(isPattern), ...after])
      if (!isPattern(each)) this.#order(each.inner, after)
    }
  }

  #level(level: readonly Located[]): void {
    for (const each of level) if (each.modifier === '=') this.#exact(each)
    const plain = level.filter(({ modifier }) => modifier === '' || modifier === '^~')
    for (const each of plain.sort((a, b) => b.text.length - a.text.length)) {
      this.#level(each.inner)
      this.#withoutSlash(each)
      this.#plain(each, this.#before.get(each)!)
    }
  }

  #exact(location: Located): void {
    const { text, branches, redirects, tell } = location
    if (branches === null) return
    if (!isPath(text)) {
      tell(null, false)
      return
    }
    const path = withoutSlash(text)
    // Otherwise a request with a slash at the end would get what nginx keeps it from.
    const hasOther = flat(this.#all).some(each => each.text === `${path}/`)
    const isStrict =
      !text.endsWith('/') && (hasOther || leadsTo(branches, `${path}/`) || this.#isKept(path, location))
    const when = [`path=${text}`, ...(isStrict ? ['!path=*/'] : [])]
    this.#push(path, when, branches)
    if (text.endsWith('/') && redirects) tell(`nginx redirects ${path} to it`, true)
    else tell(isStrict || text.endsWith('/') ? '' : `takes ${path}/ too`, true)
  }

  /** Beside a location `/a/` the path `/a` itself may have one. */
  #withoutSlash({ text }: Located): void {
    if (!text.endsWith('/') || text === '/') return
    const path = withoutSlash(text)
    const others = flat(this.#all).filter(each => each.text === path)
    const other = others.find(({ modifier }) => /^(?:\^~)?$/.test(modifier))
    // That of `=` comes first anyway, unless it is within the other.
    if (other === undefined || others.some(({ modifier }) => modifier === '=')) return
    this.#leaf(path, this.#before.get(other)!, other.branches, guards(other), [`path=${path}`, '!path=*/'])
  }

  #plain(location: Located, patterns: readonly Located[]): void {
    const { text, branches, redirects, tell } = location
    if (!isPath(text)) {
      tell(null, false)
      return
    }
    const path = withoutSlash(text)
    const isGuard = guards(location)
    const inner = location.inner.filter(isPattern)
    if (branches === null) {
      this.#leaf(path, inner, null, true, text.endsWith('/') && path !== '/' ? [`path=${text}*`] : [])
      return
    }
    if (text.endsWith('/')) {
      if (path !== '/' && !redirects && this.#isKept(path, location)) {
        this.#rules.push({ path, when: [`path=${path}`, '!path=*/'], action: CLOSED })
        tell(`${path} itself is refused`, true)
      } else tell(path === '/' ? '' : `takes ${path} too`, true)
    } else if (isGuard) tell(`${path}x is refused too`, true)
    else tell(`by whole segments: ${path}x is another path`, true)
    this.#leaf(path, patterns, branches, isGuard)
    if (text.endsWith('/')) return
    // For the proxy a path that begins as this one is another.
    const closed = isGuard ? [{ when: [], action: CLOSED }] : null
    this.#leaf(parentOf(path), inner.filter(guards), closed, isGuard, [`path=${path}*`])
  }

  /** Whether the location around this one, or the server, does not let each request pass. */
  #isKept(path: string, location: Located): boolean {
    if (this.#isRestKept) return true
    const around = flat(this.#all)
      .filter(
        each =>
          each !== location && (isPattern(each) || each.text === '/' || `${path}/`.startsWith(each.text)),
      )
      .filter(each => each.modifier !== '=')
    return around.some(guards)
  }

  #push(path: string, when: readonly string[], branches: readonly Branch[]): void {
    for (const each of branches)
      this.#rules.push({ path, when: [...when, ...each.when], action: each.action })
  }

  /** The rules for requests of which the plain location has the longest path: `patterns` come before it. */
  #leaf(
    path: string,
    patterns: readonly Located[],
    branches: readonly Branch[] | null,
    isGuard: boolean,
    only: readonly string[] = [],
  ): void {
    for (const [at, each] of patterns.entries()) {
      const inner = each.inner.filter(isPattern)
      const isKept = isGuard || patterns.slice(at + 1).some(guards) || inner.some(guards)
      for (const one of inner) this.#pattern(path, one, each, isKept || guards(each), only)
      this.#pattern(path, each, null, isKept, only)
    }
    if (branches !== null) this.#push(path, only, branches)
  }

  /** `within`: the pattern around it. `isKept`: another location would keep some of its requests out. */
  #pattern(
    path: string,
    location: Located,
    within: Located | null,
    isKept: boolean,
    only: readonly string[],
  ): void {
    const { branches } = location
    if (branches === null) return
    const isGuard = guards(location)
    const outer =
      within === null
        ? [[]]
        : sides(within).map(({ when, pattern }) => (pattern.withoutSlash ? [...when, '!path=*/'] : when))
    const segments = within === null && !isGuard && !isKept ? segmentsOf(location) : null
    if (segments !== null) {
      for (const one of segments) {
        const common = commonPath(path, one.path)
        if (common !== null) this.#push(common, [...only, ...one.when], branches)
      }
      return
    }
    const isPlain = within === null && only.length === 0 && location.modifier === '~'
    const isClosed = branches.every(({ action }) => action.respond === CLOSED.respond)
    for (const { pattern, when } of sides(location)) {
      if (!pattern.exact && !isGuard) continue
      const folder = folderOf(pattern)
      const common = folder === null ? null : commonPath(path, folder)
      if (common !== null && isPlain && pattern.exact && (!isKept || isClosed)) {
        this.#push(common, [], branches)
        continue
      }
      for (const around of outer) {
        const both = [...only, ...around, ...when].filter(each => !isAlways(path, each))
        const isSure = pattern.exact && (within === null || sides(within).every(each => each.pattern.exact))
        if (!isSure && !isGuard) continue
        if (!isSure) {
          this.#push(path, both, [{ when: [], action: CLOSED }])
          location.tell('more paths are refused', true)
        } else this.#push(path, pattern.withoutSlash ? [...both, '!path=*/'] : both, branches)
      }
    }
  }

  #tellPattern(location: Located): void {
    const all = sides(location)
    if (location.branches === null) return
    const folders = all.flatMap(({ pattern }) => folderOf(pattern) ?? [])
    if (all.every(({ pattern }) => pattern.exact))
      location.tell(folders.length > 0 ? `takes ${folders.join(' and ')} too` : '', true)
    else if (guards(location)) location.tell('more paths are refused', true)
    else if (segmentsOf(location) !== null)
      location.tell(
        `by the path ${segmentsOf(location)!
          .map(each => each.path)
          .join(' and ')}`,
        true,
      )
    else location.tell(null, false)
  }
}

/** `/a` of the pattern `/a/*`; null for others. */
const folderOf = ({ glob }: PathPattern) => /^(\/[^*]*[^*/])\/\*$/.exec(glob)?.[1] ?? null

/** Whether all paths below a route's path fulfil the condition. */
function isAlways(path: string, condition: string): boolean {
  const begin = /^path=([^*]*)\*$/.exec(condition)?.[1]
  return begin !== undefined && path.startsWith(begin)
}

interface Side {
  readonly pattern: PathPattern
  readonly when: readonly string[]
}

const sidesOf = new WeakMap<Located, readonly Side[]>()

/** The patterns of a location, as conditions. */
function sides(location: Located): readonly Side[] {
  const known = sidesOf.get(location)
  if (known !== undefined) return known
  const name = location.modifier === '~*' ? 'ipath' : 'path'
  const made = patternsOf(location.text).map(pattern => ({
    pattern,
    when: pattern.glob === '*' ? [] : [`${name}=${pattern.glob}`],
  }))
  sidesOf.set(location, made)
  return made
}

/** The paths of a pattern that consists of whole segments, which take more paths than it does. */
function segmentsOf(location: Located): { path: string; when: string[] }[] | null {
  const { text, modifier } = location
  if (modifier !== '~' || sides(location).every(({ pattern }) => pattern.exact)) return null
  const paths = segmentPaths(text)
  if (paths === null) return null
  const ends = text.endsWith('$') && !/\.[*+]\)?\$$/.test(text)
  return paths.map(path => ({ path, when: ends ? [`!path=${path}/*`] : [] }))
}

function flat(all: readonly Located[]): Located[] {
  return all.flatMap(each => [each, ...flat(each.inner)])
}

function parentOf(path: string): string {
  const end = path.lastIndexOf('/')
  return end <= 0 ? '/' : path.slice(0, end)
}

/** Whether an answer redirects to this path. */
function leadsTo(branches: readonly Branch[], path: string): boolean {
  return branches.some(({ action: { respond } }) => {
    const { headers } = (respond ?? {}) as { headers?: { Location?: string } }
    return headers?.Location?.replace(/^(?:\$scheme|https?):\/\/[^/]*/, '') === path
  })
}
