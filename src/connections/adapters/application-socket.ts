import type net from 'node:net'
import { isUint8Array } from 'node:util/types'
import { FdbError } from '../../errors.js'
import type { OwnedFd } from '../../kernel/index.js'
import { stopReading } from '../../node/socket-handle.js'
import type { fdbroker } from '../../proto/connections.js'
import type { Arrival } from '../movable.js'
import type { HttpCarrier } from './http-carrier.js'
import { notRestored, takeUnread } from './node-socket.js'
import type { Connections } from './open-sockets.js'

/** Moves the connections of an application's own protocol to another process. */
export interface SocketProtocol {
  /** The name and version of the record format, for example `app/chat-1`. Both processes must use the same name and version on the listener. */
  readonly protocol: string
  /**
   * Returns everything that the next process needs to continue this connection, at most 4 MiB, or undefined if the connection cannot move
   * now; the hook is called again later. If the record is larger, or the connection cannot move, the connection comes back through {@link restore}
   * in this process. Any other return value, also a promise, is an error of the hook (ERR_FDB_HOOK), and the connection does not move. When the hook has
   * returned a record, the library owns the connection: the application must not read from the socket or write to it, and should forget it.
   * Bytes that the hook itself writes are sent before the connection leaves. The socket's 'close' follows, without an error.
   *
   * The hook is called when no bytes wait to be written, and never for a socket with `setEncoding()`. Bytes that Node has read and the
   * application has not read move with the connection.
   */
  serialize(socket: net.Socket): Uint8Array | undefined
  /**
   * Continues a connection: in the next process, or in this one if the connection could not move (the application may be draining then).
   * The socket is always a new one, without listeners; the server's 'connection' is not emitted.
   */
  restore(socket: net.Socket, record: Uint8Array): void
}

type Record = fdbroker.connections.Application.$Properties
type Tls = Record['tls']

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

/**
 * Returns a copy of the bytes that a `serialize` hook returned, because the hook may reuse its buffer. Throws ERR_FDB_HOOK for no bytes.
 */
export function hookBytes(returned: unknown): Uint8Array {
  if (isUint8Array(returned)) return Buffer.from(returned)
  const isPromise = typeof (returned as PromiseLike<unknown> | null)?.then === 'function'
  const kind = returned === null ? 'null' : isPromise ? 'a promise' : `a value of type ${typeof returned}`
  throw new FdbError(
    'ERR_FDB_HOOK',
    `serialize() returned ${kind}: the connection stays in this process. Return a Uint8Array at once (for example ` +
      'Buffer.from(JSON.stringify(facts))), or undefined for "not now"',
  )
}

/** A connection whose hook has returned a record, and which leaves when its written bytes have been sent. */
interface Serialized {
  readonly record: Uint8Array
  /** The descriptor of the connection; owned. */
  readonly fd: OwnedFd
  /** The connection returns to the application when its written bytes have been sent, because no other process takes connections now. */
  returns: boolean
}

export interface SocketDeps {
  readonly hooks: SocketProtocol
  readonly server: net.Server
  readonly carrier: HttpCarrier
  readonly open: Connections
  /** Calls the hooks in the application's async context. */
  readonly run: <T>(work: () => T) => T
  /** Gets the exceptions of the hooks. */
  readonly failed: (error: unknown) => void
}

/** Takes connections of a {@link SocketProtocol} out of a server, and adds them to one. */
export class ApplicationSockets {
  readonly hooks: SocketProtocol
  readonly #deps: SocketDeps
  readonly #serialized = new Map<net.Socket, Serialized>()

  /** Throws ERR_FDB_OPTION. */
  constructor(deps: SocketDeps) {
    checkProtocol(deps.hooks)
    this.hooks = deps.hooks
    this.#deps = deps
  }

  /**
   * Returns null if the connection cannot leave now; calls `ready` when it may, if it only needs time. Throws the hook's exception or ERR_FDB_HOOK; the connection then does
   * not move.
   */
  depart(socket: net.Socket, ready: () => void): { fd: OwnedFd; record: Record; tls: Tls } | null {
    const waiting = this.#serialized.get(socket)
    if (waiting !== undefined) waiting.returns = false
    const { carrier } = this.#deps
    if (!carrier.canLeaveUnread(socket, ready)) return null
    const serialized = waiting ?? this.#serialize(socket)
    if (serialized === null) return null
    if (!carrier.canLeaveUnread(socket, ready)) {
      this.#leaveLater(socket, serialized)
      return null
    }
    this.#serialized.delete(socket)
    this.#deps.open.remove(socket)
    return { fd: serialized.fd, ...this.#take(socket, serialized) }
  }

  /** Returns the serialized connections to the application, each when its written bytes have been sent. A connection that {@link depart} is asked for again leaves instead. */
  takeBack(): void {
    for (const [socket, serialized] of [...this.#serialized]) {
      serialized.returns = true
      this.#return(socket)
    }
  }

  #return(socket: net.Socket): void {
    const serialized = this.#serialized.get(socket)
    if (serialized === undefined || !serialized.returns || socket.destroyed) return
    if (!this.#deps.carrier.canLeaveUnread(socket, () => this.#return(socket))) return
    this.#serialized.delete(socket)
    this.#deps.open.remove(socket)
    try {
      const { record, tls } = this.#take(socket, serialized)
      this.arrive(serialized.fd, record, 'returned', tls)
    } catch (error) {
      this.#deps.failed(error)
    }
  }

  /** Takes ownership of the descriptor, even if it throws. */
  arrive(fd: OwnedFd, record: Record, how: Arrival, tls: Tls): net.Socket {
    return this.#deps.run(() => this.#arrive(fd, record, how, tls))
  }

  #arrive(fd: OwnedFd, { record, unread }: Record, how: Arrival, tls: Tls): net.Socket {
    const { carrier } = this.#deps
    const socket = carrier.open(fd, this.#deps.server, tls)
    this.#deps.open.add(socket)
    try {
      if (unread?.length) socket.unshift(unread)
      this.hooks.restore(socket, record ?? new Uint8Array(0))
      carrier.publish(socket)
      // Starts to read, as Node does for accepted connections. Does not if bytes are unread: each move would add to them.
      if (!unread?.length) socket.read(0)
    } catch (error) {
      throw notRestored(socket, how, error, this.#deps, carrier)
    }
    return socket
  }

  /** Duplicates the descriptor before it calls the hook, because a connection cannot leave if no descriptor is free. */
  #serialize(socket: net.Socket): Serialized | null {
    const fd = this.#deps.carrier.duplicate(socket)
    if (fd === null) return null
    try {
      const returned = this.hooks.serialize(socket)
      const record = returned === undefined ? null : hookBytes(returned)
      // The hook may have ended the connection.
      if (record !== null && socket.writable) return { fd, record, returns: false }
    } catch (error) {
      fd.close()
      throw error
    }
    fd.close()
    return null
  }

  /** Keeps the serialized connection unread until its written bytes have been sent. */
  #leaveLater(socket: net.Socket, serialized: Serialized): void {
    this.#serialized.set(socket, serialized)
    stopReading(socket)
    // The callback runs after all waiting bytes of the socket have been written.
    socket.write('', () => this.#return(socket))
    socket.once('close', () => {
      if (this.#serialized.delete(socket)) serialized.fd.close()
    })
  }

  #take(socket: net.Socket, { record }: Serialized): { record: Record; tls: Tls } {
    const unread = takeUnread(socket)
    return { record: { protocol: this.hooks.protocol, record, unread }, tls: this.#deps.carrier.take(socket) }
  }
}
