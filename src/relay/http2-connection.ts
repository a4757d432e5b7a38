import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { hangups, type LentFd } from '../adapter.js'
import { nodeHttp2 } from '../base/lazy.js'
import { endHttp2Session } from '../node/http2-endings.js'
import { descriptorOf, remoteAddressOf, remotePortOf } from '../node/socket-handle.js'
import { RelayConnection } from './connection.js'
import type { ClientOrigin } from './destination.js'
import type { ServerEnd } from './exchange-facts.js'
import { boundOf, goawayCode, type Http2Bound, RateBounds, sessionOptions } from './http2-bounds.js'
import { requestText } from './http2-request.js'
import { Http2Stream, type StreamSession } from './http2-stream.js'
import type { RelayContext } from './relay-context.js'
import type { Timed } from './timer-wheel.js'

/** The arguments of the event `stream`; the types of Node lack the last one. */
type StreamEvent = [stream: ServerHttp2Stream, headers: object, flags: number, raw: string[]]

const END_STREAM = 1
const PROTOCOL_ERROR = 1
const ENHANCE_YOUR_CALM = 11
/** How often a connection that ends looks whether the client has closed it. */
const LINGER_MS = 500
/** How often a connection looks for refused streams, which Node does not report. */
const LOOK_MS = 5_000

export interface ConnectionEvents {
  /** The connection has closed. */
  closed(connection: Http2Connection): void
  /** The client has exceeded a bound, and the connection ends. */
  exceeded(bound: Http2Bound, client: string): void
}

const ignore = () => {}

/** A client's HTTP/2 connection. Each stream is a {@link RelayConnection} with one request. */
export class Http2Connection implements StreamSession, Timed {
  readonly streams = new Set<RelayConnection>()
  readonly remoteAddress: string
  readonly remotePort: number
  readonly secure: boolean
  deadline = 0
  tick = -1
  readonly #relay: RelayContext
  readonly #socket: Socket
  readonly #session: ServerHttp2Session
  readonly #origin: ClientOrigin
  readonly #server: ServerEnd | null
  readonly #events: ConnectionEvents
  readonly #bounds = new RateBounds()
  /** The client gets no further stream. */
  #ending = false
  /** The number after those of all streams that Node has reported, or that were counted as refused. */
  #nextStream = 1
  #bytesRead = 0
  #hungUp = false
  /** The streams have been reset, because the connection ends: nothing counts against the client any more. */
  #isOver = false
  #isClosed = false
  /** When the connection has been idle for too long, in milliseconds of {@link TimerWheel.now}. */
  #idleUntil = Number.POSITIVE_INFINITY
  /** When the connection is closed, in milliseconds of {@link TimerWheel.now}; Infinity before its last stream has ended. */
  #closeAt = Number.POSITIVE_INFINITY

  /** Takes over a socket from which nothing was read, except what was put back. */
  constructor(
    relay: RelayContext,
    socket: Socket,
    origin: ClientOrigin,
    server: ServerEnd | null,
    events: ConnectionEvents,
  ) {
    this.#relay = relay
    this.#socket = socket
    this.#origin = origin
    this.#server = server
    this.#events = events
    this.remoteAddress = remoteAddressOf(socket)
    this.remotePort = remotePortOf(socket)
    this.secure = origin.scheme === 'https'
    // Node ends the session when the client sends FIN.
    socket.allowHalfOpen = false
    const session = nodeHttp2().performServerHandshake(
      socket,
      sessionOptions(relay.readers.limits, relay.http2WebSockets),
    )
    this.#session = session
    this.#boundErrors(session)
    session.on('error', ignore)
    // Node does not always report the end of a session whose socket is destroyed.
    socket.on('close', () => this.#onClosed())
    session.on('close', () => this.#onClosed())
    session.on('stream', (...[stream, , flags, raw]: StreamEvent) => this.#onStream(stream, flags, raw))
    session.on('ping', () => this.#count('pings'))
    session.on('remoteSettings', () => this.#count('settings'))
    this.#arm()
    this.#idleUntil = relay.wheel.now + relay.timeouts.idle
  }

  get descriptor(): LentFd {
    return descriptorOf(this.#socket)!
  }

  get heldBytes(): number {
    let bytes = 0
    for (const stream of this.streams) bytes += stream.heldBytes
    return bytes
  }

  /** Sends GOAWAY in two steps. Open streams go on, and the connection ends with the last one. Idempotent. */
  leave(): void {
    if (this.#ending) return
    this.#ending = true
    endHttp2Session({ session: this.#session, socket: this.#socket })
    this.#arm()
  }

  destroy(): void {
    this.#abortStreams('closed-here')
    this.#session.destroy()
    this.#socket.destroy()
  }

  /** Resets the streams: Node would end them as if their responses were complete. */
  #abortStreams(reason: string): void {
    this.#isOver = true
    for (const stream of [...this.streams]) stream.abort(reason)
  }

  /** A stream's connection has ended. */
  forget(stream: object): void {
    const { wheel, timeouts } = this.#relay
    if (this.streams.delete(stream as RelayConnection) && this.streams.size === 0)
      this.#idleUntil = wheel.now + timeouts.idle
  }

  aborted(): void {
    this.#count('resets')
  }

  stalled(): void {
    this.#count('stalls')
  }

  fault(error: unknown): void {
    this.#relay.onFault?.(error)
  }

  onDeadline(): void {
    if (this.#hasGone()) {
      this.#socket.destroy()
      return
    }
    if (this.#ending) this.#closeIfOver()
    else {
      this.#lookForRefused()
      if (this.streams.size === 0 && this.#relay.wheel.now >= this.#idleUntil) this.leave()
    }
    if (!this.#socket.destroyed) this.#arm()
  }

  /** Reports whether the client had already closed the connection at the last look. After an error of the protocol Node does not read that. */
  #hasGone(): boolean {
    const fd = descriptorOf(this.#socket)
    const before = this.#hungUp
    this.#hungUp = fd !== null && hangups([fd])[0] !== 'none'
    return before && this.#hungUp
  }

  #arm(): void {
    const { wheel, timeouts } = this.#relay
    wheel.arm(this, this.#ending ? LINGER_MS : Math.min(LOOK_MS, timeouts.idle))
  }

  /** Closes the socket when Node has ended the session, or if Node cannot, because the client does not take the rest of the last response. */
  #closeIfOver(): void {
    const { wheel, timeouts } = this.#relay
    const { destroyed, closed } = this.#session
    if (destroyed) this.#closeAt = Math.min(this.#closeAt, wheel.now + LINGER_MS)
    else if (closed && this.streams.size === 0)
      this.#closeAt = Math.min(this.#closeAt, wheel.now + timeouts.stall)
    if (wheel.now >= this.#closeAt) this.#socket.destroy()
  }

  #lookForRefused(): void {
    const { bytesRead } = this.#socket
    if (bytesRead === this.#bytesRead || this.#session.destroyed) return
    this.#bytesRead = bytesRead
    this.#countRefused((this.#session.state.lastProcStreamID ?? 0) + 2)
  }

  /** Counts the streams before this one that Node has not reported. */
  #countRefused(before: number): void {
    const refused = Math.floor((before - this.#nextStream) / 2)
    this.#nextStream = Math.max(this.#nextStream, before)
    if (refused > 0) this.#count('refused', refused)
  }

  #onStream(stream: ServerHttp2Stream, flags: number, raw: readonly string[]): void {
    // A destroyed session passes its error on to all its streams, also to this one.
    stream.on('error', ignore)
    if (this.#session.destroyed) return
    const { id = 0 } = stream
    this.#countRefused(id)
    this.#nextStream = Math.max(this.#nextStream, id + 2)
    const ended = (flags & END_STREAM) !== 0
    const request = requestText(raw, ended)
    if (request === null) {
      stream.close(PROTOCOL_ERROR)
      this.#count('resets')
      return
    }
    // The client has reset the stream already.
    if (stream.destroyed) {
      this.#count('resets')
      return
    }
    // Node knows its bounds only when the client has acknowledged them.
    if (request.text.length > this.#relay.readers.limits.headBytes) this.#count('refused')
    if (this.#session.destroyed) return
    const client = new Http2Stream(stream, this, request, !ended)
    const connection = new RelayConnection(this.#relay, client, this.#origin, this.#server)
    // A stream has one request and does not move.
    connection.pinned = true
    this.streams.add(connection)
    connection.arm()
    const head = Buffer.from(request.text, 'latin1')
    connection.onData(client, head, head.length)
  }

  #count(bound: Http2Bound, count = 1): void {
    if (this.#isOver || this.#bounds.allows(bound, count) || this.#session.destroyed) return
    this.#events.exceeded(bound, this.remoteAddress)
    this.#abortStreams('client-gone')
    this.#session.destroy(new Error(`the client has exceeded the bound of ${bound}`), ENHANCE_YOUR_CALM)
  }

  /** Node ends the session by itself when the client exceeds one of Node's bounds: then the client gets the same GOAWAY as for the others. */
  #boundErrors(session: ServerHttp2Session): void {
    const destroy = session.destroy.bind(session)
    session.destroy = (error, code) => {
      const bound = error instanceof Error ? boundOf(error) : null
      if (bound !== null && !session.destroyed) this.#events.exceeded(bound, this.remoteAddress)
      if (!session.destroyed) this.#abortStreams('client-gone')
      destroy(error, bound === null ? (code ?? (error && goawayCode(error))) : ENHANCE_YOUR_CALM)
    }
  }

  #onClosed(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#abortStreams('client-gone')
    this.#relay.wheel.disarm(this)
    this.#socket.destroy()
    this.#events.closed(this)
  }
}
