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

/** A location with a pattern. nginx takes the first that matches, before each plain one without `^~`. */
interface Pattern extends Place {
  /** Null if it cannot be tried here. */
  readonly test: RegExp | null
  readonly paths: readonly string[]
  /** A `$` at its end: requests below the path are not meant. */
  readonly exact: boolean
}

interface Begin extends Place {
  /** Comes before patterns (`^~`). */
  readonly first: boolean
  /** `/x/`, which nginx tells from `/x`. */
  readonly slash: boolean
}

export class Places {
  readonly #begins = new Map<string, Begin>()
  readonly #exact = new Map<string, Place>()
  readonly #patterns: Pattern[] = []

  /** Adds `location = PATH`. Returns false if there is one. */
  addExact(path: string, place: Place): boolean {
    if (this.#exact.has(path)) return false
    this.#exact.set(path, place)
    return true
  }

  /** Adds `location PATH`. Returns false if another one takes its requests: of `/x` and `/x/` the guarded one. */
  addBegin(path: string, begin: Begin): boolean {
    const known = this.#begins.get(path)
    if (known === undefined) this.#begins.set(path, begin)
    else if (known.slash === begin.slash || isGuarded(known.action)) return false
    else if (isGuarded(begin.action)) this.#begins.set(path, begin)
    else {
      const [whole, within] = begin.slash ? [known, begin] : [begin, known]
      this.#begins.set(path, whole)
      this.#begins.set(`${path}/*`, within)
    }
    return true
  }

  addPattern(pattern: string, sensitive: boolean, paths: readonly string[], place: Place): void {
    this.#patterns.push({
      ...place,
      paths,
      test: regularOf(pattern, sensitive),
      exact: pattern.endsWith('$') && !/\.[*+]\)?\$$/.test(pattern),
    })
  }

  /** `otherwise`: the action for requests that no location takes. */
  *all(otherwise: () => Action): Generator<{ path: string } & Place> {
    if (!this.#begins.has('/'))
      this.#begins.set('/', { action: otherwise(), also: [], first: false, slash: true })
    const begins = new Map<string, Place>(this.#begins)
    for (const [path, begin] of this.#begins) {
      const before = begin.first ? undefined : this.#patternOf(samplesBelow(path), this.#patterns.length)
      if (before !== undefined) begins.set(path, before)
    }
    const exact = new Map(this.#exact)
    for (const [at, pattern] of this.#patterns.entries())
      for (const path of pattern.paths) {
        const samples = pattern.exact ? samplesOf(path) : samplesBelow(path)
        const place = this.#patternOf(samples, at) ?? pattern
        const into = pattern.exact ? exact : begins
        const isTaken = pattern.exact ? exact.has(path) : this.#begins.get(path)?.first === true
        if (!isTaken && (place === pattern || !begins.has(path))) into.set(path, place)
      }
    for (const [path, place] of begins) if (!exact.has(path)) yield { path, ...place }
    for (const [path, place] of exact) {
      yield { path, ...place }
      const below = innermost(begins, path)
      if (below !== undefined) yield { path: `${path}/*`.replace('//', '/'), ...below }
    }
  }

  /** The pattern, of those before `end`, that takes all of these paths; a guarded one also if it takes some of them. */
  #patternOf(samples: readonly string[], end: number): Pattern | undefined {
    return this.#patterns.slice(0, end).find(({ test, exact, action }) => {
      if (test === null) return false
      const taken = samples.filter(each => test.test(each)).length
      return taken === samples.length || (taken > 0 && !exact && isGuarded(action))
    })
  }
}

function regularOf(pattern: string, sensitive: boolean): RegExp | null {
  try {
    return new RegExp(pattern, sensitive ? '' : 'i')
  } catch {
    return null
  }
}

/** A path with a name, and with a number, in place of each `*`. */
const samplesOf = (path: string) => [...new Set(['x', '1'].map(name => path.replaceAll('*', name)))]

const samplesBelow = (path: string) =>
  samplesOf(path).flatMap(each => [
    ...(each === '/' ? [] : [each]),
    ...['/', '/x', '/x/y.z'].map(end => each.replace(/\/$/, '') + end),
  ])

/** Returns the place that takes the requests below a path. */
function innermost(places: ReadonlyMap<string, Place>, path: string): Place | undefined {
  const segments = (each: string) => (each === '/' ? 0 : each.split('/').length)
  const stars = (each: string) => each.split('*').length
  const [found] = [...places]
    .filter(([each]) => commonPath(each, path) === path)
    .sort(([a], [b]) => segments(b) - segments(a) || stars(a) - stars(b))
  return found?.[1]
}
