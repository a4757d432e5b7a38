import net from 'node:net'
import { listenOver, type OwnedFd } from '../../kernel/index.js'
import { acceptInto, acceptOptionsOf, stopListening } from '../../node/server-connections.js'
import type { ServableServer } from './serve-options.js'
import { SpareFd } from './spare-fd.js'

/** The listening socket of an ended worker, on which a server of this process accepts, as a rule until that worker is replaced. Owns the descriptor. */
export class StandInListener {
  readonly #fd: OwnedFd
  readonly #failed: (error: unknown) => void
  readonly #spare = new SpareFd()
  #accepting: net.Server | null = null

  constructor(fd: OwnedFd, failed: (error: unknown) => void) {
    this.#fd = fd
    this.#failed = failed
  }

  /** The caller owns the duplicate. */
  dup(): OwnedFd {
    return this.#fd.dup()
  }

  lend(use: (fd: OwnedFd) => void): void {
    use(this.#fd)
  }

  start(server: ServableServer, backlog: number): void {
    if (this.#accepting !== null) return
    const acceptor = net.createServer(acceptOptionsOf(server as net.Server))
    acceptor.on('error', this.#failed)
    try {
      listenOver(acceptor, this.#spare.take(this.#fd), backlog)
    } catch (error) {
      this.#failed(error)
      return
    }
    acceptInto(acceptor, server as net.Server)
    this.#accepting = acceptor
  }

  /** Stops accepting. The owner calls this before the server stops listening. */
  stop(): void {
    if (this.#accepting === null) return
    stopListening(this.#accepting)
    this.#accepting = null
    this.#spare.keep(this.#fd)
  }

  close(): void {
    this.stop()
    this.#spare.close()
    this.#fd.close()
  }
}
