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
import { type Observers, observe, observersOf } from '../../node/observed-events.js'

/** The connections of a server that can move. */
export interface Connections extends Iterable<net.Socket> {
  has(socket: net.Socket): boolean
  add(socket: net.Socket): void
  remove(socket: net.Socket): void
}

/**
 * The open connections of a server. While a plain `http.Server` only serves, their 'close' is not observed, to save CPU time; it is from when
 * connections must be found one by one, to move or to drain.
 */
export class OpenSockets implements Connections {
  #server: net.Server | null = null
  /** The connections, as long as Node lists them; null: they are in {@link #watched}, and each is observed until it closes. */
  #listed: ListedSockets | null = null
  readonly #watched = new Set<net.Socket>()
  #emptied: (() => void)[] = []
  #stopObserving: () => void = () => {}
  /** One for all sockets, to save memory. */
  readonly #onClose: Observers

  constructor() {
    const open = this
    this.#onClose = observersOf({
      close(this: net.Socket) {
        open.remove(this)
      },
    })
  }

  /** Adds the connections of `server` until {@link release}. */
  follow(server: net.Server): void {
    this.#server = server
    this.#listed = ListedSockets.of(server, () => this.#watch())
    if (this.#listed === null) this.#observe()
  }

  #observe(): void {
    this.#stopObserving = observe(this.#server!, { connection: this.add })
  }

  /** Whether Node lists the connections. */
  get areListed(): boolean {
    return this.#listed !== null
  }

  release(): void {
    this.#stopObserving()
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
      observe(socket, this.#onClose)
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

  /** Observes each connection, unless that was done before. Returns the connections. */
  #watch(): Set<net.Socket> {
    const listed = this.#listed
    if (listed === null) return this.#watched
    this.#listed = null
    listed.release()
    this.#observe()
    for (const socket of listed.all()) this.add(socket)
    return this.#watched
  }

  #all(): Set<net.Socket> {
    return this.#listed === null ? this.#watched : new Set(this.#listed.all())
  }
}

/**
 * The open connections of a plain `http.Server`. Uses Node's own list, because a second list would take 2 % of the CPU time of a short
 * request. Keeps only the connections that the application has taken over: Node does not list these.
 */
class ListedSockets {
  readonly #server: http.Server
  readonly #unlisted: () => void
  readonly #taken = new Set<net.Socket>()
  readonly #stopObserving: () => void
  readonly #onTakenClose: Observers
  /** In this turn of the event loop connections that were accepted earlier are replayed. */
  #replays = true

  /**
   * Returns null if Node does not list the connections of this server. Calls `unlisted` when Node's own 'connection' listener is missing, or if the server
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
    const taken = this.#taken
    this.#onTakenClose = observersOf({
      close(this: net.Socket) {
        taken.delete(this)
      },
    })
    setImmediate(() => {
      this.#replays = false
    })
    this.#stopObserving = observe(server, {
      connection: this.#onConnection,
      listening: this.#onListening,
      // The events with which Node hands a connection over to the application, if the application listens to them.
      upgrade: this.#onTaken,
      connect: this.#onTaken,
    })
  }

  all(): net.Socket[] {
    return [...listedSockets(this.#server), ...[...this.#taken].filter(({ destroyed }) => !destroyed)]
  }

  /** Adds a connection unless Node lists it. */
  add(socket: net.Socket): void {
    if (parserOf(socket) !== null || socket.destroyed || this.#taken.has(socket)) return
    this.#taken.add(socket)
    observe(socket, this.#onTakenClose)
  }

  release(): void {
    this.#stopObserving()
  }

  readonly #onConnection = (socket: net.Socket): void => {
    if (this.#replays) this.add(socket)
    else if (!hasNodeListener(this.#server)) {
      this.#taken.add(socket)
      this.#unlisted()
    }
  }

  readonly #onTaken = (_request: http.IncomingMessage, socket: net.Socket): void => this.add(socket)

  readonly #onListening = (): void =>
    // Node's own listener, which makes the list, gets the event later.
    process.nextTick(() => {
      if (!tracksConnections(this.#server)) this.#unlisted()
    })
}
