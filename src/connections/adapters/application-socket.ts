import type net from 'node:net'
import { isUint8Array } from 'node:util/types'
import { FdbError } from '../../errors.js'
import type { OwnedFd } from '../../kernel/index.js'
import { stopReading } from '../../node/socket-handle.js'
import type { fdbroker } from '../../proto/connections.js'
import { abandon, canLeave, connectionOf, type OpenSockets, publish, reopened } from './node-socket.js'

/** How an application's own protocol goes on in another process. Plain TCP and Unix connections only. */
export interface SocketProtocol {
  /** Names what the records mean, with a version: `app/chat-1`. Both processes must have the same on the listener. */
  readonly protocol: string
  /**
   * Returns everything that the next process needs of this connection, at most 4 MiB (with more it stays in this process, by way of
   * {@link restore}); undefined: not now, ask again. Anything else, a promise too, is an error of the hook (ERR_FDB_HOOK), and the
   * connection stays. Once the hook has returned a record the connection is the library's: the application must not read from the socket or
   * write to it, and should forget it. Bytes that it writes in this very call still go out before the connection leaves. The socket's
   * 'close' follows, without an error.
   *
   * Called when nothing waits to be written, and never for a socket with `setEncoding()`. Bytes that Node has read and the application has
   * not travel along.
   */
  serialize(socket: net.Socket): Uint8Array | undefined
  /**
   * Goes on with a connection: in the next process, or in this one when it could not go (the application then may be
   * draining). The socket is new, never the one that was given away, and nothing has listened to it yet; the server's
   * 'connection' is not emitted.
   */
  restore(socket: net.Socket, record: Uint8Array): void
}

type Record = fdbroker.connections.Application.$Properties

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

/** A copy of what a `serialize` hook has returned, which may use its memory again. Throws ERR_FDB_HOOK where that is no bytes. */
export function bytesOf(returned: unknown): Uint8Array {
  if (isUint8Array(returned)) return Buffer.from(returned)
  const isPromise = typeof (returned as PromiseLike<unknown> | null)?.then === 'function'
  const kind = returned === null ? 'null' : isPromise ? 'a promise' : `a value of type ${typeof returned}`
  throw new FdbError(
    'ERR_FDB_HOOK',
    `serialize() returned ${kind}: the connection stays in this process. Return a Uint8Array at once (for example ` +
      'Buffer.from(JSON.stringify(facts))), or undefined for "not now"',
  )
}

/** Given away by the application, which has written something at the last moment. */
interface Given {
  readonly record: Uint8Array
  /** The descriptor of the connection; owned. */
  readonly fd: OwnedFd
}

/** Takes connections of one such protocol out of a server, and puts them in. */
export class ApplicationSockets {
  readonly hooks: SocketProtocol
  readonly #server: net.Server
  readonly #open: OpenSockets
  readonly #run: <T>(work: () => T) => T
  readonly #given = new Map<net.Socket, Given>()

  /** `run` has them arrive in the application's async context. Throws ERR_FDB_OPTION. */
  constructor(parts: {
    hooks: SocketProtocol
    server: net.Server
    open: OpenSockets
    run: <T>(work: () => T) => T
  }) {
    checkProtocol(parts.hooks)
    this.hooks = parts.hooks
    this.#server = parts.server
    this.#open = parts.open
    this.#run = parts.run
  }

  /** Null: not now. Throws what the application throws, and ERR_FDB_HOOK; the connection then goes on here. */
  depart(socket: net.Socket): { fd: OwnedFd; record: Record } | null {
    if (!canLeave(socket)) return null
    const given = this.#given.get(socket) ?? this.#ask(socket)
    if (given === null) return null
    if (!canLeave(socket)) {
      this.#keep(socket, given)
      return null
    }
    this.#given.delete(socket)
    this.#open.remove(socket)
    return { fd: given.fd, record: this.#record(socket, given) }
  }

  /** This process serves again: those that were given away and have not gone come back to the application. */
  resume(failed: (error: unknown) => void): void {
    for (const [socket, given] of [...this.#given]) {
      // Behind all that waits to be written.
      socket.write('', () => {
        if (socket.destroyed || !this.#given.delete(socket)) return
        this.#open.remove(socket)
        try {
          this.arrive(given.fd, this.#record(socket, given))
        } catch (error) {
          failed(error)
        }
      })
    }
  }

  /** Takes the descriptor, and closes it when it throws. */
  arrive(fd: OwnedFd, record: Record): net.Socket {
    return this.#run(() => this.#arrive(fd, record))
  }

  #arrive(fd: OwnedFd, { record, unread }: Record): net.Socket {
    const socket = reopened(fd, this.#server)
    this.#open.add(socket)
    try {
      if (unread?.length) socket.unshift(unread)
      this.hooks.restore(socket, record ?? new Uint8Array(0))
      publish(socket)
      // As Node does with those that it accepts; but where bytes wait already, each move would read some more.
      if (!unread?.length) socket.read(0)
    } catch (error) {
      socket.destroy()
      throw error
    }
    return socket
  }

  /** The descriptor comes first: without room for it the application is not asked. */
  #ask(socket: net.Socket): Given | null {
    const fd = connectionOf(socket)
    if (fd === null) return null
    try {
      const returned = this.hooks.serialize(socket)
      if (returned !== undefined && !socket.destroyed) return { fd, record: bytesOf(returned) }
    } catch (error) {
      fd.close()
      throw error
    }
    fd.close()
    return null
  }

  /** A connection that was given away is not read, and leaves when its written bytes are out. */
  #keep(socket: net.Socket, given: Given): void {
    if (this.#given.has(socket)) return
    this.#given.set(socket, given)
    stopReading(socket)
    socket.once('close', () => {
      if (this.#given.delete(socket)) given.fd.close()
    })
  }

  #record(socket: net.Socket, { record }: Given): Record {
    return { protocol: this.hooks.protocol, record, unread: abandon(socket) }
  }
}
