import type net from 'node:net'
import type tls from 'node:tls'
import { nodeTls } from '../base/lazy.js'
import {
  amidTlsRecord,
  beginTls,
  madeTls,
  socketOver,
  socketPair,
  type TlsConnection,
  writeTls,
} from '../kernel/index.js'
import { internal } from './internal.js'
import { underlyingSocket } from './tls-internals.js'

/** By the socket below a TLS socket. */
const connections = new WeakMap<net.Socket, TlsConnection>()

/** Call it before the listeners of a TLS server's event 'connection'; it makes the TLS socket in one of them. */
export function expectTls(): void {
  beginTls()
}

/** Call it after the listeners of the event 'connection', with its socket. */
export function expectedTls(below: net.Socket): void {
  const made = madeTls()
  if (made !== null) connections.set(below, made)
}

/** Whether {@link sendOverTls} is possible for this socket, after its handshake. */
export function canSendOverTls(socket: tls.TLSSocket): boolean {
  return connectionOf(socket) !== undefined && TLS_WRITES.works
}

function connectionOf(socket: tls.TLSSocket): TlsConnection | undefined {
  const below = underlyingSocket(socket)
  return below && connections.get(below)
}

/**
 * Encrypts bytes, between two writes of Node, which the next write of Node sends. Returns false, without effect, if this is not possible now. Use it
 * for a socket to which native code writes (an HTTP/2 session): the end of a `socket.write()` would make Node abort the process.
 */
export function sendOverTls(socket: tls.TLSSocket, bytes: Uint8Array): boolean {
  const connection = connectionOf(socket)
  const finished = socket.destroyed ? undefined : socket.getFinished()
  return connection !== undefined && finished !== undefined && writeTls(connection, finished, bytes)
}

/** Whether a record has arrived in part; null if OpenSSL does not tell. Call it between two calls of OpenSSL. */
export function isAmidRecord(socket: tls.TLSSocket): boolean | null {
  const connection = connectionOf(socket)
  const finished = connection === undefined || socket.destroyed ? undefined : socket.getFinished()
  return finished === undefined ? null : amidTlsRecord(connection!, finished)
}

export const TLS_WRITES = internal(
  'OpenSSL 3 whose functions addons can use',
  'HTTP/2 sessions over TLS end in one step, which refuses requests that arrive at that moment',
  () => {
    const [here, there] = socketPair('probe of TLS')
    const below = socketOver(here, { manualStart: true } as net.SocketConstructorOpts)
    expectTls()
    const above = new (nodeTls().TLSSocket)(below, { isServer: true })
    expectedTls(below)
    above.on('error', () => {})
    try {
      const connection = connectionOf(above)
      const nothing = new Uint8Array(1)
      return connection !== undefined && !writeTls(connection, nothing, nothing)
    } finally {
      above.destroy()
      there.close()
    }
  },
)
