import { channel } from 'node:diagnostics_channel'
import type net from 'node:net'
import { OwnedFd, socketOver } from '../kernel/index.js'
import type { Witness } from '../moving/movable.js'
import { descriptorOf, isPlain, readBuffered, unwrittenBytes } from './socket-handle.js'

const NOTHING = Buffer.alloc(0)
/** Node's own, for connections that a server accepts. */
const accepted = channel('net.server.socket')

/** What a `net.Server` keeps of its options and its connections, under these names on Node 20 to 26. */
interface ServerInsides {
  _connections: number
  noDelay?: boolean
  keepAlive?: boolean
  /** Seconds. */
  keepAliveInitialDelay?: number
  allowHalfOpen?: boolean
  highWaterMark?: number
}

/**
 * A plain TCP or Unix connection, open both ways on our side, of which nothing waits to be written. (Where it was given an
 * encoding, half a character may be in a decoder, which does not give it back.)
 */
export function canLeave(socket: net.Socket): boolean {
  if (socket.readableEncoding !== null) return false
  if (socket.destroyed || socket.connecting || !socket.writable || socket.writableLength > 0) return false
  return isPlain(socket) && descriptorOf(socket) >= 0 && unwrittenBytes(socket) === 0
}

/**
 * A descriptor of a connection that {@link canLeave}. The socket goes on until {@link abandon}. Null: this process may not
 * have one more now; those of connections that have gone are closed soon.
 */
export function connectionOf(socket: net.Socket): OwnedFd | null {
  try {
    return OwnedFd.duplicate(descriptorOf(socket), 'connection')
  } catch {
    return null
  }
}

/**
 * Lets go of a connection without its peer noticing, and without an error. The socket's 'close' follows. Returns what
 * was read from the kernel and by nobody from the socket.
 */
export function abandon(socket: net.Socket): Buffer {
  let unread: Buffer = NOTHING
  if (socket.readableLength > 0) {
    // read() emits 'data' too: whoever listens would take for himself what is to travel.
    socket.removeAllListeners('data').removeAllListeners('readable')
    unread = readBuffered(socket)
  }
  socket.destroy()
  return unread
}

/**
 * Makes a socket as `server` would make one of a connection that it accepts, and counts it as accepted. Takes the
 * descriptor, and closes it when it throws. Nothing is read before somebody wants it.
 */
export function reopened(fd: OwnedFd, server: net.Server): net.Socket {
  const inside = server as unknown as ServerInsides
  const { allowHalfOpen = false, highWaterMark } = inside
  const sizes = highWaterMark && {
    readableHighWaterMark: highWaterMark,
    writableHighWaterMark: highWaterMark,
  }
  const options = { allowHalfOpen, readable: true, writable: true, manualStart: true, ...sizes }
  const socket = socketOver(fd, options)
  if (inside.noDelay) socket.setNoDelay(true)
  if (inside.keepAlive) socket.setKeepAlive(true, (inside.keepAliveInitialDelay ?? 0) * 1000)
  // As for those that it accepts; it counts down when the socket closes.
  inside._connections++
  Object.assign(socket, { server, _server: server })
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

/** As Node does with those that it accepts: whoever watches servers from outside sees a connection that has come. */
export function publish(socket: net.Socket): void {
  if (accepted.hasSubscribers) accepted.publish({ socket })
}
