import { Http1Refusal } from '../http1/index.js'
import type { RelayContext } from './relay-context.js'

/** The answer to what the parser refused; anything else that was thrown is a fault of this side. */
export function refusalOf(error: unknown, relay: RelayContext): { status: number; reason: string } {
  if (error instanceof Http1Refusal) return { status: error.status, reason: error.reason }
  relay.onFault?.(error)
  return { status: 500, reason: 'internal' }
}
