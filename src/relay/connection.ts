import { type LentFd, MAX_RECORD_BYTES, type MoveWhich } from '../adapter.js'
import type { RequestHead, RequestReader } from '../http1/index.js'
import { ackedBytes } from '../kernel/index.js'
import type { ByteStream, Passage, StreamOwner } from './byte-stream.js'
import { copyRange } from './bytes.js'
import type { WatchedClient } from './client-watch.js'
import { type ClosedKind, type ConnectionKind, closedKind } from './counts.js'
import type { Forward } from './decision.js'
import type { ClientOrigin } from './destination.js'
import { Exchange } from './exchange.js'
import { ExchangeFacts, type ExchangeSide, type ServerEnd } from './exchange-facts.js'
import { type RelayContext, refusalOf } from './relay-context.js'
import type { Timed } from './timer-wheel.js'

/** A connection whose server does not accept within this time may move while the relay dials; the next process then dials again. */
export const DIALLING_MS = 100
/** How long a connection whose move has waited for the end of an exchange starts no further one, so that it can leave, in milliseconds. */
const REST_MS = 100
/** The begin of the preface of HTTP/2 (RFC 9113, 3.4), as far as a reader of HTTP/1 comes. */
const PREFACE = Buffer.from('PRI * HTTP/2', 'latin1')
/** A connection with more held bytes does not move: the record must also have room for incomplete heads. */
const MAX_MOVED_BYTES = MAX_RECORD_BYTES / 2

/**
 * A client's connection. Handles one request at a time in an {@link Exchange}. Holds pipelined bytes up to a limit, then stops reading. Moves to
 * another process as a {@link ConnectionRecord}.
 */
export class RelayConnection implements StreamOwner, Timed, ExchangeSide, WatchedClient {
  readonly client: ByteStream
  readonly origin: ClientOrigin
  readonly trusted: boolean
  readonly server: ServerEnd | null
  exchange: Exchange | null = null
  /** The relay has sent the last response and FIN. The relay discards further bytes until the client sends FIN too. */
  closing = false
  clientEnded = false
  /** The connection does not move any more: the serving process refused it, or this process is ending it. */
  pinned = false
  /** When the relay deferred the move of this connection, in milliseconds of `performance.now()`; 0: not deferred. */
  moveDeferredAt = 0
  /** Bytes of further requests, which arrived during the current exchange or while the client was congested. */
  held: Buffer | null = null
  requestReader: RequestReader | null = null
  deadline = 0
  tick = -1
  /** When the relay stops to read the rest of a body after the last response, in milliseconds of {@link TimerWheel.now}; Infinity: the request is complete. */
  #uploadUntil = Number.POSITIVE_INFINITY
  #detached = false
  /** How many bytes the congested client had acknowledged at the last deadline, see {@link #peersProgress}; 0 if it was not congested. */
  #clientAcked = 0
  /** As {@link #clientAcked}, for the server. */
  #serverAcked = 0
  /** {@link ClientWatch} polls the client, because the relay does not read from the client during this exchange. */
  #watched = false
  /** Runs while the connection starts no exchange, see {@link REST_MS}. */
  #rest: NodeJS.Timeout | undefined
  readonly #relay: RelayContext

  constructor(relay: RelayContext, client: ByteStream, origin: ClientOrigin, server: ServerEnd | null) {
    this.#relay = relay
    this.client = client
    this.origin = origin
    this.server = server
    this.trusted = relay.trusts?.(client.remoteAddress) ?? false
    client.owner = this
  }

  get kind(): ConnectionKind {
    if (this.exchange !== null) return this.exchange.kind
    if (this.closing) return 'closing'
    return this.requestReader === null && this.held === null ? 'idle' : 'head'
  }

  get hasHeld(): boolean {
    return this.held !== null
  }

  get isLast(): boolean {
    return this.clientEnded && this.held === null
  }

  /** Pipelined bytes, and bytes that a congested peer has not accepted. */
  get heldBytes(): number {
    const upstream = this.exchange?.upstream?.unsentBytes ?? 0
    return (this.held?.length ?? 0) + this.client.unsentBytes + upstream
  }

  get movable(): boolean {
    return !this.pinned && this.client.movable
  }

  get closedKind(): ClosedKind {
    return closedKind(this.kind, this.origin.scheme, this.stays ?? (this.pinned ? 'refused' : null))
  }

  /** Reports whether the connection may move now. {@link exportConnection} can still fail, because a stream has just closed. */
  mayMove(which: MoveWhich): boolean {
    const upstream = this.exchange?.upstream ?? null
    if (this.exchange !== null && (which === 'idle' || this.#isHeldByServer())) return false
    const { moveDeferredAt } = this
    if (upstream?.connecting && (moveDeferredAt === 0 || performance.now() - moveDeferredAt < DIALLING_MS))
      return false
    return this.heldBytes <= MAX_MOVED_BYTES && this.client.mayMove(this.#relay.leaving!.onMovable)
  }

  /** The reason why the connection cannot move now, or null. */
  get stays(): string | null {
    const isHeld = this.#relay.leaving !== null && this.exchange?.upstream?.tlsId !== undefined
    return this.client.stays ?? (isHeld ? 'server-tls' : null)
  }

  /** The connection to the server cannot move, so this one moves after the exchange; or the request has not passed its authorization, and moves then. */
  #isHeldByServer(): boolean {
    return this.exchange?.upstream?.movable === false || this.exchange?.isAsking === true
  }

  get receivedNothing(): boolean {
    return this.client.bytesRead === 0
  }

  closeIdle(): void {
    if (this.kind === 'idle') this.#close()
  }

  /** Ends the connection as its protocol requires (see {@link Exchange.end}), because the drain's time limit has passed. The relay calls {@link giveUp} later. */
  end(lastEvent: string): void {
    this.pinned = true
    if (this.exchange !== null) this.exchange.end(lastEvent)
    else if (this.kind === 'idle') this.#close()
    else if (!this.closing) this.#refuse(503, 'drained')
    this.settle()
  }

  /** If the client waits for a response, sends 503; otherwise closes the connection. */
  giveUp(): void {
    if (this.exchange?.facts.phase === 'waiting') this.exchange.fail(503, 'drained')
    else if (this.exchange?.tunnelEnded) this.#dismiss('drained')
    else this.abort('drained')
    this.settle()
  }

  /** Closes the connection: with RST if bytes are unsent, because the client could take FIN for the end of a response. */
  #dismiss(reason: string): void {
    if (this.#detached) return
    if (this.client.congested) this.client.reset()
    else this.client.destroy()
    this.#cancel(reason)
  }

  abort(reason: string): void {
    if (this.#detached) return
    if (this.exchange === null) {
      this.#dismiss(reason)
      return
    }
    this.client.reset()
    this.#cancel(reason)
  }

  onOpen(): void {}

  onData(_client: ByteStream, chunk: Buffer, to: number): void {
    // Not contain(), which would make a function for each read.
    try {
      this.#receive(chunk, to)
    } catch (error) {
      this.failed(error)
    }
  }

  passage(): Passage | null {
    if (this.#detached || this.closing || this.held !== null) return null
    return this.exchange?.passageFromClient() ?? null
  }

  onPassed(_client: ByteStream, bytes: number): void {
    this.contain(() => {
      this.exchange!.passedFromClient(bytes)
      this.arm()
      this.settle()
    })
  }

  contain(act: () => void): void {
    try {
      act()
    } catch (error) {
      this.failed(error)
    }
  }

  failed(error: unknown): void {
    this.#relay.onFault?.(error)
    this.abort('internal')
  }

  #receive(chunk: Buffer, to: number): void {
    if (this.#detached) return
    if (this.closing) {
      if (this.#uploadUntil < Number.POSITIVE_INFINITY) this.arm()
      return
    }
    if (this.exchange !== null) {
      const consumed = this.exchange.fromClient(chunk, to)
      if (consumed > 0) this.arm()
      if (consumed < to) this.#hold(chunk, consumed, to)
    } else if (this.held === null && this.#rest === undefined) this.#readRequests(chunk, to)
    else this.#hold(chunk, 0, to)
    this.settle()
  }

  onDrain(): void {
    this.contain(() => {
      this.arm()
      this.settle()
    })
  }

  onEnd(): void {
    if (this.clientEnded) return
    this.clientEnded = true
    this.contain(() => {
      this.exchange?.onClientEnd()
      this.settle()
    })
  }

  onClose(_client: ByteStream, error: Error | null): void {
    // The client and the relay have both sent FIN. The server must still get the client's last bytes.
    if (error === null && this.clientEnded && this.exchange?.facts.phase === 'tunnel') {
      this.pinned = true
      this.settle()
    } else this.#cancel('client-gone')
  }

  onDeadline(): void {
    this.contain(() => this.#passDeadline())
  }

  #passDeadline(): void {
    if (this.#peersProgress()) {
      this.arm()
      return
    }
    this.client.setLate?.(true)
    if (this.exchange !== null) this.exchange.onDeadline()
    else if (this.closing || this.client.congested) this.abort('client-stalled')
    else if (this.requestReader === null) this.#close()
    else this.#refuse(408, 'head-timeout')
    this.client.setLate?.(false)
    this.settle()
  }

  /**
   * Reports whether a congested peer has acknowledged bytes since the last deadline. A successful write does not show this, because the kernel
   * buffers megabytes. At the first deadline all bytes acknowledged so far count; a stalled peer is cut off at the second.
   */
  #peersProgress(): boolean {
    if (this.exchange?.overdue) return false
    const client = ackedOf(this.client)
    const server = ackedOf(this.exchange?.upstream ?? null)
    const clientMoved = client !== 0 && client !== this.#clientAcked
    const serverMoved = server !== 0 && server !== this.#serverAcked
    this.#clientAcked = client
    this.#serverAcked = server
    return clientMoved || serverMoved
  }

  forwardTcp(route: Forward): void {
    this.#startExchange().forwardTcp(route)
    this.settle()
  }

  /** Reads requests from `chunk[0, to)` until a request must wait for its response, or the client is congested. `isHeld`: `chunk` was {@link held}. */
  #readRequests(chunk: Buffer, to: number, isHeld = false): void {
    let at = 0
    while (at < to && this.exchange === null && !this.closing && !this.client.congested) {
      at = this.#readRequest(chunk, at, to)
    }
    if (at === to) return
    // Not a copy: copying the held bytes again after each request would take quadratic time.
    if (isHeld && !this.closing) this.held = chunk.subarray(at, to)
    else this.#hold(chunk, at, to)
  }

  #readRequest(chunk: Buffer, at: number, to: number): number {
    const relay = this.#relay
    const reader = this.requestReader ?? relay.readers.acquireRequest()
    let head: RequestHead | null
    try {
      head = reader.read(chunk, at, to)
    } catch (error) {
      if (relay.takeHttp2 !== null && this.#leaveToHttp2(relay.takeHttp2, reader, chunk.subarray(at, to)))
        return to
      const { status, reason } = refusalOf(error, relay)
      this.#refuse(status, reason)
      return to
    }
    if (head === null) {
      if (this.requestReader === null) {
        this.requestReader = reader
        this.arm()
      }
      return to
    }
    this.requestReader = null
    relay.readers.releaseRequest(reader)
    return this.#startExchange(head).startRequest(head, chunk, at + reader.consumed, to)
  }

  /** Reports whether the refused bytes are the preface of HTTP/2, and another connection has taken over. */
  #leaveToHttp2(
    take: NonNullable<RelayContext['takeHttp2']>,
    { pending }: RequestReader,
    last: Buffer,
  ): boolean {
    // The reader keeps the last bytes too, if others came before.
    const early = pending.length === 0 ? last : pending
    // Bytes that came with a PROXY header do not count as read.
    if (this.client.bytesRead > early.length || !early.subarray(0, PREFACE.length).equals(PREFACE))
      return false
    return take(this, early)
  }

  #startExchange(head?: RequestHead): Exchange {
    const exchange = new Exchange(this.#relay, this, new ExchangeFacts(head))
    this.exchange = exchange
    return exchange
  }

  #hold(chunk: Buffer, from: number, to: number): void {
    if (this.closing) return
    this.held =
      this.held === null ? copyRange(chunk, from, to) : Buffer.concat([this.held, chunk.subarray(from, to)])
  }

  takeHeld(): Buffer | null {
    const { held } = this
    this.held = null
    return held
  }

  #refuse(status: number, reason: string): void {
    this.requestReader = null
    this.#startExchange().fail(status, reason)
  }

  onFinished(close: boolean, isUploading: boolean, wasHeld: boolean): void {
    this.exchange = null
    if (wasHeld && !close && this.moveDeferredAt > 0) this.#startRest()
    if (!this.client.alive) this.#cancel('client-gone')
    else if (close) this.#close(isUploading)
    else this.arm()
  }

  #startRest(): void {
    const { leaving } = this.#relay
    if (leaving === null || this.pinned || leaving.onMovable() === false) return
    this.#rest = setTimeout(() => {
      this.#endRest()
      this.contain(() => this.settle())
    }, REST_MS).unref()
  }

  #endRest(): void {
    clearTimeout(this.#rest)
    this.#rest = undefined
  }

  settle(): void {
    if (this.#detached) return
    if (this.exchange === null && !this.closing && this.#rest === undefined) this.#startNext()
    const { client, exchange } = this
    const reading = this.closing || (exchange?.wantsBytes ?? this.#mayReadAhead())
    client.setReading(reading)
    this.#setWatched(!reading && exchange !== null)
    exchange?.upstream?.setReading(!client.congested)
    if (this.moveDeferredAt > 0) this.#notifyMovable()
  }

  #setWatched(unread: boolean): void {
    if (unread === this.#watched) return
    this.#watched = unread
    if (unread) this.#relay.watch.add(this)
    else this.#relay.watch.remove(this)
  }

  get descriptor(): LentFd | null {
    return this.client.alive ? this.client.descriptor : null
  }

  onHangup(how: 'ended' | 'broken'): void {
    // The server must still get the bytes that the client sent before FIN.
    if (how === 'ended' && (this.exchange?.facts.phase === 'tunnel' || !this.#relay.abortHalfClosed)) return
    this.abort('client-gone')
  }

  #notifyMovable(): void {
    const { leaving } = this.#relay
    if (leaving === null || (leaving.which === 'idle' && this.exchange !== null) || this.#isHeldByServer())
      return
    this.moveDeferredAt = 0
    leaving.onMovable()
  }

  #startNext(): void {
    if (this.held !== null && !this.client.congested) {
      const held = this.takeHeld()!
      this.#readRequests(held, held.length, true)
    }
    if (this.exchange === null && !this.closing && this.isLast) this.#close()
  }

  #mayReadAhead(): boolean {
    if (this.#rest !== undefined || (this.exchange === null && this.client.congested)) return false
    return this.held === null || this.held.length < this.#relay.limits.pipelinedBytes
  }

  arm(): void {
    if (this.#detached) return
    this.#relay.wheel.arm(this, this.#timeoutMs())
  }

  #timeoutMs(): number {
    const { timeouts } = this.#relay
    if (this.exchange !== null) return this.exchange.timeoutMs
    if (this.client.congested) return timeouts.stall
    if (this.closing) return this.#lingerMs
    return this.requestReader === null ? timeouts.idle : timeouts.head
  }

  /** How long the relay still reads the rest of a body after the last response; Infinity: the client has sent its whole request. */
  get uploadMs(): number {
    return this.#uploadUntil - this.#relay.wheel.now
  }

  set uploadMs(ms: number) {
    // Arms the wheel before `now` is read: its clock stands while no deadline is armed.
    this.#relay.wheel.arm(this, ms)
    this.#uploadUntil = this.#relay.wheel.now + ms
  }

  get #lingerMs(): number {
    const { linger, upload } = this.#relay.timeouts
    return this.#uploadUntil === Number.POSITIVE_INFINITY
      ? linger
      : Math.max(0, Math.min(upload, this.uploadMs))
  }

  /** Sends FIN after the last response, and reads on for the `linger` or `upload` timeout: unread bytes at a close cause RST, which can destroy the response. */
  #close(isUploading = false): void {
    this.closing = true
    if (isUploading) this.uploadMs = this.#relay.timeouts.uploadTotal
    this.held = null
    this.requestReader = null
    this.client.end()
    this.arm()
  }

  #cancel(reason: string): void {
    if (this.#detached) return
    this.detach()
    this.exchange?.cancel(reason)
    this.exchange = null
    this.held = null
  }

  /** Removes the connection from the relay. Does not touch the streams: the caller has closed or detached them. */
  detach(): void {
    this.#detached = true
    this.#endRest()
    this.#setWatched(false)
    this.#relay.wheel.disarm(this)
    this.#relay.forget(this)
  }
}

/** Returns how many bytes the peer of a congested stream has acknowledged, and 0 for any other stream. */
function ackedOf(stream: ByteStream | null): number {
  if (stream === null || !stream.congested || stream.connecting || !stream.alive) return 0
  if (stream.acked !== undefined) return stream.acked
  return ackedBytes(stream.descriptor, stream.bytesWritten)
}
