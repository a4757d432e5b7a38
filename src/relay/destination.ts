import type { LookupFunction } from 'node:net'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'

export type DialAddress = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

export type DialFailure = 'connect-failed' | 'connect-timeout'

/** Connections to a server that are kept open for the next request. */
export interface KeepAlive {
  /** Unused ones at a time; 0: each request has a connection of its own. */
  readonly connections: number
  /** Milliseconds that one may stay unused. Choose less than the server's own limit. */
  readonly idleMs: number
  /** Milliseconds after which one is not kept any more, however much it is used; left out: no limit. */
  readonly ageMs?: number
}

/** A name whose addresses may change. */
export interface NamedHost {
  readonly lookup: LookupFunction
  /** Reports whether the name still has this address: a connection to it may be used again. */
  current(address: string): boolean
  /** A connect to this address, of several, has come to its end. */
  tried(address: string, connected: boolean): void
}

/** One server that requests can be sent to, for its balancer. One object may stand for it all its life. */
export interface Destination {
  /** Names its pool of connections: equal keys share them, also after a change of the configuration. */
  readonly key: string
  readonly address: DialAddress
  /** Left out: Node looks the name up, and what it found first stays in use. */
  readonly named?: NamedHost
  /** `Host` for requests of HTTP/1.0 clients that came without one. */
  readonly authority: string
  /** Connections to it, used and unused, of all relays that share the pools; left out: that of the pools. */
  readonly connections?: number
  /** Left out: that of the pools. */
  readonly keepAlive?: KeepAlive
  /** A new connection to it stands; `tcp`: for a whole TCP connection, which gives no other sign of health. */
  opened?(tcp: boolean): void
  /** A new connection to it did not come about. */
  failed?(failure: DialFailure): void
}

/** Makes a stream to a server that is still connecting. May throw. */
export type Dial = (destination: Destination, owner: StreamOwner, tally: Tally) => ByteStream

/** Facts about a listener, shared by all connections that it accepted. */
export interface Origin {
  listener: string
  scheme: 'http' | 'https'
}
