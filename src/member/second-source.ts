import net from 'node:net'
import { listenOver, type OwnedFd } from '../kernel/index.js'
import { acceptInto } from '../node/accept-into.js'
import { acceptOptionsOf } from '../node/accept-options.js'
import { stopListening } from '../node/server-connections.js'
import type { ServableServer } from './serve-options.js'

/**
 * Another listening socket whose connections a server takes beside those of its own: of a worker whose place nobody has taken. Owns its
 * descriptor.
 */
export class SecondSource {
  readonly #fd: OwnedFd
  readonly #failed: (error: unknown) => void
  #accepting: net.Server | null = null

  constructor(fd: OwnedFd, failed: (error: unknown) => void) {
    this.#fd = fd
    this.#failed = failed
  }

  start(server: ServableServer, backlog: number): void {
    if (this.#accepting !== null) return
    const second = net.createServer(acceptOptionsOf(server as net.Server))
    second.on('error', this.#failed)
    try {
      listenOver(second, this.#fd.dup(), backlog)
    } catch (error) {
      this.#failed(error)
      return
    }
    acceptInto(second, server as net.Server)
    this.#accepting = second
  }

  /** Before its server stops listening. */
  stop(): void {
    if (this.#accepting !== null) stopListening(this.#accepting)
    this.#accepting = null
  }

  close(): void {
    this.stop()
    this.#fd.close()
  }
}
