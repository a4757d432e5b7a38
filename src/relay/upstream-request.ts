import {
  type RequestHead,
  type RequestRewriteOptions,
  type ResponseHead,
  rewriteRequest,
} from '../http1/index.js'
import type { ExchangeOptions } from './decision.js'
import type { Destination } from './destination.js'
import type { ExchangeSide } from './exchange-side.js'
import type { RelayContext } from './relay-context.js'
import type { AnswerRewrite } from './response-plan.js'

/** The head of a request as the server gets it. */
export function upstreamRequest(
  head: RequestHead,
  relay: RelayContext,
  side: ExchangeSide,
  options: ExchangeOptions | undefined,
  destination: Destination,
): string {
  const rewrite: RequestRewriteOptions = {
    edits: relay.fields.request(options?.fields),
    extra: relay.forwarder.lines(head, side.client.remoteAddress, side.origin),
  }
  if (relay.gateway !== null) {
    const { lines, without } = relay.gateway.requestLines(head)
    rewrite.extra += lines
    rewrite.without = without
  }
  if (options?.proxyAuthentication) rewrite.proxyAuthentication = true
  if (head.upgrade !== undefined) rewrite.connection = 'upgrade'
  if (options?.host !== undefined) rewrite.host = options.host
  else if (head.authority === undefined) rewrite.host = destination.authority
  return rewriteRequest(head, rewrite)
}

/** What the client gets of an answer's head otherwise than the server wrote it. */
export function answerRewrite(
  head: ResponseHead,
  relay: RelayContext,
  rules: ExchangeOptions | null,
): AnswerRewrite {
  return {
    extra: relay.gateway?.answerLines(head) ?? '',
    edits: relay.fields.response(rules?.fields),
    ...(rules?.proxyAuthentication && { proxyAuthentication: true }),
  }
}
