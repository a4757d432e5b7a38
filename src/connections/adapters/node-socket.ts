import { channel } from 'node:diagnostics_channel'
import type net from 'node:net'
import { duplicateLent, type OwnedFd, socketOver } from '../../kernel/index.js'
import { countAsAccepted, socketOptionsOf } from '../../node/server-connections.js'
import { descriptorOf, isPlain, readBuffered, unwrittenBytes } from '../../node/socket-handle.js'
import type { Witness } from '../movable.js'
import { PendingSet } from './pending-set.js'

const NOTHING = Buffer.alloc(0)
/** Node's own, for connections that a server accepts. */
const accepted = channel('net.server.socket')

/** A plain TCP or Unix connection, open on our side, with nothing left to write. (A decoder may hold half a character, which it does not give back.) */
export function canLeave(socket: net.Socket): boolean {
  if (socket.readableEncoding !== null) return false
  if (socket.destroyed || socket.connecting || !socket.writable || socket.writableLength > 0) return false
  return isPlain(socket) && descriptorOf(socket) !== null && unwrittenBytes(socket) === 0
}

/** A descriptor of a connection that {@link canLeave}, which goes on until {@link abandon}. Null: no descriptor is left at the moment. */
export function connectionOf(socket: net.Socket): OwnedFd | null {
  try {
    return duplicateLent(descriptorOf(socket)!, 'connection')
  } catch {
    return null
  }
}

/** Gives up a connection unnoticed by its peer; 'close' follows. Returns the bytes that were read from the kernel and not from the socket. */
export function abandon(socket: net.Socket): Buffer {
  let unread: Buffer = NOTHING
  if (socket.readableLength > 0) {
    // read() emits 'data' too: a listener would take the bytes that travel.
    socket.removeAllListeners('data').removeAllListeners('readable')
    unread = readBuffered(socket)
  }
  socket.destroy()
  return unread
}

/** Makes a socket as `server` would for a connection that it accepts. Takes the descriptor, and closes it when it throws. Reads nothing yet. */
export function reopened(fd: OwnedFd, server: net.Server): net.Socket {
  const options = { ...socketOptionsOf(server), manualStart: true }
  const socket = socketOver(fd, options)
  countAsAccepted(server, socket)
  return socket
}

export function witnessOf(socket: net.Socket): Witness {
  return {
    get asked() {
      return socket.bytesRead > 0
    },
    get answered() {
      return socket.bytesWritten > 0
    },
  }
}

/** Publishes as Node does for accepted connections: a program that watches servers sees a connection that has come. */
export function publish(socket: net.Socket): void {
  if (accepted.hasSubscribers) accepted.publish({ socket })
}

/** The connections of a server. It does not listen to them before they are asked for one by one, to leave. */
export class OpenSockets implements Iterable<net.Socket> {
  readonly #came = new PendingSet<net.Socket>(socket => socket.closed)
  #watched: Set<net.Socket> | null = null
  #emptied: (() => void)[] = []
  /** One for all of them. */
  readonly #closed: (this: net.Socket) => void

  constructor() {
    const open = this
    this.#closed = function () {
      open.remove(this)
    }
  }

  get size(): number {
    return this.#all().size
  }

  has(socket: net.Socket): boolean {
    return this.#watch().has(socket)
  }

  [Symbol.iterator](): IterableIterator<net.Socket> {
    return this.#all().values()
  }

  /** Counted until it closes, or is {@link remove}d. */
  readonly add = (socket: net.Socket): void => {
    if (this.#watched === null) {
      this.#came.add(socket)
      return
    }
    if (this.#watched.has(socket)) return
    this.#watched.add(socket)
    socket.on('close', this.#closed)
  }

  /** Its connection goes on elsewhere. */
  remove(socket: net.Socket): void {
    const sockets = this.#watch()
    if (!sockets.delete(socket) || sockets.size > 0) return
    const emptied = this.#emptied
    this.#emptied = []
    for (const resolve of emptied) resolve()
  }

  emptied(): Promise<void> {
    return this.#watch().size === 0 ? Promise.resolve() : new Promise(resolve => this.#emptied.push(resolve))
  }

  #all(): Set<net.Socket> {
    return this.#watched ?? new Set(this.#came.all())
  }

  #watch(): Set<net.Socket> {
    if (this.#watched !== null) return this.#watched
    this.#watched = this.#all()
    this.#came.clear()
    for (const socket of this.#watched) socket.on('close', this.#closed)
    return this.#watched
  }
}
