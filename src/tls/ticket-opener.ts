import type { Server } from 'node:tls'
import { nodeCrypto } from '../base/lazy.js'
import { askForTicketKeys } from '../node/tls-insides.js'

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
