/** Finds the routes that may match some of another route's requests, without a look at all of them. */
import { isOfPath, thingOf, wantedOf } from './conditions.js'
import type { Match } from './draft.js'
import { bitsOf } from './networks.js'

/** Texts are compared up to here. */
const MOST_CHARACTERS = 64

/**
 * A part of requests, by which routes are found. Each route has a text for it, '' if it asks for nothing: two routes share no request unless the text of one
 * begins with that of the other.
 */
interface Part {
  readonly textOf: (match: Match) => string
  readonly byText: Map<string, number[]>
  readonly byBegin: Map<string, number[]>
}

export class RouteIndex<T extends { readonly match: Match }> {
  readonly #all: T[] = []
  readonly #parts: readonly Part[]

  /** `matches` have all the things that a condition of an added route may be about. */
  constructor(matches: readonly Match[]) {
    const things = new Set(matches.flatMap(({ when }) => when.filter(isOfValue).map(thingOf)))
    const texts = [listenerOf, hostOf, beginOf, endOf, ...[...things].map(thing => toldOf(thing))]
    this.#parts = texts.map(textOf => ({ textOf, byText: new Map(), byBegin: new Map() }))
  }

  /** All routes, in the order in which they were added. */
  get all(): readonly T[] {
    return this.#all
  }

  add(route: T): void {
    const at = this.#all.push(route) - 1
    for (const { textOf, byText, byBegin } of this.#parts) {
      const text = textOf(route.match)
      put(byText, text, at)
      for (let length = 1; length <= text.length; length += 1) put(byBegin, text.slice(0, length), at)
    }
  }

  /** The routes that may match requests of `match`, and perhaps others, in the order in which they were added. */
  near(match: Match): readonly T[] {
    let fewest: readonly (readonly number[])[] | null = null
    let least = this.#all.length
    for (const { textOf, byText, byBegin } of this.#parts) {
      const text = textOf(match)
      if (text === '') continue
      const found = [byBegin.get(text) ?? []]
      for (let length = 0; length < text.length; length += 1) {
        const shorter = byText.get(text.slice(0, length))
        if (shorter !== undefined) found.push(shorter)
      }
      const count = found.reduce((sum, each) => sum + each.length, 0)
      if (count >= least) continue
      least = count
      fewest = found
    }
    if (fewest === null) return this.#all
    return fewest
      .flat()
      .sort((a, b) => a - b)
      .map(at => this.#all[at]!)
  }
}

function put(into: Map<string, number[]>, text: string, at: number): void {
  const known = into.get(text)
  if (known === undefined) into.set(text, [at])
  else known.push(at)
}

const cut = (text: string) => text.slice(0, MOST_CHARACTERS)
const reversed = (text: string) => [...text].reverse().join('')

const listenerOf = ({ listener = '' }: Match) => cut(listener)

/** A host from its end on. */
const hostOf = ({ host }: Match) => cut(reversed(host.replace(/^\*/, '')))

const longest = (texts: readonly string[]) => cut(texts.reduce((a, b) => (a.length < b.length ? b : a), ''))

/** Path patterns of a route, in parts between stars. */
const patternsIn = (when: readonly string[]) =>
  when.filter(isOfPath).map(each => wantedOf(each)!.toLowerCase().split('*'))

/** The begin of the paths of a route, of which conditions may ask for more than its own path. */
const beginOf = ({ path, when }: Match) =>
  longest(
    [path.toLowerCase().replace(/\/?\*.*$/, ''), ...patternsIn(when).map(parts => parts[0]!)].map(each =>
      each.replace(/\/$/, ''),
    ),
  )

/** The end of the paths of a route, from there on. */
const endOf = ({ when }: Match) =>
  longest(patternsIn(when).map(parts => reversed(parts.at(-1)!.replace(/\/$/, ''))))

/** Whether a condition asks for one value, one network, or values with one begin. */
const isOfValue = (condition: string) =>
  /^(?:header|query|cookie):[^=]*=/.test(condition) || /^(?:method|address)=[^|]*$/.test(condition)

/** The value of a header, parameter or cookie, the method, or the network, as far as a route tells it. */
const toldOf =
  (thing: string) =>
  ({ when }: Match) => {
    const told = when.find(each => isOfValue(each) && thingOf(each) === thing)
    if (told === undefined) return ''
    const value = wantedOf(told)!
    return cut(thing === 'address' ? bitsOf(value) : value.replace(/\*$/, ''))
  }
