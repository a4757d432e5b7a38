import type { FramingRecord } from '../http1/index.js'
import type { DetachedStream } from './byte-stream.js'
import type { BodyCoding } from './response-plan.js'

/**
 * Where a connection is. `idle`: between two requests, or in the middle of a request's head. `waiting`: a request is
 * under way, the head of its answer has not come. `answering`: the answer's body is under way. `tunnel`: bytes go both
 * ways unread; of a whole TCP connection it has no method. `closing`: the last answer and FIN are under way, what still comes is thrown away.
 */
export type Phase = 'idle' | 'waiting' | 'answering' | 'tunnel' | 'closing'

/**
 * The whole state of a connection at any byte: plain values, so that it fits one small message. With the two transports
 * and the bytes in flight it is all that another process needs to go on.
 */
export interface ConnectionRecord {
  phase: Phase
  listener: string
  scheme: 'http' | 'https'
  /** IP address of the client, '' where it has none. */
  client: string
  /** Of the request under way, otherwise ''. */
  method: string
  /** The request under way named a protocol to switch to. */
  upgrade: boolean
  http10: boolean
  /** The client's connection ends with this answer. */
  closeClient: boolean
  /** The client has sent FIN. */
  clientEnded: boolean
  /** The server's connection may be used again behind this answer. */
  reusable: boolean
  /** The server's connection had served another request before this one. */
  reused: boolean
  /** Bytes of an answer have come. */
  heard: boolean
  /** Servers tried for this request. */
  attempts: number
  /** Key of the server's destination, '' without one. */
  destination: string
  /** Name of the route, '' without one. */
  route: string
  coding: BodyCoding
  /** What is still to come of the bodies; null: nothing. */
  requestBody: FramingRecord | null
  responseBody: FramingRecord | null
  /** Bytes of the request's body so far. */
  bodySeen: number
  /** The request, if it may be sent again should the reused connection turn out to be dead; otherwise ''. */
  resend: string
  /** Milliseconds until the present timeout. */
  remainingMs: number
  /** Milliseconds that are left for the whole exchange; -1: no limit, or no exchange. */
  requestMs: number
  /** From the client, not yet taken in: part of a head, pipelined requests, or bytes that nobody has looked at. */
  fromClient: Buffer
  fromUpstream: Buffer
  /** Taken in, not yet sent. */
  toClient: Buffer
  toUpstream: Buffer
  /** FIN was sent, or goes behind the unsent bytes. */
  endedClient: boolean
  endedUpstream: boolean
}

/** A connection that has left this relay's hands. */
export interface ExportedConnection {
  record: ConnectionRecord
  /** For sockets a `net.Socket`: duplicate its descriptor, then destroy it; never end it. */
  client: DetachedStream['transport']
  /** Null where there is none, and where it was still connecting: then it is dialled again. */
  upstream: DetachedStream['transport'] | null
}
