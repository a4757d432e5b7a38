/** The paths of the locations of a server, in the order in which nginx looks at them. */
import type { Action } from './draft.js'
import { isGuarded } from './nginx-guards.js'
import { commonPath } from './order.js'

/** An `if` with a `return` inside. */
export interface Branch {
  readonly when: string
  readonly action: Action
}

export interface Place {
  readonly action: Action
  readonly also: readonly Branch[]
}

/** A location, with the paths that the proxy has for it. */
interface Located extends Place {
  /** The path, or the pattern. */
  readonly text: string
  /** `=`, `~`, `~*`, `^~` or none. */
  readonly modifier: string
  readonly paths: readonly string[]
  /** Null for other locations, and for a pattern that cannot be tried here. */
  readonly pattern: RegExp | null
}

const MOST_PATHS = 2_000

/**
 * Finds out what requests for a path, and those below it, get from nginx: the location of `=`, else the longest plain one if it has `^~`, else the first
 * pattern, else the longest plain one. For the parts of a path that a pattern leaves open it tries a name and a number.
 */
export class Places {
  readonly #locations: Located[] = []

  add(location: Omit<Located, 'pattern'>): void {
    this.#locations.push({ ...location, pattern: patternOf(location) })
  }

  /** `otherwise`: the action for requests that no location takes. */
  all(otherwise: () => Action): ReadonlyMap<string, Place> {
    let rest: Place | null = null
    const restOf = () => (rest ??= { action: otherwise(), also: [] })
    const plain = this.#locations.filter(isPlain).flatMap(each => each.paths)
    const paths = new Set([...plain, '/'])
    for (const each of this.#locations)
      for (const path of each.paths) {
        paths.add(path)
        if (isExact(each)) paths.add(below(path))
      }
    const found = new Map<string, Place>()
    for (const path of withCommonOnes(paths)) {
      const [own, within] = [this.#at(path) ?? restOf(), this.#below(path) ?? restOf()]
      found.set(path, paths.has(below(path)) ? own : this.#either(own, within))
      if (own === within || paths.has(below(path)) || isGuarded(own.action) || isGuarded(within.action))
        continue
      found.set(path, own)
      found.set(below(path), within)
    }
    return found
  }

  /** The guarded one of two places, otherwise the second. */
  #either(own: Place, within: Place): Place {
    return isGuarded(own.action) && !isGuarded(within.action) ? own : within
  }

  /** The location for a path itself, which for the proxy is the same with a `/` at its end. */
  #at(path: string): Located | null {
    const own = this.#of(samplesOf(path))
    const within = path === '/' ? own : this.#of(samplesOf(path).map(each => `${each}/`))
    if (own !== null && isExact(own)) return own
    const isNamed = own?.text === path && !(within !== null && isGuarded(within.action))
    return isNamed || (within === null && own !== null) ? own : within
  }

  #below(path: string): Located | null {
    return this.#of(
      samplesOf(path).flatMap(each => ['x', 'x/y'].map(end => `${each.replace(/\/$/, '')}/${end}`)),
    )
  }

  /** The location of these paths; if they have several, a guarded one. */
  #of(samples: readonly string[]): Located | null {
    const found = samples.map(each => this.#locationOf(each))
    return found.find(each => each !== null && isGuarded(each.action)) ?? found[0] ?? null
  }

  #locationOf(path: string): Located | null {
    const all = this.#locations
    const exact = all.find(each => each.modifier === '=' && each.text === path)
    if (exact !== undefined) return exact
    const [longest] = all
      .filter(each => isPlain(each) && path.startsWith(each.text))
      .sort((a, b) => b.text.length - a.text.length)
    const pattern = longest?.modifier === '^~' ? undefined : all.find(each => each.pattern?.test(path))
    return pattern ?? longest ?? null
  }
}

function patternOf({ modifier, text }: Omit<Located, 'pattern'>): RegExp | null {
  if (!modifier.startsWith('~')) return null
  try {
    return new RegExp(text, modifier === '~' ? '' : 'i')
  } catch {
    return null
  }
}

const isPlain = ({ modifier }: Located) => modifier === '' || modifier === '^~'

/** Whether requests below the path are not meant: `= /x`, `~ ^/x$`. */
const isExact = ({ modifier, text }: Located) =>
  modifier === '=' || (modifier.startsWith('~') && text.endsWith('$') && !/\.[*+]\)?\$$/.test(text))

const below = (path: string) => `${path.replace(/\/$/, '')}/*`

/** A path with a name, and with a number, in place of each `*`. */
const samplesOf = (path: string) => [...new Set(['x', '1'].map(name => path.replaceAll('*', name)))]

/** Adds the paths that two of them have in common: one with names there comes before one with `*`. */
function withCommonOnes(paths: ReadonlySet<string>): ReadonlySet<string> {
  const all = new Set(paths)
  for (const path of all) {
    for (const other of all) {
      const common = path.includes('*') && all.size < MOST_PATHS ? commonPath(path, other) : null
      if (common !== null) all.add(common)
    }
  }
  return all
}
