import type { Framing, RequestHead } from '../http1/index.js'
import type { EventTracker, FrameTracker } from './boundaries.js'
import type { ByteStream } from './byte-stream.js'
import type { ConnectionKind } from './counts.js'
import type { ExchangeOptions } from './decision.js'
import type { ClientOrigin } from './destination.js'
import type { BodyCoding } from './response-plan.js'
import type { Trail } from './trail.js'

/** `waiting`: the head of the response is incomplete. `answering`: the body of the response is being sent. `tunnel`: bytes go both ways, unparsed, until the end. */
export type ExchangePhase = 'waiting' | 'answering' | 'tunnel'

/** `unread`: the relay has refused the head of the request, so only a response exists. `authorization`: the question whether a request may pass. */
export type ExchangeSubject = 'request' | 'unread' | 'tcp' | 'udp' | 'authorization'

/** The complete state of an exchange at any byte. Moves to another process with the connection. */
export class ExchangeFacts {
  phase: ExchangePhase = 'waiting'
  /** '' for a whole TCP connection, and after a refused head. */
  method: string
  upgrade: boolean
  http10: boolean
  /** The client's connection ends after this exchange. */
  closeClient: boolean
  /** The connection to the server may be reused after this response. */
  reusable = false
  /** The connection to the server has already carried another request. */
  reused = false
  /** The server has sent at least one byte of the response. */
  heard = false
  /** {@link Destination.key}, or ''. */
  destination = ''
  /** {@link Forward.name}, or ''. */
  route = ''
  coding: BodyCoding = 'as-is'
  /** Null if the body is complete, or the request has none. */
  requestBody: Framing | null = null
  /** Null before the head of the response, and if the body is complete or the response has none. */
  responseBody: Framing | null = null
  bodySeen = 0
  events: EventTracker | null = null
  frames: FrameTracker | null = null
  /** The whole request while the relay may repeat it, because its connection can close before the response; otherwise ''. */
  resend = ''
  /** {@link Forward.wanted}, or ''. */
  wanted = ''
  /** The options of the route if they change the head of the response; null after this head. */
  answer: ExchangeOptions | null = null
  // The following facts are only for the {@link ExchangeReport}.
  unlogged = false
  user = ''
  target = ''
  host = ''
  attempts = 0
  status = 0
  bytesSent = 0
  bytesReceived = 0
  /** Null unless the relay has {@link RelayOptions.trail}. */
  trail: Trail | null = null

  /** Without `head` the exchange has no request. */
  constructor(head?: RequestHead) {
    this.method = head?.method ?? ''
    this.upgrade = head?.upgrade !== undefined
    this.http10 = head?.minor === 0
    this.closeClient = !head?.keepAlive
  }
}

export function connectionKind({
  phase,
  method,
  events,
  frames,
  requestBody,
}: ExchangeFacts): ConnectionKind {
  if (phase === 'answering') return events === null ? 'response' : 'events'
  if (phase === 'tunnel') return method === '' ? 'tcp' : frames === null ? 'tunnel' : 'webSocket'
  return requestBody === null ? 'waiting' : 'request'
}

function subjectOf({ method, phase }: ExchangeFacts): ExchangeSubject {
  if (method !== '') return 'request'
  return phase === 'tunnel' ? 'tcp' : 'unread'
}

/** Returns `options` if they change the head of a response, otherwise null. */
export function responseRules(options: ExchangeOptions | undefined): ExchangeOptions | null {
  if (options === undefined) return null
  return options.fields?.response !== undefined || options.proxyAuthentication ? options : null
}

export interface ServerEnd {
  readonly address: string
  readonly port: number
}

/** The part of {@link RelayConnection} that {@link Exchange} uses. */
export interface ExchangeSide {
  readonly client: ByteStream
  readonly origin: ClientOrigin
  /** The address that the client has connected to, if a proxy in front of this one tells it. */
  readonly server: ServerEnd | null
  readonly clientEnded: boolean
  /** See {@link ForwardedOptions.trusts}. */
  readonly trusted: boolean
  readonly hasHeld: boolean
  /** The client has sent FIN, and no further request waits. */
  readonly isLast: boolean
  /** The connection cannot move, so this response is the last one, unless a pipelined request waits. */
  readonly pinned: boolean
  takeHeld(): Buffer | null
  /** Restarts the current timeout. */
  arm(): void
  /** Starts or stops reading from the client and the server, and starts the next request if none is in progress. Call it after every change of {@link Exchange.facts}. */
  settle(): void
  /** Called when the exchange is complete. `close`: no further exchange may follow. `wasHeld`: the connection to the server could not move, or a service decided whether the request may pass. */
  onFinished(close: boolean, isUploading: boolean, wasHeld: boolean): void
  /** Calls `act`. An exception, which is a bug of the relay or of its caller, ends this connection alone. */
  contain(act: () => void): void
  /** Ends this connection alone, because of an exception that {@link contain} would catch. */
  failed(error: unknown): void
  /** Closes the connections to client and server at once, with RST to the client. */
  abort(reason: string): void
}

/** An entry for an access log about one request, one whole TCP connection, or one flow of datagrams (`udp`); or about a question to a service of authorization, which has no log. */
export interface ExchangeReport {
  /** `unread`, `tcp` and `udp` have no method, target or host; `tcp` and `udp` have no status either. */
  subject: ExchangeSubject
  listener: string
  client: string
  /** The client uses HTTP/2. */
  http2: boolean
  http10: boolean
  method: string
  /** The target as the client sent it. */
  target: string
  host: string
  /** The status of the response to the client, or 0. */
  status: number
  /** Why the relay responded instead of the server, or cut the response short. */
  reason: string | undefined
  /** The server sent no response, an incomplete one, or one that is not HTTP. False if a tunnel breaks. */
  serverFailed: boolean
  destination: string | undefined
  attempts: number
  /** Bytes of the response and its head that the relay has written to the client. */
  bytesSent: number
  /** Bytes that the client has sent in a tunnel. */
  bytesReceived: number
  /** The time from the end of the request's head (or its refusal) to the last byte of the response; for `tcp` the duration of the whole connection. */
  milliseconds: number
  trail: Trail | null
  /** An access log has no line about it, as the route wants. */
  unlogged: boolean
  /** The name that a password has proved, or ''. */
  user: string
}

interface ReportedExchange {
  readonly facts: ExchangeFacts
  readonly reason: string | undefined
  readonly serverFailed: boolean
  /** Milliseconds of `performance.now()`. */
  readonly startedAt: number
}

interface ReportCallbacks {
  readonly onExchange: ((report: ExchangeReport) => void) | undefined
  readonly onFault: ((error: unknown) => void) | undefined
}

/** Calls `onExchange`, and `onFault` if it throws. `now` is `performance.now()`. */
export function reportExchange(
  { facts, reason, serverFailed, startedAt }: ReportedExchange,
  { origin, client }: ExchangeSide,
  { onExchange, onFault }: ReportCallbacks,
  now: number,
  subject: ExchangeSubject = subjectOf(facts),
): void {
  if (onExchange === undefined) return
  try {
    onExchange({
      subject,
      listener: origin.listener,
      client: client.remoteAddress,
      http2: origin.http2 === true,
      http10: facts.http10,
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
      trail: facts.trail,
      unlogged: facts.unlogged,
      user: facts.user,
    })
  } catch (error) {
    onFault?.(error)
  }
}
