import type { Server } from 'node:tls'
import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import type { Member } from '../member/member.js'
import { askForTicketKeys, renameSessions, type SessionFacts, sessionFactsOf } from '../node/tls-insides.js'
import { type TicketKeyOptions, TicketKeys } from './ticket-keys.js'

/** Each 48 bytes, as `tls.Server.setTicketKeys()` takes them: name, HMAC key and AES key of 16 bytes. */
export interface TicketKeyPair {
  /** New tickets are sealed with them. */
  readonly current: Buffer
  /** Tickets that were sealed with them are still opened, and made anew; null: there are none. */
  readonly previous: Buffer | null
}

const PART = 16

/**
 * Has a TLS server seal tickets with the current keys and open those of the previous ones too. Node's `setTicketKeys()` knows one
 * set: each client with an older session would need a full handshake, all at once. To be done anew after `setSecureContext()`,
 * which makes a new context. Where this Node has no way to ask for keys, the current ones are set.
 */
export function useTicketKeys(server: Server, keys: TicketKeyPair): void {
  server.setTicketKeys(keys.current)
  const current = parts(keys.current)
  const previous = keys.previous && parts(keys.previous)
  askForTicketKeys(server, (name, _iv, sealing) => {
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
 * Has a server of Node take tickets that another process made. Two things are in the way: its keys are its own, and
 * what it calls its sessions by (`sessionIdContext`) is made of the command line, so that another path of the program, or one
 * option more, would refuse them all. And `setSecureContext()`, with which a server changes its certificate, makes
 * both anew.
 */
export class TicketServer {
  readonly #server: Server
  readonly #keys: TicketKeyPair

  /** `name` and what the server asks of clients tell its sessions from those of other servers with the same keys. */
  constructor(server: Server, name: string, keys: TicketKeyPair) {
    this.#server = server
    this.#keys = keys
    const facts = sessionFactsOf(server)
    const given = facts.sessionIdContext === defaultContext() ? null : facts.sessionIdContext
    const context = (of: { ca?: unknown; crl?: unknown }) =>
      given ?? sessionContext(name, { ...facts, ca: of.ca, crl: of.crl })
    if (!given) rename(server, context(facts))
    const renew = server.setSecureContext
    server.setSecureContext = options => {
      const { sessionIdContext = context(options) } = options
      renew.call(server, { ...options, ticketKeys: keys.current, sessionIdContext })
      this.renew()
    }
    this.renew()
  }

  /** The keys have changed. */
  renew(): void {
    useTicketKeys(this.#server, this.#keys)
  }
}

/** Node's own choice. */
function defaultContext(): string {
  return nodeCrypto().createHash('sha1').update(process.argv.join(' ')).digest('hex').slice(0, 32)
}

/**
 * A client without a certificate must not get into a server that asks for one, with a session of a server that did not:
 * TLS does not look at certificates when a session is resumed.
 */
function sessionContext(name: string, { requestCert, rejectUnauthorized, ca, crl }: SessionFacts): string {
  const hash = nodeCrypto()
    .createHash('sha256')
    .update(JSON.stringify([name, requestCert, rejectUnauthorized]))
  const add = (list: unknown) => {
    for (const one of [list].flat(2))
      if (typeof one === 'string' || one instanceof Uint8Array) hash.update(one).update('\0')
  }
  add(ca)
  // A certificate that was revoked since opens no session that was made before.
  if (crl !== undefined) add(['crl', crl])
  return hash.digest('hex').slice(0, 32)
}

function rename(server: Server, context: string): void {
  if (renameSessions(server, context)) return
  throw new FdbError(
    'ERR_FDB_OPTION',
    `Node ${process.versions.node} does not let the sessions of this server be renamed: give it the option sessionIdContext, a text that stays the same in every version`,
  )
}

/**
 * TLS sessions that clients made with this server are resumed by the next version's, and the other way round: its ticket
 * keys are those of the state from now on (`https`, `tls` and `http2` servers; TLS 1.2 and 1.3). Call it before `ready()`.
 *
 * Keys that the server was given are replaced, and its `setSecureContext()` keeps the shared ones. After a rotation sessions made
 * with the previous keys are still resumed, and made anew.
 *
 * Throws ERR_FDB_OPTION.
 */
export function shareTicketKeys(member: Member, server: Server, options: TicketKeyOptions = {}): TicketKeys {
  if (typeof server?.setTicketKeys !== 'function' || typeof server.setSecureContext !== 'function') {
    throw new FdbError('ERR_FDB_OPTION', 'only TLS servers have ticket keys: give an https, tls or http2 one')
  }
  const keys = new TicketKeys(member, options)
  const target = new TicketServer(server, keys.name, keys)
  keys.onChange(() => target.renew())
  return keys
}
