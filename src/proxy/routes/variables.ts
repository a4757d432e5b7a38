import { shortJson } from '../../checks/place.js'
import { didYouMean } from '../../checks/spelling.js'
import { InvalidValue } from '../../checks/values.js'
import { segmentOf } from './path.js'

/** The facts of a request that header values can contain. */
export interface VariableFacts {
  /** As in the request, without a port; '' if it has none. */
  readonly host: string
  /** Path and query, as the client has sent them. */
  readonly request_uri: string
  /** The client's IP address; '' for a Unix socket. */
  readonly remote_addr: string
  /** The user of {@link BasicAuth}, non-ASCII percent-encoded; '' if the route asks for none. */
  readonly remote_user: string
  readonly scheme: 'http' | 'https'
  readonly request_method: string
}

const NAMES: readonly (keyof VariableFacts)[] = [
  'host',
  'request_uri',
  'remote_addr',
  'remote_user',
  'scheme',
  'request_method',
]

/** A segment of the path, as the client has sent it. */
const SEGMENT = /^segment_([1-9])$/

const VARIABLE = /\$(?:\$|(\w+)|\{(\w+)\})?/g

function isName(name: string | undefined): name is keyof VariableFacts {
  return (NAMES as readonly (string | undefined)[]).includes(name)
}

/** Checks the variables in a header value: `$host` or `${host}`; `$$` is a dollar sign. */
export function checkVariables(value: string): string | InvalidValue {
  for (const [text, bare, braced] of value.matchAll(VARIABLE)) {
    const name = bare ?? braced
    if (text === '$$' || isName(name) || (name !== undefined && SEGMENT.test(name))) continue
    const known = [...NAMES, 'segment_1'].map(each => `$${each}`)
    const why = name === undefined ? 'no variable follows a $' : `${shortJson(text)} is no variable`
    const hint = name === undefined ? '' : didYouMean(`$${name}`, known)
    return new InvalidValue(
      `${why}${hint}; the variables are ${known.join(', ')}; write $$ for a dollar sign`,
    )
  }
  return value
}

export function hasVariables(values: readonly (readonly [name: string, value: string])[]): boolean {
  return values.some(([, value]) => value.includes('$'))
}

/** Returns the values for a request. Keeps variables that this version does not know: another version may have written them. */
export function expand(
  values: readonly (readonly [name: string, value: string])[],
  facts: VariableFacts,
): [name: string, value: string][] {
  return values.map(([name, value]) => [name, expandOne(value, facts)])
}

function expandOne(value: string, facts: VariableFacts): string {
  const expanded = value.replace(VARIABLE, (text, bare?: string, braced?: string) => {
    const name = bare ?? braced
    if (text === '$$') return '$'
    const [, segment] = SEGMENT.exec(name ?? '') ?? []
    if (segment !== undefined) return encodeNonAscii(segmentOf(facts.request_uri, Number(segment)))
    return isName(name) ? encodeNonAscii(facts[name]) : text
  })
  // A header value neither begins nor ends with a blank; an empty variable may leave one there.
  return expanded.trim()
}

export function encodeNonAscii(text: string): string {
  return text.replace(/[\x80-\xff]/g, byte => `%${byte.charCodeAt(0).toString(16).toUpperCase()}`)
}
