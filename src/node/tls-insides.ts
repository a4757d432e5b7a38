import { Socket } from 'node:net'
import type { Server, TLSSocket } from 'node:tls'
import { internal } from './internal.js'

/** Node's answer to OpenSSL about the keys of a ticket: 0 unknown, 1 open it, 2 open it and seal a new one. */
export type TicketAnswer = [0 | 1 | 2, hmac: Buffer, aes: Buffer, name?: Buffer, iv?: Buffer]

/** Which asks for the keys of each ticket. */
interface TicketContext {
  enableTicketKeyCallback?(): void
  onticketkeycallback?: (name: Buffer, iv: Buffer, sealing: boolean) => TicketAnswer
  setSessionIdContext?(context: string): void
}

/** Fields of a `tls.Server` that have no public name: the same on Node 20 to 26. */
export interface SessionFacts {
  readonly sessionIdContext?: string
  readonly requestCert?: boolean
  readonly rejectUnauthorized?: boolean
  readonly ca?: unknown
  readonly crl?: unknown
}

interface ServerInsides extends SessionFacts {
  readonly _sharedCreds?: { context?: TicketContext }
}

interface SocketInsides {
  readonly _parent?: Socket
}

function contextOf(server: Server): TicketContext | undefined {
  return (server as unknown as ServerInsides)._sharedCreds?.context
}

/* A process without TLS need not load it: the probes do. */

export const TICKET_CONTEXT = internal(
  'server._sharedCreds.context of TLS servers, with its ticket keys and session id',
  'TLS sessions made with the keys before a rotation begin anew, and a server whose sessions are shared needs the option sessionIdContext',
  () => {
    const { createServer } = process.getBuiltinModule('node:tls')
    const context = contextOf(createServer({ sessionIdContext: 'probe' }))
    return (
      typeof context?.enableTicketKeyCallback === 'function' &&
      typeof context.setSessionIdContext === 'function'
    )
  },
)

/** Has each ticket's keys asked for by `answer`. False: this Node has no way to. */
export function askForTicketKeys(
  server: Server,
  answer: (name: Buffer, iv: Buffer, sealing: boolean) => TicketAnswer,
): boolean {
  const context = contextOf(server)
  if (typeof context?.enableTicketKeyCallback !== 'function') return false
  context.onticketkeycallback = answer
  context.enableTicketKeyCallback()
  return true
}

/** False: this Node has no way to. */
export function renameSessions(server: Server, name: string): boolean {
  const context = contextOf(server)
  if (typeof context?.setSessionIdContext !== 'function') return false
  context.setSessionIdContext(name)
  return true
}

export function sessionFactsOf(server: Server): SessionFacts {
  return server as unknown as ServerInsides
}

export const SOCKET_BELOW = internal(
  'socket._parent of TLS sockets',
  'the proxy counts a handshake until its connection closes',
  () => {
    const { TLSSocket } = process.getBuiltinModule('node:tls')
    const below = new Socket()
    const above = new TLSSocket(below)
    const found = socketBelow(above) === below
    above.destroy()
    below.destroy()
    return found
  },
)

/** The socket below a TLS socket; undefined where this Node does not tell. */
export function socketBelow(socket: TLSSocket): Socket | undefined {
  return (socket as unknown as SocketInsides)._parent
}

/** Internals that servers with TLS need besides. */
export const TLS_INTERNALS = [TICKET_CONTEXT, SOCKET_BELOW]
