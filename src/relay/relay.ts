import type net from 'node:net'
import { Framing } from '../http1/index.js'
import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import { RelayConnection } from './connection.js'
import { countKinds, type RelayCounts } from './counts.js'
import type { Origin, SendOn } from './decision.js'
import { Forwarder, requestEdits } from './forwarded.js'
import { acceptedStream, type Reopen } from './open-stream.js'
import { type RelayOptions, relayLimits, relayTimeouts } from './options.js'
import { Readers } from './readers.js'
import type { ConnectionRecord, ExportedConnection } from './record.js'
import type { RelayContext } from './relay-context.js'
import { TimerWheel } from './timer-wheel.js'
import { exportConnection, importConnection } from './transfer.js'
import { UpstreamPools } from './upstream-pools.js'

const NOBODY: StreamOwner = { onOpen() {}, onData() {}, onDrain() {}, onEnd() {}, onClose() {} }

/** Relays HTTP/1, or whole TCP connections, between clients and the servers that a router names. Knows no listeners: connections are given to it. */
export class Relay {
  readonly #context: RelayContext & { draining: boolean }
  readonly #connections = new Set<RelayConnection>()
  readonly #tally: Tally = { open: 0 }
  readonly #sharesPools: boolean
  readonly #onEmpty: (() => void) | undefined
  #turnedAway = 0

  constructor(options: RelayOptions) {
    const timeouts = relayTimeouts(options.timeouts)
    const limits = relayLimits(options.limits)
    const wheel = new TimerWheel(options.tickMs)
    const keepAlive = { connections: limits.upstreamIdle, idleMs: timeouts.upstreamIdle }
    const { dial } = options
    const own = { connections: limits.upstreamConnections, keepAlive, ...(dial && { dial }) }
    const pools = options.pools ?? new UpstreamPools(own, wheel)
    this.#sharesPools = options.pools !== undefined
    this.#onEmpty = options.onEmpty
    this.#context = {
      route: options.route,
      timeouts,
      limits,
      wheel,
      readers: new Readers(options.headLimits),
      pools,
      forwarder: new Forwarder(options.forwarded),
      requestEdits: requestEdits(),
      responseEdits: options.responseEdits,
      draining: false,
      abortHalfClosed: options.halfClosedClients === 'abort',
      routeByName: options.routeByName,
      destinationByKey: options.destinationByKey,
      onExchange: options.onExchange,
      onFault: options.onFault,
      forget: connection => this.#forget(connection as RelayConnection),
    }
  }

  /**
   * Takes over an accepted socket from which nothing has been read. At the limit of connections it is closed. With
   * `forward` it is no HTTP: the whole connection goes to a server of that route, both ways unread, and where there is
   * none it is reset.
   */
  accept(socket: net.Socket, origin: Origin, forward?: SendOn): void {
    if (this.#connections.size >= this.#context.limits.connections) {
      this.#turnedAway++
      socket.on('error', () => {})
      socket.destroy()
      return
    }
    this.take(acceptedStream(socket, NOBODY, this.#tally), origin, forward)
  }

  /** The same for any stream that has not yet delivered anything. */
  take(stream: ByteStream, origin: Origin, forward?: SendOn): void {
    const connection = new RelayConnection(this.#context, stream, origin)
    this.#connections.add(connection)
    if (forward !== undefined) connection.forward(forward)
    connection.arm()
  }

  /** Client connections. */
  get size(): number {
    return this.#connections.size
  }

  /** Client connections that were closed because of the limit. */
  get turnedAway(): number {
    return this.#turnedAway
  }

  get draining(): boolean {
    return this.#context.draining
  }

  /** What the client connections are doing now. */
  counts(): RelayCounts {
    return countKinds(this.#connections)
  }

  /** Bytes of all connections that are kept here because the side that they are for is behind. */
  heldBytes(): number {
    let bytes = 0
    for (const connection of this.#connections) bytes += connection.heldBytes
    return bytes
  }

  /** Connections to servers, of all relays that share the pools. */
  upstreamCounts(): { open: number; idle: number } {
    return { open: this.#context.pools.open, idle: this.#context.pools.idle }
  }

  /**
   * Patient drain: every answer from now on announces that its connection ends, and ends it. None is closed while a
   * request may be on its way: an idle one stays until its next request, its timeout, {@link closeIdle} or {@link close}.
   */
  drain(): void {
    this.#context.draining = true
  }

  /** Back to normal: answers that announced the end keep their word. */
  resume(): void {
    this.#context.draining = false
  }

  /** Ends idle connections with FIN; requests on their way to them are lost. */
  closeIdle(): void {
    for (const connection of [...this.#connections]) connection.closeIdle()
  }

  /** Closes everything at once, but not unused connections in shared pools. Connections given later are served. */
  close(): void {
    for (const connection of [...this.#connections]) connection.abort('closed-here')
    if (!this.#sharesPools) this.#context.pools.clear()
  }

  /**
   * Takes all connections out of this relay, one at each step, at whatever byte they are. Unused connections to servers
   * are closed by {@link close}. One of which a stream has just gone stays, and is mostly gone a turn later: call again.
   */
  *exportAll(): Generator<ExportedConnection, void, void> {
    for (const connection of [...this.#connections]) {
      const exported = this.#connections.has(connection) ? exportConnection(connection, this.#context) : null
      if (exported !== null) yield exported
    }
  }

  /** Goes on with an exported connection. Throws, before anything is opened, for a record that none can have made. */
  import(record: ConnectionRecord, client: Reopen, upstream: Reopen | null): void {
    const { requestBody, responseBody } = record
    for (const body of [requestBody, responseBody]) if (body !== null) Framing.fromRecord(body)
    const origin = { listener: record.listener, scheme: record.scheme }
    const connection = new RelayConnection(this.#context, client(NOBODY, this.#tally), origin)
    this.#connections.add(connection)
    importConnection(this.#context, record, connection, upstream)
  }

  #forget(connection: RelayConnection): void {
    if (this.#connections.delete(connection) && this.#connections.size === 0) this.#onEmpty?.()
  }
}
