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
import { maxForwards } from './gateway.js'
import type { RelayContext } from './relay-context.js'
import type { ResponseRewrite } from './response-plan.js'

const REPLACED_FIELDS: readonly FieldId[] = [FieldId.maxForwards]

/** Writes the head of the request for the server. The result is valid until the next head is written. */
export function upstreamRequest(
  head: RequestHead,
  relay: RelayContext,
  side: ExchangeSide,
  options: ExchangeOptions | undefined,
  destination: Destination,
): HeadWriter {
  const forwardedLines = relay.forwarder.lines(head, side.client.remoteAddress, side.origin)
  const counted = relay.gateway?.hasHopCount(head) === true
  return writeRequest(head, {
    edits: relay.fields.request(options?.fields),
    extra: counted ? decrementMaxForwards(head, forwardedLines) : forwardedLines,
    without: counted ? REPLACED_FIELDS : undefined,
    proxyAuthentication: options?.proxyAuthentication,
    connection: head.upgrade === undefined ? undefined : 'upgrade',
    host: options?.host ?? (head.authority === undefined ? destination.authority : undefined),
  })
}

function decrementMaxForwards(head: RequestHead, forwardedLines: Uint8Array): Uint8Array {
  return Buffer.concat([forwardedLines, Buffer.from(`Max-Forwards: ${maxForwards(head)! - 1}\r\n`)])
}

/** Returns how to change the server's head for the client. */
export function responseRewrite(
  head: ResponseHead,
  relay: RelayContext,
  rules: ExchangeOptions | null,
): ResponseRewrite {
  return {
    extra: relay.gateway?.responseLines(head) ?? '',
    edits: relay.fields.response(rules?.fields),
    proxyAuthentication: rules?.proxyAuthentication,
  }
}
