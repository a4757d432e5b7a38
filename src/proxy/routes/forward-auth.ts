/** A service that decides which requests may pass: the key `routes[].forwardAuth`. */
import { shortJson } from '../../checks/place.js'
import { absent, map, optional, required } from '../../checks/shape.js'
import { duration, InvalidValue, list, refine, text } from '../../checks/values.js'
import type { Authorization, Forward } from '../../relay/index.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import { headerName } from './header-name.js'

export interface ForwardAuth {
  readonly upstream: string
  /** Path and query of the question. */
  readonly path: string
  /** In milliseconds. */
  readonly timeout: number
  /** All if this is null. */
  readonly requestHeaders: readonly string[] | null
  readonly responseHeaders: readonly string[]
}

/** The relay removes a header in every spelling with `-` and `_`: their number doubles with each. */
const MOST_HYPHENS = 8

function pathOf(given: string): string | InvalidValue {
  return /^\/[\x21-\x22\x24-\x7e]{0,1023}$/.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is not the path of a request (/verify?by=edge)`)
}

function answeredHeader(given: string): string | InvalidValue {
  return given.split(/[-_]/).length > MOST_HYPHENS + 1
    ? new InvalidValue(`${shortJson(given)} has more than ${MOST_HYPHENS} hyphens; choose another header`)
    : headerName(given)
}

function headers(name: (given: string) => string | InvalidValue) {
  return refine(list(text('a header name', name), { most: 100 }), (given, place) => {
    const names = given.map(each => each.toLowerCase().replaceAll('_', '-'))
    const twice = given.find((_, i) => names.indexOf(names[i]!) !== i)
    return twice === undefined ? given : place.wrong(`the header ${shortJson(twice)} is given twice`)
  })
}

export const forwardAuthShape = {
  upstream: required(
    text('the name of an upstream', name => name),
    'upstream of the service',
  ),
  path: optional(text('a path', pathOf), '/', 'path and query of the question'),
  timeout: optional(duration(1), '5s', 'limit for the answer; then the client gets 503'),
  requestHeaders: absent(
    headers(headerName),
    undefined,
    'headers of the request that the service gets; default: all but `Range`, `If-Match` and the like',
  ),
  responseHeaders: optional(
    headers(answeredHeader),
    [],
    'headers of a positive answer that the request gets, instead of those that the client has sent',
  ),
}

export const forwardAuth = refine(
  map(forwardAuthShape),
  // In the order of `forwardAuthOf()`: equal rules have equal JSON.
  ({ upstream, path, timeout, requestHeaders = null, responseHeaders }): ForwardAuth => ({
    upstream,
    path,
    timeout,
    requestHeaders,
    responseHeaders,
  }),
)

const NOWHERE: Forward = { kind: 'upstream', name: '', pick: () => null }

/** Without servers for requests the service has no answer, and no request passes. */
export function authorizationOf(rule: ForwardAuth, upstreams: Upstreams): Authorization {
  const upstream = upstreams.get(rule.upstream)
  const { path: target, timeout, requestHeaders, responseHeaders } = rule
  return {
    get service() {
      return upstream.takesRequests ? upstream.forward : NOWHERE
    },
    target,
    timeout,
    requestHeaders: requestHeaders?.map(name => name.toLowerCase()) ?? null,
    responseHeaders,
  }
}
