import type net from 'node:net'

/** The next request of a client waits in the kernel at most so long for its connection to leave. */
const HOLD_MS = 200
/** When nobody came in that time, none is held for so long, and then twice as long: connections leave more slowly than they could. */
const NO_HOLD_MS = 250

/** Connections between two requests that are not read from, so that they can leave before the next one. */
export class HeldSockets {
  /** In the order in which they came. */
  readonly #held = new Set<net.Socket>()
  #letGo: NodeJS.Timeout | undefined
  #holdAgainAt = 0
  #noHoldMs = NO_HOLD_MS

  /** Not while nobody comes to take them. */
  hold(socket: net.Socket): void {
    if (performance.now() < this.#holdAgainAt) return
    socket.pause()
    this.#held.add(socket)
    this.#letGo ??= setTimeout(() => {
      const pause = this.#noHoldMs
      this.readAgain()
      this.#holdAgainAt = performance.now() + pause
      this.#noHoldMs = pause * 2
    }, HOLD_MS)
  }

  readAgain(): void {
    for (const socket of this.#held) socket.resume()
    this.#held.clear()
    this.#nobody()
  }

  /** Each may leave; one that has not when the next is asked for is read from again. */
  *taken(): Generator<net.Socket> {
    for (const socket of this.#held) {
      this.#held.delete(socket)
      if (this.#held.size === 0) this.#nobody()
      yield socket
      if (!socket.destroyed) socket.resume()
    }
  }

  #nobody(): void {
    clearTimeout(this.#letGo)
    this.#letGo = undefined
    this.#noHoldMs = NO_HOLD_MS
  }
}
