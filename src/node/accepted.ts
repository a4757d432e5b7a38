import type net from 'node:net'
import { isLent, keepAlive, type Lent } from '../kernel/index.js'
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

type ConnectionCallback = (this: unknown, status: number, client: unknown) => void

interface AcceptingServer {
  _handle: { onconnection?: ConnectionCallback } | null
  noDelay?: boolean
}

/**
 * Calls `onAccepted` for each connection that `server` accepts, before Node creates a socket for it, which would cost about 40 µs and kilobytes. If `onAccepted`
 * returns false, or Node has other internals, Node creates the socket and emits 'connection'. Each connection gets SO_KEEPALIVE.
 */
export function acceptWithoutSocket(server: net.Server, onAccepted: (connection: Accepted) => boolean): void {
  server.on('listening', () => {
    const { _handle: handle } = server as unknown as AcceptingServer
    const original = handle?.onconnection
    if (handle === null || typeof original !== 'function') return
    handle.onconnection = function (status, client) {
      const fd = (client as Partial<ClientHandle> | undefined)?.fd
      if (status === 0 && isLent(fd)) keepAlive(fd)
      const accepted = status === 0 ? acceptedFrom(server, client as Partial<ClientHandle> | undefined) : null
      if (accepted === null || !onAccepted(accepted)) original.call(this, status, client)
    }
  })
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
