import type { Server } from 'node:tls'
import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { renameSessions, type SessionFacts, sessionFactsOf } from '../node/tls-insides.js'
import { type TicketKeyPair, useTicketKeys } from './ticket-opener.js'

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
