import type { LookupFunction } from 'node:net'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'

export type DialAddress = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

export type DialFailure = 'connect-failed' | 'connect-timeout'

/** The limits of idle connections to a server. */
export interface KeepAlive {
  /** Maximum number of idle connections; 0: each request gets a new connection. */
  readonly connections: number
  /** Maximum idle time in milliseconds. Must be less than the server's own limit. */
  readonly idleMs: number
  /** A connection older than this many milliseconds is not reused; default: no limit. */
  readonly ageMs?: number
}

/** A name whose addresses may change. */
export interface NamedHost {
  readonly lookup: LookupFunction
  /** Reports whether the name still has this address. A connection to another address is not reused. */
  current(address: string): boolean
  /** A connection attempt to one of the addresses has ended. */
  tried(address: string, connected: boolean): void
}

/** A server that requests can be sent to. */
export interface Destination {
  /** Destinations with the same key share a pool of connections, also after a configuration change. */
  readonly key: string
  readonly address: DialAddress
  /** Default: Node looks up the name for each new connection; idle connections to old addresses stay in use. */
  readonly named?: NamedHost
  /** `Host` for HTTP/1.0 requests without one. */
  readonly authority: string
  /** Maximum number of connections, used and idle, of all relays that share the pools; default: no limit. */
  readonly connections?: number
  /** Default: 4096 connections for 30 s. */
  readonly keepAlive?: KeepAlive
  /** A new connection is established. With `tcp` the connection carries a whole TCP connection, which shows nothing else about the server's health. */
  opened?(tcp: boolean): void
  failed?(failure: DialFailure): void
}

/** Starts a connection; returns a stream that is still `connecting`. May throw. */
export type Dial = (destination: Destination, owner: StreamOwner, tally: Tally) => ByteStream

/** The listener and scheme of a client's connection. All connections of a listener share one object. */
export interface ClientOrigin {
  listener: string
  scheme: 'http' | 'https'
}
