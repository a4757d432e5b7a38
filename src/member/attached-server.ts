import { AsyncResource } from 'node:async_hooks'
import type http from 'node:http'
import type net from 'node:net'
import { HttpResponses } from '../connections/adapters/http-responses.js'
import { HttpServerConnections } from '../connections/adapters/http-server.js'
import { NetServerConnections } from '../connections/adapters/net-server.js'
import { OpenSockets } from '../connections/adapters/node-socket.js'
import type { MovableConnections } from '../connections/movable.js'
import { FdbError } from '../errors.js'
import { listenOver, type OwnedFd } from '../kernel/index.js'
import { HTTP_CONNECTIONS, isHttpServer } from '../node/http-connections.js'
import {
  emitDelayedClose,
  enableClose,
  SERVER_CONNECTIONS,
  stopListening,
} from '../node/server-connections.js'
import { SOCKET_HANDLE } from '../node/socket-handle.js'
import { outOfDescriptors } from '../os/limits.js'
import { closesOfServer, type DrainCounts } from './forced-closes.js'
import { Http2Sessions } from './http2-sessions.js'
import {
  type ConnectionKeeper,
  checkServeOptions,
  checkServer,
  type ServableServer,
  type ServeOptions,
} from './serve-options.js'

/** For the first request of a connection, where the service ends. */
const SILENT_MS = 500

/** Servers that a listener has. */
const taken = new WeakSet<ServableServer>()

/**
 * One of the embedder's servers on one listener: attaches it to a dup of the listener's descriptor, takes it off
 * again without closing anything, lets its connections go on in another process where they can, and drains the others
 * patiently.
 *
 * *Patiently*: no connection is closed that may have a request on the way. An HTTP/1 connection ends with the next
 * answer, which says `Connection: close`; an HTTP/2 session gets GOAWAY in two steps; anything else ends by itself.
 * (`http.Server.close()` closes idle connections at once, and so loses the request that crosses its FIN.)
 */
export class AttachedServer {
  readonly server: ServableServer
  readonly #open = new OpenSockets()
  readonly #sessions = new Http2Sessions()
  /** TLS servers: connections behind their handshake. */
  readonly #secure = new Set<net.Socket>()
  readonly #keeper: ConnectionKeeper | null
  readonly #answers: HttpResponses | null
  readonly #moving: HttpServerConnections | NetServerConnections | undefined
  readonly #failed: (error: unknown) => void
  readonly #stays: boolean
  /** The context in which the application gave the server: whatever comes to the server runs in it, accepted or from another process. */
  readonly #context = new AsyncResource('FDB_SERVER')
  /** Has a server that listens here already accept, the first time; null: it was called, or the server has to listen. */
  #begin: (() => void) | null
  #attached = false
  #taken = () => {}
  #left = false

  /**
   * `failed` hears what the application's hooks throw. Throws ERR_FDB_NOT_A_SERVER, ERR_FDB_SERVER_TWICE, ERR_FDB_SERVER_LISTENS,
   * ERR_FDB_OPTION. `begin`: the server has a handle on this very socket, and accepts from this call on, if not before.
   */
  constructor(
    server: ServableServer,
    options: ServeOptions = {},
    failed: (error: unknown) => void = () => {},
    begin: (() => void) | null = null,
  ) {
    checkServer(server)
    if (taken.has(server)) {
      throw new FdbError(
        'ERR_FDB_SERVER_TWICE',
        'this server was given to a listener before, and a server accepts on one only: give each listener a server of its own',
      )
    }
    if (server.listening && begin === null) throw listensAlready()
    this.#begin = begin
    this.server = server
    this.#failed = failed
    checkServeOptions(server, options)
    taken.add(server)
    this.#keeper = options.keeper ?? null
    this.#stays = options.move === false
    if (this.#keeper !== null) {
      this.#answers = null
      this.#moving = undefined
      return
    }
    this.#answers = new HttpResponses(server as http.Server)
    this.#moving = this.#stays ? undefined : this.#movable(options, failed)
    server.on('connection', this.#open.add)
    server.on('secureConnection', this.#onSecure)
    if (!('updateSettings' in server)) return
    if (!('setTicketKeys' in server)) server.prependListener('connection', this.#sessions.comes)
    server.on('session', this.#sessions.add)
  }

  #movable(
    { http: hooks = {}, socket, move = false }: ServeOptions,
    failed: (error: unknown) => void,
  ): HttpServerConnections | NetServerConnections | undefined {
    const { server } = this
    const parts = { open: this.#open, failed, run: this.#run }
    if (!SOCKET_HANDLE.works || !SERVER_CONNECTIONS.works) return undefined
    if (socket !== undefined) return new NetServerConnections({ ...parts, server, hooks: socket })
    if (!isHttpServer(server) || !HTTP_CONNECTIONS.works) return undefined
    return new HttpServerConnections({ ...parts, server, answers: this.#answers!, hooks, sniffed: move })
  }

  /** The connections that can go on in another process. */
  get moving(): MovableConnections | undefined {
    if (this.#keeper === null) return this.#moving
    return this.#stays ? undefined : this.#keeper.moving
  }

  get connections(): number {
    return this.#keeper?.connections ?? this.#open.size
  }

  /** The protocol of its clients, for `status`; null if it is not known. */
  get scheme(): string | null {
    const { server } = this
    if (this.#keeper !== null) return this.#keeper.scheme ?? null
    // Servers are told apart by what they have: a process without TLS need not load it.
    const secure = 'setTicketKeys' in server
    if ('maxHeadersCount' in server) return secure ? 'https' : 'http'
    return secure ? 'tls' : null
  }

  /** Its connections are over TLS: they stay. */
  get secure(): boolean {
    return this.scheme === 'https' || this.scheme === 'tls' || 'setTicketKeys' in this.server
  }

  /** The activities of its connections, as far as they are known here. */
  kinds(): Readonly<Record<string, number>> {
    if (this.#keeper !== null) return this.#keeper.kinds?.() ?? {}
    const kinds: Record<string, number> = {}
    for (const { reason, count } of this.#named().closed ?? []) kinds[reason] = (kinds[reason] ?? 0) + count
    return kinds
  }

  /** Listens on a dup of `fd`, which Node owns from then on. */
  attach(fd: OwnedFd, backlog: number): Promise<void> {
    if (this.#left) this.#resume()
    const { server } = this
    const begin = this.#begin
    this.#begin = null
    if (begin !== null && server.listening) return this.#goOn(begin)
    if (server.listening) return this.#attached ? Promise.resolve() : Promise.reject(listensAlready())
    let own: OwnedFd
    try {
      own = fd.dup()
    } catch (cause) {
      return Promise.reject(outOfDescriptors(`${fd.label} cannot be given to its server`, cause))
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
        resolve()
      }
      const failed = (error: Error) => {
        settled()
        reject(error)
      }
      server.on('listening', listening)
      server.on('error', failed)
      enableClose(server)
      this.#run(() => listenOver(server, own, backlog))
      // Closed by the application before Node has said that it listens: it says nothing any more.
      setImmediate(() => {
        if (!server.listening) failed(closedMeanwhile())
      })
    })
  }

  async #goOn(begin: () => void): Promise<void> {
    begin()
    this.#attached = true
  }

  /** Throws ERR_FDB_SERVER_LISTENS when it could not be attached now. */
  check(): void {
    if (this.server.listening && !this.#attached && this.#begin === null) throw listensAlready()
  }

  #resume(): void {
    this.#left = false
    this.#sessions.resume()
    this.#answers?.resume()
    this.#ask(keeper => keeper.resume?.())
    this.#moving?.resume()
  }

  /** An exception, against the contract, does not stop the handoff. */
  #ask(question: (keeper: ConnectionKeeper) => void): void {
    if (this.#keeper === null) return
    try {
      question(this.#keeper)
    } catch (error) {
      this.#failed(error)
    }
  }

  /** Stops accepting, and may be attached again. No connection is touched, and the server does not say 'close' yet. */
  detach(): void {
    this.#left = true
    if (this.#attached && this.server.listening) stopListening(this.server)
    this.#attached = false
    this.#taken()
  }

  /** The server is attached never again: it says 'close' when its last connection has ended. */
  finish(): void {
    emitDelayedClose(this.server)
  }

  /** The application may have closed it. */
  get accepting(): boolean {
    return this.#attached && this.server.listening
  }

  /** Announces the end on every answer from now on. */
  announce(): void {
    this.#ask(keeper => keeper.announce())
    this.#answers?.announce()
    this.#sessions.leave()
  }

  /** Closes the HTTP/1 connections between two requests, and soon those that have said nothing yet. The others end as announced. */
  endIdle(): void {
    this.#ask(keeper => keeper.endIdle?.())
    if (this.#keeper !== null || !('closeIdleConnections' in this.server)) return
    const server = this.server as http.Server
    server.closeIdleConnections()
    if (!isHttpServer(server)) return
    const endSilent = () => {
      for (const socket of [...this.#open]) if (socket.bytesRead === 0) socket.destroy()
    }
    setTimeout(endSilent, SILENT_MS).unref()
  }

  /** Resolves when the last connection has ended by itself. */
  emptied(): Promise<void> {
    return this.#keeper?.emptied() ?? this.#open.emptied()
  }

  /** Closes what is left. */
  cut(): DrainCounts {
    if (this.#keeper !== null) return this.#keeper.cut()
    const counts = this.#named()
    this.#sessions.destroy()
    for (const socket of [...this.#open]) socket.destroy()
    return counts
  }

  /** Takes its listeners off the embedder's server. */
  release(): void {
    const { server } = this
    taken.delete(server)
    this.finish()
    this.#answers?.release()
    server.off('connection', this.#open.add)
    server.off('secureConnection', this.#onSecure)
    server.off('connection', this.#sessions.comes)
    server.off('session', this.#sessions.add)
  }

  #named(): DrainCounts {
    return closesOfServer({
      server: this.server,
      moving: this.#moving,
      open: this.#open,
      secure: this.#secure,
      sessions: this.#sessions.facts,
      busy: this.#answers!.busy(),
      scheme: this.scheme,
    }).counts
  }

  readonly #onSecure = (socket: net.Socket): void => {
    this.#secure.add(socket)
    socket.once('close', () => this.#secure.delete(socket))
  }

  readonly #run = <T>(work: () => T): T => this.#context.runInAsyncScope(work)
}

function closedMeanwhile(): FdbError {
  return new FdbError(
    'ERR_FDB_SERVER_CLOSED',
    'this server was closed while it was being attached, so that nobody would accept on the listener: do not call its close(), the library takes it off',
  )
}

function listensAlready(): FdbError {
  return new FdbError(
    'ERR_FDB_SERVER_LISTENS',
    'this server listens already, so that nobody would accept on the listener: do not call its listen(), the library does',
  )
}
