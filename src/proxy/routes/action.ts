import {
  ALLOW,
  type Decision,
  type ExchangeOptions,
  type FieldRules,
  type Forward,
  type Respond,
} from '../../relay/index.js'
import type { Upstream } from '../upstreams/upstream.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import type { FieldChanges, RouteTarget, UpstreamTarget } from './target.js'

type FieldEditRules = FieldRules['request'] & object

export type RouteAction =
  | {
      readonly kind: 'upstream'
      readonly upstream: Upstream
      readonly connect: boolean
      readonly forward: Forward
    }
  | Respond

export function compileTarget(target: RouteTarget, upstreams: Upstreams): RouteAction {
  if (target.kind === 'upstream') {
    const upstream = upstreams.get(target.upstream)
    return { kind: 'upstream', upstream, connect: target.connect, forward: forwardOf(target, upstream) }
  }
  const { status, headers, body } = target
  const typed = body === '' || headers.some(([name]) => name.toLowerCase() === 'content-type')
  const text: [string, string] = ['Content-Type', 'text/plain; charset=utf-8']
  return { kind: 'respond', status, headers: typed ? headers : [...headers, text], body: Buffer.from(body) }
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
    pick: tried => upstreamForward.pick(tried),
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

export function decisionOf(action: RouteAction, method: string): Decision {
  if (action.kind === 'respond') return method === 'CONNECT' ? CONNECT_REFUSED : action
  if (method === 'CONNECT' && !action.connect) return CONNECT_REFUSED
  return action.upstream.takesRequests ? action.forward : UNKNOWN_UPSTREAM
}
