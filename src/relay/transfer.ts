import { Framing } from '../http1/index.js'
import { concat, NOTHING } from './bytes.js'
import type { RelayConnection } from './connection.js'
import { Exchange } from './exchange.js'
import type { Reopen } from './open-stream.js'
import type { ConnectionRecord, ExportedConnection, Phase } from './record.js'
import type { RelayContext } from './relay-context.js'

/** What an exchange's part of the record says where there is none. */
const NO_EXCHANGE = {
  method: '',
  upgrade: false,
  http10: false,
  closeClient: false,
  reusable: false,
  reused: false,
  heard: false,
  attempts: 0,
  destination: '',
  route: '',
  coding: 'as-is',
  requestBody: null,
  responseBody: null,
  bodySeen: 0,
  requestMs: -1,
  resend: '',
  fromUpstream: NOTHING,
  toUpstream: NOTHING,
  endedUpstream: false,
} as const

/**
 * Takes a connection out of the relay, whatever it is doing, between two bytes. It is told nothing any more. Null where
 * one of its streams has just gone: that is settled here, in the next turn of the event loop.
 */
export function exportConnection(
  connection: RelayConnection,
  relay: RelayContext,
): ExportedConnection | null {
  if (!connection.client.alive || connection.exchange?.upstream?.alive === false) return null
  const { exchange, requestReader, held, ended, origin } = connection
  const remainingMs = relay.wheel.remaining(connection)
  const address = connection.client.remoteAddress
  const client = connection.client.detach()
  const sides = exchange === null ? { facts: NO_EXCHANGE, upstream: null } : exportExchange(exchange, relay)
  connection.leave()
  const early = requestReader?.pending ?? held ?? NOTHING
  const record: ConnectionRecord = {
    ...sides.facts,
    phase: phaseOf(connection.closing, exchange),
    listener: origin.listener,
    scheme: origin.scheme,
    client: address,
    clientEnded: ended,
    remainingMs,
    fromClient: concat([early, client.unread]),
    toClient: client.unsent,
    endedClient: client.ended,
  }
  return { record, client: client.transport, upstream: sides.upstream }
}

function phaseOf(closing: boolean, exchange: Exchange | null): Phase {
  if (exchange !== null) return exchange.phase
  return closing ? 'closing' : 'idle'
}

function exportExchange(exchange: Exchange, relay: RelayContext) {
  const { upstream, responseReader } = exchange
  // One that is still connecting has sent nothing: whoever goes on dials again.
  const dialling = upstream?.connecting ? concat(upstream.takeUnsent()) : null
  if (dialling !== null) upstream!.destroy()
  const detached = dialling === null ? (upstream?.detach() ?? null) : null
  const facts = {
    method: exchange.method,
    upgrade: exchange.upgrade,
    http10: exchange.http10,
    closeClient: exchange.close,
    reusable: exchange.reusable,
    reused: exchange.reused,
    heard: exchange.heard,
    attempts: exchange.attempts,
    destination: exchange.destination?.key ?? '',
    route: exchange.route?.name ?? '',
    coding: exchange.coding,
    requestBody: exchange.requestBody?.toRecord() ?? null,
    responseBody: exchange.responseBody?.toRecord() ?? null,
    bodySeen: exchange.bodySeen,
    requestMs: Number.isFinite(exchange.until) ? Math.max(0, exchange.until - relay.wheel.now) : -1,
    resend: exchange.resend,
    fromUpstream: concat([responseReader?.pending ?? NOTHING, detached?.unread ?? NOTHING]),
    toUpstream: dialling ?? detached?.unsent ?? NOTHING,
    endedUpstream: detached?.ended ?? false,
  }
  return { facts, upstream: detached?.transport ?? null }
}

/** Goes on with a connection exactly where {@link exportConnection} left it. Both streams are opened by this. */
export function importConnection(
  relay: RelayContext,
  record: ConnectionRecord,
  client: RelayConnection,
  upstream: Reopen | null,
): void {
  client.ended = record.clientEnded
  if (record.toClient.length > 0) client.client.write(record.toClient)
  if (record.endedClient) client.client.end()
  if (record.phase === 'closing') client.closing = true
  else if (record.phase !== 'idle') importExchange(relay, record, client, upstream)
  if (record.fromClient.length > 0) client.onData(client.client, record.fromClient)
  client.arm()
  client.settle()
  // Bytes that came along may have brought it further: then the timeout is that of where it is now.
  const same = phaseOf(client.closing, client.exchange) === record.phase
  if (same && record.remainingMs >= 0 && client.client.alive) relay.wheel.arm(client, record.remainingMs)
}

function importExchange(
  relay: RelayContext,
  record: ConnectionRecord,
  connection: RelayConnection,
  upstream: Reopen | null,
): void {
  const exchange = new Exchange(
    relay,
    connection,
    record.method,
    record.upgrade,
    record.http10,
    record.closeClient,
  )
  connection.exchange = exchange
  if (record.requestMs >= 0) {
    // The wheel's clock stands still until something is armed.
    relay.wheel.arm(connection, record.requestMs)
    exchange.until = relay.wheel.now + record.requestMs
  }
  exchange.phase = record.phase as Exchange['phase']
  exchange.reusable = record.reusable
  exchange.reused = record.reused
  exchange.heard = record.heard
  exchange.attempts = record.attempts
  exchange.coding = record.coding
  exchange.requestBody = record.requestBody && Framing.fromRecord(record.requestBody)
  exchange.responseBody = record.responseBody && Framing.fromRecord(record.responseBody)
  exchange.bodySeen = record.bodySeen
  exchange.resend = record.resend
  exchange.route = relay.routeByName?.(record.route) ?? null
  exchange.destination = relay.destinationByKey?.(record.destination) ?? null
  exchange.startedAt = performance.now()
  if (upstream === null) {
    exchange.goOn(record.toUpstream)
    return
  }
  const stream = upstream(exchange, relay.pools.tally(record.destination))
  exchange.upstream = stream
  if (record.toUpstream.length > 0) stream.write(record.toUpstream)
  if (record.endedUpstream) stream.end()
  if (record.fromUpstream.length > 0) exchange.onData(stream, record.fromUpstream)
}
