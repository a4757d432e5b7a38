import type http from 'node:http'
import type https from 'node:https'
import net from 'node:net'
import { nodeHttp } from '../base/lazy.js'
import { internal } from './internal.js'

/** An entry in the connection list of an `http.Server`. Nothing else shows whether the native parser holds bytes of an incomplete request. */
interface Parser {
  readonly socket: net.Socket
  incoming: unknown
  onIncoming: unknown
  execute(bytes: Buffer): unknown
}

interface ConnectionsList {
  all(): Parser[]
  idle(): Parser[]
}

const LIST = 'http.server.connections'
const REQUEST = Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')

/** Returns undefined until the server listens. */
function listOf(server: http.Server): ConnectionsList | undefined {
  const symbol = Object.getOwnPropertySymbols(server).find(({ description }) => description === LIST)
  return symbol && (server as unknown as Record<symbol, ConnectionsList | undefined>)[symbol]
}

/** Reports whether the server lists its connections, as it does from its first 'listening' event on. */
export function tracksConnections(server: http.Server): boolean {
  const list = listOf(server)
  return typeof list?.all === 'function' && typeof list.idle === 'function'
}

/**
 * Returns the parsers that hold no bytes of an incomplete request. The response to the last request may be incomplete. Depending on the version of
 * Node, parsers that have never read a request are missing.
 */
export function idleParsers(server: http.Server): readonly Parser[] {
  return listOf(server)?.idle() ?? []
}

/** Returns the open connections of a server that Node parses: those that the application has taken over ('upgrade', 'connect') are missing. */
export function listedSockets(server: http.Server): net.Socket[] {
  const sockets: net.Socket[] = []
  // The parser of a connection that is just closing has no socket.
  for (const { socket } of listOf(server)?.all() ?? []) if (socket && !socket.destroyed) sockets.push(socket)
  return sockets
}

type ConnectionListener = (this: http.Server, socket: net.Socket) => void
let cachedListener: ConnectionListener | undefined

/** Returns the 'connection' listener of every `http.Server`. */
export function connectionListener(): ConnectionListener {
  cachedListener ??= new (nodeHttp().Server)().listeners('connection')[0] as ConnectionListener
  return cachedListener
}

/** Reports whether Node's own 'connection' listener is registered: then Node parses and lists each connection from its first byte on. */
export function hasNodeListener(server: http.Server): boolean {
  return server.listeners('connection').includes(connectionListener())
}

/** Returns null if the socket is closed, or the application has taken it over ('upgrade', 'connect'). */
export function parserOf(socket: net.Socket): Parser | null {
  return (socket as unknown as { parser?: Parser | null }).parser ?? null
}

/** Returns the response that is next on the connection, even if the application has not begun it. Responses to pipelined requests wait until it ends. */
export function responseOf(socket: net.Socket): http.ServerResponse | null {
  return (socket as unknown as { _httpMessage?: http.ServerResponse | null })._httpMessage ?? null
}

/** Returns the last request whose head was read, until its response has ended and its body was read; else null. */
export function lastRequestOf(socket: net.Socket): http.IncomingMessage | null {
  return (parserOf(socket)?.incoming ?? null) as http.IncomingMessage | null
}

export function isResponding(socket: net.Socket): boolean {
  return responseOf(socket) !== null
}

/**
 * Makes the parser of a new connection believe that it has read a request. Otherwise the server would not count the connection as idle, and would
 * respond with 408 if the first request takes too long.
 */
export function markIdle(parser: Parser): void {
  const { onIncoming } = parser
  parser.onIncoming = () => 0
  parser.execute(REQUEST)
  parser.onIncoming = onIncoming
  parser.incoming = null
}

export const HTTP_CONNECTIONS = internal(
  'server[Symbol(http.server.connections)].idle() and .all(), socket.parser.incoming and socket._httpMessage',
  'connections of http.Server do not move, they drain',
  tryIdle,
)

function tryIdle(): boolean {
  const server = new (nodeHttp().Server)()
  const socket = new net.Socket()
  try {
    let answered = false
    // responseOf() must return the response from the 'request' event until the response ends.
    server.on('request', (request, response) => {
      const during = responseOf(socket) === response && lastRequestOf(socket) === request
      response.detachSocket(socket)
      answered = during && !isResponding(socket)
    })
    server.emit('listening')
    connectionListener().call(server, socket)
    const parser = parserOf(socket)!
    const isIdle = () => idleParsers(server).includes(parser) && listedSockets(server).includes(socket)
    markIdle(parser)
    const marked = isIdle() && !answered
    parser.execute(REQUEST.subarray(0, 1))
    const begun = isIdle()
    parser.execute(REQUEST.subarray(1))
    return marked && !begun && isIdle() && answered
  } finally {
    socket.destroy()
    // Stops the server's timer.
    server.close(() => {})
  }
}

/** Checks first for a method that only HTTP servers have, so that a process without them does not load `node:http`. */
export function isHttpServer(server: net.Server): server is http.Server {
  return 'closeIdleConnections' in server && server instanceof nodeHttp().Server
}

/** As {@link isHttpServer}, for TLS. */
export function isHttpsServer(server: net.Server): server is https.Server {
  return (
    'setTicketKeys' in server &&
    'closeIdleConnections' in server &&
    server instanceof process.getBuiltinModule('node:https').Server
  )
}
