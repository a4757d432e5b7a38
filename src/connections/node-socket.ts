import net from 'node:net'
import { OwnedFd } from '../fd/owned.js'

/**
 * What has to be known of the inside of a `net.Socket` and a `net.Server` to take a connection out of one and put it
 * into another. Same on Node 20 to 26; where something is missing, the connection cannot leave.
 */
interface SocketHandle {
  readonly fd?: number
  readonly writeQueueSize?: number
}

interface SocketInsides {
  _handle: SocketHandle | null
  _server: net.Server | null
  server: net.Server
}

interface ServerInsides {
  _connections?: number
  noDelay?: boolean
  keepAlive?: boolean
  /** Seconds. */
  keepAliveInitialDelay?: number
  allowHalfOpen?: boolean
  highWaterMark?: number
}

/** A plain TCP or Unix connection, open both ways on our side, of which nothing waits to be written. */
export function canLeave(socket: net.Socket): boolean {
  if (socket.destroyed || socket.connecting || !socket.writable || socket.writableLength > 0) return false
  if (Object.getPrototypeOf(socket) !== net.Socket.prototype) return false
  const handle = (socket as unknown as SocketInsides)._handle
  return handle !== null && (handle.fd ?? -1) >= 0 && handle.writeQueueSize === 0
}

/** A descriptor of a connection that {@link canLeave}. The socket goes on until {@link abandon}. Throws at the limit. */
export function connectionOf(socket: net.Socket): OwnedFd {
  return OwnedFd.duplicate((socket as unknown as SocketInsides)._handle!.fd!, 'connection')
}

/**
 * Lets go of a connection without its peer noticing, and without an error. The socket's 'close' follows. Returns what
 * was read from the kernel and by nobody from the socket.
 */
export function abandon(socket: net.Socket): Buffer {
  const chunks: Buffer[] = []
  if (socket.readableLength > 0) {
    // read() emits 'data' too: whoever listens would take for himself what is to travel.
    socket.removeAllListeners('data').removeAllListeners('readable')
    for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) chunks.push(chunk as Buffer)
  }
  socket.destroy()
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
}

/**
 * Makes a socket as `server` would make one of a connection that it accepts, and counts it as accepted. Takes the
 * descriptor, and closes it when it throws. Nothing is read before somebody wants it.
 */
export function reopened(fd: OwnedFd, server: net.Server): net.Socket {
  const inside = server as unknown as ServerInsides
  let socket: net.Socket
  try {
    const { allowHalfOpen = false, highWaterMark } = inside
    const sizes = highWaterMark && {
      readableHighWaterMark: highWaterMark,
      writableHighWaterMark: highWaterMark,
    }
    const options = { fd: fd.raw, allowHalfOpen, readable: true, writable: true, manualStart: true, ...sizes }
    socket = new net.Socket(options)
  } catch (error) {
    fd.close()
    throw error
  }
  fd.release()
  if (inside.noDelay) socket.setNoDelay(true)
  if (inside.keepAlive) socket.setKeepAlive(true, (inside.keepAliveInitialDelay ?? 0) * 1000)
  const own = socket as unknown as SocketInsides
  own.server = server
  if (typeof inside._connections === 'number') {
    inside._connections++
    own._server = server
  }
  return socket
}
