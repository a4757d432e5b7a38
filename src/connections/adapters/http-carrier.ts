import type http from 'node:http'
import type net from 'node:net'
import type { OwnedFd } from '../../kernel/index.js'
import { connectionListener } from '../../node/http-connections.js'
import { isPlain, timeoutLeft } from '../../node/socket-handle.js'
import type { fdbroker } from '../../proto/connections.js'
import { abandon, canLeave, connectionOf, openSocket, publish } from './node-socket.js'

type State = fdbroker.connections.HttpConnection.$Properties

/** The layer below HTTP: plain sockets, or TLS. `socket`: the one that Node parses. */
export interface HttpCarrier {
  /** The name and version of the record format. */
  readonly protocol: string
  /** The scheme, for `status`. */
  readonly kind: string
  /** The server's event for a connection that Node can parse. */
  readonly event: 'connection' | 'secureConnection'
  /** Whether departures may begin; calls `ready` later if not. */
  mayBegin(ready: () => void): boolean
  /** Whether a connection can leave, now or later. */
  carries(socket: net.Socket): boolean
  /** Whether a connection between two requests can leave now; calls `ready` when it may, if it only needs time. */
  canLeave(socket: net.Socket, ready: () => void): boolean
  /** As {@link canLeave}, also with bytes that can be read. */
  canLeaveUnread(socket: net.Socket, ready: () => void): boolean
  /** As {@link canLeave}, for a connection whose record has the bytes that were not read and, by `unsentBytes()`, those that were not sent. */
  canLeaveAmid(socket: net.Socket, ready: () => void): boolean
  /** A response has ended, and the connection will not be read. */
  rests(socket: net.Socket): void
  /** Returns the reason why a connection stays, or null. */
  reasonOf(socket: net.Socket): string | null
  /** See {@link connectionOf}. */
  duplicate(socket: net.Socket): OwnedFd | null
  /** Closes the socket without closing the connection, and returns what the record has about the carrier. */
  take(socket: net.Socket): State['tls']
  /** As {@link take}, for a connection on which nothing was read or written. */
  abandon(socket: net.Socket): void
  /** Throws an FdbError if this process cannot continue a connection with this record. */
  check(tls: State['tls']): void
  /** Makes a socket as `server` does for accepted connections, without reading yet. Takes ownership of the descriptor, even if it throws. */
  open(fd: OwnedFd, server: net.Server, tls: State['tls']): net.Socket
  /** See {@link publish}. */
  publish(socket: net.Socket): void
  /** The milliseconds until the socket's own timeout, or Infinity without one. */
  timeoutLeft(socket: net.Socket): number
}

export const PLAIN: HttpCarrier = {
  protocol: 'node-http/1',
  kind: 'http',
  event: 'connection',
  mayBegin: () => true,
  carries: isPlain,
  canLeave,
  canLeaveUnread: canLeave,
  canLeaveAmid: socket => isPlain(socket) && socket.writable,
  rests: () => {},
  reasonOf: () => null,
  duplicate: connectionOf,
  take: socket => void abandon(socket),
  abandon,
  check: () => {},
  open: openSocket,
  publish,
  timeoutLeft,
}

/** Reports whether Node's own listener is registered for the connections of a server. */
export function isParsedByNode(server: http.Server, { event }: HttpCarrier): boolean {
  return server.listeners(event).includes(connectionListener())
}
