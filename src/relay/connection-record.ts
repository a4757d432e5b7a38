import net from 'node:net'
import { MAX_RECORD_BYTES } from '../adapter.js'
import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'
import { FieldEdits, Framing, type FramingKind, type Side } from '../http1/index.js'
import { fdbroker } from '../proto/connections.js'
import { checkPosition, type PositionRecord } from '../tls13/position-record.js'
import { EventTracker, FrameTracker } from './boundaries.js'
import { copyRange, NO_BYTES } from './bytes.js'
import type { ExchangeOptions } from './decision.js'
import type { ExchangeFacts, ExchangePhase, ServerEnd } from './exchange-facts.js'
import type { BodyCoding } from './response-plan.js'
import { Trail } from './trail.js'

/** The complete state of a client's connection. With this record and dups of the client's and the server's descriptor another process continues at the same byte. */
export interface ConnectionRecord {
  listener: string
  scheme: 'http' | 'https'
  /** The client's IP address, or ''. */
  client: string
  /** The client's port, or 0. */
  clientPort: number
  /** See {@link RelayConnection.server}. */
  server: ServerEnd | null
  /** Milliseconds until the current timeout; -1: no timeout runs. */
  remainingMs: number
  /** The client has sent FIN. */
  clientEnded: boolean
  /** The relay has sent FIN to the client, or must send it after `toClient`. */
  endedClient: boolean
  /** The last response is complete: the relay sends `toClient` and FIN, and discards all further bytes of the client. */
  closing: boolean
  /** Milliseconds for which the relay reads the rest of a body before it closes; -1: the client has sent its whole request. */
  uploadMs: number
  /** Bytes of the client that the relay has not processed: part of a head, or pipelined requests. */
  fromClient: Buffer
  /** Bytes still to be sent to the client. */
  toClient: Buffer
  /** The position of its TLS, above which the bytes of this record are. Null without TLS. */
  tls: PositionRecord | null
  /** See {@link RelayOptions.clientCa}; '': servers are not told about the client's certificate. */
  clientCa: string
  /** Null between two requests, and while a request's head is incomplete. */
  exchange: ExchangeRecord | null
}

export interface ExchangeRecord {
  facts: ExchangeFacts
  /** Remaining milliseconds of the `request` timeout; -1: no limit. */
  requestMs: number
  /** Milliseconds since the exchange started, for the access log. */
  elapsedMs: number
  /** Bytes of the server that the relay has not processed: part of a response's head. */
  fromUpstream: Buffer
  /** Bytes still to be sent to the server. */
  toUpstream: Buffer
  /** The relay has sent FIN to the server, or must send it after `toUpstream`. */
  endedUpstream: boolean
}

const { Relayed, RelayedTrail } = fdbroker.connections

type RelayedMessage = fdbroker.connections.Relayed.$Properties
type DecodedExchange = fdbroker.connections.RelayedExchange
type ExchangeMessage = fdbroker.connections.RelayedExchange.$Properties
/** With this type the compiler reports a fact that the message lacks, or that {@link factsMessage} does not write. */
type FactsMessage = { [Name in keyof ExchangeFacts]: ExchangeMessage[Name] }
type AnswerMessage = fdbroker.connections.RelayedAnswer.$Properties
type TrailMessage = fdbroker.connections.RelayedTrail.$Properties
type BodyMessage = fdbroker.connections.RelayedBody.$Properties

// The protobuf message has an index in these lists instead of the name: do not reorder them.
const PHASES: readonly ExchangePhase[] = ['waiting', 'answering', 'tunnel']
const CODINGS: readonly BodyCoding[] = ['as-is', 'content', 'chunks']
const BODIES: readonly FramingKind[] = ['none', 'length', 'chunked', 'until-close']

const MAX_NAME_LENGTH = 1024
const METHOD_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$/
const BYTES = /^[\0-\xff]*$/

export function encodeRecord(record: ConnectionRecord): Uint8Array {
  const message: RelayedMessage = { listener: record.listener }
  if (record.scheme === 'https') message.https = true
  if (record.client !== '') message.client = record.client
  if (record.clientPort !== 0) message.clientPort = record.clientPort
  if (record.server !== null) {
    message.server = record.server.address
    message.serverPort = record.server.port
  }
  if (record.remainingMs >= 0) message.remainingMs = record.remainingMs
  if (record.clientEnded) message.clientEnded = true
  if (record.endedClient) message.endedClient = true
  if (record.closing) message.closing = true
  if (record.uploadMs >= 0) message.uploadMs = record.uploadMs
  if (record.fromClient.length > 0) message.fromClient = record.fromClient
  if (record.toClient.length > 0) message.toClient = record.toClient
  if (record.tls !== null) message.tls = record.tls
  if (record.clientCa !== '') message.clientCa = record.clientCa
  if (record.exchange !== null) {
    const { facts, requestMs, ...streams } = record.exchange
    message.exchange = { ...factsMessage(facts), ...streams, requestMs: requestMs < 0 ? null : requestMs }
  }
  return Relayed.encode(message).finish()
}

function factsMessage(facts: ExchangeFacts): FactsMessage {
  const { phase, coding, requestBody, responseBody, events, frames, answer, trail, ...same } = facts
  return {
    ...same,
    phase: PHASES.indexOf(phase),
    coding: CODINGS.indexOf(coding),
    requestBody: requestBody && bodyMessage(requestBody),
    responseBody: responseBody && bodyMessage(responseBody),
    events: events?.tail,
    frames: frames?.toRecord(),
    answer: answer && answerMessage(answer),
    trail: trail && trailMessage(trail),
  }
}

function bodyMessage({ kind, left, phase, count, hash }: Framing): BodyMessage {
  return { kind: BODIES.indexOf(kind), left, phase, count, hash }
}

/** Decodes and validates a record of another process. `fds`: how many descriptors came with it. Throws ERR_FDB_RELAYED_RECORD for an impossible state. */
export function decodeRecord(bytes: Uint8Array, fds: number): ConnectionRecord {
  if (bytes.length > MAX_RECORD_BYTES)
    throw recordError(`it has ${bytes.length} bytes; the limit is ${MAX_RECORD_BYTES}`)
  let message: fdbroker.connections.Relayed
  try {
    message = Relayed.decode(bytes)
  } catch (cause) {
    throw recordError('it is not a valid protobuf message', cause)
  }
  const { listener, client, clientPort, server, serverPort, clientEnded, endedClient, closing } = message
  if (listener === '' || listener.length > MAX_NAME_LENGTH)
    throw recordError(`its listener is ${shorten(listener)}`)
  if (client !== '' && net.isIP(client) === 0) throw recordError(`its client is ${shorten(client)}`)
  if (server !== '' && net.isIP(server) === 0) throw recordError(`its server is ${shorten(server)}`)
  if (Math.max(clientPort, serverPort) > 65_535) throw recordError('it has a port above 65535')
  const exchange = message.exchange ? exchangeRecord(message.exchange as DecodedExchange, fds) : null
  if (exchange === null && fds !== 1)
    throw recordError(`it has ${fds} descriptors although no request is in progress`)
  if (closing && (exchange !== null || !endedClient))
    throw recordError('it is closing, but has a request or has not sent FIN')
  if (endedClient && !closing && exchange?.facts.phase !== 'tunnel')
    throw recordError('it has sent FIN to the client before the end of the response')
  return {
    listener,
    scheme: message.https ? 'https' : 'http',
    client,
    clientPort,
    server: server === '' ? null : { address: server, port: serverPort },
    remainingMs: milliseconds(message.remainingMs),
    clientEnded,
    endedClient,
    closing,
    uploadMs: closing ? milliseconds(message.uploadMs) : -1,
    fromClient: copyField(message.fromClient),
    toClient: copyField(message.toClient),
    tls: message.tls ? positionOf(message.tls) : null,
    clientCa: message.clientCa,
    exchange,
  }
}

function positionOf(tls: PositionRecord): PositionRecord {
  checkPosition(tls)
  const copy = (bytes: Uint8Array | null | undefined) => copyField(bytes ?? NO_BYTES)
  return {
    ...tls,
    readSecret: copy(tls.readSecret),
    writeSecret: copy(tls.writeSecret),
    sealed: copy(tls.sealed),
    unsent: copy(tls.unsent),
    received: copy(tls.received),
    certificates: (tls.certificates ?? []).map(copy),
  }
}

function exchangeRecord(message: DecodedExchange, fds: number): ExchangeRecord {
  const phase = PHASES[message.phase]
  const coding = CODINGS[message.coding]
  const { method, destination, route, target, host, resend, status, wanted, user } = message
  if (phase === undefined || coding === undefined) {
    throw recordError(`its request has the unknown phase ${message.phase} or coding ${message.coding}`)
  }
  if (!METHOD_NAME.test(method) && (method !== '' || phase !== 'tunnel'))
    throw recordError(`its method is ${shorten(method)}`)
  for (const name of [destination, route, wanted, user]) {
    if (name.length > MAX_NAME_LENGTH)
      throw recordError(`it has a name of ${name.length} characters; the limit is ${MAX_NAME_LENGTH}`)
  }
  for (const text of [target, host, resend]) {
    if (!BYTES.test(text)) throw recordError(`it has the text ${shorten(text)}, which is not latin1`)
  }
  if (status > 999) throw recordError(`its status is ${status}`)
  const facts: ExchangeFacts = {
    phase,
    method,
    upgrade: message.upgrade,
    http10: message.http10,
    closeClient: message.closeClient,
    reusable: message.reusable,
    reused: message.reused,
    heard: message.heard,
    destination,
    route,
    coding,
    requestBody: bodyOf(message.requestBody, 'request'),
    responseBody: bodyOf(message.responseBody, 'response'),
    bodySeen: message.bodySeen,
    events: message.events == null ? null : new EventTracker(message.events),
    frames: message.frames
      ? FrameTracker.fromRecord(message.frames as fdbroker.connections.RelayedFrames)
      : null,
    resend,
    wanted,
    answer: answerOf(message.answer),
    target,
    host,
    attempts: message.attempts,
    status,
    bytesSent: message.bytesSent,
    bytesReceived: message.bytesReceived,
    trail: message.trail ? trailOf(message.trail) : null,
    unlogged: message.unlogged,
    user,
  }
  const record: ExchangeRecord = {
    facts,
    requestMs: milliseconds(message.requestMs),
    elapsedMs: message.elapsedMs,
    fromUpstream: copyField(message.fromUpstream),
    toUpstream: copyField(message.toUpstream),
    endedUpstream: message.endedUpstream,
  }
  const wrong = findContradiction(record, fds)
  if (wrong !== null) throw recordError(wrong)
  return record
}

function findContradiction({ facts, ...streams }: ExchangeRecord, fds: number): string | null {
  const { phase, method, coding, http10, requestBody, responseBody, events, frames } = facts
  const tcp = phase === 'tunnel' && method === ''
  if (fds !== 2 && (fds !== 1 || (phase !== 'waiting' && !tcp)))
    return `it has ${fds === 1 ? '1 descriptor' : `${fds} descriptors`} in phase ${phase}`
  if (requestBody?.kind === 'until-close')
    return 'its request body ends with the connection, which is only possible for a response'
  if (facts.resend !== '' && (phase !== 'waiting' || requestBody !== null))
    return 'it keeps a request for a retry that is not possible'
  if (frames !== null && (phase !== 'tunnel' || method === ''))
    return 'it has WebSocket frames without an upgraded request'
  if (streams.endedUpstream && phase !== 'tunnel') return 'it has sent FIN to the server outside a tunnel'
  if (phase === 'answering') {
    const kind = responseBody?.kind ?? 'none'
    const possible =
      coding === 'as-is'
        ? kind === 'length' || kind === 'chunked'
        : coding === 'content'
          ? http10 && (kind === 'chunked' || kind === 'until-close')
          : !http10 && kind === 'until-close'
    if (events !== null && kind === 'length') return 'its stream of events has a Content-Length'
    return possible ? null : `its response body ${kind} cannot have the coding ${coding}`
  }
  if (events !== null) return `it has events in phase ${phase}`
  if (responseBody !== null || coding !== 'as-is') return `it has a response in phase ${phase}`
  if (phase === 'tunnel' && requestBody !== null) return 'it is a tunnel with a request body'
  if (fds === 2) return null
  const unsent = streams.fromUpstream.length === 0 && !facts.heard
  return unsent && (tcp || streams.toUpstream.length > 0)
    ? null
    : 'it has no connection to a server, but its request was sent'
}

function bodyOf(message: BodyMessage | null | undefined, side: Side): Framing | null {
  if (!message) return null
  const { kind, left, phase, count, hash } = message as fdbroker.connections.RelayedBody
  const name = BODIES[kind]
  if (name === undefined) throw recordError(`a body has the unknown kind ${kind}`)
  const body = Framing.fromRecord({ kind: name, left, phase, count, hash }, side)
  if (body.done) throw recordError('a body is complete already')
  return body
}

function answerMessage({ fields, proxyAuthentication, ownHeaders = [] }: ExchangeOptions): AnswerMessage {
  const { remove = [], set = {}, add = {} } = fields?.response ?? {}
  return {
    remove: [...remove],
    set: { ...set },
    add: { ...add },
    own: Object.fromEntries(ownHeaders),
    proxyAuthentication: proxyAuthentication ?? false,
  }
}

function answerOf(message: AnswerMessage | null | undefined): ExchangeOptions | null {
  if (!message) return null
  const { remove, set, add, own, proxyAuthentication } = message as fdbroker.connections.RelayedAnswer
  const response = { remove, set, add }
  try {
    new FieldEdits(response)
    new FieldEdits({ add: own })
  } catch (cause) {
    throw recordError('its edits of the response are invalid', cause)
  }
  return { fields: { response }, proxyAuthentication, ownHeaders: Object.entries(own) }
}

function trailMessage(trail: Trail): TrailMessage {
  const { requestId, traceId, queueMs, connectMs, firstByteMs, auth, authMs, headers } = trail
  // One more than the time, so that 0 stands for none.
  return {
    requestId,
    traceId,
    queue: queueMs + 1,
    connect: connectMs + 1,
    firstByte: firstByteMs + 1,
    auth,
    authTime: authMs + 1,
    headers,
  }
}

function trailOf(message: TrailMessage): Trail {
  const { requestId, traceId, queue, connect, firstByte, auth, authTime, headers } =
    RelayedTrail.create(message)
  const trail = new Trail()
  return Object.assign(trail, {
    requestId,
    traceId,
    queueMs: queue - 1,
    connectMs: connect - 1,
    firstByteMs: firstByte - 1,
    auth,
    authMs: authTime - 1,
    headers: Object.assign(trail.headers, headers),
  })
}

function milliseconds(ms: number | null | undefined): number {
  return ms == null ? -1 : Math.min(ms, LONGEST_MS)
}

/** Copies the bytes, because a decoded message only refers to the buffer that it was decoded from, and that buffer is reused. */
function copyField(bytes: Uint8Array): Buffer {
  return bytes.length === 0 ? NO_BYTES : copyRange(bytes as Buffer, 0, bytes.length)
}

function shorten(text: string): string {
  return text.length > 40
    ? `${JSON.stringify(text.slice(0, 40))}… of ${text.length} characters`
    : JSON.stringify(text)
}

function recordError(why: string, cause?: unknown): FdbError {
  return new FdbError(
    'ERR_FDB_RELAYED_RECORD',
    `the record of a relayed connection is invalid: ${why}. The record is damaged or from an incompatible version; the connection stays in the process that sent it`,
    { cause },
  )
}
