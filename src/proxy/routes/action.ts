import { ALLOW, type Decision, type Respond } from '../../relay/index.js'
import type { Upstream } from '../upstreams/upstream.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import type { RouteTarget } from './target.js'

/** A route as requests use it. */
export type Action =
  | { readonly kind: 'upstream'; readonly upstream: Upstream; readonly connect: boolean }
  | Respond

export function compileTarget(target: RouteTarget, upstreams: Upstreams): Action {
  if (target.kind === 'upstream') {
    return { kind: 'upstream', upstream: upstreams.named(target.upstream), connect: target.connect }
  }
  const { status, headers, body } = target
  const typed = body === '' || headers.some(([name]) => name.toLowerCase() === 'content-type')
  const text: [string, string] = ['Content-Type', 'text/plain; charset=utf-8']
  return { kind: 'respond', status, headers: typed ? headers : [...headers, text], body: Buffer.from(body) }
}

const CONNECT_REFUSED: Decision = {
  kind: 'refuse',
  status: 405,
  reason: 'connect-not-allowed',
  headers: [ALLOW],
}
const UNKNOWN_UPSTREAM: Decision = { kind: 'refuse', status: 503, reason: 'upstream-unknown' }

export function decisionOf(action: Action, method: string): Decision {
  if (action.kind === 'respond') return method === 'CONNECT' ? CONNECT_REFUSED : action
  if (method === 'CONNECT' && !action.connect) return CONNECT_REFUSED
  return action.upstream.takesRequests ? action.upstream.sendOn : UNKNOWN_UPSTREAM
}
