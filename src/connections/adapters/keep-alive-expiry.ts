import type net from 'node:net'

/** How often adopted connections are looked at whose keep-alive timeout may have passed. */
const EXPIRY_MS = 100

/** What was left of the keep-alive timeouts of connections that arrived. Once a byte has come, Node's own timeouts go on. */
export class KeepAliveExpiry {
  /** When they are closed, if nothing has come on them by then. */
  readonly #expiring = new Map<net.Socket, number>()
  #timer: NodeJS.Timeout | undefined

  /** On the clock of `performance`. */
  add(socket: net.Socket, at: number): void {
    this.#expiring.set(socket, at)
    this.#timer ??= setInterval(() => this.#closeExpired(), EXPIRY_MS)
    this.#timer.unref()
  }

  #closeExpired(): void {
    const now = performance.now()
    for (const [socket, at] of this.#expiring) {
      if (at > now) continue
      this.#expiring.delete(socket)
      if (!socket.destroyed && socket.bytesRead === 0) socket.emit('timeout')
    }
    if (this.#expiring.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
