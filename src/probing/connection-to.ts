import type { Server, Socket } from 'node:net'
import { closeOnThrow, socketOver, socketPair } from '../kernel/index.js'
import { acceptOptionsOf } from '../node/server-connections.js'

/**
 * Connects to a server of this process through a socket pair, even if the server does not listen. Calls `accept` with the server's end; by
 * default the server gets it as an accepted connection. Throws if the process has reached its limit of open files.
 */
export function connectionTo(
  server: Server,
  accept = (socket: Socket): unknown => server.emit('connection', socket),
): Socket {
  const { allowHalfOpen, pauseOnConnect } = acceptOptionsOf(server)
  const [ours, theirs] = socketPair('connection of a process to itself')
  const own = closeOnThrow([theirs], () => socketOver(ours, {}))
  try {
    accept(socketOver(theirs, { allowHalfOpen, pauseOnCreate: pauseOnConnect } as object))
  } catch (error) {
    own.destroy()
    throw error
  }
  return own
}
