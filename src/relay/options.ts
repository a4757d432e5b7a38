import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'
import type { FieldEditOptions, HeadLimits } from '../http1/index.js'
import type { ClientTally } from './client-tally.js'
import type { Router, SendOn } from './decision.js'
import type { Destination } from './destination.js'
import type { ExchangeReport } from './exchange-facts.js'
import type { ForwardedOptions } from './field-rules.js'
import type { GatewayOptions } from './gateway.js'
import type { Shortage } from './shortage.js'
import type { UpstreamPools } from './upstream-pools.js'

/** Milliseconds from 1 to 2^31-1, `request` also `Infinity`. Accurate to two ticks of the relay's timer. */
export interface RelayTimeouts {
  /** A client's connection between two requests, or before the first. */
  idle: number
  /** A request's head, from its first byte. */
  head: number
  /** Connecting to a server; then the next one is tried. */
  connect: number
  /** From the last byte of the request, or the last interim answer, to the answer's head. */
  response: number
  /**
   * From the end of a request's head to the end of its answer, whatever moves. The client gets 408 while its request is incomplete, 504 while the server owes
   * the answer; an answer under way is cut short. Not for open tunnels. `Infinity` (default): no limit.
   */
  request: number
  /** A body of which nothing moves. A slow peer moves as long as its kernel acknowledges bytes; one that acknowledges none is cut after one to two times this. */
  stall: number
  /** As `stall`, for tunnels and whole TCP connections. */
  tunnel: number
  /** For a client that was answered early to finish sending. */
  linger: number
}

export const DEFAULT_TIMEOUTS: Readonly<RelayTimeouts> = {
  idle: 60_000,
  head: 30_000,
  connect: 5_000,
  response: 60_000,
  request: Number.POSITIVE_INFINITY,
  stall: 300_000,
  tunnel: 3_600_000,
  linger: 2_000,
}

/** Whole numbers from 1; `Infinity`: no limit. */
export interface RelayLimits {
  /** Client connections; further ones are closed at once. */
  connections: number
  /** Bytes read ahead from a client that pipelines requests; one read may exceed it. */
  pipelinedBytes: number
  /** Bytes of a request's body, as announced or (chunked) as they arrive. */
  bodyBytes: number
  attempts: number
}

export const DEFAULT_LIMITS: Readonly<RelayLimits> = {
  connections: Number.POSITIVE_INFINITY,
  pipelinedBytes: 16 * 1024,
  bodyBytes: Number.POSITIVE_INFINITY,
  attempts: 3,
}

export interface RelayOptions {
  route: Router
  /** The route of a connection from another process; undefined if it is gone. */
  routeByName?(name: string): SendOn | undefined
  /** The same for a server, by its key. */
  destinationByKey?(key: string): Destination | undefined
  timeouts?: Partial<RelayTimeouts>
  limits?: Partial<RelayLimits>
  headLimits?: Partial<HeadLimits>
  forwarded?: ForwardedOptions
  /** Default: none of {@link Gateway}. */
  gateway?: GatewayOptions
  /** For answers whose route sets none, and those made by the relay: an instance header, for example. */
  responseFields?: FieldEditOptions
  /**
   * A client that sends FIN while it waits for answers counts as gone (`abort`, default): mostly it is, and cannot be told from one that still reads. With
   * `serve` it gets its answers.
   */
  halfClosedClients?: 'serve' | 'abort'
  /** Called at the end of each exchange. Must not throw. */
  onExchange?(report: ExchangeReport): void
  /** Connecting to a server failed through a lack of this process. */
  onShortage?(shortage: Shortage, destination: string): void
  clients?: ClientTally
  /** A callback of these options threw; the request got a 500. */
  onFault?(error: unknown): void
  /** Called whenever the last client connection is gone. */
  onEmpty?(): void
  /** Other relays may share the pools: their maker clears them. */
  pools: UpstreamPools
  /** Milliseconds between two ticks of the timer. */
  tickMs?: number
}

export function relayTimeouts(given: Partial<RelayTimeouts> = {}): Readonly<RelayTimeouts> {
  const all = { ...DEFAULT_TIMEOUTS, ...given }
  for (const [name, value] of Object.entries(all)) {
    if (name === 'request' && value === Number.POSITIVE_INFINITY) continue
    if (!(value >= 1 && value <= LONGEST_MS))
      throw wrong('timeout', name, value, `a number of ms from 1 to ${LONGEST_MS}`)
  }
  return all
}

export function relayLimits(given: Partial<RelayLimits> = {}): Readonly<RelayLimits> {
  const all = { ...DEFAULT_LIMITS, ...given }
  for (const [name, value] of Object.entries(all)) {
    const whole = Number.isSafeInteger(value) || value === Number.POSITIVE_INFINITY
    if (!whole || value < 1) throw wrong('limit', name, value, 'a whole number of at least 1 or Infinity')
  }
  return all
}

function wrong(what: string, name: string, value: unknown, wanted: string): FdbError {
  return new FdbError(
    'ERR_FDB_RELAY_OPTION',
    `the ${what} ${name} is ${value}: it must be ${wanted}, leave it out for the default`,
    { details: { name, got: value } },
  )
}
