import { LONGEST_MS } from '../base/time.js'
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

/** Milliseconds, each from 1 to 2^31-1; `request` may be `Infinity` too. They are kept to within two ticks of the relay's timer. */
export interface RelayTimeouts {
  /** A client connection between two requests, or before the first. */
  idle: number
  /** From the first byte of a request head to its last one. */
  head: number
  /** For a connection to a server; then the next one is tried. */
  connect: number
  /** From the last byte of the request, or the last interim answer, to the head of the answer. */
  response: number
  /**
   * From the end of a request's head to the end of its answer, however much moves: 408 while the client still owes
   * something of the request, 504 while the server owes the answer, an answer under way is cut short. Once a tunnel is open it
   * counts no more. `Infinity` (default): no limit.
   */
  request: number
  /**
   * Nothing moves in either direction while a body is under way. A peer that reads slowly moves as long as its kernel acknowledges
   * bytes; one that acknowledges none is cut after one to two times this.
   */
  stall: number
  /** The same for a tunnel, also one that is a whole TCP connection. */
  tunnel: number
  /** How long a client that was answered before it had sent everything may go on sending. */
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

/** Whole numbers of at least 1; `Infinity` is no limit. */
export interface RelayLimits {
  /** Client connections; more are closed at once. */
  connections: number
  /** Bytes read ahead of a client that sends requests before it has the answers; one read may go beyond it. */
  pipelinedBytes: number
  /** Bytes of a request's body, as announced or (chunked) as they come. */
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
  /** For connections that came from another process: the route of that name, undefined if it is gone. */
  routeByName?(name: string): SendOn | undefined
  /** The same for the server of that key. */
  destinationByKey?(key: string): Destination | undefined
  timeouts?: Partial<RelayTimeouts>
  limits?: Partial<RelayLimits>
  headLimits?: Partial<HeadLimits>
  forwarded?: ForwardedOptions
  /** Left out: nothing of {@link Gateway}. */
  gateway?: GatewayOptions
  /** For answers of servers whose route has none of its own, and for answers made here, for example an instance header. */
  responseFields?: FieldEditOptions
  /**
   * A client that ends its direction while it waits for answers counts as gone (`abort`, default): mostly it is, and nothing
   * tells it from one that goes on reading. With `serve` it still gets its answers.
   */
  halfClosedClients?: 'serve' | 'abort'
  /** Called at the end of each exchange; costs nothing when absent. Must not throw. */
  onExchange?(report: ExchangeReport): void
  /** There was no connection to a server for a request, and that was not the server's fault. */
  onShortage?(shortage: Shortage, destination: string): void
  clients?: ClientTally
  /** A callback of these options threw: the request got a 500. */
  onFault?(error: unknown): void
  /** Called whenever the last client connection is gone. */
  onEmpty?(): void
  /** Connections to servers, which other relays may share: their maker clears them. */
  pools: UpstreamPools
  /** How often the one timer looks, in milliseconds. */
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
