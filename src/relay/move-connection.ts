/**
 * The move of a proxy's connection at any byte: {@link exportConnection} takes it out of this process as a record and descriptors, and {@link importConnection}
 * continues it in the next one. A WebSocket moves in the same way: its exchange is a tunnel, whose facts have its place within a frame (`FrameTracker`).
 */

import { duplicateLent, type OwnedFd } from '../adapter.js'
import { LONGEST_MS } from '../base/duration.js'
import type { ByteStream } from './byte-stream.js'
import { concat, NO_BYTES } from './bytes.js'
import type { RelayConnection } from './connection.js'
import type { ConnectionRecord, ExchangeRecord } from './connection-record.js'
import { Exchange } from './exchange.js'
import type { RelayContext } from './relay-context.js'
import { WaitingStream } from './waiting-stream.js'

export interface ExportedConnection {
  record: ConnectionRecord
  client: OwnedFd
  /** The connection to the server. Null if there is none. Also null if it was not established yet: then the next process dials again. */
  upstream: OwnedFd | null
  /** Has the slot of the connection to the server; null if that server has no limit of connections. */
  slot: OwnedFd | null
}

/** Takes a connection out of the relay; client and server do not notice. Returns null if one of the streams has just closed. If a dup fails, throws and changes nothing. */
export function exportConnection(
  connection: RelayConnection,
  relay: RelayContext,
): ExportedConnection | null {
  const { exchange, requestReader, held, clientEnded: ended, origin, client, server } = connection
  const upstream = exchange?.upstream ?? null
  if (!client.alive || upstream?.alive === false) return null
  const fds = takeDescriptors(connection, relay)
  const remainingMs = relay.wheel.remaining(connection)
  const { remoteAddress, remotePort = 0 } = client
  const detached = client.detach()
  const exchangeRecord = exchange === null ? null : exportExchange(exchange, relay)
  // The facts of the exchange belong to the record now.
  connection.exchange = null
  connection.detach()
  const early = requestReader?.pending ?? held ?? NO_BYTES
  const record: ConnectionRecord = {
    listener: origin.listener,
    scheme: origin.scheme,
    client: remoteAddress,
    clientPort: remotePort,
    server,
    // The next process dials with a time limit of its own.
    remainingMs: isDialling(upstream) ? -1 : wholeMs(remainingMs),
    clientEnded: ended,
    endedClient: detached.ended,
    closing: connection.closing,
    uploadMs: Number.isFinite(connection.uploadMs) ? wholeMs(Math.max(0, connection.uploadMs)) : -1,
    fromClient: early.length === 0 ? detached.unread : concat([early, detached.unread]),
    toClient: detached.unsent,
    tls: detached.tls ?? null,
    clientCa: relay.clientCa,
    exchange: exchangeRecord,
  }
  return { record, ...fds }
}

function takeDescriptors(
  { client, exchange }: RelayConnection,
  { pools }: RelayContext,
): Omit<ExportedConnection, 'record'> {
  const clientDup = duplicateLent(client.descriptor, 'connection of a client')
  const upstream = exchange?.upstream ?? null
  if (upstream === null || upstream.connecting) return { client: clientDup, upstream: null, slot: null }
  let upstreamDup: OwnedFd | null = null
  try {
    upstreamDup = duplicateLent(upstream.descriptor, 'connection to a server')
    return { client: clientDup, upstream: upstreamDup, slot: pools.handOverSlot(upstream) }
  } catch (error) {
    clientDup.close()
    upstreamDup?.close()
    throw error
  }
}

function isDialling(upstream: ByteStream | null): boolean {
  return upstream?.connecting === true && !(upstream instanceof WaitingStream)
}

function wholeMs(ms: number): number {
  return Math.min(Math.ceil(ms), LONGEST_MS)
}

function exportExchange(exchange: Exchange, relay: RelayContext): ExchangeRecord {
  const { upstream, pending, requestDeadline, startedAt } = exchange
  // A stream that is still connecting has sent nothing, so the next process can dial again.
  const dialling = upstream?.connecting ? exchange.takeUnsent() : null
  if (dialling !== null) upstream!.destroy()
  const detached = dialling === null ? (upstream?.detach() ?? null) : null
  return {
    facts: exchange.exportFacts(),
    requestMs: Number.isFinite(requestDeadline)
      ? wholeMs(Math.max(0, requestDeadline - relay.wheel.now))
      : -1,
    elapsedMs: wholeMs(performance.now() - startedAt),
    fromUpstream: concat([pending, detached?.unread ?? NO_BYTES]),
    toUpstream: dialling ?? detached?.unsent ?? NO_BYTES,
    endedUpstream: detached?.ended ?? false,
  }
}

/** Gives a new `connection` the state in its record, and continues there. */
export function importConnection(
  relay: RelayContext,
  record: ConnectionRecord,
  connection: RelayConnection,
  upstream: ByteStream | null,
): void {
  const { client } = connection
  connection.clientEnded = record.clientEnded
  connection.closing = record.closing
  if (record.uploadMs >= 0) connection.uploadMs = record.uploadMs
  if (record.toClient.length > 0) client.write(record.toClient)
  if (record.endedClient) client.end()
  if (record.exchange !== null) {
    const restMs = record.remainingMs < 0 ? null : record.remainingMs
    importExchange(relay, record.exchange, connection, { upstream, restMs })
  }
  const { exchange } = connection
  if (record.fromClient.length > 0) connection.onData(client, record.fromClient, record.fromClient.length)
  connection.arm()
  connection.settle()
  if (record.remainingMs >= 0 && client.alive && waitsAsBefore(connection, exchange, record, upstream))
    relay.wheel.arm(connection, record.remainingMs)
}

/** Whether the rest of the timeout in the record applies: the bytes in the record, or a server that was found, may have started another one. */
function waitsAsBefore(
  { closing, exchange }: RelayConnection,
  imported: Exchange | null,
  record: ConnectionRecord,
  upstream: ByteStream | null,
): boolean {
  const phase = record.exchange?.facts.phase
  if (closing !== record.closing || exchange !== imported || exchange?.facts.phase !== phase) return false
  return exchange === null || upstream !== null || exchange.upstream instanceof WaitingStream
}

function importExchange(
  relay: RelayContext,
  record: ExchangeRecord,
  connection: RelayConnection,
  { upstream, restMs }: { upstream: ByteStream | null; restMs: number | null },
): void {
  const exchange = new Exchange(relay, connection, record.facts)
  connection.exchange = exchange
  if (record.requestMs >= 0) {
    // Arms the wheel before `now` is read: its clock stands while no deadline is armed.
    relay.wheel.arm(connection, record.requestMs)
    exchange.requestDeadline = relay.wheel.now + record.requestMs
  }
  exchange.startedAt = performance.now() - record.elapsedMs
  exchange.resume(upstream, record.toUpstream, restMs)
  if (upstream === null) return
  if (record.endedUpstream) upstream.end()
  const { fromUpstream } = record
  if (fromUpstream.length > 0) exchange.onData(upstream, fromUpstream, fromUpstream.length)
}
