import type { Framing, RequestHead } from '../http1/index.js'
import type { EventTracker, FrameTracker } from './boundaries.js'
import type { ByteStream } from './byte-stream.js'
import type { ConnectionKind } from './counts.js'
import type { ExchangeOptions } from './decision.js'
import type { Origin } from './destination.js'
import type { BodyCoding } from './response-plan.js'

/** `waiting`: for the answer's head. `answering`: its body is being sent. `tunnel`: bytes go both ways, unread, for good. */
export type ExchangePhase = 'waiting' | 'answering' | 'tunnel'

/** `unread`: a request whose head was refused, so there is only an answer. */
export type ExchangeSubject = 'request' | 'unread' | 'tcp'

/** The complete state of an exchange at any byte, which moves to another process: plain values, and trackers of a few numbers each. */
export interface ExchangeFacts {
  phase: ExchangePhase
  /** '' for a whole TCP connection and for a refused head. */
  method: string
  upgrade: boolean
  http10: boolean
  closeClient: boolean
  /** The server's connection may be reused after this answer. */
  reusable: boolean
  /** The server's connection had served an earlier request. */
  reused: boolean
  heard: boolean
  /** Key of the server's destination, '' without one. */
  destination: string
  /** Name of the route, '' without one. */
  route: string
  coding: BodyCoding
  /** The trackers of both bodies; null: no more bytes. */
  requestBody: Framing | null
  responseBody: Framing | null
  bodySeen: number
  events: EventTracker | null
  frames: FrameTracker | null
  /** The request, while it may be sent again if the reused connection turns out to be dead; otherwise ''. */
  resend: string
  /** The route's rules for the answer's head, until that has come. */
  answer: ExchangeOptions | null
  /** Only for the report at the end: */
  target: string
  host: string
  attempts: number
  status: number
  bytesSent: number
  bytesReceived: number
}

/** The facts of a request that has just been read; without a head, those of an exchange without a request. */
export function newFacts(head?: RequestHead): ExchangeFacts {
  return {
    phase: 'waiting',
    method: head?.method ?? '',
    upgrade: head?.upgrade !== undefined,
    http10: head?.minor === 0,
    closeClient: !head?.keepAlive,
    reusable: false,
    reused: false,
    heard: false,
    destination: '',
    route: '',
    coding: 'as-is',
    requestBody: null,
    responseBody: null,
    bodySeen: 0,
    events: null,
    frames: null,
    resend: '',
    answer: null,
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

export function subjectOf({ method, phase }: ExchangeFacts): ExchangeSubject {
  if (method !== '') return 'request'
  return phase === 'tunnel' ? 'tcp' : 'unread'
}

/** The route's rules for the head of an answer; null: none. */
export function answerRules(options: ExchangeOptions | undefined): ExchangeOptions | null {
  if (options === undefined) return null
  return options.fields?.response !== undefined || options.proxyAuthentication ? options : null
}

/** The client's connection, as its exchange sees it. */
export interface ExchangeSide {
  readonly client: ByteStream
  readonly origin: Origin
  readonly ended: boolean
  readonly hasHeld: boolean
  /** The client has sent FIN and no further request. */
  readonly isLast: boolean
  /** The next answer is the last one, unless a request was read ahead. */
  readonly pinned: boolean
  takeHeld(): Buffer | null
  /** Restarts the present timeout. */
  arm(): void
  /** Updates which side is read, and starts the next request, after a change. */
  settle(): void
  /** `close`: no other exchange follows. */
  finished(close: boolean): void
  /** Closes both sides at once; the client sees an error. */
  abort(reason: string): void
}

/** The report of one request, or one TCP connection, for an access log. */
export interface ExchangeReport {
  /** `unread`: a refused head has no method, target or host. A `tcp` connection has no status either. */
  subject: ExchangeSubject
  listener: string
  client: string
  method: string
  /** As it was sent. */
  target: string
  /** From Host or the target. */
  host: string
  /** The status that the client got; 0 for none. */
  status: number
  /** Why the relay answered, or cut the answer short. */
  reason: string | undefined
  /** The server did not answer, or not completely, or not in HTTP. The end of a tunnel does not count. */
  serverFailed: boolean
  destination: string | undefined
  attempts: number
  /** Bytes of the answer, head included, given to the client's stream. */
  bytesSent: number
  /** Bytes that a tunnel read from the client. */
  bytesReceived: number
  /** From the last byte of the request's head (or its refusal) to the answer's last byte; for TCP the whole connection. */
  milliseconds: number
}

interface Reported {
  readonly facts: ExchangeFacts
  readonly reason: string | undefined
  readonly serverFailed: boolean
  /** On the clock of `performance`. */
  readonly startedAt: number
}

interface Listener {
  readonly onExchange: ((report: ExchangeReport) => void) | undefined
  readonly onFault: ((error: unknown) => void) | undefined
}

/** Calls `onExchange`. `now`: on the clock of `performance`. */
export function reportExchange(exchange: Reported, side: ExchangeSide, to: Listener, now: number): void {
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
