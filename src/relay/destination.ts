import type { LookupFunction, NetConnectOpts, Socket } from 'node:net'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { ProxyVersion } from './proxy-protocol.js'

export type DialAddress = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

/** Why the handshake with a server failed. `tls-failed`: for another reason, for example because the server does not speak TLS. */
export type TlsFailure =
  | 'certificate-expired'
  | 'certificate-not-yet-valid'
  | 'certificate-name'
  | 'certificate-untrusted'
  | 'client-certificate-refused'
  | 'tls-failed'
export type DialFailure = 'connect-failed' | 'connect-timeout' | TlsFailure
/** `upstream-closed`: the server closed a new connection before its response, and another server gets the request. */
export type ServerFailure = DialFailure | 'upstream-closed'

export interface KeepAlive {
  /** Maximum number of idle connections; 0: each request gets a new connection. */
  readonly connections: number
  /** Maximum idle time in milliseconds. Must be less than the server's own limit. */
  readonly idleMs: number
  /** A connection older than this many milliseconds is not reused; default: no limit. */
  readonly ageMs?: number
}

export interface NamedHost {
  readonly lookup: LookupFunction
  /** Reports whether the name still has this address. A connection to another address is not reused. */
  current(address: string): boolean
  /** Returns the address that gets the next request; null for a name with fewer than two known addresses. Each address gets as many requests as the others. */
  turn(): string | null
  /** Called when an attempt to connect to one of the addresses has ended. */
  tried(address: string, connected: boolean): void
}

export interface Destination {
  /** Destinations with the same key share a pool of connections, also after a configuration change. */
  readonly key: string
  readonly address: DialAddress
  /** Default: Node looks up the host for each new connection; idle connections to old addresses are reused. */
  readonly named?: NamedHost
  /** Default: no TLS. */
  readonly tls?: ServerTls
  /** Each connection begins with a header that tells the client's address. Such a connection is not reused: set {@link keepAlive} accordingly. */
  readonly proxyProtocol?: ProxyVersion
  /** The Host field for HTTP/1.0 requests that have none. */
  readonly authority: string
  /** Maximum number of connections, busy and idle, of all relays that share the pools; default: no limit. */
  readonly connections?: number
  /** Default: 4096 connections for 30 s. */
  readonly keepAlive?: KeepAlive
  /** Called when a new connection is established. `tcp`: it is for a whole TCP connection, so no response will show whether the server is healthy. */
  opened?(tcp: boolean): void
  failed?(failure: ServerFailure, error: Error | null): void
  /** Called if {@link Forward.pick} has returned the server and it gets nothing: it shows nothing about the server. `isLate`: the server may not be the one that was picked last. */
  passedOver?(isLate: boolean): void
}

/** TLS with a server. */
export interface ServerTls {
  /** A connection is reused only for destinations with the same id: others trust other certificates, or show another one. */
  readonly id: string
  /** Starts to connect. The socket emits `secureConnect` when the server is verified. */
  connect(options: NetConnectOpts): Socket
}

/** Starts to connect, and returns a stream that is still `connecting`. `first`: the address of the name to try first. May throw. */
export type Dial = (
  destination: Destination,
  owner: StreamOwner,
  tally: Tally,
  first?: string | null,
) => ByteStream

/** The listener that accepted a client's connection, and its scheme. All connections of a listener share one object. */
export interface ClientOrigin {
  listener: string
  scheme: 'http' | 'https'
  /** The client uses HTTP/2. */
  http2?: boolean
  /** Lines of each request that tell the server about the client's certificate. Only this connection has such an object. */
  certificate?: Uint8Array | undefined
}
