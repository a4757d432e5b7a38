import http from 'node:http'
import net from 'node:net'
import type { MovableConnections } from '../connections/movable.js'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../fd/owned.js'
import { noDescriptors } from '../host/limits.js'

/** A server that this library can attach to a listener. */
export type ServableServer = net.Server

/** Connections that were closed at the end of the drain, by what they were. */
export interface DrainCounts {
  readonly idle: number
  readonly busy: number
}

/**
 * Whoever takes the connections of a server into its own hands: a relay, a server of another protocol. It is asked in
 * place of what the library knows about Node's own servers. No call may throw.
 */
export interface ConnectionKeeper {
  /** Open now. */
  readonly connections: number
  /** The same by what they are doing, for `status`; asked seldom. */
  kinds?(): Readonly<Record<string, number>>
  /** What its clients speak (`https`, `tcp`), for `status`. */
  readonly scheme?: string
  /** Another process serves: tell the peers to go, close nothing that may have a request on the way. May come twice. */
  announce(): void
  /** This process serves again: what was announced may be taken back, and what was refused may be offered anew. */
  resume?(): void
  /** Resolves when no connection is left; it is asked after {@link announce}, when no new one comes. */
  emptied(): Promise<void>
  /** `drain.timeout` has passed: close what is left, and say how many were in use and how many not. */
  cut(): DrainCounts
  /** Those that can go on in another process. Where they go there, {@link announce} waits until it is known that they stay. */
  readonly moving?: MovableConnections
}

/** Servers that a listener has. */
const taken = new WeakSet<ServableServer>()

interface Http2SessionLike {
  close(): void
  destroy(): void
}

/**
 * One of the embedder's servers on one listener: attaches it to a dup of the listener's descriptor, takes it off
 * again without closing anything, and drains it patiently.
 *
 * *Patiently*: no connection is closed that may have a request on the way. An HTTP/1 connection ends with the next
 * answer, which says `Connection: close`; an HTTP/2 session gets GOAWAY; anything else ends by itself.
 * (`http.Server.close()` closes idle connections at once, and so loses the request that crosses its FIN.)
 */
export class Served {
  readonly server: ServableServer
  readonly #sockets = new Set<net.Socket>()
  readonly #sessions = new Set<Http2SessionLike>()
  readonly #responses = new Set<http.ServerResponse>()
  /** To the last request that came on a connection. */
  readonly #newest = new WeakMap<net.Socket, http.ServerResponse>()
  readonly #marked = new WeakSet<http.ServerResponse>()
  readonly #keeper: ConnectionKeeper | null
  #attached = false
  #taken = () => {}
  #draining = false
  #left = false
  #emptied: (() => void)[] = []

  /** Throws ERR_FDB_SERVER_TWICE, ERR_FDB_SERVER_LISTENS. */
  constructor(server: ServableServer, keeper: ConnectionKeeper | null = null) {
    if (taken.has(server)) {
      throw new FdbError(
        'ERR_FDB_SERVER_TWICE',
        'this server was given to a listener before, and a server accepts on one only: give each listener a server of its own',
      )
    }
    if (server.listening) throw listensAlready()
    taken.add(server)
    this.server = server
    this.#keeper = keeper
    if (keeper !== null) return
    server.on('connection', this.#onConnection)
    server.on('session', this.#onSession)
    // Before the application's own listener: it must find the answer marked already.
    server.prependListener('request', this.#onRequest)
  }

  /** Those that can go on in another process. */
  get moving(): MovableConnections | undefined {
    return this.#keeper?.moving
  }

  get connections(): number {
    return this.#keeper?.connections ?? this.#sockets.size
  }

  /** What the keeper says of them. */
  get scheme(): string | null {
    const { server } = this
    if (this.#keeper !== null) return this.#keeper.scheme ?? null
    // By what they have: a process without TLS need not load it.
    const secure = 'setTicketKeys' in server
    if ('maxHeadersCount' in server) return secure ? 'https' : 'http'
    return secure ? 'tls' : null
  }

  kinds(): Readonly<Record<string, number>> {
    return this.#keeper?.kinds?.() ?? {}
  }

  /**
   * Listens on a dup of `fd`, which Node owns from then on. Node calls listen() again with a backlog of its own
   * choice (511); `relisten` puts ours back.
   */
  attach(fd: OwnedFd, relisten: () => void): Promise<void> {
    if (this.#left) this.#keeper?.resume?.()
    this.#left = false
    this.#draining = false
    const { server } = this
    if (server.listening) return this.#attached ? Promise.resolve() : Promise.reject(listensAlready())
    let own: OwnedFd
    try {
      own = fd.dup()
    } catch (cause) {
      return Promise.reject(noDescriptors(`${fd.label} cannot be given to its server`, cause))
    }
    this.#attached = true
    return new Promise((resolve, reject) => {
      const settled = () => {
        server.off('listening', listening)
        server.off('error', failed)
        this.#taken = () => {}
      }
      // Taken off before Node has said that it listens: it will not say so any more.
      this.#taken = () => {
        settled()
        resolve()
      }
      const listening = () => {
        settled()
        relisten()
        resolve()
      }
      const failed = (error: Error) => {
        settled()
        reject(error)
      }
      server.on('listening', listening)
      server.on('error', failed)
      server.listen({ fd: own.release() })
    })
  }

  /** Stops accepting. No connection is touched: http.Server's own close() would close the idle ones. */
  detach(): void {
    this.#left = true
    if (this.#attached && this.server.listening) net.Server.prototype.close.call(this.server)
    this.#attached = false
    this.#taken()
  }

  /** The application may have closed it. */
  get accepting(): boolean {
    return this.#attached && this.server.listening
  }

  /** Announces the end on every answer from now on. */
  announce(): void {
    this.#draining = true
    this.#keeper?.announce()
    for (const response of this.#responses) this.#mark(response)
    for (const session of this.#sessions) session.close()
  }

  /** Resolves when the last connection has ended by itself. */
  emptied(): Promise<void> {
    if (this.#keeper !== null) return this.#keeper.emptied()
    return this.#sockets.size === 0 ? Promise.resolve() : new Promise(resolve => this.#emptied.push(resolve))
  }

  /** Closes what is left. */
  cut(): DrainCounts {
    if (this.#keeper !== null) return this.#keeper.cut()
    let busy = 0
    const inUse = new Set([...this.#responses].map(response => response.req.socket))
    for (const socket of this.#sockets) if (inUse.has(socket)) busy++
    const counts = { busy, idle: this.#sockets.size - busy }
    for (const session of this.#sessions) session.destroy()
    for (const socket of this.#sockets) socket.destroy()
    return counts
  }

  /** Takes its listeners off the embedder's server. */
  release(): void {
    taken.delete(this.server)
    this.server.off('connection', this.#onConnection)
    this.server.off('session', this.#onSession)
    this.server.off('request', this.#onRequest)
  }

  readonly #onConnection = (socket: net.Socket): void => {
    this.#sockets.add(socket)
    socket.once('close', () => {
      this.#sockets.delete(socket)
      if (this.#sockets.size > 0) return
      const emptied = this.#emptied
      this.#emptied = []
      for (const resolve of emptied) resolve()
    })
  }

  readonly #onSession = (session: Http2SessionLike & NodeJS.EventEmitter): void => {
    this.#sessions.add(session)
    session.once('close', () => this.#sessions.delete(session))
    if (this.#draining) session.close()
  }

  readonly #onRequest = (_request: unknown, response: unknown): void => {
    if (!(response instanceof http.ServerResponse)) return
    const { socket } = response.req
    const earlier = this.#newest.get(socket)
    this.#newest.set(socket, response)
    this.#responses.add(response)
    response.once('close', () => this.#responses.delete(response))
    if (!this.#draining) return
    if (earlier !== undefined) this.#unmark(earlier)
    this.#mark(response)
  }

  /**
   * The answer will say `Connection: close`, if its head has not gone yet. Only the last of pipelined ones: Node closes
   * behind the one that says so, and those that follow would be lost.
   */
  #mark(response: http.ServerResponse): void {
    if (response.headersSent || !response.shouldKeepAlive) return
    if (this.#newest.get(response.req.socket) !== response) return
    response.shouldKeepAlive = false
    this.#marked.add(response)
  }

  #unmark(response: http.ServerResponse): void {
    if (this.#marked.delete(response) && !response.headersSent) response.shouldKeepAlive = true
  }
}

function listensAlready(): FdbError {
  return new FdbError(
    'ERR_FDB_SERVER_LISTENS',
    'this server listens already, so that nobody would accept on the listener: do not call its listen(), the library does',
  )
}
