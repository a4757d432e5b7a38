import net from 'node:net'
import type { LentFd } from '../kernel/index.js'
import { internal } from './internal.js'

/** The handle of a server that listens, on Node 20 to 26: the server is given it, and then calls its `listen`. */
interface ServerHandle {
  readonly fd: LentFd
  listen(backlog: number): number
}

interface Insides {
  _handle: ServerHandle | null
}

/** Node's own backlog. */
export const BACKLOG = 511

export const HELD_HANDLE = internal(
  'server._handle with fd and listen, set before it is called',
  'a successor under fd-broker/auto accepts as soon as it listens',
  () => {
    const server = new net.Server()
    const accept = holdHandle(server, () => server.listen(0))
    const held = descriptorOf(server) !== null
    server.close()
    return accept !== null && held
  },
)

/** The descriptor of a server that listens; null: it does not, or has none. */
export function descriptorOf(server: net.Server): LentFd | null {
  const { fd } = (server as unknown as Insides)._handle ?? {}
  return fd !== undefined && fd >= 0 ? fd : null
}

/**
 * Has `server` get the handle that `listen` gives it, which must do so at once, and accept nothing on it: the server says that it listens, and
 * has its address. Returns the function from whose call on it accepts; null: there is no such handle, or this Node gives it otherwise.
 */
export function holdHandle(server: net.Server, listen: () => void): (() => void) | null {
  let handle = (server as unknown as Insides)._handle
  let held: ServerHandle | null = null
  let backlog = BACKLOG
  Object.defineProperty(server, '_handle', {
    configurable: true,
    enumerable: true,
    get: () => handle,
    set(given: ServerHandle | null) {
      handle = given
      if (given === null || typeof given.listen !== 'function') return
      held = given
      given.listen = asked => {
        backlog = asked
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
  const kept: ServerHandle = held
  return () => startAccepting(kept, backlog)
}

function startAccepting(handle: ServerHandle, backlog: number): void {
  // Its own one hides that of its kind.
  Reflect.deleteProperty(handle, 'listen')
  const code = handle.listen(backlog)
  if (code !== 0) throw new Error(`a held server cannot accept: listen() returned ${code}`)
}

/** Where a server on a Unix socket says that it listens: Node knows the path only of one that it has bound itself. */
export function nameSocket(server: net.Server, path: string): void {
  Object.assign(server, { _pipeName: path })
}
