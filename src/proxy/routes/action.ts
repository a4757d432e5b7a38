import {
  ALLOW,
  type Decision,
  type ExchangeOptions,
  type FieldRules,
  type Respond,
  type SendOn,
} from '../../relay/index.js'
import type { Upstream } from '../upstreams/upstream.js'
import type { Upstreams } from '../upstreams/upstreams.js'
import type { FieldChanges, RouteTarget, UpstreamTarget } from './target.js'

type FieldEditOptions = FieldRules['request'] & object

export type Action =
  | {
      readonly kind: 'upstream'
      readonly upstream: Upstream
      readonly connect: boolean
      readonly sendOn: SendOn
    }
  | Respond

export function compileTarget(target: RouteTarget, upstreams: Upstreams): Action {
  if (target.kind === 'upstream') {
    const upstream = upstreams.get(target.upstream)
    return { kind: 'upstream', upstream, connect: target.connect, sendOn: sendOnOf(target, upstream) }
  }
  const { status, headers, body } = target
  const typed = body === '' || headers.some(([name]) => name.toLowerCase() === 'content-type')
  const text: [string, string] = ['Content-Type', 'text/plain; charset=utf-8']
  return { kind: 'respond', status, headers: typed ? headers : [...headers, text], body: Buffer.from(body) }
}

/** Combines the upstream's options with the route's. With CONNECT the server is a proxy. */
function sendOnOf({ connect, changes }: UpstreamTarget, { name, sendOn }: Upstream): SendOn {
  if (!connect && changes === undefined) return sendOn
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
    pick: tried => sendOn.pick(tried),
    // The upstream's options change with the configuration.
    get options() {
      if (sendOn.options !== before) {
        before = sendOn.options
        both = { ...before, ...own }
      }
      return both
    },
  }
}

function editsOf({ set, remove }: FieldChanges): FieldEditOptions {
  return { set: Object.fromEntries(set), remove }
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
  return action.upstream.takesRequests ? action.sendOn : UNKNOWN_UPSTREAM
}
