import type net from 'node:net'

type Close = (callback?: (error?: Error) => void) => net.Server

/** Servers whose close is watched. A program may close one and listen again. */
const callbacksOf = new WeakMap<net.Server, CloseCallbacks>()

export interface CloseCallbacks {
  /** Whether the library has detached the server because another process serves. */
  isDetached(): boolean
  /** The server no longer accepts. */
  closed(): void
}

/** Reports when the program closes a server. If the library has detached the server, the close succeeds as on a listening one. */
export function onServerClose(server: net.Server, closing: CloseCallbacks): void {
  const known = callbacksOf.has(server)
  callbacksOf.set(server, closing)
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
    const now = callbacksOf.get(server) ?? closing
    const taken = now.isDetached()
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

type ListeningHandler = (...args: unknown[]) => void

/**
 * Sets the program's 'listening' handlers aside while another process serves: when this process serves again Node emits the event again,
 * which a program that starts work there does not expect.
 */
export class ListeningOnce {
  readonly #aside = new Map<net.Server, readonly ListeningHandler[]>()

  setAside(servers: Iterable<net.Server>): void {
    for (const server of servers) {
      this.#aside.set(server, server.rawListeners('listening') as ListeningHandler[])
      server.removeAllListeners('listening')
    }
  }

  /** Restores the handlers after the servers listen again. */
  bringBack(): void {
    for (const [server, heard] of this.#aside) {
      const again = () => {
        for (const each of heard) server.on('listening', each)
      }
      // Node emits 'listening' in the turn in which the server listens.
      if (server.listening) setImmediate(again)
      else server.once('listening', () => setImmediate(again))
    }
    this.#aside.clear()
  }
}
