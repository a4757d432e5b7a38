import type net from 'node:net'
import { setMethod } from './observed-events.js'

/** The addresses that the library's servers had when it stopped them; null after {@link forgetAddress}. */
const kept = new WeakMap<net.Server, ReturnType<net.Server['address']>>()

/**
 * Lets `server.address()` return the present address after the library has stopped the server, while `isInUse`: the application's handlers of the
 * last requests may call it, and expect no null.
 */
export function keepAddress(server: net.Server, isInUse: () => boolean): void {
  const known = kept.has(server)
  kept.set(server, presentAddress(server))
  if (known) return
  const original = server.address
  setMethod(
    server,
    'address',
    () => Reflect.apply(original, server, []) ?? (isInUse() ? (kept.get(server) ?? null) : null),
  )
}

/** Returns null too if the server cannot tell its address: it is to stop all the same. */
function presentAddress(server: net.Server): ReturnType<net.Server['address']> {
  try {
    return server.address()
  } catch {
    return null
  }
}

/** The server listens again, or the application has closed it: `address()` is Node's. */
export function forgetAddress(server: net.Server): void {
  if (kept.has(server)) kept.set(server, null)
}
