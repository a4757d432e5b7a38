import type net from 'node:net'

type Close = (callback?: (error?: Error) => void) => net.Server

const known = new WeakSet<net.Server>()

/**
 * Tells when the program closes a server; `closed` answers whether the library had taken it off its listener before, as another process
 * serves. Then the close succeeds as it would on a server that listens.
 */
export function tellClose(server: net.Server, closed: () => boolean): void {
  if (known.has(server)) return
  known.add(server)
  let emitted = false
  server.on('close', () => {
    emitted = true
  })
  server.on('listening', () => {
    emitted = false
  })
  const original = server.close as Close
  const close: Close = callback => {
    if (!closed()) return Reflect.apply(original, server, callback === undefined ? [] : [callback])
    if (callback !== undefined) {
      if (emitted) process.nextTick(callback)
      else server.once('close', () => callback())
    }
    return Reflect.apply(original, server, [])
  }
  Object.defineProperty(server, 'close', { configurable: true, writable: true, value: close })
}
