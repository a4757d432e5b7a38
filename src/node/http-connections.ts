import type http from 'node:http'
import net from 'node:net'
import { nodeHttp } from '../base/lazy.js'
import { internal } from './internal.js'

/** The inside of `http.Server` that is used: its own list of connections. Only this list knows that the native parser holds no byte of a request that has begun. */
export interface Parser {
  readonly socket: net.Socket
  incoming: unknown
  onIncoming: unknown
  execute(bytes: Buffer): unknown
}

interface ConnectionsList {
  idle(): Parser[]
}

const LIST = 'http.server.connections'
/** Begins and ends a request. */
const REQUEST = Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')

/** Undefined until the server listens. */
function listOf(server: http.Server): ConnectionsList | undefined {
  const symbol = Object.getOwnPropertySymbols(server).find(({ description }) => description === LIST)
  return symbol && (server as unknown as Record<symbol, ConnectionsList | undefined>)[symbol]
}

/** Whether connections that are given to the server now are on its list: from its first 'listening' on. */
export function keepsList(server: http.Server): boolean {
  return listOf(server) !== undefined
}

/**
 * Parsers that have taken in their requests whole, and nothing behind them. Whether those were answered is another
 * question, and whether one that has never seen a request is among them depends on the version of Node.
 */
export function idleParsers(server: http.Server): readonly Parser[] {
  return listOf(server)?.idle() ?? []
}

type ConnectionListener = (this: http.Server, socket: net.Socket) => void
let own: ConnectionListener | undefined

/** The listener by which every `http.Server` gets connections. */
export function ownListener(): ConnectionListener {
  own ??= new (nodeHttp().Server)().listeners('connection')[0] as ConnectionListener
  return own
}

/** Null when the application has taken the socket over ('upgrade', 'connect'), or it is closed. */
export function parserOf(socket: net.Socket): Parser | null {
  return (socket as unknown as { parser?: Parser | null }).parser ?? null
}

/** An answer is under way. */
export function isAnswering(socket: net.Socket): boolean {
  return ((socket as unknown as { _httpMessage?: unknown })._httpMessage ?? null) !== null
}

/**
 * Has the parser of a connection that was just given to a server believe that it has seen a request: otherwise the
 * server waits for the first one, with a timeout that ends in an answer (408), and does not count it as idle.
 */
export function markIdle(parser: Parser): void {
  const { onIncoming } = parser
  parser.onIncoming = () => 0
  parser.execute(REQUEST)
  parser.onIncoming = onIncoming
  parser.incoming = null
}

/** Whether the list says what it should on this version of Node. Tried without opening anything. */
export const HTTP_CONNECTIONS = internal(
  'server[Symbol(http.server.connections)].idle(), socket.parser and socket._httpMessage',
  'connections of http.Server do not move, they drain',
  tryIdle,
)

function tryIdle(): boolean {
  const server = new (nodeHttp().Server)()
  const socket = new net.Socket()
  try {
    let answered = false
    // An answer is under way from its request to its end, and can be seen by the connection.
    server.on('request', (_request, response) => {
      const during = isAnswering(socket)
      response.detachSocket(socket)
      answered = during && !isAnswering(socket)
    })
    server.emit('listening')
    ownListener().call(server, socket)
    const parser = parserOf(socket)!
    const isIdle = () => idleParsers(server).includes(parser)
    markIdle(parser)
    const marked = isIdle() && !answered
    parser.execute(REQUEST.subarray(0, 1))
    const begun = isIdle()
    parser.execute(REQUEST.subarray(1))
    return marked && !begun && isIdle() && answered
  } finally {
    socket.destroy()
    // Ends its timer.
    server.close(() => {})
  }
}

/** Has a method that net's and tls's servers have not, so that no process has to load `node:http` to learn that it uses none. */
export function isHttpServer(server: net.Server): server is http.Server {
  return 'closeIdleConnections' in server && server instanceof nodeHttp().Server
}
