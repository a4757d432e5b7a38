import { Socket } from 'node:net'
import type { SecureContext, Server, TLSSocket } from 'node:tls'
import { internal } from './internal.js'

/** The result of the callback for a ticket's keys: 0 unknown key, 1 decrypt the ticket, 2 decrypt it and issue a new one. */
type TicketKeyResult = [0 | 1 | 2, hmac: Buffer, aes: Buffer, name?: Buffer, iv?: Buffer]

/** The native TLS context of a server. */
interface TicketContext {
  enableTicketKeyCallback?(): void
  onticketkeycallback?: (name: Buffer, iv: Buffer, sealing: boolean) => TicketKeyResult
  setSessionIdContext?(context: string): void
}

/** Undocumented fields of a `tls.Server` on Node 20 to 26. */
export interface SessionFacts {
  readonly sessionIdContext?: string
  readonly requestCert?: boolean
  readonly rejectUnauthorized?: boolean
  readonly ca?: unknown
  readonly crl?: unknown
}

interface TlsServerFields extends SessionFacts {
  readonly _sharedCreds?: { context?: TicketContext }
}

/** Returns the certificate and settings with which the server makes handshakes, or undefined on a Node with other internals. */
export function secureContextOf(server: Server): SecureContext | undefined {
  return (server as unknown as { _sharedCreds?: SecureContext })._sharedCreds
}

/** Reports whether a context has a certificate: that of a server may have none. */
export function hasCertificate({ context }: SecureContext): boolean {
  return (context as { getCertificate?(): Buffer | null }).getCertificate?.() !== null
}

/** Returns the certificate and settings that a server's connection got for its server name, or undefined if it got the server's own. */
export function namedContextOf(socket: TLSSocket): SecureContext | undefined {
  const context = (socket as unknown as TlsSocketFields)._handle?.sni_context
  return context && { context }
}

interface TlsSocketFields {
  readonly _parent?: Socket
  readonly _handle?: { readonly sni_context?: object } | null
}

function contextOf(server: Server): TicketContext | undefined {
  return (server as unknown as TlsServerFields)._sharedCreds?.context
}

const TICKET_CONTEXT = internal(
  'server._sharedCreds.context of TLS servers, with its ticket keys and session id',
  'TLS sessions of the keys before a rotation need a full handshake, and a server with shared sessions needs the option sessionIdContext',
  () => {
    const { createServer } = process.getBuiltinModule('node:tls')
    const context = contextOf(createServer({ sessionIdContext: 'probe' }))
    return (
      typeof context?.enableTicketKeyCallback === 'function' &&
      typeof context.setSessionIdContext === 'function'
    )
  },
)

/** Makes the server call `answer` for the keys of each ticket. Returns false if this Node does not support it. */
export function setTicketKeyCallback(
  server: Server,
  answer: (name: Buffer, iv: Buffer, sealing: boolean) => TicketKeyResult,
): boolean {
  const context = contextOf(server)
  if (typeof context?.enableTicketKeyCallback !== 'function') return false
  context.onticketkeycallback = answer
  context.enableTicketKeyCallback()
  return true
}

/** Returns false if this Node does not support it. */
export function setSessionIdContext(server: Server, name: string): boolean {
  const context = contextOf(server)
  if (typeof context?.setSessionIdContext !== 'function') return false
  context.setSessionIdContext(name)
  return true
}

export function sessionFactsOf(server: Server): SessionFacts {
  return server as unknown as TlsServerFields
}

const UNDERLYING_SOCKET = internal(
  'socket._parent of TLS sockets',
  'the proxy counts a handshake until its connection closes',
  () => {
    const { TLSSocket } = process.getBuiltinModule('node:tls')
    const below = new Socket()
    const above = new TLSSocket(below)
    const found = underlyingSocket(above) === below
    above.destroy()
    below.destroy()
    return found
  },
)

/** Returns the socket below a TLS socket, or undefined on a Node with other internals. */
export function underlyingSocket(socket: TLSSocket): Socket | undefined {
  return (socket as unknown as TlsSocketFields)._parent
}

/** Internals that only TLS servers need. */
export const TLS_INTERNALS = [TICKET_CONTEXT, UNDERLYING_SOCKET]
