import type { Server } from 'node:tls'
import { FdbError } from '../errors.js'
import type { Member } from '../member/member.js'
import { type TicketKeyOptions, TicketKeys } from './ticket-keys.js'
import { TicketServer } from './ticket-server.js'

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
