import type { ExchangeFacts } from './exchange-facts.js'

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
  facts: ExchangeFacts
  /** Whole milliseconds that are left for the whole exchange; -1: no limit. */
  requestMs: number
  /** Whole milliseconds since it began, for the report at its end. */
  elapsedMs: number
  /** Of an answer's head that is not complete, or that nobody has looked at. */
  fromUpstream: Buffer
  /** Taken in, not yet sent. */
  toUpstream: Buffer
  /** FIN was sent to the server, or goes behind the unsent bytes. */
  endedUpstream: boolean
}
