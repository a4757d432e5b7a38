import type { BasicAuth } from './basic-auth.js'
import type { Cors } from './cors.js'
import type { ForwardAuth } from './forward-auth.js'
import type { RateLimit } from './rate-limit.js'

export type RouteTarget = (UpstreamTarget | RespondTarget) & {
  /** Requests must have the name and password of a user. */
  auth?: BasicAuth
  /** A service must let requests pass. No route has {@link auth} too. */
  forwardAuth?: ForwardAuth
  cors?: Cors
  limit?: RateLimit
  /** Requests have no line in the access log. */
  unlogged?: true
}

export interface UpstreamTarget {
  kind: 'upstream'
  upstream: string
  /** The proxy also forwards CONNECT requests. */
  connect: boolean
  changes?: RouteChanges
}

/** Empty parts are omitted, so that equal changes have equal JSON. */
export interface RouteChanges {
  host?: string
  /** Canonical, as {@link addPrefix}; the begin of the route's own path. */
  stripPrefix?: string
  addPrefix?: string
  request?: FieldChanges
  response?: FieldChanges
}

export interface FieldChanges {
  set: [name: string, value: string][]
  remove: string[]
}

/** Returns undefined if nothing changes. */
export function routeChanges(
  { host, stripPrefix, addPrefix }: Partial<Record<'host' | 'stripPrefix' | 'addPrefix', string | undefined>>,
  request: FieldChanges | undefined,
  response: FieldChanges | undefined,
): RouteChanges | undefined {
  const some = (part: FieldChanges | undefined) =>
    part !== undefined && part.set.length + part.remove.length > 0
  const changes: RouteChanges = {
    ...(host && { host }),
    ...(stripPrefix && { stripPrefix }),
    ...(addPrefix && { addPrefix }),
    ...(some(request) && { request: request! }),
    ...(some(response) && { response: response! }),
  }
  return Object.keys(changes).length > 0 ? changes : undefined
}

export interface RespondTarget {
  kind: 'respond'
  status: number
  /** UTF-8. */
  body: string
  headers: [name: string, value: string][]
}

/** Returns the names of the upstreams that requests of the route need. */
export function upstreamsOf(target: RouteTarget): string[] {
  const service = target.forwardAuth === undefined ? [] : [target.forwardAuth.upstream]
  return target.kind === 'upstream' ? [target.upstream, ...service] : service
}

/** Returns equal strings for equal targets. */
export function targetKey(target: RouteTarget): string {
  const { auth, forwardAuth, cors, limit, unlogged } = target
  const own = [auth, forwardAuth, cors, limit, unlogged]
  const isPlain = own.every(part => part === undefined)
  const guard = isPlain ? '' : `${JSON.stringify({ auth, cors, limit, forwardAuth, unlogged })} `
  if (target.kind === 'upstream') {
    const { upstream, connect, changes } = target
    return `${guard}${connect ? '+' : '-'}${changes === undefined ? '' : JSON.stringify(changes)} ${upstream}`
  }
  const { status, headers, body } = target
  return `${guard}${status} ${headers.length === 0 ? '[]' : JSON.stringify(headers)} ${body}`
}

export function sameTarget(a: RouteTarget, b: RouteTarget): boolean {
  return targetKey(a) === targetKey(b)
}
