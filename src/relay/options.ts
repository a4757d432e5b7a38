import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'
import type { FieldEditOptions, HeadLimits } from '../http1/index.js'
import type { TlsCarrier } from '../tls13/tls-carrier.js'
import type { ClientTally } from './client-tally.js'
import type { ErrorBody, Forward, Router } from './decision.js'
import type { Destination } from './destination.js'
import type { ExchangeReport } from './exchange-facts.js'
import type { ForwardedOptions } from './field-rules.js'
import type { GatewayOptions } from './gateway.js'
import type { Http2Bound } from './http2-bounds.js'
import type { Shortage } from './shortage.js'
import type { TrailOptions } from './trail.js'
import type { UpstreamPools } from './upstream-pools.js'

/** Milliseconds from 1 to 2^31-1; `request` may be `Infinity`. A timeout expires at most twice {@link RelayOptions.tickMs} late. */
export type RelayTimeouts = typeof DEFAULT_TIMEOUTS

const DEFAULT_TIMEOUTS = {
  /** Limits how long a client's connection waits for its first or next request. */
  idle: 60_000,
  /** Limits the time from the first to the last byte of a request's head. */
  head: 30_000,
  /** Limits the time to connect to one server; then the relay tries the next server. */
  connect: 5_000,
  /** Limits the time from the end of the request, or the last interim response, to the end of the response's head. */
  response: 60_000,
  /**
   * Limits the time from the end of a request's head to the end of its response, even while bytes arrive. The client gets 408 if its request is
   * incomplete, and 504 if the response has not started; a response that has started is cut short. Does not apply to tunnels. Default: no limit.
   */
  request: Number.POSITIVE_INFINITY,
  /** Limits the time in which a body makes no progress. A slow peer makes progress while its kernel acknowledges bytes; a peer that acknowledges none is cut off after 1 to 2 times this limit. */
  stall: 300_000,
  /** The same as `stall`, for tunnels and whole TCP connections. */
  tunnel: 3_600_000,
  /** How long the relay discards what a client sends after the last response, before it closes the connection. */
  linger: 2_000,
  /** The same as `linger`, if the client has not sent its whole request: for this time without a byte, and at most `uploadTotal`. */
  upload: 5_000,
  uploadTotal: 30_000,
}

/** Positive integers, or `Infinity` for no limit. */
export type RelayLimits = typeof DEFAULT_RELAY_LIMITS

export const DEFAULT_RELAY_LIMITS = {
  /** Bytes of pipelined requests that the relay holds for one client. The last read may exceed this limit. */
  pipelinedBytes: 16 * 1024,
  /** Bytes of a request's body, checked by Content-Length and as they arrive. */
  bodyBytes: Number.POSITIVE_INFINITY,
  /** Servers to which the relay tries to connect for one request. */
  attempts: 3,
}

export interface RelayOptions {
  route: Router
  /** Finds the route of an imported connection; undefined if this process does not have it. */
  routeByName?(name: string): Forward | undefined
  /** Finds the server of an imported connection; undefined if this process does not have it. */
  destinationByKey?(key: string): Destination | undefined
  /** Returns the carrier of the TLS connections that can move; null (default): none can. */
  tls?(): TlsCarrier | null
  /**
   * Names the CAs of the clients' certificates, if the relay tells servers about these; after a blank what else clients had to fulfil. A connection moves only
   * to a relay where all of this is equal. Default: ''.
   */
  clientCa?: string
  timeouts?: Partial<RelayTimeouts>
  limits?: Partial<RelayLimits>
  headLimits?: Partial<HeadLimits>
  forwarded?: ForwardedOptions
  /** Default: the relay does not act as a {@link Gateway}. */
  gateway?: GatewayOptions
  /** Takes HTTP/2 from clients without TLS too, if they begin with its preface. Default: only connections that `origin` says to be HTTP/2. */
  http2WithoutTls?: boolean
  /** Lets clients of HTTP/2 open WebSockets as streams (RFC 8441), which end with their connection. Default: these clients use HTTP/1.1 for them. */
  http2WebSockets?: boolean
  /** Called when the connection of a client ends because the client has exceeded a bound of HTTP/2. `client`: its IP address, or ''. */
  onHttp2Bound?(bound: Http2Bound, client: string): void
  /** The notes about each request. Default: none. */
  trail?: TrailOptions | undefined
  /** Returns the body of the relay's own error; undefined (default): the reason, as text. */
  errorBody?: ErrorBody | undefined
  /** Edits of every response, including the relay's own; a route can override them. */
  responseFields?: FieldEditOptions
  /**
   * How to treat a client that sends FIN while it waits for a response. `abort` (default): the relay closes the connection, because most such clients
   * have closed theirs, which FIN does not show. `serve`: the client gets its response.
   */
  halfClosedClients?: 'serve' | 'abort'
  onExchange?(report: ExchangeReport): void
  /** Called when connecting to a server failed because this process or machine lacks a resource. */
  onShortage?(shortage: Shortage, destination: string): void
  clients?: ClientTally
  /** Called when one of these callbacks has thrown, or the relay itself has a fault. If the request cannot continue, the client gets 500 or 503. */
  onFault?(error: unknown): void
  /** Called each time the last connection of a client has closed or moved. */
  onEmpty?(): void
  /** The caller owns the pools, and must clear them. Several relays may share them. */
  pools: UpstreamPools
  /** Milliseconds between two ticks of the {@link TimerWheel}. */
  tickMs?: number
}

export function relayTimeouts(overrides: Partial<RelayTimeouts> = {}): Readonly<RelayTimeouts> {
  const all = { ...DEFAULT_TIMEOUTS, ...overrides }
  for (const [name, value] of Object.entries(all)) {
    if (name === 'request' && value === Number.POSITIVE_INFINITY) continue
    if (!(value >= 1 && value <= LONGEST_MS))
      throw optionError('timeout', name, value, `a number of ms from 1 to ${LONGEST_MS}`)
  }
  return all
}

export function relayLimits(overrides: Partial<RelayLimits> = {}): Readonly<RelayLimits> {
  const all = { ...DEFAULT_RELAY_LIMITS, ...overrides }
  for (const [name, value] of Object.entries(all)) {
    const whole = Number.isSafeInteger(value) || value === Number.POSITIVE_INFINITY
    if (!whole || value < 1)
      throw optionError('limit', name, value, 'a whole number of at least 1 or Infinity')
  }
  return all
}

function optionError(what: string, name: string, value: unknown, allowed: string): FdbError {
  return new FdbError(
    'ERR_FDB_RELAY_OPTION',
    `the ${what} ${name} is ${value}: it must be ${allowed}; omit it for the default`,
    { details: { name, got: value } },
  )
}
