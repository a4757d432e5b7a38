import type { Framing, RequestHead } from '../http1/index.js'
import type { EventTracker, FrameTracker } from './boundaries.js'
import type { ByteStream } from './byte-stream.js'
import type { ConnectionKind } from './counts.js'
import type { ExchangeOptions } from './decision.js'
import type { ClientOrigin } from './destination.js'
import type { BodyCoding } from './response-plan.js'

/** `waiting`: for the head of the response. `answering`: the body of the response is being sent. `tunnel`: bytes go both ways, unparsed, until the end. */
export type ExchangePhase = 'waiting' | 'answering' | 'tunnel'

/** `unread`: the request's head was refused, so only a response exists. */
export type ExchangeSubject = 'request' | 'unread' | 'tcp'

/** The complete state of an exchange at any byte; it moves to another process with the connection. */
export type ExchangeFacts = ReturnType<typeof newFacts>

/** Returns the facts of a new exchange. Without `head` the exchange has no request. */
export function newFacts(head?: RequestHead) {
  return {
    phase: 'waiting' as ExchangePhase,
    /** '' for a whole TCP connection, and after a refused head. */
    method: head?.method ?? '',
    upgrade: head?.upgrade !== undefined,
    http10: head?.minor === 0,
    closeClient: !head?.keepAlive,
    /** The server's connection may be reused after this response. */
    reusable: false,
    /** The server's connection had served an earlier request. */
    reused: false,
    /** The server has sent at least one byte of the response. */
    heard: false,
    /** The key of the {@link Destination}, or ''. */
    destination: '',
    /** The name of the route, or ''. */
    route: '',
    coding: 'as-is' as BodyCoding,
    /** The trackers of both bodies; null if the body is complete, or there is none. */
    requestBody: null as Framing | null,
    responseBody: null as Framing | null,
    bodySeen: 0,
    events: null as EventTracker | null,
    frames: null as FrameTracker | null,
    /** The whole request, as long as the relay may repeat it if a reused connection turns out to be dead; otherwise ''. */
    resend: '',
    /** The route's rules for the response's head; null after the head. */
    answer: null as ExchangeOptions | null,
    // The remaining facts are only for the report at the end.
    target: '',
    host: '',
    attempts: 0,
    status: 0,
    bytesSent: 0,
    bytesReceived: 0,
  }
}

export function kindOf({ phase, method, events, frames, requestBody }: ExchangeFacts): ConnectionKind {
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

/** The client's connection as {@link Exchange} sees it. */
export interface ExchangeSide {
  readonly client: ByteStream
  readonly origin: ClientOrigin
  readonly clientEnded: boolean
  readonly hasHeld: boolean
  /** The client has sent FIN and no further request. */
  readonly isLast: boolean
  /** The connection cannot move: the next response is the last one, unless a pipelined request waits. */
  readonly pinned: boolean
  takeHeld(): Buffer | null
  /** Restarts the current timeout. */
  arm(): void
  /** Starts or stops reading from each side, and starts the next request, as the present facts require. Needed after every change of them. */
  settle(): void
  /** The exchange is complete. `close`: no other exchange may follow. */
  onFinished(close: boolean): void
  /** Closes both sides at once; the client sees an error. */
  abort(reason: string): void
}

/** The facts of one request, or of one TCP connection, for an access log. */
export interface ExchangeReport {
  /** `unread` and `tcp` have no method, target and host; `tcp` has no status either. */
  subject: ExchangeSubject
  listener: string
  client: string
  method: string
  /** The target as the client sent it. */
  target: string
  host: string
  /** The status that the client got, or 0. */
  status: number
  /** Why the relay responded itself, or cut the response short. */
  reason: string | undefined
  /** The server sent no response, an incomplete one, or one that is not HTTP. The end of a tunnel does not count. */
  serverFailed: boolean
  destination: string | undefined
  attempts: number
  /** Bytes of the response, including its head, written to the client's stream. */
  bytesSent: number
  /** Bytes that a tunnel read from the client. */
  bytesReceived: number
  /** The duration from the end of the request's head (or its refusal) to the last byte of the response; for `tcp` of the whole connection. */
  milliseconds: number
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

/** Calls `onExchange`. `now` is `performance.now()`. */
export function reportExchange(
  { facts, reason, serverFailed, startedAt }: ReportedExchange,
  { origin, client }: ExchangeSide,
  { onExchange, onFault }: ReportCallbacks,
  now: number,
): void {
  if (onExchange === undefined) return
  try {
    onExchange({
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
    })
  } catch (error) {
    onFault?.(error)
  }
}
