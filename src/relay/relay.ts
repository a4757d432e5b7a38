import type net from 'node:net'
import { duplicateLent, type MoveWhich, type OwnedFd, socketOver, type Witness } from '../adapter.js'
import { afterReading } from '../base/after-reading.js'
import type { Accepted } from '../node/accepted.js'
import { type PassedOn, passedOn, setPassedOn } from '../node/socket-handle.js'
import { type ByteStream, NO_OWNER, type Tally } from './byte-stream.js'
import { NO_BYTES } from './bytes.js'
import { certificateLines, movedCertificate } from './client-certificate.js'
import type { ClientTally } from './client-tally.js'
import { ClientWatch } from './client-watch.js'
import { DIALLING_MS, RelayConnection } from './connection.js'
import type { ConnectionRecord } from './connection-record.js'
import { type ClosedCount, countClosed, countKinds, type RelayCounts } from './counts.js'
import type { Forward } from './decision.js'
import type { ClientOrigin } from './destination.js'
import type { ServerEnd } from './exchange-facts.js'
import { Forwarder, RouteEdits } from './field-rules.js'
import { Gateway } from './gateway.js'
import { Http2Connections } from './http2-connections.js'
import { Http2Stream } from './http2-stream.js'
import { type ExportedConnection, exportConnection, importConnection } from './move-connection.js'
import { acceptedStream, socketStream, streamFromFd, tlsStreamFromFd } from './open-stream.js'
import { type RelayOptions, relayLimits, relayTimeouts } from './options.js'
import { type PendingMoves, Readers, type RelayContext } from './relay-context.js'
import { TimerWheel } from './timer-wheel.js'
import { trailHeaders } from './trail.js'

/** {@link Relay.closeIdle} waits this long for the first request of a connection. */
const SILENT_MS = 500

/** {@link Relay.end} closes a connection this long after its 503, so that the 503 reaches the client. */
const LAST_ERROR_MS = 250

interface ClosingOptions {
  readonly lastEvent: string
  readonly lingerMs: number
}

/** Relays HTTP/1 and whole TCP connections to the servers that a router chooses. The caller accepts the connections. */
export class Relay {
  readonly #context: RelayContext & { draining: boolean; leaving: PendingMoves | null }
  readonly #connections = new Set<RelayConnection>()
  readonly #tally: Tally = { open: 0 }
  readonly #onEmpty: (() => void) | undefined
  readonly #clients: ClientTally | undefined
  readonly #http2: Http2Connections
  /** Connections that are being taken over by {@link #http2}. */
  #turning = 0
  #ending: ClosingOptions | null = null
  #drainsForGood = false
  /** How many times {@link resume} was called. */
  #resumed = 0

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
      teller: new Forwarder({ ...options.forwarded, xForwarded: true }, gateway?.viaLines),
      gateway,
      trail: options.trail ?? null,
      errorBody: options.errorBody,
      fields: new RouteEdits(
        options.responseFields,
        options.forwarded?.certificates,
        options.trail && trailHeaders(options.trail),
      ),
      draining: false,
      abortHalfClosed: options.halfClosedClients !== 'serve',
      trusts: options.forwarded?.trusts,
      routeByName: options.routeByName,
      destinationByKey: options.destinationByKey,
      clientCa: options.clientCa ?? '',
      tls: options.tls ?? (() => null),
      takeHttp2: options.http2WithoutTls
        ? (connection, early) => this.#turnToHttp2(connection as RelayConnection, early)
        : null,
      http2WebSockets: options.http2WebSockets ?? false,
      onExchange: options.onExchange,
      onShortage: options.onShortage,
      onFault: options.onFault,
      leaving: null,
      forget: connection => this.#forget(connection as RelayConnection),
    }
    this.#http2 = new Http2Connections(this.#context, {
      closed: ({ remoteAddress }) => this.#removed(remoteAddress),
      exceeded: (bound, client) => options.onHttp2Bound?.(bound, client),
    })
  }

  /**
   * Takes over an accepted socket from which nothing was read. With `forward` all its bytes go, unparsed, to a server of that route; if the route has
   * no server, the client gets RST. `early`: bytes of the client that were read already.
   */
  accept(socket: net.Socket, origin: ClientOrigin, forward?: Forward, early = NO_BYTES): void {
    const { onFault } = this.#context
    const { server = '', serverPort: port = 0 } = passedOn(socket) ?? {}
    const end = server === '' ? null : { address: server, port }
    if (origin.http2 === true && forward === undefined) {
      this.#acceptHttp2(socket, origin, end)
      return
    }
    const carrier = origin.scheme === 'https' ? this.#context.tls() : null
    const stream = socketStream(socket, NO_OWNER, this.#tally, onFault, carrier)
    const connection = this.acceptStream(stream, origin, forward, end)
    if (early.length > 0) connection.onData(stream, early, early.length)
  }

  /** As {@link accept}, for a connection without a `net.Socket`. Returns false if the caller must create a `net.Socket` and call {@link accept}. */
  acceptWithoutSocket(accepted: Accepted, origin: ClientOrigin, forward?: Forward): boolean {
    const stream = acceptedStream(accepted, NO_OWNER, this.#tally, this.#context.onFault)
    if (stream === null) return false
    this.acceptStream(stream, origin, forward)
    return true
  }

  /** As {@link accept}, for a stream that has not delivered any bytes. */
  acceptStream(
    stream: ByteStream,
    origin: ClientOrigin,
    forward?: Forward,
    server: ServerEnd | null = null,
  ): RelayConnection {
    const connection = new RelayConnection(this.#context, stream, origin, server)
    this.#add(connection)
    if (forward !== undefined) connection.forwardTcp(forward)
    connection.arm()
    return connection
  }

  #acceptHttp2(socket: net.Socket, origin: ClientOrigin, server: ServerEnd | null): void {
    const connection = this.#http2.accept(socket, origin, server)
    if (connection !== null) this.#clients?.add(connection.remoteAddress)
  }

  /** Continues a connection with HTTP/2 whose first bytes, `early`, are its preface. Returns false if it cannot. */
  #turnToHttp2(connection: RelayConnection, early: Buffer): boolean {
    const { client, origin, server } = connection
    if (client.secure || !client.movable) return false
    let fd: OwnedFd
    try {
      fd = duplicateLent(client.descriptor, 'connection of a client')
    } catch (error) {
      this.#context.onFault?.(error)
      return false
    }
    const { remoteAddress, remotePort = 0 } = client
    const { unread } = client.detach()
    this.#turning++
    connection.detach()
    this.#turning--
    const socket = socketOver(fd, {})
    socket.unshift(Buffer.concat([early, unread]))
    const { address = '', port = 0 } = server ?? {}
    setPassedOn(socket, { client: remoteAddress, clientPort: remotePort, server: address, serverPort: port })
    this.#acceptHttp2(socket, { ...origin, http2: true }, server)
    return true
  }

  get size(): number {
    return this.#connections.size + this.#http2.size
  }

  counts(): RelayCounts {
    return { ...countKinds(this.#connections), http2: this.#http2.size }
  }

  /** As {@link counts}, with the reasons of those that do not leave in place of their kinds, while all should. */
  kinds(): Readonly<Record<string, number>> {
    if (this.#context.leaving === null) return this.counts()
    const staying = [...this.#connections].flatMap(({ stays }) => stays ?? [])
    const others = [...this.#connections].filter(({ stays }) => stays === null)
    const kinds: Record<string, number> = { ...countKinds(others), http2: this.#http2.size }
    for (const reason of staying) kinds[reason] = (kinds[reason] ?? 0) + 1
    return kinds
  }

  /** Returns the connections that {@link end} would end now. */
  remaining(): ClosedCount[] {
    return countClosed([
      ...[...this.#connections].map(connection => connection.closedKind),
      ...this.#http2.closedKinds(),
    ])
  }

  heldBytes(): number {
    let bytes = this.#http2.heldBytes
    for (const connection of this.#connections) bytes += connection.heldBytes
    return bytes
  }

  /** Returns how many connections to servers all relays that share the pools have. */
  upstreamCounts(): { open: number; idle: number } {
    return { open: this.#context.pools.open, idle: this.#context.pools.idle }
  }

  /** From now on each response ends its connection. An idle connection stays open until it has had one more response, or until {@link closeIdle} or {@link close}. */
  drain(): void {
    this.#context.draining = true
    this.#http2.leave()
  }

  /** As {@link drain}; {@link resume} does not undo it. */
  drainForGood(): void {
    this.#drainsForGood = true
    this.drain()
  }

  /**
   * Undoes {@link drain} and {@link end}. A response that has already announced the end of its connection still ends it, and a tunnel that has
   * ended stays ended.
   */
  resume(): void {
    this.#context.draining = this.#drainsForGood
    this.#context.leaving = null
    this.#ending = null
    if (!this.#drainsForGood) this.#http2.resume()
    this.#resumed++
    for (const connection of this.#connections) {
      // The record of a connection does not say that this relay ends the response or tunnel itself.
      connection.pinned = connection.exchange?.isEnding ?? false
      connection.moveDeferredAt = 0
    }
  }

  /**
   * Sends FIN on idle connections; a request that is in flight is lost. A client that has not sent its first request yet has {@link SILENT_MS} to do so, or
   * keeps its connection if {@link resume} is called before.
   */
  closeIdle(): void {
    this.#http2.leave(true)
    const left = [...this.#connections]
    const silent = left.filter(connection => connection.receivedNothing)
    for (const connection of left) if (!connection.receivedNothing) connection.closeIdle()
    if (silent.length === 0) return
    const resumed = this.#resumed
    const endSilent = () => {
      if (this.#resumed !== resumed) return
      for (const connection of silent) if (connection.receivedNothing) connection.closeIdle()
    }
    afterReading(SILENT_MS, endSilent, { unref: true })
  }

  /**
   * Ends each connection as its protocol requires: a WebSocket with a close frame, a stream of events after `lastEvent`, a tunnel with FIN, any other
   * with its next response. After `lingerMs` milliseconds the remaining clients get an error. Returns how many connections of each kind are ending.
   * `late`: the relay still accepts, and connections without a request may have one: {@link closeIdle} has those that have none.
   */
  end(lastEvent: string, lingerMs: number, { late = false } = {}): ClosedCount[] {
    this.#context.draining = true
    this.#ending = { lastEvent, lingerMs }
    const left = [...this.#connections].filter(({ exchange }) => !late || exchange !== null)
    const closed = this.remaining()
    this.#http2.leave(true)
    this.#endAll([...left, ...this.#http2.streams()], this.#ending)
    return closed
  }

  #endAll(left: readonly RelayConnection[], { lastEvent, lingerMs }: ClosingOptions): void {
    for (const connection of left) connection.end(lastEvent)
    const resumed = this.#resumed
    // After resume() only the tunnels that have ended are closed: the other clients still get their responses.
    const ending = () =>
      left.filter(connection => this.#resumed === resumed || connection.exchange?.tunnelEnded === true)
    const giveUp = () => {
      for (const connection of ending()) connection.giveUp()
      setTimeout(() => {
        for (const connection of ending()) connection.abort('drained')
        if (this.#resumed === resumed) this.#http2.destroy()
      }, LAST_ERROR_MS).unref()
    }
    afterReading(lingerMs, giveUp, { unref: true })
  }

  /** Closes the connections of all clients at once. The relay still accepts new ones. */
  close(): void {
    for (const connection of [...this.#connections]) connection.abort('closed-here')
    this.#http2.destroy()
  }

  /** How many connections can move, now or later. `secure`: those with TLS, instead of those without. */
  movable(secure = false): number {
    let count = 0
    for (const { client, movable } of this.#connections) if (movable && client.secure === secure) count++
    return count
  }

  /**
   * Takes one connection after the other out of this relay; the caller owns the descriptors. Passes over connections that cannot move yet. Until
   * {@link resume}, calls `notice` when a further connection may be able to move. If no descriptor is free for a dup, throws and changes nothing. `secure`: the
   * connections with TLS, instead of those without; the next response of one that can never move is its last.
   */
  *departures(
    which: MoveWhich,
    notice: () => unknown,
    secure = false,
  ): Generator<ExportedConnection, void, void> {
    this.#context.leaving = { which, onMovable: notice }
    this.#http2.leave()
    if (secure && this.#context.tls()?.mayBegin(notice) !== true) return
    let left = this.#connections.size
    let dialling = false
    for (const connection of this.#connections) {
      // All further connections were added during this iteration.
      if (left-- <= 0) return
      if (connection.client.secure !== secure) continue
      if (!connection.movable) {
        connection.pinned = true
        continue
      }
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

  /** See {@link RelayOptions.clientCa}. */
  get clientCa(): string {
    return this.#context.clientCa
  }

  knowsRoute(name: string): boolean {
    return this.#context.routeByName?.(name) !== undefined
  }

  /** Resumes a connection that another process has exported. Takes ownership of the descriptors even if it throws. A `pinned` connection never moves, and its next response is the last. */
  import({ record, client, upstream, slot }: ExportedConnection, pinned = false): Witness {
    const context = this.#context
    let stream: ByteStream | null = null
    let server: ByteStream | null = null
    let certificate: Uint8Array | undefined
    try {
      certificate = linesOf(record, context.clientCa)
      const { tls } = record
      stream =
        tls === null
          ? streamFromFd(client, NO_OWNER, this.#tally, record.client, record.clientPort)
          : tlsStreamFromFd(client, NO_OWNER, this.#tally, tls, context.tls(), peerOf(record))
      const key = record.exchange?.facts.destination ?? ''
      const limit = context.destinationByKey?.(key)?.connections
      if (upstream !== null) server = context.pools.adopt(key, upstream, slot, limit)
    } catch (error) {
      stream?.destroy()
      client.close()
      upstream?.close()
      slot?.close()
      throw error
    }
    const { listener, scheme } = record
    const origin = { listener, scheme, http2: false, certificate }
    const connection = new RelayConnection(context, stream, origin, record.server)
    connection.pinned = pinned
    this.#add(connection)
    importConnection(context, record, connection, server)
    // end() was called while this connection was moving between two processes.
    if (this.#ending !== null && this.#connections.has(connection)) this.#endAll([connection], this.#ending)
    // The relay does not know whether the client of a tunnel waits for a response.
    const awaitsResponse = record.exchange !== null && record.exchange.facts.phase !== 'tunnel'
    const { exchange } = connection
    return {
      get asked() {
        // This process cannot answer such a request, which so shows nothing about it.
        if (exchange?.waitsForServer && connection.exchange === exchange) return false
        return awaitsResponse || stream.bytesRead > 0
      },
      get answered() {
        return stream.bytesWritten > 0
      },
    }
  }

  #add(connection: RelayConnection): void {
    this.#connections.add(connection)
    this.#clients?.add(connection.client.remoteAddress)
    this.#context.leaving?.onMovable()
  }

  #forget(connection: RelayConnection): void {
    const { client } = connection
    if (this.#connections.delete(connection)) this.#removed(client.remoteAddress)
    else if (client instanceof Http2Stream) client.session.forget(connection)
  }

  #removed(remoteAddress: string): void {
    this.#clients?.remove(remoteAddress)
    if (this.size + this.#turning === 0) this.#onEmpty?.()
  }
}

/** Returns {@link ClientOrigin.certificate} for a connection that has moved here. A certificate that was verified by other CAs counts as none. */
function linesOf(record: ConnectionRecord, clientCa: string): Uint8Array | undefined {
  if (clientCa === '') return undefined
  const isSame = casOf(record.clientCa) === casOf(clientCa) && record.tls !== null
  return certificateLines(isSame ? movedCertificate(record.tls!) : undefined)
}

/** See {@link RelayOptions.clientCa}. */
function casOf(clientCa: string): string {
  return clientCa.split(' ', 1)[0]!
}

function peerOf({ client, clientPort, server }: ConnectionRecord): PassedOn {
  return { client, clientPort, server: server?.address ?? '', serverPort: server?.port ?? 0 }
}
