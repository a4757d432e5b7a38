import net from 'node:net'
import {
  isLent,
  isSilentSocket,
  type LentFd,
  peekBytes,
  sendBytes,
  socketOver,
  socketPair,
} from '../kernel/index.js'
import { internal } from './internal.js'

/** `socket._handle` on Node 20 to 26: the libuv stream. `writeQueueSize` is the number of bytes that are not sent yet. */
export interface SocketHandle {
  reading: boolean
  readonly fd: LentFd
  readStart(): number
  readStop(): number
  readonly writeQueueSize: number
}

interface SocketWithHandle {
  _handle: SocketHandle | null
}

const MORE_THAN_TAKEN = 1024 * 1024

export function handleOf(socket: net.Socket): SocketHandle | null {
  return (socket as unknown as SocketWithHandle)._handle
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
      // The kernel does not take this much at once.
      socket.write(Buffer.alloc(MORE_THAN_TAKEN))
      return queued() > 0
    } finally {
      socket.destroy()
      there.close()
    }
  },
)

/** Reports whether the socket is not encrypted: its descriptor carries the same bytes as the socket. */
export function isPlain(socket: net.Socket): boolean {
  return Object.getPrototypeOf(socket) === net.Socket.prototype
}

/**
 * Closes the socket with RST if it is plain TCP and FIN is not being sent; otherwise just closes it. (While FIN is being sent libuv refuses to reset,
 * and Node would never close the descriptor.)
 */
export function reset(socket: net.Socket): void {
  const ending = socket.writableEnded && !socket.writableFinished
  if (isPlain(socket) && !ending && socket.remotePort !== undefined) socket.resetAndDestroy()
  else socket.destroy()
}

/** Stops reading from the kernel at once: after `pause()` alone Node continues to fill its buffer. */
export function stopReading(socket: net.Socket): void {
  socket.pause()
  handleOf(socket)?.readStop()
}

/** Stops reading from the kernel without a trace on the stream above, until {@link resumeReading}. */
export function pauseReading(socket: net.Socket): void {
  if (handleOf(socket)?.reading) handleOf(socket)?.readStop()
}

export function resumeReading(socket: net.Socket): void {
  if (handleOf(socket)?.reading) handleOf(socket)?.readStart()
}

/** Returns the next bytes that wait in the kernel, at most `most`. */
export function nextBytes(socket: net.Socket, most: number): Uint8Array {
  try {
    const descriptor = descriptorOf(socket)
    return descriptor === null ? new Uint8Array(0) : peekBytes(descriptor, most)
  } catch {
    // The socket will emit the error.
    return new Uint8Array(0)
  }
}

/** Reports whether neither bytes nor FIN nor an error wait in the kernel. */
export function isSilent(socket: net.Socket): boolean {
  const descriptor = descriptorOf(socket)
  return descriptor !== null && isSilentSocket(descriptor)
}

/** Returns all bytes that Node has read and not emitted. Remove all 'data' listeners first, because `read()` emits the bytes too. */
export function readBuffered(socket: net.Socket): Buffer {
  const chunks: Buffer[] = []
  for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) chunks.push(chunk as Buffer)
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
}

/** Returns how many bytes of the socket's current write are not sent yet. */
export function unwrittenBytes(socket: net.Socket): number {
  return handleOf(socket)?.writeQueueSize ?? 0
}

const PEER = Symbol('peer')

/** The client's end of a connection, which the peer of the socket passes on. */
export interface PassedOn {
  readonly client: string
  readonly clientPort: number
  /** The address and port that the client has connected to; '' and 0: those of the socket. */
  readonly server: string
  readonly serverPort: number
}

/** From now on the socket has these addresses instead of its own. */
export function setPassedOn(socket: net.Socket, addresses: PassedOn): void {
  Object.defineProperty(socket, PEER, { value: addresses, configurable: true })
}

export function passedOn(socket: net.Socket): PassedOn | undefined {
  return (socket as { [PEER]?: PassedOn })[PEER]
}

/** Returns the peer's IP address without zone or port; '' for a Unix socket. */
export function remoteAddressOf(socket: net.Socket): string {
  return passedOn(socket)?.client ?? plainAddress(socket.remoteAddress ?? '')
}

export function remotePortOf(socket: net.Socket): number {
  return passedOn(socket)?.clientPort ?? socket.remotePort ?? 0
}

/** Removes the zone, and the IPv4-mapped prefix, from an address of Node. */
export function plainAddress(address: string): string {
  return address.includes(':') ? address.replace(/^::ffff:(?=\d+\.)/, '').replace(/%.*/, '') : address
}

/** Returns the descriptor, which the socket still owns, or null if it is closed. */
export function descriptorOf(socket: net.Socket): LentFd | null {
  const fd = handleOf(socket)?.fd
  return fd !== undefined && isLent(fd) ? fd : null
}

/**
 * Sends bytes directly to the kernel, bypassing Node's queue. Returns false if the queue is not empty, the connection is broken or the kernel has not taken
 * all bytes; destroys the socket if the kernel has taken a part of the bytes. Use it for a socket to which native code writes (an HTTP/2 session): a
 * `socket.write()` that must wait for the kernel would make Node abort the process.
 */
export function sendBypassingQueue(socket: net.Socket, bytes: Uint8Array): boolean {
  const descriptor = descriptorOf(socket)
  if (descriptor === null || !isPlain(socket) || socket.writableLength > 0 || unwrittenBytes(socket) > 0)
    return false
  try {
    const sent = sendBytes(descriptor, bytes, 0, bytes.length)
    if (sent > 0 && sent < bytes.length) socket.destroy()
    return sent === bytes.length
  } catch {
    // The socket will emit the error.
    return false
  }
}

/** The timer of `socket.setTimeout()` on Node 20 to 26. Each read and write restarts it. Times are on the clock of the event loop. */
interface SocketTimer {
  readonly _idleStart: number
  readonly _idleTimeout: number
}

const TIMER = 'timeout'
let timerOfSocket: symbol | undefined

function timerOf(socket: net.Socket): SocketTimer | null {
  timerOfSocket ??= Object.getOwnPropertySymbols(socket).find(({ description }) => description === TIMER)
  return timerOfSocket === undefined
    ? null
    : ((socket as unknown as Record<symbol, SocketTimer | null>)[timerOfSocket] ?? null)
}

/** The time of the event loop, if this callback has asked for it. Many connections leave in one callback. */
let timeOfTurn: number | undefined

function loopTime(): number {
  if (timeOfTurn !== undefined) return timeOfTurn
  const timer = setTimeout(() => {}, 1)
  clearTimeout(timer)
  timeOfTurn = (timer as unknown as SocketTimer)._idleStart
  queueMicrotask(() => {
    timeOfTurn = undefined
  })
  return timeOfTurn
}

export const SOCKET_TIMEOUT = internal(
  'socket[Symbol(timeout)]._idleStart',
  'after a move, the idle timeout of a connection starts again in the next process',
  () => {
    const socket = new net.Socket()
    socket.setTimeout(1_000)
    const { _idleStart = Number.NaN, _idleTimeout = 0 } = timerOf(socket) ?? {}
    socket.destroy()
    return _idleTimeout === 1_000 && Math.abs(loopTime() - _idleStart) < 1_000
  },
)

/** Returns the milliseconds until the socket's own timeout, or Infinity without one. */
export function timeoutLeft(socket: net.Socket): number {
  const { timeout = 0 } = socket
  if (timeout === 0) return Number.POSITIVE_INFINITY
  const timer = SOCKET_TIMEOUT.works ? timerOf(socket) : null
  return timer === null ? timeout : timer._idleStart + timer._idleTimeout - loopTime()
}
