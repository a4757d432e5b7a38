import {
  type Arrival,
  type ConnectionValue,
  closeAll,
  firstNotStream,
  inspectOne,
  type MovableConnections,
  type MoveWhich,
  type OwnedFd,
  type Witness,
} from '../adapter.js'
import { FdbError } from '../errors.js'
import { isShortage } from '../kernel/index.js'
import { wipes } from '../tls13/position-record.js'
import { type ConnectionRecord, decodeRecord, encodeRecord } from './connection-record.js'
import { closedKind } from './counts.js'
import { connectionKind } from './exchange-facts.js'
import type { Relay } from './relay.js'

export interface RelayedOptions {
  listener: string
  /** The connections with TLS, instead of those without. */
  secure?: boolean
  relays(): Iterable<Relay>
  /** Returns the relay for connections that arrive. */
  relay(): Relay
}

export type RelayedConnection = ConnectionValue<ConnectionRecord>

const NO_DESCRIPTOR_RETRY_MS = 50

/** The connections of all relays of a listener, either those with TLS or those without. Each connection can move to another process at any byte. */
export class RelayedConnections implements MovableConnections<RelayedConnection> {
  readonly protocol: string
  readonly secret: boolean
  onMovable: (() => void) | null = null
  readonly #options: RelayedOptions
  readonly #notice = (): boolean => this.#scheduleNotice()
  #scheduled = false

  constructor(options: RelayedOptions) {
    this.#options = options
    this.secret = options.secure ?? false
    this.protocol = this.secret ? 'https1-relay/1' : 'http1-relay/1'
  }

  get movable(): number {
    let sum = 0
    for (const relay of this.#options.relays()) sum += relay.movable(this.secret)
    return sum
  }

  *departures(which: MoveWhich): Generator<RelayedConnection, void, undefined> {
    try {
      for (const relay of [...this.#options.relays()]) {
        for (const { record: state, ...left } of relay.departures(which, this.#notice, this.secret)) {
          const fds = [left.client, left.upstream, left.slot].filter(fd => fd !== null)
          const record = encodeRecord(state)
          yield { record, fds, state, ...wipes(state.tls ?? undefined, record) }
        }
      }
    } catch (error) {
      if (!isShortage(error)) throw error
      setTimeout(this.#notice, NO_DESCRIPTOR_RETRY_MS).unref()
    }
  }

  check(record: Uint8Array, fds: readonly OwnedFd[]): RelayedConnection {
    const { listener, relay } = this.#options
    const streams = fds.slice(0, 2)
    const state = decodeRecord(record, streams.length)
    if (state.listener !== listener) {
      throw relayedRefusedError(
        `the connection belongs to the listener ${JSON.stringify(state.listener)}, not to ${listener}`,
      )
    }
    if ((state.tls !== null) !== this.secret) {
      throw relayedRefusedError(
        `the connection ${this.secret ? 'has no TLS' : 'has TLS'}, which its record format does not allow`,
      )
    }
    if (state.clientCa !== relay().clientCa) {
      throw relayedRefusedError(
        'the client of the connection was asked for certificates of other CAs than those of this process, or for none',
      )
    }
    const route = state.exchange?.facts.route
    // With only the client's descriptor the connection has no server yet, so this process must choose a server.
    if (route !== undefined && fds.length === 1 && !relay().knowsRoute(route)) {
      throw relayedRefusedError(
        `the connection's request needs the route ${JSON.stringify(route)}, which this process does not have`,
      )
    }
    if (fds.length > 3 || (fds[2] !== undefined && inspectOne(fds[2]).type !== 'file')) {
      throw relayedRefusedError(
        `the connection has ${fds.length} descriptors, and the third is not the slot of its server`,
      )
    }
    const other = firstNotStream(streams)
    if (other !== null) {
      const { error, type, family = 'none', socketType = 'none' } = inspectOne(other)
      throw relayedRefusedError(
        `a descriptor of the connection is not a stream socket (${error ?? `${type}, ${family}, ${socketType}`})`,
      )
    }
    return { record, fds, state, ...wipes(state.tls ?? undefined) }
  }

  arrive({ state, fds, wipe }: RelayedConnection, how: Arrival): Witness {
    try {
      return this.#options
        .relay()
        .import(
          { record: state, client: fds[0]!, upstream: fds[1] ?? null, slot: fds[2] ?? null },
          how === 'refused',
        )
    } catch (error) {
      closeAll(fds)
      throw error
    } finally {
      wipe?.()
    }
  }

  kindOf({ state: { exchange, scheme } }: RelayedConnection): string {
    return closedKind(exchange === null ? 'idle' : connectionKind(exchange.facts), scheme, null).kind
  }

  /** Returns false if no connection moves at present. */
  #scheduleNotice(): boolean {
    if (this.onMovable === null) return false
    if (this.#scheduled) return true
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.onMovable?.()
    })
    return true
  }
}

function relayedRefusedError(why: string): FdbError {
  return new FdbError('ERR_FDB_RELAYED_REFUSED', `${why}: the connection stays in the process that sent it`)
}
