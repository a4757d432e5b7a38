import {
  FieldId,
  type HeadWriter,
  type RequestHead,
  type ResponseHead,
  writeRequest,
} from '../http1/index.js'
import type { ExchangeOptions } from './decision.js'
import type { Destination } from './destination.js'
import type { ExchangeSide } from './exchange-facts.js'
import { forwardsLeft } from './gateway.js'
import type { RelayContext } from './relay-context.js'
import type { AnswerRewrite } from './response-plan.js'

const COUNTED: readonly FieldId[] = [FieldId.maxForwards]

/** The request's head for the server. Valid until the next head is written. */
export function upstreamRequest(
  head: RequestHead,
  relay: RelayContext,
  side: ExchangeSide,
  options: ExchangeOptions | undefined,
  destination: Destination,
): HeadWriter {
  const forwardedLines = relay.forwarder.lines(head, side.client.remoteAddress, side.origin)
  const counted = relay.gateway?.counts(head) === true
  return writeRequest(head, {
    edits: relay.fields.request(options?.fields),
    extra: counted ? decrementMaxForwards(head, forwardedLines) : forwardedLines,
    without: counted ? COUNTED : undefined,
    proxyAuthentication: options?.proxyAuthentication,
    connection: head.upgrade === undefined ? undefined : 'upgrade',
    host: options?.host ?? (head.authority === undefined ? destination.authority : undefined),
  })
}

function decrementMaxForwards(head: RequestHead, forwardedLines: Uint8Array): Uint8Array {
  return Buffer.concat([forwardedLines, Buffer.from(`Max-Forwards: ${forwardsLeft(head)! - 1}\r\n`)])
}

/** The differences between the server's head and the client's. */
export function answerRewrite(
  head: ResponseHead,
  relay: RelayContext,
  rules: ExchangeOptions | null,
): AnswerRewrite {
  return {
    extra: relay.gateway?.answerLines(head) ?? '',
    edits: relay.fields.response(rules?.fields),
    proxyAuthentication: rules?.proxyAuthentication,
  }
}
