import type net from 'node:net'
import { ListedSockets } from './listed-sockets.js'
import { PendingSet } from './pending-set.js'

/**
 * The open connections of a server. While the server only serves, they have no 'close' listener each, to save CPU time; the listeners are added when
 * connections must be found one by one, to move or to drain.
 */
export class OpenSockets implements Iterable<net.Socket> {
  #server: net.Server | null = null
  /** The connections without 'close' listeners, if Node lists the server's connections; otherwise they are in {@link #unwatched}. */
  #listed: ListedSockets | null = null
  readonly #unwatched = new PendingSet<net.Socket>(socket => socket.closed)
  #watched: Set<net.Socket> | null = null
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
    if (this.#watched === null) {
      const unwatched = this.#listed ?? this.#unwatched
      unwatched.add(socket)
      return
    }
    if (this.#watched.has(socket)) return
    this.#watched.add(socket)
    socket.on('close', this.#closed)
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
    if (this.#watched !== null) return this.#watched
    this.#watched = this.#all()
    for (const socket of this.#watched) socket.on('close', this.#closed)
    this.#unwatched.clear()
    if (this.#listed !== null) {
      this.#listed.release()
      this.#listed = null
      this.#server!.on('connection', this.add)
    }
    return this.#watched
  }

  #all(): Set<net.Socket> {
    return this.#watched ?? new Set(this.#listed?.all() ?? this.#unwatched.all())
  }
}
