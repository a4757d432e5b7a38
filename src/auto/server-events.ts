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
export function onServerClose(server: net.Server, closing: Closing): void {
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

type Heard = (...args: unknown[]) => void

/**
 * The program's listeners of 'listening', set aside while another process serves: when this process serves again Node says so a second time,
 * which a program that starts its work there does not expect.
 */
export class ListeningOnce {
  readonly #aside = new Map<net.Server, readonly Heard[]>()

  /** The servers are off their listeners. */
  setAside(servers: Iterable<net.Server>): void {
    for (const server of servers) {
      this.#aside.set(server, server.rawListeners('listening') as Heard[])
      server.removeAllListeners('listening')
    }
  }

  /** The servers listen again, now or in a moment. */
  bringBack(): void {
    for (const [server, heard] of this.#aside) {
      const again = () => {
        for (const each of heard) server.on('listening', each)
      }
      // Node says it in the turn in which the server listens.
      if (server.listening) setImmediate(again)
      else server.once('listening', () => setImmediate(again))
    }
    this.#aside.clear()
  }
}
