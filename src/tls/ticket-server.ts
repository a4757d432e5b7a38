import type { Server } from 'node:tls'
import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import type { Member } from '../member/member.js'
import {
  type SessionFacts,
  sessionFactsOf,
  setSessionIdContext,
  setTicketKeyCallback,
} from '../node/tls-internals.js'
import { type TicketKeyOptions, TicketKeys } from './ticket-keys.js'

/** Keys of 48 bytes as `tls.Server.setTicketKeys()` takes them: name, HMAC key and AES key, 16 bytes each. */
export interface TicketKeyPair {
  /** Encrypts new tickets. */
  readonly current: Buffer
  /** Still decrypts old tickets, which are then replaced by new ones. Null if there are none. */
  readonly previous: Buffer | null
}

const PART = 16

/**
 * Makes a TLS server encrypt tickets with the current keys, and decrypt tickets of the previous keys too. With Node's `setTicketKeys()` alone, which
 * takes one set of keys, all clients would need a full handshake after a rotation. Call `useTicketKeys()` again after `setSecureContext()`, which
 * resets the keys. If this version of Node has no callback for ticket keys, the server uses only the current keys.
 */
export function useTicketKeys(server: Server, keys: TicketKeyPair): void {
  server.setTicketKeys(keys.current)
  const current = parts(keys.current)
  const previous = keys.previous && parts(keys.previous)
  setTicketKeyCallback(server, (name, _iv, sealing) => {
    if (sealing) return [1, current.hmac, current.aes, current.name, nodeCrypto().randomBytes(PART)]
    if (name.equals(current.name)) return [1, current.hmac, current.aes]
    if (previous !== null && name.equals(previous.name)) return [2, previous.hmac, previous.aes]
    return [0, current.hmac, current.aes]
  })
}

function parts(keys: Buffer): { name: Buffer; hmac: Buffer; aes: Buffer } {
  return {
    name: keys.subarray(0, PART),
    hmac: keys.subarray(PART, 2 * PART),
    aes: keys.subarray(2 * PART, 3 * PART),
  }
}

/**
 * Makes a TLS server accept tickets of other processes. By default the server has random keys, and Node derives its `sessionIdContext` from the command
 * line: a process with another path or option would refuse all tickets. `setSecureContext()` resets keys and context; the server then sets both again.
 * The context includes `name` and the server's requirements for client certificates, see {@link sessionContext}.
 */
export function acceptTickets(server: Server, name: string, keys: TicketKeyPair): void {
  const facts = sessionFactsOf(server)
  const explicit = facts.sessionIdContext === defaultContext() ? null : facts.sessionIdContext
  const context = (options: { ca?: unknown; crl?: unknown }) =>
    explicit ?? sessionContext(name, { ...facts, ca: options.ca, crl: options.crl })
  if (!explicit) renameSessions(server, context(facts))
  const { setSecureContext } = server
  server.setSecureContext = options => {
    const { sessionIdContext = context(options) } = options
    setSecureContext.call(server, { ...options, ticketKeys: keys.current, sessionIdContext })
    useTicketKeys(server, keys)
  }
  useTicketKeys(server, keys)
}

/** Returns the `sessionIdContext` that Node chooses by default. */
function defaultContext(): string {
  return nodeCrypto().createHash('sha1').update(process.argv.join(' ')).digest('hex').slice(0, 32)
}

/**
 * Returns a context that differs between servers with different requirements for client certificates. TLS does not check certificates when it resumes
 * a session: with equal contexts, a client without a certificate could resume the session of a server that asks for none.
 */
function sessionContext(name: string, { requestCert, rejectUnauthorized, ca, crl }: SessionFacts): string {
  const hash = nodeCrypto()
    .createHash('sha256')
    .update(JSON.stringify([name, requestCert, rejectUnauthorized]))
  const add = (list: unknown) => {
    for (const item of [list].flat(2))
      if (typeof item === 'string' || item instanceof Uint8Array) hash.update(item).update('\0')
  }
  add(ca)
  // A new revocation list changes the context: a client whose certificate was revoked cannot resume its old session.
  if (crl !== undefined) add(['crl', crl])
  return hash.digest('hex').slice(0, 32)
}

function renameSessions(server: Server, context: string): void {
  if (setSessionIdContext(server, context)) return
  throw new FdbError(
    'ERR_FDB_OPTION',
    `fd-broker cannot set the session id context of this server on Node ${process.versions.node}: create the server with the option sessionIdContext, a string that is the same in every version`,
  )
}

/**
 * Lets clients resume their TLS sessions with other versions and processes: from now on the server uses the ticket keys of the state. Supports
 * `https`, `tls` and `http2` servers, with TLS 1.2 and 1.3. Call it before `ready()`. Throws ERR_FDB_OPTION.
 *
 * Replaces keys that the server was given; `setSecureContext()` keeps the shared keys. After a rotation, sessions of the previous keys are still
 * resumed, and renewed.
 */
export function shareTicketKeys(member: Member, server: Server, options: TicketKeyOptions = {}): TicketKeys {
  if (typeof server?.setTicketKeys !== 'function' || typeof server.setSecureContext !== 'function') {
    throw new FdbError(
      'ERR_FDB_OPTION',
      'only TLS servers have ticket keys: pass an https, tls or http2 server',
    )
  }
  const keys = new TicketKeys(member, options)
  acceptTickets(server, keys.name, keys)
  keys.onChange(() => useTicketKeys(server, keys))
  return keys
}
