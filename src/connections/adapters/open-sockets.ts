import type net from 'node:net'
import { ListedSockets } from './listed-sockets.js'

/**
 * The open connections of a server. While a plain `http.Server` only serves, they have no 'close' listener each, to save CPU time; the listeners are
 * added when connections must be found one by one, to move or to drain.
 */
export class OpenSockets implements Iterable<net.Socket> {
  #server: net.Server | null = null
  /** The connections, as long as Node lists them; null: they are in {@link #watched}, with a 'close' listener each. */
  #listed: ListedSockets | null = null
  readonly #watched = new Set<net.Socket>()
  #emptied: (() => void)[] = []
  /** One function for all sockets, to save memory. */
  readonly #closed: (this: net.Socket) => void

  constructor() {
    const open = this
    this.#closed = function () {
      open.remove(this)
    }
  }

  /** Adds the connections of `server` until {@link release}. */
  follow(server: net.Server): void {
    this.#server = server
    this.#listed = ListedSockets.of(server, () => this.#watch())
    if (this.#listed === null) server.on('connection', this.add)
  }

  /** Whether Node lists the connections. */
  get areListed(): boolean {
    return this.#listed !== null
  }

  release(): void {
    this.#server?.off('connection', this.add)
    this.#listed?.release()
  }

  get size(): number {
    return this.#all().size
  }

  has(socket: net.Socket): boolean {
    return this.#watch().has(socket)
  }

  [Symbol.iterator](): IterableIterator<net.Socket> {
    return this.#all().values()
  }

  /** Adds a connection until it closes or is {@link remove}d. */
  readonly add = (socket: net.Socket): void => {
    if (this.#listed !== null) this.#listed.add(socket)
    else if (!this.#watched.has(socket)) {
      this.#watched.add(socket)
      socket.on('close', this.#closed)
    }
  }

  remove(socket: net.Socket): void {
    const sockets = this.#watch()
    if (!sockets.delete(socket) || sockets.size > 0) return
    const emptied = this.#emptied
    this.#emptied = []
    for (const resolve of emptied) resolve()
  }

  emptied(): Promise<void> {
    return this.#watch().size === 0 ? Promise.resolve() : new Promise(resolve => this.#emptied.push(resolve))
  }

  /** Adds a 'close' listener to each connection, unless that was done before. Returns the connections. */
  #watch(): Set<net.Socket> {
    const listed = this.#listed
    if (listed === null) return this.#watched
    this.#listed = null
    listed.release()
    this.#server!.on('connection', this.add)
    for (const socket of listed.all()) this.add(socket)
    return this.#watched
  }

  #all(): Set<net.Socket> {
    return this.#listed === null ? this.#watched : new Set(this.#listed.all())
  }
}
