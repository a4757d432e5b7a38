import type { Socket } from 'node:net'
import { GradualLeave } from '../base/gradual-leave.js'
import type { RelayConnection } from './connection.js'
import type { ClosedKind } from './counts.js'
import type { ClientOrigin } from './destination.js'
import type { ServerEnd } from './exchange-facts.js'
import { type ConnectionEvents, Http2Connection } from './http2-connection.js'
import type { RelayContext } from './relay-context.js'

/** The time between two connections that end: a client that comes back with TLS needs a handshake. */
const APART_MS = 5
const LONGEST_LEAVE_MS = 5_000

/** The HTTP/2 connections of a relay, which do not move: a connection that must leave ends in two steps. */
export class Http2Connections {
  readonly #all = new Set<Http2Connection>()
  readonly #leave = new GradualLeave<Http2Connection>(connection => connection.leave())
  readonly #relay: RelayContext
  readonly #events: ConnectionEvents
  #leaving = false

  constructor(relay: RelayContext, events: ConnectionEvents) {
    this.#relay = relay
    this.#events = {
      ...events,
      closed: connection => {
        this.#all.delete(connection)
        this.#leave.forget(connection)
        events.closed(connection)
      },
    }
  }

  get size(): number {
    return this.#all.size
  }

  get heldBytes(): number {
    let bytes = 0
    for (const connection of this.#all) bytes += connection.heldBytes
    return bytes
  }

  /** The streams of all connections. */
  *streams(): Generator<RelayConnection> {
    for (const { streams } of this.#all) yield* streams
  }

  /** Takes over a socket from which nothing was read, except what was put back. Destroys it if that fails. */
  accept(socket: Socket, origin: ClientOrigin, server: ServerEnd | null): Http2Connection | null {
    try {
      const connection = new Http2Connection(this.#relay, socket, origin, server, this.#events)
      this.#all.add(connection)
      if (this.#leaving) connection.leave()
      return connection
    } catch (error) {
      socket.destroy()
      this.#relay.onFault?.(error)
      return null
    }
  }

  /** Ends all connections one after the other, or `now`, and at once those that come later. */
  leave(now = false): void {
    const those = this.#leaving ? [] : this.#all
    this.#leaving = true
    this.#leave.within(those, now ? 0 : Math.min(LONGEST_LEAVE_MS, this.#all.size * APART_MS))
  }

  /** Undoes {@link leave} for connections that come from now on, and those that still wait. */
  resume(): void {
    this.#leaving = false
    this.#leave.stop()
  }

  *closedKinds(): Generator<ClosedKind> {
    for (const { streams } of this.#all)
      yield { kind: 'http2', reason: streams.size > 0 ? 'answering' : 'idle' }
  }

  destroy(): void {
    this.#leave.stop()
    for (const connection of [...this.#all]) connection.destroy()
  }
}
