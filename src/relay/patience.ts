import type { ExchangeOptions } from './decision.js'
import type { ExchangeFacts } from './exchange-facts.js'
import type { RelayTimeouts } from './options.js'

/** How long nothing may happen in an exchange, in milliseconds, where its route says nothing else. */
export function quietMs(
  { phase, requestBody }: ExchangeFacts,
  connecting: boolean,
  timeouts: Readonly<RelayTimeouts>,
  route: ExchangeOptions | undefined,
): number {
  if (connecting) return route?.connectTimeout ?? timeouts.connect
  if (phase === 'tunnel') return timeouts.tunnel
  if (phase === 'answering' || requestBody !== null) return timeouts.stall
  return route?.responseTimeout ?? timeouts.response
}
