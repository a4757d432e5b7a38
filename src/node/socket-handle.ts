import net from 'node:net'
import { isLent, type LentFd, socketOver, socketPair } from '../kernel/index.js'
import { internal } from './internal.js'

/** Same on Node 20 to 26: `_handle` is the libuv stream, of which `writeQueueSize` counts the bytes that the kernel has not taken. */
export interface SocketHandle {
  reading: boolean
  readonly fd: LentFd
  readStop(): number
  readonly writeQueueSize: number
}

interface Insides {
  _handle: SocketHandle | null
}

const MORE_THAN_TAKEN = 1024 * 1024

export function handleOf(socket: net.Socket): SocketHandle | null {
  return (socket as unknown as Insides)._handle
}

export const SOCKET_HANDLE = internal(
  'socket._handle with fd, reading, readStop and writeQueueSize',
  'connections do not move, they drain',
  () => {
    const [here, there] = socketPair('probe of a socket')
    const socket = socketOver(here, { manualStart: true } as net.SocketConstructorOpts)
    try {
      const handle = handleOf(socket)
      if (handle === null || typeof handle.readStop !== 'function' || descriptorOf(socket) === null)
        return false
      socket.read(0)
      if (!handle.reading) return false
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

/** No byte is read from the kernel any more. `pause()` alone goes on filling Node's buffer. */
export function stopReading(socket: net.Socket): void {
  socket.pause()
  handleOf(socket)?.readStop()
}

/** Returns all bytes that Node has read and not emitted. Call it without 'data' listeners: `read()` emits the bytes too. */
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
  return plainAddress(socket.remoteAddress ?? '')
}

/** The same of an address as Node says it. */
export function plainAddress(address: string): string {
  return address.includes(':') ? address.replace(/^::ffff:(?=\d+\.)/, '').replace(/%.*/, '') : address
}

/** Which the socket keeps; null: it has none (any more). */
export function descriptorOf(socket: net.Socket): LentFd | null {
  const fd = handleOf(socket)?.fd
  return fd !== undefined && isLent(fd) ? fd : null
}
