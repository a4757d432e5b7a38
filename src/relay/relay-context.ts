import type { MoveWhich } from '../adapter.js'
import {
  DEFAULT_HEAD_LIMITS,
  type HeadLimits,
  Http1Refusal,
  type RequestHead,
  RequestReader,
  ResponseReader,
} from '../http1/index.js'
import type { TlsCarrier } from '../tls13/tls-carrier.js'
import type { ClientWatch } from './client-watch.js'
import type { Decision, ErrorBody, Forward, Router } from './decision.js'
import type { ClientOrigin, Destination } from './destination.js'
import type { ExchangeReport } from './exchange-facts.js'
import type { Forwarder, RouteEdits } from './field-rules.js'
import type { Gateway } from './gateway.js'
import type { RelayLimits, RelayTimeouts } from './options.js'
import type { Shortage } from './shortage.js'
import type { TimerWheel } from './timer-wheel.js'
import type { TrailOptions } from './trail.js'
import type { UpstreamPools } from './upstream-pools.js'

export interface PendingMoves {
  readonly which: MoveWhich
  /** Called when a new connection has arrived, or when a deferred move may have become possible. Returns false if none moves at present. */
  readonly onMovable: () => unknown
}

export interface RelayContext {
  readonly route: Router
  readonly timeouts: Readonly<RelayTimeouts>
  readonly limits: Readonly<RelayLimits>
  readonly wheel: TimerWheel
  readonly readers: Readers
  readonly pools: UpstreamPools
  readonly watch: ClientWatch
  readonly forwarder: Forwarder
  /** Tells services of authorization about a client. */
  readonly teller: Forwarder
  readonly gateway: Gateway | null
  /** See {@link RelayOptions.trail}; null: none. */
  readonly trail: TrailOptions | null
  readonly fields: RouteEdits
  readonly errorBody: ErrorBody | undefined
  /** Each response ends its connection, unless a pipelined request waits. */
  readonly draining: boolean
  /** Not null while all movable connections move to another process. */
  readonly leaving: PendingMoves | null
  readonly abortHalfClosed: boolean
  /** See {@link ForwardedOptions.trusts}. */
  readonly trusts: ((client: string) => boolean) | undefined
  readonly routeByName: ((name: string) => Forward | undefined) | undefined
  readonly destinationByKey: ((key: string) => Destination | undefined) | undefined
  /** See {@link RelayOptions.clientCa}. */
  readonly clientCa: string
  /** See {@link RelayOptions.tls}. */
  readonly tls: () => TlsCarrier | null
  /** Continues a connection without TLS whose first bytes are the preface of HTTP/2. Returns false if it cannot. If null, such clients are refused. */
  readonly takeHttp2: ((connection: object, early: Buffer) => boolean) | null
  /** See {@link RelayOptions.http2WebSockets}. */
  readonly http2WebSockets: boolean
  readonly onExchange: ((report: ExchangeReport) => void) | undefined
  readonly onShortage: ((shortage: Shortage, destination: string) => void) | undefined
  readonly onFault: ((error: unknown) => void) | undefined
  forget(connection: object): void
}

/** Calls a callback of {@link RelayOptions}, and returns its value. If it throws, `onFault` gets the error, and the exchange continues. */
export function callSafely<T>({ onFault }: RelayContext, call: () => T): T | undefined {
  try {
    return call()
  } catch (error) {
    onFault?.(error)
    return undefined
  }
}

/** Returns the gateway's response or the router's decision; a 500 if the router throws. */
export function decide(
  relay: RelayContext,
  head: RequestHead,
  origin: ClientOrigin,
  client: string,
): Decision {
  try {
    return relay.gateway?.respondLocally(head) ?? relay.route(head, origin, client)
  } catch (error) {
    relay.onFault?.(error)
    return { kind: 'refuse', status: 500, reason: 'route-failed' }
  }
}

/** Lends a reader to a connection for one head, so that idle connections need no reader. Do not release a reader that refused a head. */
export class Readers {
  readonly limits: Readonly<HeadLimits>
  #request: RequestReader | null = null
  #response: ResponseReader | null = null

  constructor(limits: Partial<HeadLimits> = {}) {
    this.limits = { ...DEFAULT_HEAD_LIMITS, ...limits }
    this.releaseRequest(this.acquireRequest())
  }

  acquireRequest(): RequestReader {
    const reader = this.#request ?? new RequestReader(this.limits)
    this.#request = null
    return reader
  }

  releaseRequest(reader: RequestReader): void {
    this.#request = reader
  }

  acquireResponse(): ResponseReader {
    const reader = this.#response ?? new ResponseReader(this.limits)
    this.#response = null
    return reader
  }

  releaseResponse(reader: ResponseReader): void {
    this.#response = reader
  }
}

/** Returns status and reason of the response to an `Http1Refusal`. Any other error is a fault of the relay: `onFault` gets it, and the response is a 500. */
export function refusalOf(error: unknown, relay: RelayContext): { status: number; reason: string } {
  if (error instanceof Http1Refusal) return { status: error.status, reason: error.reason }
  relay.onFault?.(error)
  return { status: 500, reason: 'internal' }
}
