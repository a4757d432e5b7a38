import type { Exchange } from './exchange.js'
import type { ExchangeSide } from './exchange-side.js'

/** What an access log wants to know about one request, or one TCP connection. */
export interface ExchangeReport {
  /** A whole TCP connection: it has no method, target, host and status. */
  tcp: boolean
  listener: string
  client: string
  method: string
  /** As it was sent; '' for a request whose head could not be read. */
  target: string
  /** Of Host or the target. */
  host: string
  /** What the client was answered; 0 for none. */
  status: number
  /** Why it was answered here rather than by a server, or cut short. */
  reason: string | undefined
  /** The server's key. */
  destination: string | undefined
  /** Servers tried. */
  attempts: number
  /** Bytes of the answer, head included, that were given to the client's stream. */
  bytesSent: number
  /** Bytes that a tunnel took from the client. */
  bytesReceived: number
  /** From the request's last head byte to the answer's last byte; from the beginning of a TCP connection to its end. */
  milliseconds: number
}

export function reportOf(exchange: Exchange, { origin, client }: ExchangeSide): ExchangeReport {
  return {
    tcp: exchange.tcp,
    listener: origin.listener,
    client: client.remoteAddress,
    method: exchange.method,
    target: exchange.target,
    host: exchange.host,
    status: exchange.status,
    reason: exchange.reason,
    destination: exchange.destinationKey || undefined,
    attempts: exchange.attempts,
    bytesSent: exchange.bytesSent,
    bytesReceived: exchange.bytesReceived,
    milliseconds: performance.now() - exchange.startedAt,
  }
}
