import type { Section } from '../../index.js'
import { fdbroker } from '../../proto/proxy.js'
import { FIRST_ATTRIBUTE, type Stamp, unknownFields } from '../entries/difference.js'
import { messageSection } from '../entries/message-section.js'
import type { Cors } from './cors.js'
import type { ForwardAuth } from './forward-auth.js'
import type { RateLimit } from './rate-limit.js'
import { type FieldChanges, type RouteTarget, routeChanges, sameTarget } from './target.js'

/** A stored route, including fields of newer versions. Do not change it. */
export type RouteMessage = fdbroker.proxy.Route

export const ROUTES = 'routes'

export const routesSection = messageSection<RouteMessage, fdbroker.proxy.Route.$Properties>(
  fdbroker.proxy.Route,
)

/** The part of a section that planning and listing need; a `Map` of messages has it too. */
export interface RouteState {
  get(key: string): RouteMessage | undefined
  has(key: string): boolean
  keys(): Iterable<string>
  readonly size: number
  /** See `Section`; a `Map` has no stored bytes to compare. */
  isStored_?: Section<RouteMessage>['isStored_']
}

export type RouteChange = { key: string; value: RouteMessage } | { key: string; delete: true }

/** Creates a stored route. Keeps the attributes of newer versions from the replaced route `before`. */
export function routeMessage(target: RouteTarget, stamp: Stamp, before?: RouteMessage): RouteMessage {
  const message = fdbroker.proxy.Route.create({ ...targetFields(target), ...stamp })
  const newerFields = unknownFields(before, FIRST_ATTRIBUTE)
  if (newerFields.length > 0) message.$unknowns = newerFields
  return message
}

export function targetFields(target: RouteTarget): fdbroker.proxy.Route.$Properties {
  const { cors, limit, unlogged } = target
  const more = {
    ...(cors && { cors: corsMessage(cors) }),
    ...(limit && { rateLimit: limitMessage(limit) }),
    ...(unlogged && { unlogged }),
  }
  if (target.forwardAuth !== undefined) {
    const forwardAuth = forwardAuthMessage(target.forwardAuth)
    return { guarded: { forwardAuth, ...plainFields(target) }, ...more }
  }
  if (target.auth === undefined) return { ...plainFields(target), ...more }
  const { realm, users } = target.auth
  const basicAuth = { realm, users: users.map(([name, sha256]) => ({ name, sha256 })) }
  return { guarded: { basicAuth, ...plainFields(target) }, ...more }
}

type LimitMessage = fdbroker.proxy.Route.RateLimit.$Properties
type ForwardAuthMessage = fdbroker.proxy.Route.ForwardAuth.$Properties
type CorsMessage = fdbroker.proxy.Route.Cors.$Properties
type PlainFields = Pick<fdbroker.proxy.Route.$Properties, 'upstream' | 'respond'>

function plainFields(target: RouteTarget): PlainFields {
  if (target.kind === 'upstream') {
    const { upstream: name, connect, changes } = target
    return {
      upstream: {
        name,
        connect,
        ...(changes?.host && { host: changes.host }),
        ...(changes?.stripPrefix && { stripPrefix: changes.stripPrefix }),
        ...(changes?.addPrefix && { addPrefix: changes.addPrefix }),
        ...(changes?.request && { request: changesMessage(changes.request) }),
        ...(changes?.response && { response: changesMessage(changes.response) }),
      },
    }
  }
  const headers = target.headers.map(([name, value]) => ({ name, value }))
  const { status, body } = target
  return { respond: { status, body, headers } }
}

function changesMessage({ set, remove }: FieldChanges): fdbroker.proxy.Route.Changes.$Shape {
  return { set: set.map(([name, value]) => ({ name, value })), remove }
}

function changesOf(
  message: fdbroker.proxy.Route.Changes.$Shape | null | undefined,
): FieldChanges | undefined {
  if (!message) return undefined
  return {
    set: (message.set ?? []).map(({ name, value }) => [name ?? '', value ?? '']),
    remove: message.remove ?? [],
  }
}

/** Returns null for a target of a newer version, which this version keeps but does not serve. */
export function targetOf(message: fdbroker.proxy.Route.$Properties): RouteTarget | null {
  const target = guardedTarget(message)
  if (target === null) return null
  const { cors, rateLimit, unlogged } = message
  const limit = rateLimit ? limitOf(rateLimit) : null
  if (!cors && limit === null && !unlogged) return target
  return {
    ...target,
    ...(cors && { cors: corsOf(cors) }),
    ...(limit && { limit }),
    ...(unlogged && { unlogged }),
  }
}

/** The answer of a route whose guard this version does not know: its requests must not pass, nor get a wider route, which may have no guard. */
const CLOSED: RouteTarget = { kind: 'respond', status: 503, body: 'route-unknown\n', headers: [] }

/** Returns what this version serves for a route; null: nothing, so that its requests get the next wider route. */
export function servedTarget(message: fdbroker.proxy.Route.$Properties): RouteTarget | null {
  return targetOf(message) ?? (message.guarded ? CLOSED : null)
}

function limitMessage({ requests, per, burst, by, name }: RateLimit): LimitMessage {
  return { requests, perMs: per, burst, by, name }
}

/** Returns null for a limit that this version cannot apply. */
function limitOf(message: LimitMessage): RateLimit | null {
  const { requests, perMs, burst, by, name } = fdbroker.proxy.Route.RateLimit.create(message)
  return requests > 0 && perMs > 0 && burst > 0 ? { requests, per: perMs, burst, by, name } : null
}

function corsMessage({ origins, methods, headers, expose, credentials, maxAge }: Cors): CorsMessage {
  const lists = { origins: [...origins], methods: [...methods], headers: [...headers], expose: [...expose] }
  return { ...lists, credentials, maxAgeMs: maxAge }
}

function corsOf(message: CorsMessage): Cors {
  const { origins, methods, headers, expose, credentials, maxAgeMs } =
    fdbroker.proxy.Route.Cors.create(message)
  return { origins, methods, headers, expose, credentials, maxAge: maxAgeMs }
}

function forwardAuthMessage(rule: ForwardAuth): ForwardAuthMessage {
  const { upstream, path, timeout, requestHeaders, responseHeaders } = rule
  return {
    upstream,
    path,
    timeoutMs: timeout,
    someHeaders: requestHeaders !== null,
    requestHeaders: [...(requestHeaders ?? [])],
    responseHeaders: [...responseHeaders],
  }
}

function forwardAuthOf(message: ForwardAuthMessage): ForwardAuth {
  const { upstream, path, timeoutMs, someHeaders, requestHeaders, responseHeaders } =
    fdbroker.proxy.Route.ForwardAuth.create(message)
  return {
    upstream,
    path,
    timeout: timeoutMs,
    requestHeaders: someHeaders ? requestHeaders : null,
    responseHeaders,
  }
}

function guardedTarget(message: fdbroker.proxy.Route.$Properties): RouteTarget | null {
  const { guarded } = message
  if (!guarded) return plainTarget(message)
  const target = plainTarget(guarded)
  const { basicAuth, forwardAuth } = guarded
  if (target !== null && forwardAuth)
    return basicAuth ? null : { ...target, forwardAuth: forwardAuthOf(forwardAuth) }
  // Without users the guard is one of a newer version.
  if (target === null || !guarded.basicAuth?.users?.length) return null
  const { realm, users } = guarded.basicAuth
  return {
    ...target,
    auth: { realm: realm ?? '', users: users.map(({ name, sha256 }) => [name ?? '', sha256 ?? '']) },
  }
}

function plainTarget({ upstream, respond }: PlainFields): RouteTarget | null {
  if (upstream) {
    const { host, stripPrefix, addPrefix, request, response } = upstream
    const own = { host: host ?? '', stripPrefix: stripPrefix ?? '', addPrefix: addPrefix ?? '' }
    const changes = routeChanges(own, changesOf(request), changesOf(response))
    const target = {
      kind: 'upstream',
      upstream: upstream.name ?? '',
      connect: upstream.connect ?? false,
    } as const
    return changes === undefined ? target : { ...target, changes }
  }
  if (!respond) return null
  return {
    kind: 'respond',
    status: respond.status ?? 200,
    body: respond.body ?? '',
    headers: (respond.headers ?? []).map(({ name, value }) => [name ?? '', value ?? '']),
  }
}

export function hasTarget(stored: RouteMessage | undefined, target: RouteTarget): boolean {
  const storedTarget = stored && targetOf(stored)
  return storedTarget != null && sameTarget(storedTarget, target)
}
