import http from 'node:http'
import net from 'node:net'
import type { OwnedFd } from '../fd/owned.js'

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
  /** Another process serves: tell the peers to go, close nothing that may have a request on the way. May come twice. */
  announce(): void
  /** This process serves again: what was announced may be taken back. */
  resume?(): void
  /** Resolves when no connection is left; it is asked after {@link announce}, when no new one comes. */
  emptied(): Promise<void>
  /** `drain.timeout` has passed: close what is left, and say how many were in use and how many not. */
  cut(): DrainCounts
}

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
  readonly #keeper: ConnectionKeeper | null
  #draining = false
  #emptied: (() => void)[] = []

  constructor(server: ServableServer, keeper: ConnectionKeeper | null = null) {
    this.server = server
    this.#keeper = keeper
    if (keeper !== null) return
    server.on('connection', this.#onConnection)
    server.on('session', this.#onSession)
    // Before the application's own listener: it must find the answer marked already.
    server.prependListener('request', this.#onRequest)
  }

  get connections(): number {
    return this.#keeper?.connections ?? this.#sockets.size
  }

  /**
   * Listens on a dup of `fd`, which Node owns from then on. Node calls listen() again with a backlog of its own
   * choice (511); `relisten` puts ours back.
   */
  attach(fd: OwnedFd, relisten: () => void): Promise<void> {
    if (this.#draining) this.#keeper?.resume?.()
    this.#draining = false
    const { server } = this
    const own = fd.dup()
    return new Promise((resolve, reject) => {
      const settled = () => {
        server.off('listening', listening)
        server.off('error', failed)
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
    if (this.server.listening) net.Server.prototype.close.call(this.server)
  }

  /** Announces the end on every answer from now on. */
  announce(): void {
    this.#draining = true
    this.#keeper?.announce()
    for (const response of this.#responses) mark(response)
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
    const inUse = new Set([...this.#responses].map(response => response.socket))
    for (const socket of this.#sockets) if (inUse.has(socket)) busy++
    const counts = { busy, idle: this.#sockets.size - busy }
    for (const session of this.#sessions) session.destroy()
    for (const socket of this.#sockets) socket.destroy()
    return counts
  }

  /** Takes its listeners off the embedder's server. */
  release(): void {
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
    this.#responses.add(response)
    response.once('close', () => this.#responses.delete(response))
    if (this.#draining) mark(response)
  }
}

/** The answer will say `Connection: close`, if its head has not gone yet. */
function mark(response: http.ServerResponse): void {
  if (!response.headersSent) response.shouldKeepAlive = false
}
