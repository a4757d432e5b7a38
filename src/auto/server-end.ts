import type net from 'node:net'

type Close = (callback?: (error?: Error) => void) => net.Server

/** By servers whose close is watched: a program may close one and listen again. */
const closings = new WeakMap<net.Server, Closing>()

/** Is told of the program's close of a server. */
export interface Closing {
  /** Whether the library had taken the server off its listener before, as another process serves. */
  taken(): boolean
  /** The server accepts no more. */
  closed(): void
}

/**
 * Tells when the program closes a server. If the library had taken it off its listener, the close succeeds as it would on a server that
 * listens.
 */
export function tellClose(server: net.Server, closing: Closing): void {
  const known = closings.has(server)
  closings.set(server, closing)
  if (known) return
  let emitted = false
  server.on('close', () => {
    emitted = true
  })
  server.on('listening', () => {
    emitted = false
  })
  const original = server.close as Close
  const close: Close = callback => {
    const now = closings.get(server) ?? closing
    const taken = now.taken()
    if (taken && callback !== undefined) {
      if (emitted) process.nextTick(callback)
      else server.once('close', () => callback())
    }
    Reflect.apply(original, server, taken || callback === undefined ? [] : [callback])
    now.closed()
    return server
  }
  Object.defineProperty(server, 'close', { configurable: true, writable: true, value: close })
}
