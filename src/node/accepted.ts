import type net from 'node:net'
import { isLent, keepAlive, type Lent, type LentFd } from '../kernel/index.js'
import { addressOf, descriptorOf, isPlain, plainAddress } from './socket-handle.js'

/** A connection that has been accepted and not read from. */
export interface Accepted extends Lent {
  /** The peer's IP address without zone or port; '' where it has none (Unix). */
  readonly remoteAddress: string
}

/** On Node 20 to 26 the handle of a connection, before a socket is made of it. */
interface ClientHandle {
  readonly fd: unknown
  close(): void
  setNoDelay?(on: boolean): number
  /** For TCP. */
  getpeername?(into: { address?: string }): number
}

type OnConnection = (this: unknown, status: number, client: unknown) => void

interface Insides {
  _handle: { onconnection?: OnConnection } | null
  noDelay?: boolean
}

/**
 * Has `take` asked of each connection that `server` accepts on a listening socket, before a socket is made of it, which costs some 40 µs and
 * kilobytes. Each connection has SO_KEEPALIVE. False: a socket is made, and comes by 'connection', as do all where Node is otherwise.
 */
export function acceptBare(server: net.Server, onAccepted: (connection: Accepted) => boolean): void {
  server.on('listening', () => {
    const { _handle: handle } = server as unknown as Insides
    const usual = handle?.onconnection
    if (handle === null || typeof usual !== 'function') return
    handle.onconnection = function (status, client) {
      const fd = (client as Partial<ClientHandle> | undefined)?.fd
      if (status === 0 && isLent(fd)) keepAlive(fd)
      const accepted = status === 0 ? bare(server, client as Partial<ClientHandle> | undefined) : null
      if (accepted === null || !onAccepted(accepted)) usual.call(this, status, client)
    }
  })
}

function bare(server: net.Server, client: Partial<ClientHandle> | undefined): Accepted | null {
  const { fd } = client ?? {}
  if (!isLent(fd) || typeof client?.close !== 'function') return null
  const { noDelay = false } = server as unknown as Insides
  if (noDelay) client.setNoDelay?.(true)
  return new Bare(client as ClientHandle, fd)
}

class Bare implements Accepted {
  readonly descriptor: LentFd
  readonly remoteAddress: string
  readonly #handle: ClientHandle

  constructor(handle: ClientHandle, descriptor: LentFd) {
    const peer: { address?: string } = {}
    handle.getpeername?.(peer)
    this.descriptor = descriptor
    this.remoteAddress = plainAddress(peer.address ?? '')
    this.#handle = handle
  }

  close(): void {
    this.#handle.close()
  }
}

/** Null where the bytes that cross are not those that the socket gives (TLS), or Node is otherwise. */
export function acceptedOf(socket: net.Socket): Accepted | null {
  const descriptor = isPlain(socket) ? descriptorOf(socket) : null
  if (descriptor === null) return null
  return { descriptor, remoteAddress: addressOf(socket), close: () => socket.destroy() }
}
