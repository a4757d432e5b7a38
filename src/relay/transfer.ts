import { duplicateLent, type OwnedFd } from '../adapter.js'
import { Framing } from '../http1/index.js'
import { EventTracker, FrameTracker } from './boundaries/index.js'
import type { ByteStream } from './byte-stream.js'
import { concat, NOTHING } from './bytes.js'
import type { RelayConnection } from './connection.js'
import type { ExchangeOptions } from './decision.js'
import { Exchange } from './exchange.js'
import type { ConnectionRecord, ExchangeRecord } from './record.js'
import type { RelayContext } from './relay-context.js'

/** A connection that has left this relay's hands. */
export interface ExportedConnection {
  record: ConnectionRecord
  client: OwnedFd
  /** Null where there is none, and where it was still connecting: then it is dialled again. */
  upstream: OwnedFd | null
}

/** What two processes make of a timer's fraction is the same. */
const LONGEST_MS = 0x7fffffff

/**
 * Takes a connection out of the relay, whatever it is doing, between two bytes. It is told nothing any more, and its
 * peers notice nothing. Null where one of its streams has just gone: that is settled here, in the next turn of the event
 * loop. Throws, and changes nothing, when there is no descriptor left for a dup.
 */
export function exportConnection(
  connection: RelayConnection,
  relay: RelayContext,
): ExportedConnection | null {
  const { exchange, requestReader, held, ended, origin, client } = connection
  const upstream = exchange?.upstream ?? null
  if (!client.alive || upstream?.alive === false) return null
  const fds = duplicates(connection)
  const remainingMs = relay.wheel.remaining(connection)
  const address = client.remoteAddress
  const detached = client.detach()
  const facts = exchange === null ? null : exportExchange(exchange, relay)
  connection.leave()
  const early = requestReader?.pending ?? held ?? NOTHING
  const record: ConnectionRecord = {
    listener: origin.listener,
    scheme: origin.scheme,
    client: address,
    remainingMs: wholeMs(remainingMs),
    clientEnded: ended,
    endedClient: detached.ended,
    closing: connection.closing,
    fromClient: early.length === 0 ? detached.unread : concat([early, detached.unread]),
    toClient: detached.unsent,
    exchange: facts,
  }
  return { record, ...fds }
}

/** Before anything is let go: when the second cannot be had, nothing has happened. */
function duplicates({ client, exchange }: RelayConnection): { client: OwnedFd; upstream: OwnedFd | null } {
  const own = duplicateLent(client.descriptor, 'connection of a client')
  const upstream = exchange?.upstream ?? null
  if (upstream === null || upstream.connecting) return { client: own, upstream: null }
  try {
    return { client: own, upstream: duplicateLent(upstream.descriptor, 'connection to a server') }
  } catch (error) {
    own.close()
    throw error
  }
}

function wholeMs(ms: number): number {
  return Math.min(Math.ceil(ms), LONGEST_MS)
}

function exportExchange(exchange: Exchange, relay: RelayContext): ExchangeRecord {
  const { upstream, responseReader } = exchange
  // One that is still connecting has sent nothing: whoever goes on dials again.
  const dialling = upstream?.connecting ? concat(upstream.takeUnsent()) : null
  if (dialling !== null) upstream!.destroy()
  const detached = dialling === null ? (upstream?.detach() ?? null) : null
  return {
    phase: exchange.phase,
    method: exchange.method,
    upgrade: exchange.upgrade,
    http10: exchange.http10,
    closeClient: exchange.close,
    reusable: exchange.reusable,
    reused: exchange.reused,
    heard: exchange.heard,
    destination: exchange.destinationKey,
    route: exchange.routeName,
    coding: exchange.coding,
    requestBody: exchange.requestBody?.toRecord() ?? null,
    responseBody: exchange.responseBody?.toRecord() ?? null,
    bodySeen: exchange.bodySeen,
    events: exchange.events?.tail ?? null,
    frames: exchange.frames?.toRecord() ?? null,
    requestMs: Number.isFinite(exchange.until) ? wholeMs(Math.max(0, exchange.until - relay.wheel.now)) : -1,
    answer: answerOf(exchange),
    resend: exchange.resend,
    fromUpstream: concat([responseReader?.pending ?? NOTHING, detached?.unread ?? NOTHING]),
    toUpstream: dialling ?? detached?.unsent ?? NOTHING,
    endedUpstream: detached?.ended ?? false,
    target: exchange.target,
    host: exchange.host,
    attempts: exchange.attempts,
    status: exchange.status,
    bytesSent: exchange.bytesSent,
    bytesReceived: exchange.bytesReceived,
    elapsedMs: exchange.startedAt === 0 ? 0 : wholeMs(performance.now() - exchange.startedAt),
  }
}

/** Nothing mostly, and for processes that know nothing of it. */
function answerOf({ phase, answerOptions }: Exchange): ExchangeOptions | undefined {
  if (phase !== 'waiting' || answerOptions === undefined) return undefined
  const { fields, proxyAuthentication } = answerOptions
  return fields?.response === undefined && !proxyAuthentication
    ? undefined
    : { ...(fields && { fields }), ...(proxyAuthentication && { proxyAuthentication }) }
}

/** Goes on with a connection exactly where {@link exportConnection} left it. `connection` is new, and has no exchange. */
export function importConnection(
  relay: RelayContext,
  record: ConnectionRecord,
  connection: RelayConnection,
  upstream: ByteStream | null,
): void {
  const { client } = connection
  connection.ended = record.clientEnded
  connection.closing = record.closing
  if (record.toClient.length > 0) client.write(record.toClient)
  if (record.endedClient) client.end()
  if (record.exchange !== null) importExchange(relay, record.exchange, connection, upstream)
  if (record.fromClient.length > 0) connection.onData(client, record.fromClient)
  connection.arm()
  connection.settle()
  // Bytes that came along may have brought it further: then the timeout is that of where it is now.
  const { closing, exchange } = connection
  const same = closing === record.closing && exchange?.phase === record.exchange?.phase
  if (same && record.remainingMs >= 0 && client.alive) relay.wheel.arm(connection, record.remainingMs)
}

function importExchange(
  relay: RelayContext,
  record: ExchangeRecord,
  connection: RelayConnection,
  upstream: ByteStream | null,
): void {
  const { method, upgrade, http10, closeClient } = record
  const subject = record.phase === 'tunnel' && method === '' ? 'tcp' : 'request'
  const exchange = new Exchange(relay, connection, subject, method, upgrade, http10, closeClient)
  connection.exchange = exchange
  if (record.requestMs >= 0) {
    // The wheel's clock stands still until something is armed.
    relay.wheel.arm(connection, record.requestMs)
    exchange.until = relay.wheel.now + record.requestMs
  }
  exchange.phase = record.phase
  exchange.reusable = record.reusable
  exchange.reused = record.reused
  exchange.heard = record.heard
  exchange.coding = record.coding
  exchange.requestBody = record.requestBody && Framing.fromRecord(record.requestBody, 'request')
  exchange.responseBody = record.responseBody && Framing.fromRecord(record.responseBody, 'response')
  exchange.bodySeen = record.bodySeen
  exchange.events = record.events === null ? null : new EventTracker(record.events)
  exchange.frames = record.frames && FrameTracker.fromRecord(record.frames)
  exchange.cameWith = record.answer ?? null
  exchange.resend = record.resend
  exchange.route = relay.routeByName?.(record.route) ?? null
  exchange.destination = relay.destinationByKey?.(record.destination) ?? null
  if (exchange.route === null || exchange.destination === null) {
    exchange.cameAs = { route: record.route, destination: record.destination }
  }
  exchange.target = record.target
  exchange.host = record.host
  exchange.attempts = record.attempts
  exchange.status = record.status
  exchange.bytesSent = record.bytesSent
  exchange.bytesReceived = record.bytesReceived
  exchange.startedAt = performance.now() - record.elapsedMs
  if (upstream === null) {
    exchange.goOn(record.toUpstream)
    return
  }
  upstream.owner = exchange
  exchange.upstream = upstream
  if (record.toUpstream.length > 0) upstream.write(record.toUpstream)
  if (record.endedUpstream) upstream.end()
  if (record.fromUpstream.length > 0) exchange.onData(upstream, record.fromUpstream)
}
