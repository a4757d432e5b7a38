import {
  ALLOW,
  type Authorization,
  type ClientOrigin,
  type Decision,
  type ExchangeOptions,
  type FieldRules,
  type Forward,
  type Respond,
  type Router,
} from '../../relay/index.js'
import type { Upstream } from '../upstreams/upstream.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import { BasicAuthGuard } from './basic-auth.js'
import { CorsRule } from './cors.js'
import { authorizationOf } from './forward-auth.js'
import { resourceFor } from './path.js'
import type { RateBuckets } from './rate-buckets.js'
import { RateLimiter } from './rate-limit.js'
import type { FieldChanges, RespondTarget, RouteChanges, RouteTarget, UpstreamTarget } from './target.js'
import { expand, hasVariables, type VariableFacts } from './variables.js'

type RequestHead = Parameters<Router>[0]
type FieldEditRules = FieldRules['request'] & object

export type RouteAction =
  | {
      readonly kind: 'upstream'
      readonly upstream: Upstream
      readonly connect: boolean
      readonly forward: Forward
      /** Undefined if the route's headers have no variables. */
      readonly expand?: (facts: VariableFacts) => Forward
      readonly guard: BasicAuthGuard | null
      readonly authorization: Authorization | undefined
      readonly cors: CorsRule | null
      readonly limiter: RateLimiter | null
      readonly unlogged: boolean
    }
  | FixedRoute

interface FixedRoute {
  readonly kind: 'respond'
  readonly guard: BasicAuthGuard | null
  readonly authorization: Authorization | undefined
  readonly cors: CorsRule | null
  readonly limiter: RateLimiter | null
  readonly unlogged: boolean
  /** `facts` is called if headers have variables. */
  to(facts: () => VariableFacts): Respond
}

/** The answer of a route without servers, whose bytes are made for the first request: a next version compiles all routes before it serves. */
class FixedAnswer implements FixedRoute {
  readonly kind = 'respond'
  readonly guard: BasicAuthGuard | null
  readonly authorization: Authorization | undefined
  readonly cors: CorsRule | null
  readonly limiter: RateLimiter | null
  readonly unlogged: boolean
  readonly #target: RespondTarget
  #answer: Respond | null = null
  #varies = false

  constructor(
    target: RespondTarget,
    { guard, authorization, cors, limiter, unlogged }: Omit<FixedRoute, 'kind' | 'to'>,
  ) {
    this.#target = target
    this.guard = guard
    this.authorization = authorization
    this.cors = cors
    this.limiter = limiter
    this.unlogged = unlogged
  }

  to(facts: () => VariableFacts): Respond {
    this.#answer ??= this.#make()
    if (!this.#varies) return this.#answer
    return { ...this.#answer, headers: expand(this.#answer.headers ?? [], facts()) }
  }

  #make(): Respond {
    const { status, headers, body } = this.#target
    const typed = body === '' || headers.some(([name]) => name.toLowerCase() === 'content-type')
    const text: [string, string] = ['Content-Type', 'text/plain; charset=utf-8']
    this.#varies = hasVariables(headers)
    return { kind: 'respond', status, headers: typed ? headers : [...headers, text], body: Buffer.from(body) }
  }
}

/** Without `buckets` no rate is limited. */
export function compileTarget(
  target: RouteTarget,
  upstreams: Upstreams,
  buckets: RateBuckets | null = null,
): RouteAction {
  const guard = target.auth === undefined ? null : new BasicAuthGuard(target.auth)
  const authorization = target.forwardAuth && authorizationOf(target.forwardAuth, upstreams)
  const cors = target.cors === undefined ? null : new CorsRule(target.cors)
  const limiter = RateLimiter.of(target.limit, buckets)
  const unlogged = target.unlogged ?? false
  if (target.kind === 'upstream') {
    const upstream = upstreams.get(target.upstream)
    const forward = forwardOf(target, upstream)
    const action = {
      kind: 'upstream',
      upstream,
      connect: target.connect,
      forward,
      guard,
      authorization,
      cors,
      limiter,
      unlogged,
    } as const
    const { request, response } = target.changes ?? {}
    if (!hasVariables([...(request?.set ?? []), ...(response?.set ?? [])])) return action
    return { ...action, expand: facts => expandForward(forward, target.changes!, facts) }
  }
  return new FixedAnswer(target, { guard, authorization, cors, limiter, unlogged })
}

/** Returns a route whose edits are those of one request. The relay prepares them for it alone. */
function expandForward(forward: Forward, { request, response }: RouteChanges, facts: VariableFacts): Forward {
  const edits = ({ set, remove }: FieldChanges) => editsOf({ set: expand(set, facts), remove })
  const fields = {
    ...(request && { request: edits(request) }),
    ...(response && { response: edits(response) }),
  }
  return { ...forward, options: { ...forward.options, fields } }
}

/** Combines the upstream's options with the route's. A route with `connect` leads to servers that are proxies themselves. */
function forwardOf(
  { connect, changes }: UpstreamTarget,
  { name, forward: upstreamForward }: Upstream,
): Forward {
  if (!connect && changes === undefined) return upstreamForward
  const own: ExchangeOptions = {
    ...(connect && { proxyAuthentication: true }),
    ...(changes?.host !== undefined && { host: changes.host }),
    ...((changes?.stripPrefix || changes?.addPrefix) && {
      resource: resourceFor(changes.stripPrefix, changes.addPrefix),
    }),
    ...((changes?.request || changes?.response) && {
      fields: {
        ...(changes.request && { request: editsOf(changes.request) }),
        ...(changes.response && { response: editsOf(changes.response) }),
      },
    }),
  }
  let before: ExchangeOptions | undefined
  let both = own
  return {
    kind: 'upstream',
    name,
    pick: (tried, full) => upstreamForward.pick(tried, full),
    mayResend: () => upstreamForward.mayResend?.() ?? true,
    get queue() {
      return upstreamForward.queue
    },
    get sticky() {
      return upstreamForward.sticky
    },
    // A reload replaces the upstream's options.
    get options() {
      if (upstreamForward.options !== before) {
        before = upstreamForward.options
        both = { ...before, ...own }
      }
      return both
    },
  }
}

function editsOf({ set, remove }: FieldChanges): FieldEditRules {
  return { set: Object.fromEntries(set), remove }
}

const CONNECT_REFUSED: Decision = {
  kind: 'refuse',
  status: 405,
  reason: 'connect-not-allowed',
  headers: [ALLOW],
}
const UNKNOWN_UPSTREAM: Decision = { kind: 'refuse', status: 503, reason: 'upstream-unknown' }

/** `client`: the client's IP address, or ''. */
export function decisionOf(
  action: RouteAction,
  head: RequestHead,
  origin: ClientOrigin,
  client: string,
): Decision {
  const decision = sharedDecision(action, head, origin, client)
  return action.unlogged ? { ...decision, unlogged: true } : decision
}

function sharedDecision(
  action: RouteAction,
  head: RequestHead,
  origin: ClientOrigin,
  client: string,
): Decision {
  const { cors } = action
  if (cors === null) return ownDecision(action, head, origin, client)
  return cors.preflight(head) ?? cors.answered(ownDecision(action, head, origin, client), head)
}

function ownDecision(action: RouteAction, head: RequestHead, origin: ClientOrigin, client: string): Decision {
  const { authorization } = action
  const decision = targetDecision(action, head, origin, client)
  return authorization === undefined || decision.kind === 'refuse' ? decision : { ...decision, authorization }
}

function targetDecision(
  action: RouteAction,
  head: RequestHead,
  origin: ClientOrigin,
  client: string,
): Decision {
  if (action.limiter !== null) {
    const refusal = action.limiter.check({ client, header: name => head.fields.get(name) })
    if (refusal !== null) return refusal
  }
  if (head.method === 'CONNECT' && (action.kind === 'respond' || !action.connect)) return CONNECT_REFUSED
  const user = action.guard === null ? '' : action.guard.check(head.fields.get('authorization'))
  if (typeof user !== 'string') return user
  const decision = passedDecision(action, head, origin, client, user)
  return user === '' ? decision : { ...decision, user }
}

function passedDecision(
  action: RouteAction,
  head: RequestHead,
  origin: ClientOrigin,
  client: string,
  user: string,
): Decision {
  if (action.kind === 'respond') return action.to(() => factsOf(head, origin, client, user))
  if (!action.upstream.takesRequests) return UNKNOWN_UPSTREAM
  const forward =
    action.expand === undefined ? action.forward : action.expand(factsOf(head, origin, client, user))
  if (!action.upstream.choosesByRequest) return forward
  return action.upstream.forwardFor(forward, { client, header: name => head.fields.get(name) })
}

function factsOf(head: RequestHead, { scheme }: ClientOrigin, client: string, user: string): VariableFacts {
  const { method, authority, resource } = head
  return {
    host: authority?.host ?? '',
    request_uri: resource,
    remote_addr: client,
    remote_user: encodeURI(user).replaceAll('%20', ' '),
    scheme,
    request_method: method,
  }
}
