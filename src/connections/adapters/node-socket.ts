import { channel } from 'node:diagnostics_channel'
import type net from 'node:net'
import { duplicateLent, isShortage, type OwnedFd, socketOver } from '../../kernel/index.js'
import { countAsAccepted, socketOptionsOf } from '../../node/server-connections.js'
import { descriptorOf, isPlain, readBuffered, unwrittenBytes } from '../../node/socket-handle.js'
import { type Arrival, NotRestored, type Witness } from '../movable.js'

const NOTHING = Buffer.alloc(0)
/** Node's own channel for connections that a server accepts. */
const accepted = channel('net.server.socket')

/** Whether this is a plain TCP or Unix connection that this side has not ended, and all written bytes have been sent. */
export function canLeave(socket: net.Socket): boolean {
  // The decoder of the socket may hold half a character, which cannot be read back from it.
  if (socket.readableEncoding !== null) return false
  if (socket.destroyed || socket.connecting || !socket.writable || socket.writableLength > 0) return false
  return isPlain(socket) && descriptorOf(socket) !== null && unwrittenBytes(socket) === 0
}

/** Duplicates the descriptor of a connection. The socket stays usable until {@link abandon}. Returns null if the socket has no descriptor any more, or the process has reached its limit of open files. */
export function connectionOf(socket: net.Socket): OwnedFd | null {
  const descriptor = descriptorOf(socket)
  if (descriptor === null) return null
  try {
    return duplicateLent(descriptor, 'connection')
  } catch (error) {
    if (isShortage(error)) return null
    throw error
  }
}

/** Closes the socket without closing the connection; 'close' follows. Returns the bytes that Node has read and the application has not. */
export function abandon(socket: net.Socket): Buffer {
  const unread = takeUnread(socket)
  socket.destroy()
  return unread
}

/** Returns the bytes that Node has read and the application has not, which it does not get any more. */
export function takeUnread(socket: net.Socket): Buffer {
  if (socket.readableLength === 0) return NOTHING
  // read() also emits 'data': a listener would consume the bytes.
  socket.removeAllListeners('data').removeAllListeners('readable')
  return readBuffered(socket)
}

/** The part of an `HttpCarrier` that a failed restore needs. */
interface Carrying {
  canLeaveUnread(socket: net.Socket, ready: () => void): boolean
  duplicate(socket: net.Socket): OwnedFd | null
  abandon(socket: net.Socket): void
}

/** Takes a moved connection, whose hook has thrown, out of this process. Returns the error for {@link MovableConnections.arrive}; the connection is closed if it cannot leave, or if the hook has written to it. */
export function notRestored(
  socket: net.Socket,
  how: Arrival,
  cause: unknown,
  { failed, open }: { failed(error: unknown): void; readonly open: { remove(socket: net.Socket): void } },
  by: Carrying,
): unknown {
  if (how === 'moved') failed(cause)
  open.remove(socket)
  const isAsBefore = how === 'moved' && socket.bytesWritten === 0 && by.canLeaveUnread(socket, () => {})
  const fd = isAsBefore ? by.duplicate(socket) : null
  by.abandon(socket)
  return fd === null ? cause : new NotRestored(fd, cause)
}

/** Makes a socket as `server` does for accepted connections, without reading yet. Takes ownership of the descriptor, even if it throws. */
export function openSocket(fd: OwnedFd, server: net.Server): net.Socket {
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

/** Publishes the socket as Node does for accepted connections, for programs that subscribe to them. */
export function publish(socket: net.Socket): void {
  if (accepted.hasSubscribers) accepted.publish({ socket })
}
