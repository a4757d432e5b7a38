import { type ExchangeFacts, type ExchangeSide, type ExchangeSubject, subjectOf } from './exchange-facts.js'

/** What an access log wants to know about one request, or one TCP connection. */
export interface ExchangeReport {
  /** `unread`: a request whose head was refused has no method, target and host; a `tcp` connection has no status either. */
  subject: ExchangeSubject
  listener: string
  client: string
  method: string
  /** As it was sent. */
  target: string
  /** Of Host or the target. */
  host: string
  /** What the client was answered; 0 for none. */
  status: number
  /** Why it was answered here rather than by a server, or cut short. */
  reason: string | undefined
  /** The server did not answer, or not to the end, or not in HTTP. A tunnel's end is its protocol's matter. */
  serverFailed: boolean
  /** The server's key. */
  destination: string | undefined
  /** Servers tried. */
  attempts: number
  /** Bytes of the answer, head included, that were given to the client's stream. */
  bytesSent: number
  /** Bytes that a tunnel took from the client. */
  bytesReceived: number
  /** From the request's last head byte, or where the head was refused, to the answer's last byte; from the beginning of a TCP connection to its end. */
  milliseconds: number
}

/** An exchange at its end. */
export interface Reported {
  readonly facts: ExchangeFacts
  readonly reason: string | undefined
  readonly serverFailed: boolean
  /** On the clock of `performance`. */
  readonly startedAt: number
}

/** Who is told. */
interface Listener {
  readonly onExchange: ((report: ExchangeReport) => void) | undefined
  readonly onFault: ((error: unknown) => void) | undefined
}

/** Tells of the end of an exchange. `now`: on the clock of `performance`. */
export function tellReport(exchange: Reported, side: ExchangeSide, to: Listener, now: number): void {
  if (to.onExchange === undefined) return
  try {
    to.onExchange(reportOf(exchange, side, now))
  } catch (error) {
    to.onFault?.(error)
  }
}

function reportOf(exchange: Reported, { origin, client }: ExchangeSide, now: number): ExchangeReport {
  const { facts, reason, serverFailed, startedAt } = exchange
  return {
    subject: subjectOf(facts),
    listener: origin.listener,
    client: client.remoteAddress,
    method: facts.method,
    target: facts.target,
    host: facts.host,
    status: facts.status,
    reason,
    serverFailed,
    destination: facts.destination || undefined,
    attempts: facts.attempts,
    bytesSent: facts.bytesSent,
    bytesReceived: facts.bytesReceived,
    milliseconds: now - startedAt,
  }
}
