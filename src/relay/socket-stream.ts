import type net from 'node:net'
import type { LentFd } from '../adapter.js'
import { KernelSender } from '../node/kernel-sender.js'
import {
  addressOf,
  descriptorOf,
  isPlain,
  readBuffered,
  reset,
  SOCKET_HANDLE,
  stopReading,
  unwrittenBytes,
} from '../node/socket-handle.js'
import type { ByteStream, BytesOrText, DetachedStream, StreamOwner, Tally } from './byte-stream.js'
import { concat, joinCopies, NO_BYTES, READ_BYTES, toBuffer } from './bytes.js'

const STREAM = Symbol('stream')

type StreamSocket = net.Socket & { [STREAM]?: SocketStream }

interface SocketInput {
  /** Default: true. */
  reading?: boolean
  /** Default: the address that the socket reports. */
  remoteAddress?: string
}

/**
 * A {@link ByteStream} over a socket, which the stream owns. Without TLS it sends directly to the kernel as many bytes as the kernel accepts at once.
 * The socket gets the rest in one write; later writes wait in the stream, which therefore knows exactly which bytes are unsent.
 */
export class SocketStream implements ByteStream {
  owner: StreamOwner | null
  since = 0
  readonly #socket: StreamSocket
  readonly #tally: Tally
  /** Bytes to write to the socket after {@link #current}; null if no bytes are unsent. */
  #queue: Buffer[] | null = null
  /** The bytes of the socket's write in progress. */
  #current: Buffer | null = null
  #flushed: (() => void) | null = null
  /** How many bytes were sent directly to the kernel. */
  #bypassedBytes = 0
  /** Null with TLS. */
  readonly #sender: KernelSender | null
  #connecting: boolean
  /** The last read filled its buffer, so the kernel may have more bytes. */
  #moreToRead = false
  #reading: boolean
  #ended = false
  #peerEnded = false
  #closed = false
  #error: Error | null = null
  #remoteAddress: string | undefined

  /** Nothing may have been read from the socket, and it must not have other listeners. `tally` counts the stream while it is open. */
  constructor(socket: net.Socket, owner: StreamOwner, tally: Tally, input: SocketInput = {}) {
    this.#socket = socket
    this.#sender = isPlain(socket) ? new KernelSender(socket) : null
    this.#tally = tally
    this.owner = owner
    tally.open++
    socket.allowHalfOpen = true
    this.#connecting = socket.connecting
    if (socket.connecting) {
      this.#queue = []
      socket.once('connect', onConnect)
    }
    this.#socket[STREAM] = this
    socket.on('error', onError)
    socket.on('close', onClose)
    socket.on('end', onEnd)
    this.#reading = input.reading ?? true
    this.#remoteAddress = input.remoteAddress
    if (!this.#reading) socket.pause()
    socket.on('data', onData)
  }

  get connecting(): boolean {
    return this.#connecting
  }

  get congested(): boolean {
    return this.#queue !== null
  }

  get unsentBytes(): number {
    if (this.#queue === null) return 0
    let bytes = this.#current === null ? 0 : unwrittenBytes(this.#socket)
    for (const piece of this.#queue) bytes += piece.length
    return bytes
  }

  get alive(): boolean {
    return !this.#socket.destroyed
  }

  get reusable(): boolean {
    return this.#queue === null && !this.#moreToRead && !this.#ended && !this.#peerEnded && this.alive
  }

  get movable(): boolean {
    return this.#sender !== null && SOCKET_HANDLE.works
  }

  get descriptor(): LentFd {
    return descriptorOf(this.#socket)!
  }

  get bytesRead(): number {
    return this.#socket.bytesRead
  }

  get bytesWritten(): number {
    return this.#bypassedBytes + this.#socket.bytesWritten
  }

  get remoteAddress(): string {
    this.#remoteAddress ??= addressOf(this.#socket)
    return this.#remoteAddress
  }

  write(
    bytes: BytesOrText,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NO_BYTES,
    moreFrom = 0,
    moreTo: number = more.length,
  ): void {
    const length = to - from
    const size = length + moreTo - moreFrom
    if (size === 0) return
    const first = typeof bytes === 'string' ? toBuffer(bytes) : bytes
    if (this.#queue !== null) {
      this.#queue.push(joinCopies(first, from, to, more, moreFrom, moreTo))
      return
    }
    let sent = 0
    if (this.#sender !== null && !this.#ended) {
      sent = this.#sender.send(first, from, length, more, moreFrom, moreTo - moreFrom)
      this.#bypassedBytes += sent
      if (sent === size) return
    }
    this.#writeToSocket(joinCopies(first, from, to, more, moreFrom, moreTo, sent))
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
    if (this.#queue === null) this.#socket.end()
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
    const queue = this.#queue ?? []
    this.#queue = []
    return queue
  }

  detach(): DetachedStream {
    const socket = this.#socket
    stopReading(socket)
    this.#markClosed()
    socket.removeListener('data', onData)
    const unread = readBuffered(socket)
    socket.removeListener('close', onClose)
    socket.removeListener('end', onEnd)
    const unsent = this.#unsent()
    // Not end(): FIN would end the connection for the process that has the dup, too.
    socket.destroy()
    return { unread, unsent, ended: this.#ended }
  }

  #unsent(): Buffer {
    if (this.#queue === null) return NO_BYTES
    if (this.#current === null) return concat(this.#queue)
    const unwritten = this.#current.length - unwrittenBytes(this.#socket)
    return concat([this.#current.subarray(unwritten), ...this.#queue])
  }

  /** The caller must not change `bytes` afterwards. */
  #writeToSocket(bytes: Buffer): void {
    const socket = this.#socket
    socket.write(bytes)
    if (socket.writableLength === 0) return
    this.#current = bytes
    this.#queue = []
    // Node calls back after this empty write, so when the kernel has accepted all earlier bytes.
    socket.write(NO_BYTES, (this.#flushed ??= () => this.#onFlushed()))
  }

  #onFlushed(): void {
    const queue = this.#queue
    if (this.#closed || queue === null || this.#socket.destroyed) return
    this.#current = null
    this.#queue = null
    if (queue.length > 0) this.#writeToSocket(queue.length === 1 ? queue[0]! : concat(queue))
    if (this.#queue !== null) return
    if (this.#ended) this.#socket.end()
    this.owner?.onDrain(this)
  }

  #markClosed(): void {
    this.owner = null
    if (this.#closed) return
    this.#closed = true
    this.#tally.open--
  }

  onConnected(): void {
    if (this.#closed) return
    this.#connecting = false
    this.owner?.onOpen(this)
    this.#onFlushed()
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
