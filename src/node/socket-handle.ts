import net from 'node:net'
import { isLent, type LentFd, sendOn, socketOver, socketPair } from '../kernel/index.js'
import { internal } from './internal.js'

/** Same on Node 20 to 26: `_handle` is the libuv stream, of which `writeQueueSize` counts the bytes that the kernel has not taken. */
interface SocketHandle {
  reading: boolean
  readonly fd: LentFd
  readStop(): number
  readonly writeQueueSize: number
}

interface Insides {
  _handle: SocketHandle | null
}

const MORE_THAN_TAKEN = 1024 * 1024

function handleOf(socket: net.Socket): SocketHandle | null {
  return (socket as unknown as Insides)._handle
}

export const SOCKET_HANDLE = internal(
  'socket._handle with fd, reading, readStop, useUserBuffer and writeQueueSize',
  'connections do not move, they drain',
  () => {
    const [here, there] = socketPair('probe of a socket')
    const socket = socketOver(here, { manualStart: true } as net.SocketConstructorOpts)
    try {
      const handle = handleOf(socket)
      if (handle === null || typeof handle.readStop !== 'function' || descriptorOf(socket) === null)
        return false
      socket.read(0)
      if (!('useUserBuffer' in handle) || !handle.reading) return false
      const queued = () => handle.writeQueueSize
      if (queued() !== 0) return false
      // More than the kernel takes at once.
      socket.write(Buffer.alloc(MORE_THAN_TAKEN))
      return queued() > 0
    } finally {
      socket.destroy()
      there.close()
    }
  },
)

/** A TCP or Unix socket in the clear: its descriptor carries the bytes as they are. */
export function isPlain(socket: net.Socket): boolean {
  return Object.getPrototypeOf(socket) === net.Socket.prototype
}

/**
 * Closes so that the peer sees an error, where that is possible: TCP in the clear, unless FIN is on its way. (libuv refuses
 * to reset then, and Node would leave the descriptor open for ever.)
 */
export function reset(socket: net.Socket): void {
  const ending = socket.writableEnded && !socket.writableFinished
  if (isPlain(socket) && !ending && socket.remotePort !== undefined) socket.resetAndDestroy()
  else socket.destroy()
}

/**
 * Takes the connection out of a socket that a `net.Server` has accepted and nobody has read from, and puts it into one
 * made with `options`. Null where there is no such handle (TLS, or a later Node): then use the socket as it is.
 */
export function remade(socket: net.Socket, options: Record<string, unknown>): net.Socket | null {
  const handle = handleOf(socket)
  if (handle === null || !isPlain(socket)) return null
  if (typeof handle.readStop !== 'function' || !('useUserBuffer' in handle)) return null
  handle.reading = false
  handle.readStop()
  ;(socket as unknown as Insides)._handle = null
  socket.destroy()
  return new net.Socket({ ...options, handle } as net.SocketConstructorOpts)
}

/** No byte is read from the kernel any more. `pause()` alone goes on filling Node's buffer. */
export function stopReading(socket: net.Socket): void {
  socket.pause()
  handleOf(socket)?.readStop()
}

/** Everything that Node has read and told nobody. Call it without 'data' listeners: `read()` emits that too. */
export function readBuffered(socket: net.Socket): Buffer {
  const chunks: Buffer[] = []
  for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) chunks.push(chunk as Buffer)
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
}

/** Bytes of the one write inside the socket that the kernel has not taken. */
export function unwrittenBytes(socket: net.Socket): number {
  return handleOf(socket)?.writeQueueSize ?? 0
}

/** The peer's IP address without zone or port; '' where it has none (Unix). */
export function addressOf(socket: net.Socket): string {
  return (socket.remoteAddress ?? '').replace(/^::ffff:(?=\d+\.)/, '').replace(/%.*/, '')
}

/** Which the socket keeps; null: it has none (any more). */
export function descriptorOf(socket: net.Socket): LentFd | null {
  const fd = handleOf(socket)?.fd
  return fd !== undefined && isLent(fd) ? fd : null
}

/**
 * Hands bytes to the kernel past Node's queue, which must be empty: all of them at once, or none (false: not now). For who
 * must say something on a connection whose writes are made natively by another (an HTTP/2 session): where `socket.write()` has
 * to wait for the kernel, its end is told to that other one, and Node aborts the process.
 */
export function sendPast(socket: net.Socket, bytes: Uint8Array): boolean {
  const fd = descriptorOf(socket)
  if (!isPlain(socket) || fd === null || socket.writableLength > 0 || unwrittenBytes(socket) > 0) return false
  let sent: number
  try {
    sent = sendOn(fd, bytes)
  } catch {
    // Its peer has gone: the socket will hear of it.
    return false
  }
  if (sent > 0 && sent < bytes.length) socket.destroy()
  return sent === bytes.length
}
