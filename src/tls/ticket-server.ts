import { createHash } from 'node:crypto'
import type { Server } from 'node:tls'
import { FdbError } from '../errors.js'

/** What Node keeps in a `tls.Server` and gives no name to: the same on Node 20 to 26. */
interface Insides {
  readonly sessionIdContext?: string
  readonly requestCert?: boolean
  readonly rejectUnauthorized?: boolean
  readonly ca?: unknown
  readonly _sharedCreds?: { context?: { setSessionIdContext?(context: string): void } }
}

/**
 * Has a server of Node take tickets that another process made. Two things are in the way: its keys are its own, and
 * what it calls its sessions by (`sessionIdContext`) is made of the command line, so that another path of the program, or one
 * option more, would refuse them all. And `setSecureContext()`, with which a server changes its certificate, makes
 * both anew.
 */
export class TicketServer {
  readonly #server: Server
  #keys: Buffer

  /** `name` and what the server asks of clients tell its sessions from those of other servers with the same keys. */
  constructor(server: Server, name: string, keys: Buffer) {
    this.#server = server
    this.#keys = keys
    const insides = server as unknown as Insides
    const given = insides.sessionIdContext === defaultContext() ? null : insides.sessionIdContext
    const context = (ca: unknown) => given ?? sessionContext(name, { ...insides, ca })
    if (!given) renameSessions(insides, context(insides.ca))
    const renew = server.setSecureContext
    server.setSecureContext = options => {
      const { sessionIdContext = context(options.ca) } = options
      renew.call(server, { ...options, ticketKeys: this.#keys, sessionIdContext })
    }
    server.setTicketKeys(keys)
  }

  set(keys: Buffer): void {
    this.#keys = keys
    this.#server.setTicketKeys(keys)
  }
}

/** Node's own choice. */
function defaultContext(): string {
  return createHash('sha1').update(process.argv.join(' ')).digest('hex').slice(0, 32)
}

/**
 * A client without a certificate must not get into a server that asks for one, with a session of a server that did not:
 * TLS does not look at certificates when a session is resumed.
 */
function sessionContext(name: string, { requestCert, rejectUnauthorized, ca }: Insides): string {
  const hash = createHash('sha256').update(JSON.stringify([name, requestCert, rejectUnauthorized]))
  for (const one of [ca].flat(2)) {
    if (typeof one === 'string' || one instanceof Uint8Array) hash.update(one).update('\0')
  }
  return hash.digest('hex').slice(0, 32)
}

function renameSessions({ _sharedCreds }: Insides, context: string): void {
  const holder = _sharedCreds?.context
  if (typeof holder?.setSessionIdContext !== 'function') {
    throw new FdbError(
      'ERR_FDB_OPTION',
      `Node ${process.versions.node} does not let the sessions of this server be renamed: give it the option sessionIdContext, a text that stays the same in every version`,
    )
  }
  holder.setSessionIdContext(context)
}
