import type http from 'node:http'
import type net from 'node:net'
import {
  HTTP_CONNECTIONS,
  hasNodeListener,
  isHttpServer,
  listedSockets,
  parserOf,
  tracksConnections,
} from '../../node/http-connections.js'

/** The events with which Node hands a connection over to the application, if the application listens to them. */
const TAKEN = ['upgrade', 'connect'] as const

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

/**
 * The open connections of a plain `http.Server`. Uses Node's own list, because a 'connection' listener and a second list would
 * take 2 % of the CPU time of a short request. Keeps only the connections that the application has taken over: Node does not list these.
 */
class ListedSockets {
  readonly #server: http.Server
  readonly #unlisted: () => void
  readonly #taken = new Set<net.Socket>()

  /**
   * Returns null if Node does not list the connections of this server. Calls `unlisted` when Node's own 'connection' listener is removed, or if the server
   * has no list when it listens.
   */
  static of(server: net.Server, unlisted: () => void): ListedSockets | null {
    if (!isHttpServer(server) || 'setTicketKeys' in server || !HTTP_CONNECTIONS.assumed) return null
    if (!hasNodeListener(server) || (server.listening && !tracksConnections(server))) return null
    return new ListedSockets(server, unlisted)
  }

  private constructor(server: http.Server, unlisted: () => void) {
    this.#server = server
    this.#unlisted = unlisted
    for (const event of TAKEN)
      if (server.listenerCount(event) > 0) server.prependListener(event, this.#onTaken)
    // Connections that were accepted earlier are emitted again in this turn.
    server.on('connection', this.add)
    setImmediate(() => server.off('connection', this.add))
    server.on('listening', this.#onListening)
    server.on('newListener', this.#onNewListener)
    server.on('removeListener', this.#onRemoveListener)
  }

  all(): net.Socket[] {
    return [...listedSockets(this.#server), ...[...this.#taken].filter(({ destroyed }) => !destroyed)]
  }

  /** Adds a connection unless Node lists it. */
  readonly add = (socket: net.Socket): void => {
    if (parserOf(socket) !== null || socket.destroyed) return
    this.#taken.add(socket)
    socket.once('close', () => this.#taken.delete(socket))
  }

  release(): void {
    const server = this.#server
    server.off('listening', this.#onListening)
    server.off('newListener', this.#onNewListener)
    server.off('removeListener', this.#onRemoveListener)
    server.off('connection', this.add)
    for (const event of TAKEN) server.off(event, this.#onTaken)
  }

  readonly #onTaken = (_request: http.IncomingMessage, socket: unknown): void =>
    this.add(socket as net.Socket)

  readonly #onListening = (): void => {
    if (!tracksConnections(this.#server)) this.#unlisted()
  }

  /** Adds {@link #onTaken} only together with a listener of the application: without one, Node itself answers the request. */
  readonly #onNewListener = (event: string, listener: unknown): void => {
    if (isTaken(event) && listener !== this.#onTaken && this.#server.listenerCount(event) === 0)
      this.#server.prependListener(event, this.#onTaken)
  }

  readonly #onRemoveListener = (event: string, listener: unknown): void => {
    if (event === 'connection' && !hasNodeListener(this.#server)) this.#unlisted()
    if (isTaken(event) && listener !== this.#onTaken && this.#server.listenerCount(event) === 1)
      this.#server.off(event, this.#onTaken)
  }
}

function isTaken(event: string): event is (typeof TAKEN)[number] {
  return (TAKEN as readonly string[]).includes(event)
}
