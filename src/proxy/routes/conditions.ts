/**
 * Conditions of routes, which a request fulfils or not, beside host and path. As written:
 *
 *     method=GET|HEAD        one of these methods
 *     header:X-Version       the request has this header
 *     header:X-Version=2     exactly this value
 *     header:X-Version=2.*   a value that begins so
 *
 * and alike `query:NAME` for a parameter of the query, `cookie:NAME` for a cookie.
 *
 *     path=*.php             the whole path, in which * stands for any characters
 *     ipath=*.php            the same, if upper and lower case are alike
 *     address=10.0.0.0/8|::1 the client's address, of the connection or its PROXY header
 *
 * A `!` before a condition negates it; `!listener=NAME` exists only so, because a route has a key for one listener. A check takes time in proportion to the
 * head, whatever a client sends.
 *
 * In the name and the key of a route its conditions follow the path: `/api?method=POST&header:x-version=2.*`. No path of a request has a `?`, so a
 * version that does not know conditions never uses such a route.
 */

import { addressRange, isIn } from '../../checks/address-ranges.js'
import { shortJson } from '../../checks/place.js'
import { InvalidValue, list, refine, text } from '../../checks/values.js'
import { cookieOf } from '../upstreams/balancing.js'
import { matcherOf, whyNoPattern } from './path-pattern.js'

/** The facts of a request on which conditions depend. */
export interface ConditionFacts {
  readonly method: string
  /** Path and query, as the client has sent them. */
  readonly resource: string
  readonly fields: { get(name: string): string | undefined }
}

/** Where a request comes from, and its path. */
export interface RequestPlace {
  readonly listener: string
  /** The client's IP address; '' for a Unix socket. */
  readonly client: string
  /** As a route's path is compared with it, see path.ts. */
  readonly path: string
  /** Whether the client has sent a slash at the end of the path. */
  readonly slash: boolean
}

const KINDS = ['method', 'header', 'query', 'cookie', 'listener', 'path', 'ipath', 'address'] as const
const NOT = '!'
/** `any`: the request has the name, with any value. `begin`: with a value that begins so. */
type Match = 'any' | 'exact' | 'begin'

interface Condition {
  readonly kind: (typeof KINDS)[number]
  /** The request must not fulfil the rest. */
  readonly not: boolean
  /** Lower case for a header; '' for a method and a listener. */
  readonly name: string
  readonly match: Match
  readonly value: string
}

const MOST = 16
const PREFIX = '?'
const METHODS = /^[A-Z0-9_-]{1,32}(?:\|[A-Z0-9_-]{1,32})*$/
const LISTENERS = /^[^|\p{Control}\p{Surrogate}]{1,256}(?:\|[^|\p{Control}\p{Surrogate}]{1,256})*$/u
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}$/
const PARAMETER = /^[\x21-\x3c\x3e-\x7e]{1,64}$/
const VALUE = /^(?! )[\x20-\x29\x2b-\x7e]{1,256}(?<! )$/

function parse(written: string): Condition | string {
  const not = written.startsWith(NOT)
  const given = not ? written.slice(1) : written
  const equals = given.indexOf('=')
  const [named, value] = equals < 0 ? [given, null] : [given.slice(0, equals), given.slice(equals + 1)]
  if (named === 'method') {
    if (value === null || !METHODS.test(value)) return 'write methods, such as method=GET|HEAD'
    return { kind: 'method', not, name: '', match: 'exact', value: sortedList(value) }
  }
  if (named === 'listener') {
    if (!not) return 'for one listener give "listener"; a condition excludes listeners: !listener=NAME'
    if (value === null || !LISTENERS.test(value)) return 'write names, such as !listener=admin|metrics'
    return { kind: 'listener', not, name: '', match: 'exact', value: sortedList(value) }
  }
  if (named === 'path' || named === 'ipath') {
    const why = whyNoPattern(value ?? '')
    const given =
      named === 'path' ? value : value?.toLowerCase().replaceAll(/%../g, each => each.toUpperCase())
    return (
      why ?? { kind: named, not, name: '', match: given!.includes('*') ? 'begin' : 'exact', value: given! }
    )
  }
  if (named === 'address') {
    if (value === null || value.split('|').some(each => addressRange(each) instanceof InvalidValue))
      return 'write addresses or networks, such as address=10.0.0.0/8|fd00::1'
    return { kind: 'address', not, name: '', match: 'exact', value: sortedList(value) }
  }
  const [, kind, name = ''] = /^(header|query|cookie):(.*)$/.exec(named) ?? []
  if (kind === undefined)
    return 'write method=GET|HEAD, header:NAME, header:NAME=VALUE, header:NAME=BEGIN*, or alike query: and cookie:, path=*.html, address=10.0.0.0/8, or one of these with ! before it'
  if (!(kind === 'query' ? PARAMETER : TOKEN).test(name)) return `${shortJson(name)} is no name of a ${kind}`
  const common = { kind: kind as Condition['kind'], not, name: kind === 'header' ? name.toLowerCase() : name }
  if (value === null) return { ...common, match: 'any', value: '' }
  if (value === '' || value === '*') return `for any value write ${kind}:${name}`
  const begin = value.endsWith('*')
  const plain = begin ? value.slice(0, -1) : value
  if (!VALUE.test(plain))
    return 'a value has 1 to 256 visible ASCII characters, no blank at either end, and a * only at its end'
  return { ...common, match: begin ? 'begin' : 'exact', value: plain }
}

function sortedList(value: string): string {
  return [...new Set(value.split('|'))].sort().join('|')
}

function nameOf({ kind, name }: Condition): string {
  return name === '' ? kind : `${kind}:${name}`
}

function textOf(condition: Condition, encode = (part: string) => part): string {
  const { kind, not, name, match, value } = condition
  const named = `${not ? NOT : ''}${name === '' ? kind : `${kind}:${encode(name)}`}`
  if (match === 'any') return named
  return `${named}=${encode(value)}${match === 'begin' && !isOfPath(kind) ? '*' : ''}`
}

const isOfPath = (kind: Condition['kind']) => kind === 'path' || kind === 'ipath'

/** The order does not depend on that of the configuration. */
function compare(a: Condition, b: Condition): number {
  const names = [nameOf(a), nameOf(b)] as const
  if (names[0] !== names[1])
    return KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind) || (names[0] < names[1] ? -1 : 1)
  return Number(a.not) - Number(b.not) || (a.value < b.value ? -1 : 1)
}

/** A request can fulfil one condition about a name, and any number of negated ones, and of those about the path. */
function conflict(a: Condition, b: Condition): boolean {
  const several = a.not || isOfPath(a.kind)
  return nameOf(a) === nameOf(b) && a.not === b.not && (!several || textOf(a) === textOf(b))
}

const condition = text('a condition', given => {
  const parsed = parse(given)
  return typeof parsed === 'string'
    ? new InvalidValue(`${shortJson(given)} is no condition: ${parsed}`)
    : parsed
})

/** Checks a list of conditions. Returns the end of the name of a route that has them, see {@link conditionsIn}. */
export const when = refine(list(condition, { least: 1, most: MOST }), (given, place): string | undefined => {
  const sorted = given.toSorted(compare)
  const twice = sorted.find((each, i) => i > 0 && conflict(each, sorted[i - 1]!))
  if (twice !== undefined)
    return place.wrong(`two conditions are about ${shortJson(nameOf(twice))}; give one`)
  return PREFIX + sorted.map(each => textOf(each, encode)).join('&')
})

/** Encodes what has a meaning in names and keys of routes. */
function encode(part: string): string {
  return encodeURIComponent(part).replaceAll('*', '%2A').replaceAll('%7C', '|')
}

/** Separates the path of a route and its conditions, which may be ''. */
export function splitConditions(path: string): { path: string; conditions: string } {
  const at = path.indexOf(PREFIX)
  return at < 0 ? { path, conditions: '' } : { path: path.slice(0, at), conditions: path.slice(at) }
}

/** Returns the conditions as written in a configuration; null if this version does not know one of them. */
export function writtenConditions(conditions: string): string[] | null {
  return conditionsIn(conditions)?.map(each => textOf(each)) ?? null
}

/** Returns the names of the listeners that these conditions exclude. */
export function excludedListeners(conditions: string): string[] {
  return (conditionsIn(conditions) ?? []).flatMap(({ kind, value }) =>
    kind === 'listener' ? value.split('|') : [],
  )
}

function conditionsIn(conditions: string): Condition[] | null {
  try {
    const all = conditions
      .slice(PREFIX.length)
      .split('&')
      .map(each => parse(decodeURIComponent(each.replace(/\*$/, '')) + (each.endsWith('*') ? '*' : '')))
    return all.every(each => typeof each !== 'string') ? all : null
  } catch {
    return null
  }
}

/** The conditions of one route, prepared for requests. */
export class Conditions {
  readonly #all: readonly { readonly not: boolean; readonly holds: Check }[]
  /** The numbers of conditions, of those that are not negated, and of their exact values and characters: of several routes that fit, the one with the higher first difference wins. */
  readonly #rank: readonly number[]
  readonly #text: string

  /** Throws for conditions that this version does not know. */
  constructor(text: string) {
    const all = conditionsIn(text)
    if (all === null) throw new Error(`this version does not know the conditions ${shortJson(text)}`)
    this.#all = all.map(each => ({ not: each.not, holds: checkOf(each) }))
    this.#text = text
    const asked = all.filter(({ not }) => !not)
    const exact = asked.filter(({ match }) => match === 'exact').length
    this.#rank = [all.length, asked.length, exact, asked.reduce((sum, each) => sum + narrowness(each), 0)]
  }

  /** Negative if this one comes before the other. */
  compare(other: Conditions): number {
    for (const [i, own] of this.#rank.entries()) if (own !== other.#rank[i]) return other.#rank[i]! - own
    return this.#text < other.#text ? -1 : 1
  }

  fit(facts: ConditionFacts, around: RequestPlace): boolean {
    for (const { not, holds } of this.#all) if (holds(facts, around) === not) return false
    return true
  }
}

type Check = (facts: ConditionFacts, around: RequestPlace) => boolean

/** The length of a value; of networks the one with the most addresses counts. */
function narrowness({ kind, value }: Condition): number {
  if (kind !== 'address') return value.length
  return Math.min(...rangesOf(value).map(({ family, prefix }) => (family === 'ipv4' ? prefix + 96 : prefix)))
}

const rangesOf = (value: string) =>
  value.split('|').flatMap(each => {
    const range = addressRange(each)
    return range instanceof InvalidValue ? [] : [range]
  })

function checkOf({ kind, name, match, value }: Condition): Check {
  if (kind === 'path') {
    const matches = matcherOf(value)
    return (_, { path, slash }) => matches(path, slash)
  }
  if (kind === 'ipath') {
    const matches = matcherOf(value.toLowerCase())
    return (_, { path, slash }) => matches(path.toLowerCase(), slash)
  }
  if (kind === 'address') {
    const has = isIn(rangesOf(value))
    return (_, { client }) => has(client)
  }
  if (kind === 'listener' || kind === 'method') {
    const all = value.split('|')
    return kind === 'method'
      ? ({ method }) => all.includes(method)
      : (_, { listener }) => all.includes(listener)
  }
  const find = ({ resource, fields }: ConditionFacts) =>
    kind === 'header'
      ? fields.get(name)
      : kind === 'cookie'
        ? cookieOf(fields.get('cookie'), name)
        : parameterOf(resource, name)
  return facts => {
    const found = find(facts)
    if (found === undefined) return false
    return match === 'any' || (match === 'exact' ? found === value : found.startsWith(value))
  }
}

/** Returns the value of the first parameter with this name, decoded as that of a form. */
function parameterOf(resource: string, name: string): string | undefined {
  const question = resource.indexOf('?')
  if (question < 0) return undefined
  for (const pair of resource.slice(question + 1).split('&')) {
    const equals = pair.indexOf('=')
    if (decoded(equals < 0 ? pair : pair.slice(0, equals)) === name)
      return equals < 0 ? '' : decoded(pair.slice(equals + 1))
  }
  return undefined
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part.replaceAll('+', ' '))
  } catch {
    return part
  }
}
