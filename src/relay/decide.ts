import type { RequestHead } from '../http1/index.js'
import type { Decision } from './decision.js'
import type { Origin } from './origin.js'
import type { RelayContext } from './relay-context.js'

/** What becomes of a request: the gateway's own answer, or what the router says; a router that throws costs its client a 500. */
export function decide(head: RequestHead, relay: RelayContext, origin: Origin): Decision {
  try {
    return relay.gateway?.answerHere(head) ?? relay.route(head, origin)
  } catch (error) {
    relay.onFault?.(error)
    return { kind: 'refuse', status: 500, reason: 'route-failed' }
  }
}
