import { existsSync } from 'node:fs'
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

/** In the options of listen(): a server of the library's own, not of the program. A global symbol, because `fd-broker/auto` is two bundles. */
export const OWN_SERVER = Symbol.for('fd-broker.own-server')
const OWN = { [OWN_SERVER]: true }

export const HELD_HANDLE = internal(
  'server._handle with fd and listen, set before it is called',
  'a successor under fd-broker/auto accepts as soon as it listens',
  () => {
    const server = new net.Server()
    const accept = holdHandle(server, () => server.listen({ port: 0, ...OWN }))
    const held = listeningDescriptorOf(server) !== null
    server.close()
    return accept !== null && held
  },
)

/** Returns the handle of a server, another one each time that it listens; null if it does not listen, or on a Node with other internals. */
export function handleOf(server: net.Server): object | null {
  return (server as unknown as ServerWithHandle)._handle ?? null
}

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

/** Whether the server keeps the process alive while it listens: the program has not called its unref(). */
export function keepsAlive(server: net.Server): boolean {
  return (server as { readonly _unref?: boolean })._unref !== true
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

/** The part of a handle that a server uses on Node 20 to 26 until it has connections. */
interface StandIn {
  readonly getsockname?: (into: object) => 0
  close(): void
  ref(): void
  unref(): void
}

/**
 * Lets a server seem to listen on a port or at a path, as it does after a call of Node's own listen(). Returns a function that ends this, and returns
 * false if the program has closed the server meanwhile.
 */
export function seemToListen(server: net.Server, at: number | string): () => boolean {
  const hasIpv6 = process.platform !== 'linux' || existsSync('/proc/net/if_inet6')
  const address = hasIpv6 ? { address: '::', family: 'IPv6' } : { address: '0.0.0.0', family: 'IPv4' }
  const nothing = () => {}
  const standIn: StandIn = {
    close: nothing,
    ref: nothing,
    unref: nothing,
    ...(typeof at === 'number' && {
      getsockname: into => {
        Object.assign(into, address, { port: at })
        return 0
      },
    }),
  }
  const inside = server as unknown as { _handle: unknown; _pipeName?: string | null }
  inside._handle = standIn
  if (typeof at === 'string') inside._pipeName = at
  return () => {
    if (inside._handle !== standIn) return false
    inside._handle = null
    if (typeof at === 'string') inside._pipeName = null
    return true
  }
}
