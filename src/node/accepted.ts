import type net from 'node:net'
import {
  acceptForNode,
  isLent,
  keepAlive,
  type Lent,
  type LentFd,
  type UnopenedHandle,
} from '../kernel/index.js'
import { descriptorOf, isPlain, plainAddress, remoteAddressOf, remotePortOf } from './socket-handle.js'

/** An accepted connection from which nothing was read. */
export interface Accepted extends Lent {
  /** The peer's IP address without zone or port; '' for Unix sockets. */
  readonly remoteAddress: string
  readonly remotePort?: number
}

/** The handle of a connection on Node 20 to 26, before Node creates a socket for it. */
interface ClientHandle {
  readonly fd: unknown
  close(): void
  setNoDelay?(on: boolean): number
  /** Only TCP handles have this method. */
  getpeername?(into: { address?: string; port?: number }): number
}

interface OpenableHandle extends ClientHandle, UnopenedHandle {
  readonly constructor: new (kind: number) => OpenableHandle
}

type ConnectionCallback = (this: unknown, status: number, client: unknown) => void

interface AcceptingServer {
  _handle: ListeningHandle | null
  noDelay?: boolean
}

interface ListeningHandle {
  readonly fd: unknown
  onconnection?: ConnectionCallback
}

/** How many connections a server accepts in a turn of the event loop. Node accepts one, so that clients would wait for as many turns. */
const A_TURN = 16
/** The kind of a handle for a connection. */
const SOCKET = 0

/**
 * Calls `onAccepted` for each connection that `server` accepts, before Node creates a socket for it, which would cost about 40 µs and kilobytes. If `onAccepted`
 * returns false, or Node has other internals, Node creates the socket and emits 'connection'. Each connection gets SO_KEEPALIVE.
 */
export function acceptWithoutSocket(server: net.Server, onAccepted: (connection: Accepted) => boolean): void {
  server.on('listening', () => {
    const { _handle: handle } = server as unknown as AcceptingServer
    const original = handle?.onconnection
    if (handle === null || typeof original !== 'function') return
    const take: ConnectionCallback = function (status, client) {
      const fd = (client as Partial<ClientHandle> | undefined)?.fd
      if (status === 0 && isLent(fd)) keepAlive(fd)
      const accepted = status === 0 ? acceptedFrom(server, client as Partial<ClientHandle> | undefined) : null
      if (accepted === null || !onAccepted(accepted)) original.call(this, status, client)
    }
    handle.onconnection = function (status, client) {
      take.call(this, status, client)
      if (status === 0) acceptMore(server as unknown as AcceptingServer, handle, client, take)
    }
  })
}

/**
 * Accepts further connections of a TCP listener, as Node would in the next turns. `first` is the handle of a connection that Node has accepted. The processes
 * that share a Unix socket accept in turn.
 */
function acceptMore(
  server: AcceptingServer,
  handle: ListeningHandle,
  first: unknown,
  take: ConnectionCallback,
): void {
  const { constructor: Handle, getpeername, open } = first as OpenableHandle
  if (typeof getpeername !== 'function' || typeof open !== 'function') return
  for (let left = A_TURN - 1; left > 0; left--) {
    // A callback may have closed the server.
    const { fd } = handle
    if (server._handle !== handle || !isLent(fd)) return
    const client = nextWaiting(fd, () => new Handle(SOCKET))
    if (client === null) return
    take.call(handle, 0, client)
  }
}

/** Returns a connection that waits; null if there is none. */
function nextWaiting(listener: LentFd, make: () => OpenableHandle): OpenableHandle | null {
  try {
    return acceptForNode(listener, make)
  } catch {
    // This process has reached its limit of open files: Node reports that when it accepts.
    return null
  }
}

function acceptedFrom(server: net.Server, client: Partial<ClientHandle> | undefined): Accepted | null {
  const { fd } = client ?? {}
  if (!isLent(fd) || typeof client?.close !== 'function') return null
  const { noDelay = false } = server as unknown as AcceptingServer
  if (noDelay) client.setNoDelay?.(true)
  const { close } = client
  const peer: { address?: string; port?: number } = {}
  client.getpeername?.(peer)
  const { address = '', port = 0 } = peer
  return {
    descriptor: fd,
    remoteAddress: plainAddress(address),
    remotePort: port,
    close: () => close.call(client),
  }
}

/** Returns null for a socket whose bytes are encrypted (TLS), or on a Node with other internals. */
export function acceptedOf(socket: net.Socket): Accepted | null {
  const descriptor = isPlain(socket) ? descriptorOf(socket) : null
  if (descriptor === null) return null
  return {
    descriptor,
    remoteAddress: remoteAddressOf(socket),
    remotePort: remotePortOf(socket),
    close: () => socket.destroy(),
  }
}
