import http from 'node:http'
import net from 'node:net'
import type { SocketProtocol } from '../connections/application-socket.js'
import { HttpAnswers } from '../connections/http-answers.js'
import { knowsIdle } from '../connections/http-inside.js'
import { type HttpHooks, HttpServerConnections } from '../connections/http-server.js'
import type { MovableConnections } from '../connections/movable.js'
import { NetServerConnections } from '../connections/net-server.js'
import { OpenSockets } from '../connections/open-sockets.js'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../fd/owned.js'
import { noDescriptors } from '../host/limits.js'
import type { DrainCounts } from './forced-closes.js'
import { nameLeftover } from './leftover.js'
import { checkConnections, checkServer } from './servable.js'

/** A server that this library can attach to a listener. */
export type ServableServer = net.Server

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
  /**
   * `drain.timeout` has passed: close what is left, and say what it was. It may take a moment to tell the peers as their
   * protocol asks: {@link emptied} resolves when all are gone.
   */
  cut(): DrainCounts
  /** Those that can go on in another process. Where they go there, {@link announce} waits until it is known that they stay. */
  readonly moving?: MovableConnections
}

/** What `listener.serve()` may be told of a server's connections. */
export type ServedConnections = ConnectionKeeper | HttpHooks | SocketProtocol

/** Servers that a listener has. */
const taken = new WeakSet<ServableServer>()

interface Http2SessionLike extends NodeJS.EventEmitter {
  close(): void
  destroy(): void
}

/**
 * One of the embedder's servers on one listener: attaches it to a dup of the listener's descriptor, takes it off
 * again without closing anything, lets its connections go on in another process where they can, and drains the others
 * patiently.
 *
 * *Patiently*: no connection is closed that may have a request on the way. An HTTP/1 connection ends with the next
 * answer, which says `Connection: close`; an HTTP/2 session gets GOAWAY; anything else ends by itself.
 * (`http.Server.close()` closes idle connections at once, and so loses the request that crosses its FIN.)
 */
export class Served {
  readonly server: ServableServer
  readonly #open = new OpenSockets()
  readonly #sessions = new Map<Http2SessionLike, { streams: number }>()
  /** TLS servers: connections behind their handshake. */
  readonly #secure = new Set<net.Socket>()
  readonly #keeper: ConnectionKeeper | null
  readonly #answers: HttpAnswers | null
  readonly #moving: HttpServerConnections | NetServerConnections | undefined
  readonly #failed: (error: unknown) => void
  #attached = false
  #taken = () => {}
  #draining = false
  #left = false

  /**
   * `failed` hears what the application's hooks throw. Throws ERR_FDB_NOT_A_SERVER, ERR_FDB_SERVER_TWICE, ERR_FDB_SERVER_LISTENS,
   * ERR_FDB_OPTION.
   */
  constructor(
    server: ServableServer,
    connections: ServedConnections = {},
    failed: (error: unknown) => void = () => {},
  ) {
    checkServer(server)
    if (taken.has(server)) {
      throw new FdbError(
        'ERR_FDB_SERVER_TWICE',
        'this server was given to a listener before, and a server accepts on one only: give each listener a server of its own',
      )
    }
    if (server.listening) throw listensAlready()
    this.server = server
    this.#failed = failed
    this.#keeper = checkConnections(server, connections)
    taken.add(server)
    if (this.#keeper !== null) {
      this.#answers = null
      this.#moving = undefined
      return
    }
    this.#answers = new HttpAnswers(server as http.Server)
    this.#moving = this.#movable(connections as HttpHooks | SocketProtocol, failed)
    server.on('connection', this.#open.add)
    server.on('secureConnection', this.#onSecure)
    server.on('session', this.#onSession)
  }

  #movable(
    hooks: HttpHooks | SocketProtocol,
    failed: (error: unknown) => void,
  ): HttpServerConnections | NetServerConnections | undefined {
    const { server } = this
    const open = this.#open
    if ('protocol' in hooks) return new NetServerConnections(server, open, hooks, failed)
    if (!(server instanceof http.Server) || !knowsIdle()) return undefined
    return new HttpServerConnections({ server, open, answers: this.#answers!, hooks, failed })
  }

  /** Those that can go on in another process. */
  get moving(): MovableConnections | undefined {
    return this.#keeper === null ? this.#moving : this.#keeper.moving
  }

  get connections(): number {
    return this.#keeper?.connections ?? this.#open.size
  }

  /** What its clients speak, for `status`; null where that is not known. */
  get scheme(): string | null {
    const { server } = this
    if (this.#keeper !== null) return this.#keeper.scheme ?? null
    // By what they have: a process without TLS need not load it.
    const secure = 'setTicketKeys' in server
    if ('maxHeadersCount' in server) return secure ? 'https' : 'http'
    return secure ? 'tls' : null
  }

  /** What they are doing, as far as it is known here. */
  kinds(): Readonly<Record<string, number>> {
    if (this.#keeper !== null) return this.#keeper.kinds?.() ?? {}
    const kinds: Record<string, number> = {}
    for (const { reason, count } of this.#named().closed ?? []) kinds[reason] = (kinds[reason] ?? 0) + count
    return kinds
  }

  /**
   * Listens on a dup of `fd`, which Node owns from then on. Node calls listen() again with a backlog of its own
   * choice (511); `relisten` puts ours back.
   */
  attach(fd: OwnedFd, relisten: () => void): Promise<void> {
    if (this.#left) this.#resume()
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

  #resume(): void {
    this.#left = false
    this.#draining = false
    this.#ask(keeper => keeper.resume?.())
    this.#answers?.resume()
    this.#moving?.resume()
  }

  /** What it throws against its contract keeps nothing of a handoff from being done. */
  #ask(question: (keeper: ConnectionKeeper) => void): void {
    if (this.#keeper === null) return
    try {
      question(this.#keeper)
    } catch (error) {
      this.#failed(error)
    }
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
    this.#ask(keeper => keeper.announce())
    this.#answers?.announce()
    for (const session of this.#sessions.keys()) session.close()
  }

  /** Resolves when the last connection has ended by itself. */
  emptied(): Promise<void> {
    return this.#keeper?.emptied() ?? this.#open.emptied()
  }

  /** Closes what is left. */
  cut(): DrainCounts {
    if (this.#keeper !== null) return this.#keeper.cut()
    const counts = this.#named()
    for (const session of this.#sessions.keys()) session.destroy()
    for (const socket of [...this.#open]) socket.destroy()
    return counts
  }

  /** Takes its listeners off the embedder's server. */
  release(): void {
    const { server } = this
    taken.delete(server)
    this.#answers?.release()
    server.off('connection', this.#open.add)
    server.off('secureConnection', this.#onSecure)
    server.off('session', this.#onSession)
  }

  #named(): DrainCounts {
    return nameLeftover({
      server: this.server,
      moving: this.#moving,
      open: this.#open,
      secure: this.#secure,
      sessions: new Set(this.#sessions.values()),
      busy: this.#answers!.busy(),
      scheme: this.scheme,
    }).counts
  }

  readonly #onSecure = (socket: net.Socket): void => {
    this.#secure.add(socket)
    socket.once('close', () => this.#secure.delete(socket))
  }

  readonly #onSession = (session: Http2SessionLike): void => {
    const facts = { streams: 0 }
    this.#sessions.set(session, facts)
    session.on('stream', (stream: NodeJS.EventEmitter) => {
      facts.streams++
      stream.once('close', () => facts.streams--)
    })
    session.once('close', () => this.#sessions.delete(session))
    if (this.#draining) session.close()
  }
}

function listensAlready(): FdbError {
  return new FdbError(
    'ERR_FDB_SERVER_LISTENS',
    'this server listens already, so that nobody would accept on the listener: do not call its listen(), the library does',
  )
}
