import type net from 'node:net'

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
