import type net from 'node:net'
import type { MoveWhich, Witness } from '../adapter.js'
import type { Accepted } from '../node/accepted.js'
import { type ByteStream, NO_OWNER, type Tally } from './byte-stream.js'
import type { ClientTally } from './client-tally.js'
import { ClientWatch } from './client-watch.js'
import { DIALLING_MS, RelayConnection } from './connection.js'
import { type ClosedCount, countClosed, countKinds, type RelayCounts } from './counts.js'
import type { SendOn } from './decision.js'
import type { Origin } from './destination.js'
import { type ExportedConnection, exportConnection, importConnection } from './export-import.js'
import { FieldBook, Forwarder } from './field-rules.js'
import { Gateway } from './gateway.js'
import { acceptedStream, reopened, socketStream } from './open-stream.js'
import { type RelayOptions, relayLimits, relayTimeouts } from './options.js'
import { type Leaving, Readers, type RelayContext } from './relay-context.js'
import { TimerWheel } from './timer-wheel.js'

/** Time for the first request of a connection, see {@link Relay.closeIdle}. */
const SILENT_MS = 500

/** Time for an error to reach a client whose request was not answered. */
const LAST_ERROR_MS = 250

interface Ending {
  readonly lastEvent: string
  readonly lingerMs: number
}

/** Relays HTTP/1, or whole TCP connections, to the servers that a router names. Has no listeners of its own. */
export class Relay {
  readonly #context: RelayContext & { draining: boolean; leaving: Leaving | null }
  readonly #connections = new Set<RelayConnection>()
  readonly #tally: Tally = { open: 0 }
  readonly #onEmpty: (() => void) | undefined
  readonly #clients: ClientTally | undefined
  #unmovable = 0
  #turnedAway = 0
  #ending: Ending | null = null

  constructor(options: RelayOptions) {
    const timeouts = relayTimeouts(options.timeouts)
    const limits = relayLimits(options.limits)
    const wheel = new TimerWheel(options.tickMs)
    this.#onEmpty = options.onEmpty
    this.#clients = options.clients
    const gateway = options.gateway === undefined ? null : new Gateway(options.gateway)
    this.#context = {
      route: options.route,
      timeouts,
      limits,
      wheel,
      readers: new Readers(options.headLimits),
      pools: options.pools,
      watch: new ClientWatch(),
      forwarder: new Forwarder(options.forwarded, gateway?.viaLines),
      gateway,
      fields: new FieldBook(options.forwarded?.client === 'append', options.responseFields),
      draining: false,
      abortHalfClosed: options.halfClosedClients !== 'serve',
      routeByName: options.routeByName,
      destinationByKey: options.destinationByKey,
      onExchange: options.onExchange,
      onShortage: options.onShortage,
      onFault: options.onFault,
      leaving: null,
      pin: connection => this.#pin(connection as RelayConnection),
      forget: connection => this.#forget(connection as RelayConnection),
    }
  }

  /**
   * Takes an accepted socket that was not read from; closes it at the limit of connections. `forward`: the whole connection goes, unread, to a server of that
   * route, or is reset if there is none.
   */
  accept(socket: net.Socket, origin: Origin, forward?: SendOn): void {
    if (this.#connections.size >= this.#context.limits.connections) {
      this.#turnedAway++
      socket.on('error', () => {})
      socket.destroy()
      return
    }
    this.acceptStream(socketStream(socket, NO_OWNER, this.#tally), origin, forward)
  }

  /** As {@link accept}, for a connection without a socket. False: a socket is needed. */
  acceptBare(accepted: Accepted, origin: Origin, forward?: SendOn): boolean {
    if (this.#connections.size >= this.#context.limits.connections) return false
    const stream = acceptedStream(accepted, NO_OWNER, this.#tally)
    if (stream === null) return false
    this.acceptStream(stream, origin, forward)
    return true
  }

  /** As {@link accept}, for a stream that has delivered nothing. */
  acceptStream(stream: ByteStream, origin: Origin, forward?: SendOn): void {
    const connection = new RelayConnection(this.#context, stream, origin)
    this.#add(connection)
    if (forward !== undefined) connection.forward(forward)
    connection.arm()
  }

  get size(): number {
    return this.#connections.size
  }

  get turnedAway(): number {
    return this.#turnedAway
  }

  counts(): RelayCounts {
    return countKinds(this.#connections)
  }

  /** Bytes of all connections that wait here for a congested side. */
  heldBytes(): number {
    let bytes = 0
    for (const connection of this.#connections) bytes += connection.heldBytes
    return bytes
  }

  /** Connections to servers, of all relays that share the pools. */
  upstreamCounts(): { open: number; idle: number } {
    return { open: this.#context.pools.open, idle: this.#context.pools.idle }
  }

  /** Drains: every answer ends its connection; an idle one stays until its next request, {@link closeIdle} or {@link close}. */
  drain(): void {
    this.#context.draining = true
  }

  /** Undoes {@link drain}. Answers that announced the end of their connection still end it. */
  resume(): void {
    this.#context.draining = false
    this.#context.leaving = null
    this.#ending = null
    this.#unmovable = 0
    for (const connection of this.#connections) {
      connection.pinned = false
      if (!connection.movable) this.#unmovable++
    }
  }

  /** Sends FIN on idle connections; requests on their way are lost. A connection that was silent so far gets a moment for its first request. */
  closeIdle(): void {
    const left = [...this.#connections]
    const silent = left.filter(connection => connection.silent)
    for (const connection of left) if (!connection.silent) connection.closeIdle()
    if (silent.length === 0) return
    const endSilent = () => {
      for (const connection of silent) if (connection.silent) connection.closeIdle()
    }
    setTimeout(endSilent, SILENT_MS).unref()
  }

  /**
   * Ends every connection as its protocol asks: a WebSocket by a close frame, events after `lastEvent`, a tunnel by FIN, any other with its next answer. After
   * `lingerMs` the rest get an error and are closed. Returns their kinds.
   */
  end(lastEvent: string, lingerMs: number): ClosedCount[] {
    this.#context.draining = true
    this.#ending = { lastEvent, lingerMs }
    const left = [...this.#connections]
    const closed = countClosed(left.map(connection => connection.closedKind))
    this.#endAll(left, this.#ending)
    return closed
  }

  #endAll(left: readonly RelayConnection[], { lastEvent, lingerMs }: Ending): void {
    for (const connection of left) connection.end(lastEvent)
    const giveUp = () => {
      for (const connection of left) connection.giveUp()
      setTimeout(() => {
        for (const connection of left) connection.abort('drained')
      }, LAST_ERROR_MS).unref()
    }
    setTimeout(giveUp, lingerMs).unref()
  }

  /** Closes all clients' connections at once. The relay still accepts others. */
  close(): void {
    for (const connection of [...this.#connections]) connection.abort('closed-here')
  }

  /** Connections that can move, now or later. */
  get movable(): number {
    return this.#connections.size - this.#unmovable
  }

  /**
   * Takes connections out of this relay, one at each step; the caller owns their descriptors. Each is checked once; until {@link resume}, `notice` reports that
   * another one may leave. Throws, without effect, if no descriptor is left for a dup.
   */
  *departures(which: MoveWhich, notice: () => void): Generator<ExportedConnection, void, void> {
    this.#context.leaving = { which, onMovable: notice }
    let left = this.#connections.size
    let dialling = false
    for (const connection of this.#connections) {
      // Connections that come back meanwhile are at the end.
      if (left-- <= 0) return
      if (!connection.movable) continue
      const exported = connection.mayMove(which) ? exportConnection(connection, this.#context) : null
      if (exported !== null) yield exported
      else if (connection.moveDeferredAt === 0) {
        connection.moveDeferredAt = performance.now()
        if (dialling || !connection.exchange?.upstream?.connecting) continue
        dialling = true
        setTimeout(notice, 2 * DIALLING_MS).unref()
      }
    }
  }

  /** Whether this process has the route of that name, for a request that was not sent. */
  knowsRoute(name: string): boolean {
    return this.#context.routeByName?.(name) !== undefined
  }

  /** Resumes an exported connection. Takes the descriptors, also when it throws. `pinned`: it is not exported again, and its next answer is the last. */
  import({ record, client, upstream }: ExportedConnection, pinned = false): Witness {
    const context = this.#context
    let stream: ByteStream | null = null
    let server: ByteStream | null = null
    try {
      stream = reopened(client, NO_OWNER, this.#tally, record.client)
      const key = record.exchange?.facts.destination ?? ''
      if (upstream !== null) server = reopened(upstream, NO_OWNER, context.pools.tally(key))
    } catch (error) {
      stream?.destroy()
      client.close()
      upstream?.close()
      throw error
    }
    const connection = new RelayConnection(context, stream, {
      listener: record.listener,
      scheme: record.scheme,
    })
    connection.pinned = pinned
    this.#add(connection)
    importConnection(context, record, connection, server)
    // The connection was between two processes when {@link end} was called.
    if (this.#ending !== null && this.#connections.has(connection)) this.#endAll([connection], this.#ending)
    // A tunnel owes no known answer.
    const owed = record.exchange !== null && record.exchange.facts.phase !== 'tunnel'
    return {
      get asked() {
        return owed || stream.bytesRead > 0
      },
      get answered() {
        return stream.bytesWritten > 0
      },
    }
  }

  #add(connection: RelayConnection): void {
    this.#connections.add(connection)
    this.#clients?.add(connection.client.remoteAddress)
    if (!connection.movable) this.#unmovable++
    this.#context.leaving?.onMovable()
  }

  #pin(connection: RelayConnection): void {
    if (connection.movable) this.#unmovable++
    connection.pinned = true
  }

  #forget(connection: RelayConnection): void {
    if (!this.#connections.delete(connection)) return
    this.#clients?.remove(connection.client.remoteAddress)
    if (!connection.movable) this.#unmovable--
    if (this.#connections.size === 0) this.#onEmpty?.()
  }
}
