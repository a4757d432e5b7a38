import type net from 'node:net'

/** The sockets of a server that are open in this process. */
export class OpenSockets implements Iterable<net.Socket> {
  readonly #sockets = new Set<net.Socket>()
  #emptied: (() => void)[] = []
  /** One for all of them. */
  readonly #closed: (this: net.Socket) => void

  constructor() {
    const open = this
    this.#closed = function () {
      open.remove(this)
    }
  }

  get size(): number {
    return this.#sockets.size
  }

  has(socket: net.Socket): boolean {
    return this.#sockets.has(socket)
  }

  [Symbol.iterator](): IterableIterator<net.Socket> {
    return this.#sockets.values()
  }

  /** Counted until it closes, or is {@link remove}d. */
  readonly add = (socket: net.Socket): void => {
    if (this.#sockets.has(socket)) return
    this.#sockets.add(socket)
    socket.once('close', this.#closed)
  }

  /** Its connection goes on elsewhere. */
  remove(socket: net.Socket): void {
    if (!this.#sockets.delete(socket) || this.#sockets.size > 0) return
    const emptied = this.#emptied
    this.#emptied = []
    for (const resolve of emptied) resolve()
  }

  /** Resolves when none is left; at once when none is open. */
  emptied(): Promise<void> {
    return this.#sockets.size === 0 ? Promise.resolve() : new Promise(resolve => this.#emptied.push(resolve))
  }
}
