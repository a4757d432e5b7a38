import type { Decision, Router } from '../relay/index.js'
import type { ProxyConfig } from './config/config.js'
import { type Action, decisionOf } from './routes/action.js'
import { AMBIGUOUS_PATH, NO_ROUTE, type RouteTable } from './routes/table.js'

const NOT_FOUND: Decision = { kind: 'refuse', status: 404, reason: 'no-route' }
const AMBIGUOUS: Decision = { kind: 'refuse', status: 400, reason: 'path-ambiguous' }
const NO_BODY: Decision = { kind: 'refuse', status: 413, reason: 'body-too-large' }

/** Requests without a Host (HTTP/1.0) are for the routes of every host. */
const NO_HOST = ''
/** What a CONNECT is looked up as. */
const ROOT = '/'

export function routerOf(table: RouteTable<Action>, config: () => ProxyConfig): Router {
  return head => {
    const connect = head.method === 'CONNECT'
    const found = table.lookup(head.authority?.host ?? NO_HOST, connect ? ROOT : head.resource)
    if (found === NO_ROUTE) return NOT_FOUND
    if (found === AMBIGUOUS_PATH) return AMBIGUOUS
    if (config().limits.body === 0 && (head.chunked || (head.contentLength ?? 0) > 0)) return NO_BODY
    return decisionOf(found, head.method)
  }
}
