import type net from 'node:net'
import { observe } from '../node/observed-events.js'

/**
 * Keeps the program's handlers of 'listening' from a second call: when this process serves again after another one, Node emits the event
 * again, but a program expects it only once.
 */
export class ListeningEvents {
  readonly #muted = new Map<net.Server, () => void>()

  /** While another process serves: the next 'listening' does not reach the program. */
  mute(servers: Iterable<net.Server>): void {
    for (const server of servers) {
      this.#muted.get(server)?.()
      const unmute = observe(server, {
        listening: () => {
          unmute()
          this.#muted.delete(server)
          return false
        },
      })
      this.#muted.set(server, unmute)
    }
  }

  /** This process serves again. A server that has not stopped to listen does not emit the event. */
  restore(): void {
    setImmediate(() => {
      for (const [server, unmute] of this.#muted) {
        if (!server.listening) continue
        unmute()
        this.#muted.delete(server)
      }
    })
  }
}
