import type net from 'node:net'
import type { LentFd } from '../adapter.js'
import {
  descriptorOf,
  isSilent,
  readBuffered,
  remoteAddressOf,
  remotePortOf,
  reset,
} from '../node/socket-handle.js'
import { unsentBytes } from '../node/unsent-bytes.js'
import type { TlsCarrier } from '../tls13/tls-carrier.js'
import { isMovedTls } from '../tls13/tls-socket.js'
import type { ByteStream, BytesOrText, DetachedStream, StreamOwner, Tally } from './byte-stream.js'
import { concat, joinCopies, NO_BYTES, READ_BYTES, toBuffer } from './bytes.js'

const STREAM = Symbol('stream')

/** How long a stream keeps its owner from writing more, so that it can move with everything sent, in milliseconds. */
const HOLD_MS = 100

type StreamSocket = net.Socket & { [STREAM]?: SocketStream }

/** A {@link ByteStream} over a socket of Node, which the stream owns: for TLS, and where no {@link PolledStream} is possible. Moves to another process only with a carrier of its TLS. */
export class SocketStream implements ByteStream {
  owner: StreamOwner | null
  since = 0
  readonly #socket: StreamSocket
  readonly #tally: Tally
  readonly #carrier: TlsCarrier | null
  readonly tlsId: string | undefined
  /** Bytes to write when the connection is established; null afterwards. */
  #queue: Buffer[] | null
  #connecting: boolean
  #congested: boolean
  #written: (() => void) | null = null
  /** The last read filled its buffer, so the kernel may have more bytes. */
  #moreToRead = false
  #reading = true
  #ended = false
  #peerEnded = false
  #closed = false
  #error: Error | null = null
  #remoteAddress: string | undefined
  /** Called when everything that was written is sent, because the stream would move then. */
  #onSent: (() => void) | null = null
  #hold: NodeJS.Timeout | undefined

  /**
   * Nothing may have been read from the socket, and it must not have other listeners. `tally` counts the stream while it is open. `tlsId`: the socket
   * connects to a server with TLS, see {@link ByteStream.tlsId}.
   */
  constructor(
    socket: net.Socket,
    owner: StreamOwner,
    tally: Tally,
    carrier: TlsCarrier | null = null,
    tlsId?: string,
  ) {
    this.#socket = socket
    this.#carrier = carrier
    this.tlsId = tlsId
    this.#tally = tally
    this.owner = owner
    tally.open++
    socket.allowHalfOpen = true
    this.#connecting = socket.connecting
    this.#congested = socket.connecting
    this.#queue = socket.connecting ? [] : null
    // Nothing is sent to a server that is not verified.
    if (socket.connecting) socket.once(tlsId === undefined ? 'connect' : 'secureConnect', onConnect)
    this.#socket[STREAM] = this
    socket.on('error', onError)
    socket.on('close', onClose)
    socket.on('end', onEnd)
    socket.on('data', onData)
  }

  get connecting(): boolean {
    return this.#connecting
  }

  get congested(): boolean {
    return this.#congested
  }

  get unsentBytes(): number {
    let bytes = this.#socket.writableLength
    for (const piece of this.#queue ?? []) bytes += piece.length
    return bytes
  }

  get alive(): boolean {
    return !this.#socket.destroyed
  }

  get reusable(): boolean {
    return !this.#congested && !this.#moreToRead && !this.#ended && !this.#peerEnded && this.alive
  }

  get untouched(): boolean {
    return this.untouchedNow
  }

  get untouchedNow(): boolean {
    return this.reusable && isSilent(this.#socket)
  }

  get descriptor(): LentFd {
    const socket = this.#socket as net.Socket
    return descriptorOf(isMovedTls(socket) ? socket.below : socket)!
  }

  get bytesRead(): number {
    return this.#socket.bytesRead
  }

  get bytesWritten(): number {
    return this.#socket.bytesWritten
  }

  get remoteAddress(): string {
    this.#remoteAddress ??= remoteAddressOf(this.#socket)
    return this.#remoteAddress
  }

  get remotePort(): number {
    return remotePortOf(this.#socket)
  }

  write(
    bytes: BytesOrText,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NO_BYTES,
    moreFrom = 0,
    moreTo: number = more.length,
  ): void {
    if (to - from + moreTo - moreFrom === 0 || this.#ended) return
    const copy = joinCopies(toBuffer(bytes), from, to, more, moreFrom, moreTo)
    if (this.#queue === null) this.#writeToSocket(copy)
    else this.#queue.push(copy)
  }

  setReading(on: boolean): void {
    if (on === this.#reading) return
    this.#reading = on
    if (on) this.#socket.resume()
    else this.#socket.pause()
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    if (!this.#congested) this.#socket.end()
  }

  destroy(): void {
    this.#markClosed()
    this.#socket.destroy()
  }

  reset(): void {
    this.#markClosed()
    reset(this.#socket)
  }

  takeUnsent(): Buffer[] {
    return this.#queue?.splice(0) ?? []
  }

  get movable(): boolean {
    return this.#carrier?.carries(this.#socket) ?? false
  }

  get secure(): boolean {
    return this.#carrier !== null
  }

  get stays(): string | null {
    return this.#carrier?.reasonOf(this.#socket) ?? null
  }

  mayMove(ready: () => void): boolean {
    if (this.#carrier === null || this.#ended || this.#peerEnded) return false
    if (this.#carrier.canLeaveAmid(this.#socket, ready)) return true
    if (this.#congested) this.#onSent = ready
    return false
  }

  detach(): DetachedStream {
    const socket = this.#socket
    this.#markClosed()
    // read() emits 'data' too.
    socket.removeListener('data', onData)
    const unsent = unsentBytes(socket) ?? NO_BYTES
    const unread = readBuffered(socket)
    return { unread, unsent, ended: this.#ended, tls: this.#carrier!.take(socket) }
  }

  /** The caller must not change `bytes` afterwards. */
  #writeToSocket(bytes: Buffer): void {
    clearTimeout(this.#hold)
    this.#socket.write(bytes, (this.#written ??= () => this.#onWritten()))
    this.#congested = this.#socket.writableLength > 0
  }

  /** Called after each write that Node has given to the kernel, or that has failed. */
  #onWritten(): void {
    const socket = this.#socket
    if (this.#closed || !this.#congested || socket.writableLength > 0 || socket.destroyed) return
    const ready = this.#onSent
    this.#onSent = null
    if (ready === null || this.#ended) this.#drained()
    else {
      this.#hold = setTimeout(() => this.#drained(), HOLD_MS)
      ready()
    }
  }

  #drained(): void {
    if (this.#closed || this.#socket.destroyed) return
    this.#congested = false
    if (this.#ended) this.#socket.end()
    this.owner?.onDrain(this)
  }

  #markClosed(): void {
    this.owner = null
    clearTimeout(this.#hold)
    if (this.#closed) return
    this.#closed = true
    this.#tally.open--
  }

  onConnected(): void {
    if (this.#closed) return
    this.#connecting = false
    this.owner?.onOpen(this)
    const queue = this.takeUnsent()
    this.#queue = null
    if (queue.length > 0) this.#writeToSocket(concat(queue))
    this.#onWritten()
  }

  onReceived(chunk: Buffer): void {
    this.#moreToRead = chunk.length >= READ_BYTES
    this.owner?.onData(this, chunk, chunk.length)
  }

  onPeerEnded(): void {
    this.#peerEnded = true
    this.owner?.onEnd(this)
  }

  onSocketError(error: Error): void {
    this.#error ??= error
    // After an alert Node ends the readable side only: the owner would take that for FIN.
    this.#socket.destroy()
  }

  onSocketClose(): void {
    const owner = this.owner
    this.#markClosed()
    owner?.onClose(this, this.#error)
  }
}

// Shared listeners, so that a stream needs no closure.
function onConnect(this: StreamSocket): void {
  this[STREAM]!.onConnected()
}

function onData(this: StreamSocket, chunk: Buffer): void {
  this[STREAM]!.onReceived(chunk)
}

function onEnd(this: StreamSocket): void {
  this[STREAM]!.onPeerEnded()
}

function onError(this: StreamSocket, error: Error): void {
  this[STREAM]!.onSocketError(error)
}

function onClose(this: StreamSocket): void {
  this[STREAM]!.onSocketClose()
}
