import { ShardedMap } from '../../base/large-collections.js'
import { type Place, shortJson } from '../../checks/place.js'
import { absent, map, optional, required } from '../../checks/shape.js'
import { didYouMean } from '../../checks/spelling.js'
import {
  boolean,
  fresh,
  InvalidValue,
  integer,
  list,
  name,
  named,
  refine,
  text,
  type ValueCheck,
  type Written,
} from '../../checks/values.js'
import { basicAuthShape } from './basic-auth.js'
import { excludedListeners, when } from './conditions.js'
import { cors, corsShape } from './cors.js'
import { forwardAuth, forwardAuthShape } from './forward-auth.js'
import { headerName } from './header-name.js'
import { canonicalHost, scopedHost } from './host.js'
import { canonicalPath } from './path.js'
import { routeName } from './path-tree.js'
import { type RateLimit, rateLimitShape } from './rate-limit.js'
import {
  type FieldChanges,
  type RespondTarget,
  type RouteTarget,
  routeChanges,
  type UpstreamTarget,
} from './target.js'
import { checkVariables } from './variables.js'

/** A checked route of a file or of `routes add`. Host and path are canonical. */
export interface RouteRule {
  /** With the listener if the route has one, see {@link scopedHost}. */
  host: string
  /** With the conditions of the route, see `splitConditions`. */
  path: string
  target: RouteTarget
}

/** Stands for the routes of a document that an earlier process of the same release has checked, beside the same upstreams and listeners. */
export class CheckedRoutes {
  readonly rules: RouteRule[]

  constructor(rules: RouteRule[]) {
    this.rules = rules
  }
}

type FirstPositions = ShardedMap<string | number>

const MAX_BODY_BYTES = 64 * 1024

const body = text('a string', given => {
  if (/\p{Surrogate}/u.test(given))
    return new InvalidValue('the text has half a surrogate pair, which UTF-8 cannot carry')
  const bytes = Buffer.byteLength(given)
  return bytes <= MAX_BODY_BYTES
    ? given
    : new InvalidValue(`the text has ${bytes} bytes, at most ${MAX_BODY_BYTES} are allowed`)
})

const headerLines = refine(named(headerName, text('a header value', headerValue)), uniqueHeaders)

const answerHeaders = refine(headerLines, (headers, place): [string, string][] | undefined => {
  const date = headers.find(([name]) => name.toLowerCase() === 'date')
  if (date === undefined) return headers
  return place.at(date[0]).wrongKey(`"${date[0]}" is set by the proxy itself; choose another header`)
})

const respondShape = {
  status: optional(integer(200, 599), 200, 'status of the answer'),
  body: optional(body, '', 'text of the body, at most 64 KiB'),
  headers: optional(
    answerHeaders,
    {},
    'further headers with [variables](#fields), but not `Date`, `Content-Length` and the like',
  ),
}

const respond = refine(map(respondShape), (given, place): RespondTarget | undefined => {
  const { status, body, headers } = given
  if (body !== '' && (status === 204 || status === 205 || status === 304)) {
    return place.at('body').wrong(`an answer with status ${status} has no body; leave it out`)
  }
  return { kind: 'respond', status, body, headers }
})

const placeShape = {
  host: required(text('a host', canonicalHost), '`example.com`, `*.example.com` (all below it), `*`'),
  path: optional(
    text('a path', given => canonicalPath(given, true)),
    '/',
    'path prefix; `/api` does not match `/apis`, [`/users/*/orders`](#which-route-wins) has any name in place of `*`',
  ),
  listener: absent(
    text('the name of a listener', name),
    undefined,
    'only requests of this listener; such a route wins over routes of all listeners',
  ),
  when: absent(
    when,
    undefined,
    'only requests that fulfil [these conditions](#conditions): `method=GET|HEAD`, `header:NAME`, `header:NAME=VALUE`, `query:NAME=BEGIN*`, `cookie:NAME`, `path=*.php`, `address=10.0.0.0/8`; `!` negates',
  ),
}

function sentHost(given: string): string | InvalidValue {
  return /^(?:[0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$/.test(given)
    ? given
    : new InvalidValue(`${shortJson(given)} is not a host with or without a port`)
}

const fieldShape = {
  set: optional(headerLines, {}, 'headers to set or replace, with [variables](#fields)'),
  remove: optional(list(text('a header name', headerName), { most: 100 }), [], 'headers to remove'),
}
const prefix = (stars: boolean) =>
  text('a path', given =>
    given === '/'
      ? new InvalidValue('"/" is the begin of every path; leave it out')
      : canonicalPath(given, stars),
  )
const requestShape = {
  host: absent(text('a host', sentHost), undefined, 'replaces the client’s `Host`'),
  stripPrefix: absent(
    prefix(true),
    undefined,
    'removed from the begin of the path, where the route’s `path` has it: [`/api`](#paths-for-servers)',
  ),
  addPrefix: absent(prefix(false), undefined, 'put before the path, after `stripPrefix`'),
  ...fieldShape,
}
const requestChanges = refine(map(requestShape), onceEach)
const fieldMap = map(fieldShape)
const responseChanges = refine(fieldMap, onceEach)

function onceEach<T extends FieldChanges>(given: T, place: Place): T | undefined {
  const names = [...given.set.map(([name]) => name), ...given.remove].map(name => name.toLowerCase())
  const duplicate = names.find((name, i) => names.indexOf(name) !== i)
  return duplicate === undefined
    ? given
    : place.wrong(`"set" and "remove" name the header ${shortJson(duplicate)} twice`)
}

export const routeShape = {
  ...placeShape,
  upstream: absent(
    text('the name of an upstream', name => name),
    undefined,
    'upstream that serves these requests',
  ),
  respond: absent(respond, undefined, 'a fixed answer instead of an upstream', respondShape),
  connect: optional(
    boolean,
    false,
    'whether CONNECT requests are passed to the upstream, which must be a proxy',
  ),
  basicAuth: absent(
    map(basicAuthShape),
    undefined,
    'only requests with [a name and a password](#passwords), by HTTP Basic; the others get 401',
    basicAuthShape,
  ),
  forwardAuth: absent(
    forwardAuth,
    undefined,
    'only requests that [a service](#a-service-that-decides) lets pass; the others get its answer',
    forwardAuthShape,
  ),
  cors: absent(
    cors,
    undefined,
    'pages of other sites that may use the answers ([CORS](#pages-of-other-sites))',
    corsShape,
  ),
  rateLimit: absent(
    map(rateLimitShape),
    undefined,
    'only [so many requests in a time](#rate-limits); the others get 429',
    rateLimitShape,
  ),
  accessLog: optional(
    boolean,
    true,
    'whether the [access log](proxy.md#access-log) has lines about these requests, if there is one',
  ),
  request: absent(requestChanges, undefined, 'changes to requests', requestShape),
  response: absent(responseChanges, undefined, 'changes to answers of the servers', fieldShape),
}

/** Either `upstream` or `respond` must be set. */
export interface RouteDocument extends Written<typeof readRoute> {}
export interface FieldsDocument extends Written<typeof fieldMap> {}

/** Returns a check for the routes of one list. The check also reports a route with the host and path of an earlier one. */
export function routeCheck(
  upstreams: ReadonlySet<string>,
  listeners: ReadonlySet<string>,
): ValueCheck<RouteRule, RouteDocument> {
  const firstPositions: FirstPositions = new ShardedMap()
  return (value, place) => {
    const given = readRoute(value, place)
    if (given === undefined) return undefined
    const {
      path: plain,
      when,
      upstream,
      respond,
      connect,
      basicAuth,
      forwardAuth,
      cors,
      rateLimit,
      accessLog,
      request,
      response,
      listener,
    } = given
    const host = scopedHost(listener, given.host)
    const path = when === undefined ? plain : plain + when
    if (!isFirst(firstPositions, { host, path }, place)) return undefined
    const limit: RateLimit | undefined = rateLimit && {
      ...rateLimit,
      burst: rateLimit.burst ?? rateLimit.requests,
      name: rateLimit.name ?? routeName({ host, path }),
    }
    const unknown = [listener, ...(when?.includes('!listener') ? excludedListeners(when) : [])].find(
      each => each !== undefined && !listeners.has(each),
    )
    if (unknown !== undefined) {
      const known = place.problems.full ? new Set<string>() : listeners
      return place
        .at(unknown === listener ? 'listener' : 'when')
        .wrong(`there is no listener ${JSON.stringify(unknown)} for requests${didYouMean(unknown, known)}`)
    }
    if (forwardAuth !== undefined) {
      const at = place.at('forwardAuth')
      if (basicAuth !== undefined) return at.wrongKey('give "basicAuth" or "forwardAuth", not both')
      if (connect) return at.wrongKey('CONNECT has no path to ask about; leave it out')
      if (!upstreams.has(forwardAuth.upstream))
        return at
          .at('upstream')
          .wrong(noUpstream(forwardAuth.upstream, place.problems.full ? new Set() : upstreams))
      const edited = [...(request?.set ?? []).map(([name]) => name), ...(request?.remove ?? [])]
      const both = commonName(edited, forwardAuth.responseHeaders)
      if (both !== undefined)
        return at.at('responseHeaders').wrong(`"request" changes the header ${shortJson(both)} too`)
    }
    const more: TargetParts = {
      ...(basicAuth && { auth: basicAuth }),
      ...(forwardAuth && { forwardAuth }),
      ...(cors && { cors }),
      ...(limit && { limit }),
      ...(!accessLog && { unlogged: true }),
    }
    if (respond) {
      if (upstream !== undefined)
        return place.at('respond').wrongKey('give "upstream" or "respond", not both')
      for (const key of ['request', 'response'] as const) {
        if (given[key] !== undefined)
          return place.at(key).wrongKey('this route answers by itself; leave it out')
      }
      if (connect) return place.at('connect').wrong('CONNECT needs an upstream; this route answers by itself')
      return { host, path, target: { ...respond, ...more } }
    }
    if (upstream === undefined) return place.wrong('the route has no target: give "upstream" or "respond"')
    if (connect && basicAuth !== undefined)
      return place.at('basicAuth').wrongKey('CONNECT asks for passwords of proxies; leave it out')
    if (upstreams.has(upstream)) {
      const strip = request?.stripPrefix
      if (strip !== undefined && plain !== strip && !plain.startsWith(`${strip}/`)) {
        const why = `requests of this route have the path ${shortJson(plain)}, which does not begin with it`
        return place.at('request').at('stripPrefix').wrong(why)
      }
      const changes = routeChanges(request ?? {}, fieldsOf(request), fieldsOf(response))
      const target = { kind: 'upstream', upstream, connect } as const
      return { host, path, target: { ...target, ...(changes && { changes }), ...more } }
    }
    const at = place.at('upstream')
    return at.wrong(noUpstream(upstream, place.problems.full ? new Set() : upstreams))
  }
}

type TargetParts = Omit<RouteTarget, keyof UpstreamTarget | keyof RespondTarget>

function commonName(some: readonly string[], others: readonly string[]): string | undefined {
  const names = new Set(others.map(name => name.toLowerCase()))
  return some.find(name => names.has(name.toLowerCase()))
}

/** Returns a check for the routes of a file, as {@link routeCheck} for each. */
export function routesCheck(
  upstreams: ReadonlySet<string>,
  listeners: ReadonlySet<string>,
): ValueCheck<RouteRule[], readonly RouteDocument[]> {
  const check = fresh(() => routeCheck(upstreams, listeners), {})
  return (value, place) => (value instanceof CheckedRoutes ? value.rules : check(value, place))
}

function fieldsOf(given: FieldChanges | undefined): FieldChanges | undefined {
  return given && { set: given.set, remove: given.remove }
}

/** Returns the message for an unknown upstream, with a suggestion from `known`. */
export function noUpstream(name: string, known: ReadonlySet<string>): string {
  return `there is no upstream ${JSON.stringify(name)}${didYouMean(name, known)}`
}

/** As {@link routeCheck}, for host, path and conditions alone. */
export function routeNameCheck(): ValueCheck<{ host: string; path: string }> {
  const firstPositions: FirstPositions = new ShardedMap()
  return (value, place) => {
    const given = readPlace(value, place)
    if (given === undefined) return undefined
    const { path: plain, when = '', listener } = given
    const host = scopedHost(listener, given.host)
    const path = plain + when
    return isFirst(firstPositions, { host, path }, place) ? { host, path } : undefined
  }
}

const readRoute = map(routeShape)
const readPlace = map(placeShape)

function isFirst(
  firstPositions: FirstPositions,
  route: { host: string; path: string },
  place: Place,
): boolean {
  const name = routeName(route)
  const before = firstPositions.get(name)
  if (before === undefined) {
    firstPositions.set(name, place.step)
    return true
  }
  const where = typeof before === 'number' ? `routes[${before}]` : 'an earlier one'
  place.wrong(`${name} is given twice, first by ${where}`)
  return false
}

function uniqueHeaders(headers: [string, string][], place: Place): [string, string][] | undefined {
  const seen = new Set<string>()
  for (const [name] of headers) {
    const lower = name.toLowerCase()
    if (seen.has(lower)) return place.at(name).wrongKey('this header is given twice')
    seen.add(lower)
  }
  return headers
}

function headerValue(text: string): string | InvalidValue {
  if (text.length > 4096)
    return new InvalidValue(`the header value has ${text.length} characters; at most 4096 are allowed`)
  if (/^[\t\x20-\x7e]*$/.test(text) && text.trim() === text) return checkVariables(text)
  return new InvalidValue(
    `${shortJson(text)} is not a header value (visible ASCII, no line break, no blank at either end)`,
  )
}
