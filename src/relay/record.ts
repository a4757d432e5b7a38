import type { FramingRecord } from '../http1/index.js'
import type { FramesRecord } from './boundaries/index.js'
import type { ExchangeOptions } from './decision.js'
import type { ExchangePhase } from './exchange.js'
import type { BodyCoding } from './response-plan.js'

/**
 * The whole state of a connection at any byte: plain values, so that it fits one small message. With the descriptors of
 * its two sockets it is all that another process needs to go on.
 */
export interface ConnectionRecord {
  listener: string
  scheme: 'http' | 'https'
  /** IP address of the client, '' where it has none. */
  client: string
  /** Whole milliseconds until the present timeout; -1: none runs. */
  remainingMs: number
  /** The client has sent FIN. */
  clientEnded: boolean
  /** FIN was sent to the client, or goes behind the unsent bytes. */
  endedClient: boolean
  /** The last answer and FIN are under way, what still comes is thrown away. */
  closing: boolean
  /** From the client, not yet taken in: part of a head, pipelined requests, or bytes that nobody has looked at. */
  fromClient: Buffer
  /** Taken in, not yet sent. */
  toClient: Buffer
  /** Null between two requests, also in the middle of a head. */
  exchange: ExchangeRecord | null
}

/** The request under way, or the whole TCP connection. */
export interface ExchangeRecord {
  phase: ExchangePhase
  /** '' for a whole TCP connection. */
  method: string
  /** It named a protocol to switch to. */
  upgrade: boolean
  http10: boolean
  /** The client's connection ends with this answer. */
  closeClient: boolean
  /** The server's connection may be used again behind this answer. */
  reusable: boolean
  /** The server's connection had served another request before this one. */
  reused: boolean
  /** Bytes of an answer have come. */
  heard: boolean
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
  /** Of a stream of events: its last four bytes; otherwise null. */
  events: number | null
  /** Of a WebSocket: where its server's frames are; otherwise null. */
  frames: FramesRecord | null
  /** Whole milliseconds that are left for the whole exchange; -1: no limit. */
  requestMs: number
  /** The request, if it may be sent again should the reused connection turn out to be dead; otherwise ''. */
  resend: string
  fromUpstream: Buffer
  toUpstream: Buffer
  endedUpstream: boolean
  /** What its route does to the answer's head, if it does anything; before the answer only. */
  answer?: ExchangeOptions | undefined
  /** For the report at its end only: */
  target: string
  host: string
  attempts: number
  status: number
  bytesSent: number
  bytesReceived: number
  elapsedMs: number
}
