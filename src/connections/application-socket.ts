import type net from 'node:net'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../fd/owned.js'
import type { fdbroker } from '../proto/connections.js'
import { abandon, canLeave, connectionOf, reopened } from './node-socket.js'
import type { OpenSockets } from './open-sockets.js'

/** How an application's own protocol goes on in another process. Plain TCP and Unix connections only. */
export interface SocketProtocol {
  /** Names what the records mean, with a version: `app/chat-1`. Both processes must have the same on the listener. */
  readonly protocol: string
  /**
   * All that the next process needs to know of this connection, at most 4 MiB; undefined: not now, ask again. Once it has
   * returned a record the connection is the library's: the application must not read from the socket or write to it (nor
   * in this call), and should forget it. The socket's 'close' follows, without an error.
   *
   * Called when nothing waits to be written, and never for a socket with `setEncoding()`. What Node has read and the application has not travels along.
   */
  serialize(socket: net.Socket): Uint8Array | undefined
  /**
   * Goes on with a connection: in the next process, or in this one when it could not go (the application then may be
   * draining). The socket is new, and nothing has listened to it yet; the server's 'connection' is not emitted.
   */
  restore(socket: net.Socket, record: Uint8Array): void
}

type Record = fdbroker.connections.Application.$Properties

/** Throws ERR_FDB_OPTION. */
export function checkProtocol(hooks: SocketProtocol): void {
  const { protocol, serialize, restore } = hooks
  if (typeof protocol === 'string' && /^app\/[!-~]{1,64}$/.test(protocol)) {
    if (typeof serialize === 'function' && typeof restore === 'function') return
    throw new FdbError('ERR_FDB_OPTION', `protocol "${protocol}" needs both serialize() and restore()`)
  }
  throw new FdbError(
    'ERR_FDB_OPTION',
    `"protocol" is ${JSON.stringify(protocol) ?? 'not given'}; give "app/" and 1 to 64 characters without blanks, for example app/chat-1`,
  )
}

/** Takes connections of one such protocol out of a server, and puts them in. */
export class ApplicationSockets {
  readonly hooks: SocketProtocol
  readonly #server: net.Server
  readonly #open: OpenSockets

  /** Throws ERR_FDB_OPTION. */
  constructor(hooks: SocketProtocol, server: net.Server, open: OpenSockets) {
    checkProtocol(hooks)
    this.hooks = hooks
    this.#server = server
    this.#open = open
  }

  /** Null: not now. Throws what the application throws; the connection then goes on here. */
  depart(socket: net.Socket): { fd: OwnedFd; record: Record } | null {
    if (!canLeave(socket)) return null
    const { hooks } = this
    const record = hooks.serialize(socket)
    if (record === undefined || socket.destroyed) return null
    // It may have written all the same.
    const fd = canLeave(socket) ? connectionOf(socket) : null
    if (fd === null) {
      hooks.restore(socket, record)
      return null
    }
    this.#open.remove(socket)
    return { fd, record: { protocol: hooks.protocol, record, unread: abandon(socket) } }
  }

  /** Takes the descriptor, and closes it when it throws. */
  arrive(fd: OwnedFd, { record, unread }: Record): net.Socket {
    const socket = reopened(fd, this.#server)
    this.#open.add(socket)
    try {
      if (unread?.length) socket.unshift(unread)
      this.hooks.restore(socket, record ?? new Uint8Array(0))
      // As Node does with those that it accepts; but where bytes wait already, each move would read some more.
      if (!unread?.length) socket.read(0)
    } catch (error) {
      socket.destroy()
      throw error
    }
    return socket
  }
}
