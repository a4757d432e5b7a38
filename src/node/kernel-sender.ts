import type net from 'node:net'
import { type LentFd, sendOn } from '../kernel/index.js'
import { descriptorOf, handleOf, isPlain, type SocketHandle, unwrittenBytes } from './socket-handle.js'

/** Hands bytes of one socket to the kernel, past Node's queue. */
export class KernelSender {
  readonly #socket: net.Socket
  #handle: SocketHandle | null = null
  #descriptor: LentFd | null = null

  constructor(socket: net.Socket) {
    this.#socket = socket
  }

  /**
   * Hands on `length` bytes of `first` from `offset`, and those of `more` behind them: call it only where nothing is in Node's queue.
   * Returns how many the kernel has taken; what it has not, or 0 for whatever reason, is for `socket.write()`, which says what is wrong.
   *
   * Node takes the handle away where it is closed, before anybody else can get its descriptor's number: so as long as the handle is
   * there the number is its own. (To ask for it costs a call into Node: 0.1 µs at each write.)
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
      return Math.max(0, sendOn(this.#descriptor, first, offset, length, more, moreOffset, moreLength))
    } catch {
      // Its peer has gone: the socket will hear of it.
      return 0
    }
  }
}

/**
 * Hands bytes to the kernel past Node's queue, which must be empty: all of them at once, or none (false: not now). For who
 * must say something on a connection whose writes are made natively by another (an HTTP/2 session): where `socket.write()` has
 * to wait for the kernel, its end is told to that other one, and Node aborts the process.
 */
export function sendPast(socket: net.Socket, bytes: Uint8Array): boolean {
  if (!isPlain(socket) || socket.writableLength > 0 || unwrittenBytes(socket) > 0) return false
  const sent = new KernelSender(socket).send(bytes, 0, bytes.length)
  if (sent > 0 && sent < bytes.length) socket.destroy()
  return sent === bytes.length
}
