import type net from 'node:net'
import { type LentFd, sendBytes } from '../kernel/index.js'
import { descriptorOf, handleOf, isPlain, type SocketHandle, unwrittenBytes } from './socket-handle.js'

/** Sends bytes of one socket directly to the kernel, bypassing Node's queue. */
export class KernelSender {
  readonly #socket: net.Socket
  #handle: SocketHandle | null = null
  #descriptor: LentFd | null = null

  constructor(socket: net.Socket) {
    this.#socket = socket
  }

  /**
   * Sends `length` bytes of `first` from `offset`, then those of `more`. Node's queue must be empty. Returns the number of bytes sent, 0 after an
   * error; the caller must give the remaining bytes to `socket.write()`, which reports the error.
   *
   * Caches the descriptor, because reading it costs 0.1 µs. Node removes the handle from a socket before another socket can get its number.
   */
  send(
    first: Uint8Array,
    offset: number,
    length: number,
    more?: Uint8Array,
    moreOffset?: number,
    moreLength?: number,
  ): number {
    const handle = handleOf(this.#socket)
    if (handle === null) return 0
    if (handle !== this.#handle || this.#descriptor === null) {
      this.#handle = handle
      this.#descriptor = descriptorOf(this.#socket)
    }
    if (this.#descriptor === null) return 0
    try {
      return Math.max(0, sendBytes(this.#descriptor, first, offset, length, more, moreOffset, moreLength))
    } catch {
      // The connection is broken. The socket will emit the error.
      return 0
    }
  }
}

/**
 * Sends bytes directly to the kernel, bypassing Node's queue. Returns false if the queue is not empty or the kernel has not taken all bytes; destroys
 * the socket if the kernel has taken a part of the bytes. Use it for a socket to which native code writes (an HTTP/2 session): a `socket.write()` that must wait for the kernel would make Node abort the process.
 */
export function sendBypassingQueue(socket: net.Socket, bytes: Uint8Array): boolean {
  if (!isPlain(socket) || socket.writableLength > 0 || unwrittenBytes(socket) > 0) return false
  const sent = new KernelSender(socket).send(bytes, 0, bytes.length)
  if (sent > 0 && sent < bytes.length) socket.destroy()
  return sent === bytes.length
}
