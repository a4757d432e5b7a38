import net from 'node:net'
import type { LentFd } from '../kernel/index.js'
import { internal } from './internal.js'

/** The handle of a listening server on Node 20 to 26. Node assigns it to `server._handle`, and then calls its `listen`. */
interface ServerHandle {
  readonly fd: LentFd
  listen(backlog: number): number
}

interface ServerWithHandle {
  _handle: ServerHandle | null
}

export const BACKLOG = 511

export const HELD_HANDLE = internal(
  'server._handle with fd and listen, set before it is called',
  'a successor under fd-broker/auto accepts as soon as it listens',
  () => {
    const server = new net.Server()
    const accept = holdHandle(server, () => server.listen(0))
    const held = listeningDescriptorOf(server) !== null
    server.close()
    return accept !== null && held
  },
)

/** Returns the descriptor of a listening server, or null if it does not listen or has none. */
export function listeningDescriptorOf(server: net.Server): LentFd | null {
  const { fd } = (server as unknown as ServerWithHandle)._handle ?? {}
  return fd !== undefined && fd >= 0 ? fd : null
}

/**
 * Calls `listen`, which must make `server` listen synchronously, but lets the server accept nothing yet: it emits 'listening' and has its address.
 * Returns a function that starts accepting, or null if the server got no handle, or on a Node with other internals.
 */
export function holdHandle(server: net.Server, listen: () => void): (() => void) | null {
  let handle = (server as unknown as ServerWithHandle)._handle
  let held: ServerHandle | null = null
  let backlog = BACKLOG
  Object.defineProperty(server, '_handle', {
    configurable: true,
    enumerable: true,
    get: () => handle,
    set(newHandle: ServerHandle | null) {
      handle = newHandle
      if (newHandle === null || typeof newHandle.listen !== 'function') return
      held = newHandle
      newHandle.listen = requested => {
        backlog = requested
        return 0
      }
    },
  })
  try {
    listen()
  } finally {
    Object.defineProperty(server, '_handle', {
      configurable: true,
      enumerable: true,
      writable: true,
      value: handle,
    })
  }
  if (held === null || handle !== held) return null
  const handleToStart: ServerHandle = held
  return () => startAccepting(handleToStart, backlog)
}

function startAccepting(handle: ServerHandle, backlog: number): void {
  // Deletes the override, so that the prototype's listen() is called.
  Reflect.deleteProperty(handle, 'listen')
  const code = handle.listen(backlog)
  if (code !== 0)
    throw new Error(`a server whose listen() was deferred cannot accept: listen() returned ${code}`)
}

/** Sets the path that `server.address()` returns: Node knows the path only of a Unix socket that it has bound itself. */
export function nameSocket(server: net.Server, path: string): void {
  Object.assign(server, { _pipeName: path })
}
