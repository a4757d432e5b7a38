import { type RequestHead, type RequestRewriteOptions, rewriteRequest } from '../http1/index.js'
import type { ExchangeOptions } from './decision.js'
import type { Destination } from './destination.js'
import type { ExchangeSide } from './exchange-side.js'
import type { RelayContext } from './relay-context.js'

/** The head of a request as the server gets it. */
export function upstreamRequest(
  head: RequestHead,
  relay: RelayContext,
  side: ExchangeSide,
  options: ExchangeOptions | undefined,
  destination: Destination,
): string {
  const rewrite: RequestRewriteOptions = {
    edits: options?.requestEdits ?? relay.requestEdits,
    extra: relay.forwarder.lines(head, side.client.remoteAddress, side.origin),
  }
  if (head.upgrade !== undefined) rewrite.connection = 'upgrade'
  if (options?.host !== undefined) rewrite.host = options.host
  else if (head.authority === undefined) rewrite.host = destination.authority
  return rewriteRequest(head, rewrite)
}
