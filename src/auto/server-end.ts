import type net from 'node:net'

type Close = (callback?: (error?: Error) => void) => net.Server

const known = new WeakSet<net.Server>()

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
    const taken = closing.taken()
    if (taken && callback !== undefined) {
      if (emitted) process.nextTick(callback)
      else server.once('close', () => callback())
    }
    Reflect.apply(original, server, taken || callback === undefined ? [] : [callback])
    closing.closed()
    return server
  }
  Object.defineProperty(server, 'close', { configurable: true, writable: true, value: close })
}
