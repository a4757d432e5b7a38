import net from 'node:net'
import { internal } from './internal.js'

/** The options and connections of a `net.Server`, and its close, by their names on Node 20 to 26. */
interface Insides {
  _connections: number
  noDelay?: boolean
  keepAlive?: boolean
  /** Seconds. */
  keepAliveInitialDelay?: number
  allowHalfOpen?: boolean
  highWaterMark?: number
  /** Emits 'close' as soon as the server neither listens nor has a connection. A server that stops accepting and may be asked to accept again has not closed. */
  _emitCloseIfDrained?: () => void
}

/** Without it a server that is given a connection of another process would miscount, and never close. */
export const SERVER_CONNECTIONS = internal(
  'server._connections',
  'connections do not move into servers of Node, they drain',
  () => {
    const server = new net.Server({ noDelay: true, allowHalfOpen: true })
    const { _connections, noDelay, allowHalfOpen } = server as unknown as Insides
    return _connections === 0 && noDelay === true && allowHalfOpen === true
  },
)

/** As `server` would make a socket of a connection that it accepts. */
export function socketOptionsOf(server: net.Server): Omit<net.SocketConstructorOpts, 'fd'> {
  const { allowHalfOpen = false, highWaterMark } = server as unknown as Insides
  const sizes = highWaterMark && {
    readableHighWaterMark: highWaterMark,
    writableHighWaterMark: highWaterMark,
  }
  return { allowHalfOpen, readable: true, writable: true, ...sizes }
}

/** Has `server` count a connection as one that it has accepted, until it closes, and set it as it sets those. */
export function countAsAccepted(server: net.Server, socket: net.Socket): void {
  const inside = server as unknown as Insides
  if (inside.noDelay) socket.setNoDelay(true)
  if (inside.keepAlive) socket.setKeepAlive(true, (inside.keepAliveInitialDelay ?? 0) * 1000)
  inside._connections++
  Object.assign(socket, { server, _server: server })
}

export const SERVER_CLOSE = internal(
  'server._emitCloseIfDrained',
  "a server that stops accepting says 'close' although it may accept again",
  () => typeof (new net.Server() as unknown as Insides)._emitCloseIfDrained === 'function',
)

/** Stops accepting, touches no connection (`http.Server.close()` would close idle ones), and says no 'close' until {@link letClose}. */
export function stopListening(server: net.Server): void {
  const inside = server as unknown as Insides
  if (typeof inside._emitCloseIfDrained === 'function') inside._emitCloseIfDrained = () => {}
  net.Server.prototype.close.call(server)
}

/** For a server that listens again: its next 'close' is one. */
export function mayClose(server: net.Server): void {
  delete (server as unknown as Insides)._emitCloseIfDrained
}

/** For a server that will not listen any more: 'close' comes now, or when its last connection has ended. */
export function letClose(server: net.Server): void {
  if (!Object.hasOwn(server, '_emitCloseIfDrained')) return
  mayClose(server)
  ;(server as unknown as Insides)._emitCloseIfDrained?.()
}

/** Options of a server that say how it takes a connection. */
interface AcceptOptions {
  readonly allowHalfOpen: boolean
  readonly pauseOnConnect: boolean
}

export function acceptOptionsOf(server: net.Server): AcceptOptions {
  const { allowHalfOpen = false, pauseOnConnect = false } = server as unknown as Partial<AcceptOptions>
  return { allowHalfOpen, pauseOnConnect }
}

/** Has Node load what `server.listen()` would: it asks `node:cluster` whether to listen at all, which takes 3 ms the first time. */
export function loadForListen(): void {
  process.getBuiltinModule('node:cluster')
}

/** On Node 20 to 26 the handle of a server that listens tells its server of each connection so, by its own `this`. */
interface Accepting {
  _handle: { onconnection?: (status: number, client: unknown) => void } | null
}

/**
 * Connections that `from` accepts come to `to` as if `to` had accepted them. `from` listens, and is closed before `to` stops listening.
 * Where Node differs `to` gets them by its 'connection' event.
 */
export function acceptInto(from: net.Server, to: net.Server): void {
  const [source, target] = [from, to] as unknown as [Accepting, Accepting]
  from.on('connection', socket => to.emit('connection', socket))
  if (typeof source._handle?.onconnection !== 'function') return
  const usual = source._handle.onconnection
  source._handle.onconnection = function (status, client) {
    const own = target._handle
    if (typeof own?.onconnection === 'function') own.onconnection(status, client)
    else usual.call(this, status, client)
  }
}
