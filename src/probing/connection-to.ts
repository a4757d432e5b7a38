import type { Server, Socket } from 'node:net'
import { socketOver, socketPair } from '../kernel/index.js'
import { acceptOptionsOf } from '../node/server-connections.js'

/**
 * Connects to a server of this process by a socket pair; the server need not listen. Passes the server's end to `take`, by default to the
 * server as an accepted connection. Throws if the process has reached its limit of open files.
 */
export function connectionTo(
  server: Server,
  take = (socket: Socket): unknown => server.emit('connection', socket),
): Socket {
  const { allowHalfOpen, pauseOnConnect } = acceptOptionsOf(server)
  const [ours, theirs] = socketPair('connection of a process to itself')
  let own: Socket
  try {
    own = socketOver(ours, {})
  } catch (error) {
    theirs.close()
    throw error
  }
  try {
    take(socketOver(theirs, { allowHalfOpen, pauseOnCreate: pauseOnConnect } as object))
  } catch (error) {
    own.destroy()
    throw error
  }
  return own
}
