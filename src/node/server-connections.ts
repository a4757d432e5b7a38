import { channel } from 'node:diagnostics_channel'
import net from 'node:net'
import { nodeHttp } from '../base/lazy.js'
import { type OwnedFd, socketOver } from '../kernel/index.js'
import { internal } from './internal.js'
import { forgetAddress, keepAddress } from './kept-address.js'

/** Internals of a `net.Server` on Node 20 to 26. */
interface ServerInternals {
  _connections: number
  noDelay?: boolean
  keepAlive?: boolean
  /** Seconds. */
  keepAliveInitialDelay?: number
  allowHalfOpen?: boolean
  highWaterMark?: number
  /** Emits 'close' as soon as the server neither listens nor has a connection. {@link stopListening} disables this method. */
  _emitCloseIfDrained?: () => void
}

/** Counts the open connections. A connection from another process must be counted, or the server would never emit 'close'. */
export const SERVER_CONNECTIONS = internal(
  'server._connections',
  'connections do not move into servers of Node, they drain',
  () => {
    const server = new net.Server({ noDelay: true, allowHalfOpen: true })
    const { _connections, noDelay, allowHalfOpen } = server as unknown as ServerInternals
    return _connections === 0 && noDelay === true && allowHalfOpen === true
  },
)

/** Returns the options with which `server` creates a socket for an accepted connection. */
export function socketOptionsOf(server: net.Server): Omit<net.SocketConstructorOpts, 'fd'> {
  const { allowHalfOpen = false, highWaterMark } = server as unknown as ServerInternals
  const sizes = highWaterMark && {
    readableHighWaterMark: highWaterMark,
    writableHighWaterMark: highWaterMark,
  }
  return { allowHalfOpen, readable: true, writable: true, ...sizes }
}

/** Makes `server` treat a socket as accepted: sets its options, and counts it until it closes. */
export function countAsAccepted(server: net.Server, socket: net.Socket): void {
  const inside = server as unknown as ServerInternals
  if (inside.noDelay) socket.setNoDelay(true)
  if (inside.keepAlive) socket.setKeepAlive(true, (inside.keepAliveInitialDelay ?? 0) * 1000)
  inside._connections++
  Object.assign(socket, { server, _server: server })
}

/** Node publishes each socket that a server accepts there. */
const accepted = channel('net.server.socket')

/** Gives `server` a connection that it has not accepted itself, as if it had. Takes ownership of the descriptor. */
export function giveAccepted(server: net.Server, fd: OwnedFd): void {
  const { pauseOnConnect } = acceptOptionsOf(server)
  const options = { ...socketOptionsOf(server), pauseOnCreate: pauseOnConnect }
  const socket = socketOver(fd, options)
  if (isBlocked(server, socket)) {
    socket.destroy()
    return
  }
  countAsAccepted(server, socket)
  server.emit('connection', socket)
  if (accepted.hasSubscribers) accepted.publish({ socket })
}

/** Whether the server refuses this client: since Node 22.13 a `net.Server` has the option `blockList`. */
function isBlocked(server: net.Server, { remoteAddress = '' }: net.Socket): boolean {
  const { blockList } = server as { readonly blockList?: net.BlockList | null }
  const family = net.isIP(remoteAddress)
  return blockList != null && family !== 0 && blockList.check(remoteAddress, family === 6 ? 'ipv6' : 'ipv4')
}

export const SERVER_CLOSE = internal(
  'server._emitCloseIfDrained',
  "a server that stops accepting emits 'close' although it may accept again",
  () => typeof (new net.Server() as unknown as ServerInternals)._emitCloseIfDrained === 'function',
)

/**
 * Stops accepting, without closing idle connections as `http.Server.close()` does, and without a 'close' event until {@link emitDelayedClose}.
 * The server keeps its address until then, or until its last connection has ended.
 */
export function stopListening(server: net.Server): void {
  const inside = server as unknown as ServerInternals
  keepAddress(server, () => isCloseDelayed(server) || inside._connections > 0)
  if (typeof inside._emitCloseIfDrained === 'function') inside._emitCloseIfDrained = () => {}
  net.Server.prototype.close.call(server)
}

function isCloseDelayed(server: net.Server): boolean {
  return Object.hasOwn(server, '_emitCloseIfDrained')
}

/** Enables the 'close' event again, for a server that listens again. */
export function enableClose(server: net.Server): void {
  forgetAddress(server)
  undelayClose(server)
}

function undelayClose(server: net.Server): void {
  delete (server as unknown as ServerInternals)._emitCloseIfDrained
}

/**
 * Emits 'close' now or after the last connection, for a server that will not listen again. Until then an `http.Server` keeps the timer that enforces its
 * time limits; after that the timer would keep the server in memory, with all that its listeners refer to.
 */
export function emitDelayedClose(server: net.Server): void {
  if (!isCloseDelayed(server)) return
  const inside = server as unknown as ServerInternals
  inside._emitCloseIfDrained = () => {
    if (server.listening || inside._connections > 0) return
    undelayClose(server)
    // Not the server's own method: the program may have replaced it.
    const { prototype }: { readonly prototype: net.Server } =
      'closeIdleConnections' in server ? nodeHttp().Server : net.Server
    prototype.close.call(server)
  }
  inside._emitCloseIfDrained()
}

interface AcceptOptions {
  readonly allowHalfOpen: boolean
  readonly pauseOnConnect: boolean
}

export function acceptOptionsOf(server: net.Server): AcceptOptions {
  const { allowHalfOpen = false, pauseOnConnect = false } = server as unknown as Partial<AcceptOptions>
  return { allowHalfOpen, pauseOnConnect }
}

/** Loads `node:cluster` (3 ms) in advance, so that the first `server.listen()` need not. */
export function loadForListen(): void {
  process.getBuiltinModule('node:cluster')
}

/** On Node 20 to 26 the handle of a listening server calls this function for each connection, with the handle as `this`. */
interface ServerWithCallback {
  _handle: { onconnection?: (status: number, client: unknown) => void } | null
}

/**
 * Passes all connections that `from` accepts to `to`, as if `to` had accepted them. `from` must listen, and must be closed before `to` stops
 * listening. On a Node with other internals, `to` gets sockets by its 'connection' event.
 */
export function acceptInto(from: net.Server, to: net.Server): void {
  const [source, target] = [from, to] as unknown as [ServerWithCallback, ServerWithCallback]
  from.on('connection', socket => to.emit('connection', socket))
  if (typeof source._handle?.onconnection !== 'function') return
  const original = source._handle.onconnection
  source._handle.onconnection = function (status, client) {
    const own = target._handle
    if (typeof own?.onconnection === 'function') own.onconnection(status, client)
    else original.call(this, status, client)
  }
}
