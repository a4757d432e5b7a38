import net from 'node:net'
import { internal } from './internal.js'

/**
 * When a `net.Server` says 'close': on Node 20 to 26 `_emitCloseIfDrained` does, as soon as it neither listens nor has a
 * connection. A server that stops accepting and may be asked to accept again has not closed.
 */
interface Insides {
  _emitCloseIfDrained?: () => void
}

export const SERVER_CLOSE = internal(
  'server._emitCloseIfDrained',
  "a server that stops accepting says 'close' although it may accept again",
  () => typeof (new net.Server() as unknown as Insides)._emitCloseIfDrained === 'function',
)

/** Stops accepting, touches no connection (`http.Server.close()` would close idle ones), and says no 'close' until {@link letClose}. */
export function stopListening(server: net.Server): void {
  const inside = server as unknown as Insides
  if (typeof inside._emitCloseIfDrained === 'function') inside._emitCloseIfDrained = () => {}
  net.Server.prototype.close.call(server)
}

/** For a server that listens again: its next 'close' is one. */
export function mayClose(server: net.Server): void {
  delete (server as unknown as Insides)._emitCloseIfDrained
}

/** For a server that will not listen any more: 'close' comes now, or when its last connection has ended. */
export function letClose(server: net.Server): void {
  if (!Object.hasOwn(server, '_emitCloseIfDrained')) return
  mayClose(server)
  ;(server as unknown as Insides)._emitCloseIfDrained?.()
}
