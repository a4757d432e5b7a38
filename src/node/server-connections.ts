import net from 'node:net'
import { internal } from './internal.js'

/** What a `net.Server` keeps of its options and its connections, under these names on Node 20 to 26. */
interface Insides {
  _connections: number
  noDelay?: boolean
  keepAlive?: boolean
  /** Seconds. */
  keepAliveInitialDelay?: number
  allowHalfOpen?: boolean
  highWaterMark?: number
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
