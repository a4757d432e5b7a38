import type { LookupFunction } from 'node:net'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'

export type DialAddress = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

export type DialFailure = 'connect-failed' | 'connect-timeout'

/** The limits of idle connections to a server. */
export interface KeepAlive {
  /** Most idle connections; 0: each request has a connection of its own. */
  readonly connections: number
  /** Most milliseconds idle. Choose less than the server's own limit. */
  readonly idleMs: number
  /** Most milliseconds since it was opened, however much it is used; default: no limit. */
  readonly ageMs?: number
}

/** A name whose addresses may change. */
export interface NamedHost {
  readonly lookup: LookupFunction
  /** Reports whether the name still has this address, so that a connection to it may be reused. */
  current(address: string): boolean
  /** A connection attempt to one of the addresses has ended. */
  tried(address: string, connected: boolean): void
}

/** A server that requests can be sent to. A balancer may use one object for the server's whole life. */
export interface Destination {
  /** Names its pool of connections: equal keys share it, also after a change of the configuration. */
  readonly key: string
  readonly address: DialAddress
  /** Default: Node looks the name up, and the first result stays in use. */
  readonly named?: NamedHost
  /** `Host` for HTTP/1.0 requests that have none. */
  readonly authority: string
  /** Most connections, used and idle, of all relays that share the pools; default: that of the pools. */
  readonly connections?: number
  /** Default: that of the pools. */
  readonly keepAlive?: KeepAlive
  /** A new connection is established. `tcp`: it carries a whole TCP connection, which gives no other sign of health. */
  opened?(tcp: boolean): void
  failed?(failure: DialFailure): void
}

/** Returns a stream that is still connecting. May throw. */
export type Dial = (destination: Destination, owner: StreamOwner, tally: Tally) => ByteStream

/** Facts about a listener, shared by all its connections. */
export interface Origin {
  listener: string
  scheme: 'http' | 'https'
}
