import { AsyncResource } from 'node:async_hooks'
import type http from 'node:http'
import type net from 'node:net'
import type tls from 'node:tls'
import { afterReading } from '../../base/after-reading.js'
import { EventStreamEnds } from '../../connections/adapters/event-stream-ends.js'
import { PLAIN } from '../../connections/adapters/http-carrier.js'
import { HttpResponses } from '../../connections/adapters/http-responses.js'
import { HttpServerConnections } from '../../connections/adapters/http-server.js'
import { Http2Sessions } from '../../connections/adapters/http2-sessions.js'
import { HttpsCarrier } from '../../connections/adapters/https-carrier.js'
import { NetServerConnections } from '../../connections/adapters/net-server.js'
import { type Connections, OpenSockets } from '../../connections/adapters/open-sockets.js'
import {
  type Leaving,
  leaveTakenOver,
  stayTakenOver,
  type TakenOver,
  takenOverOf,
} from '../../connections/adapters/taken-over.js'
import type { MovableConnections } from '../../connections/movable.js'
import { FdbError } from '../../errors.js'
import { accept, listenOver, type OwnedFd } from '../../kernel/index.js'
import { acceptInBursts } from '../../node/accept-bursts.js'
import { handleOf } from '../../node/held-handle.js'
import {
  HTTP_CONNECTIONS,
  hasNodeListener,
  idleParsers,
  isHttpServer,
  isHttpsServer,
  isResponding,
  parserOf,
  tracksConnections,
} from '../../node/http-connections.js'
import { type Observers, observe } from '../../node/observed-events.js'
import { expectedTls, expectTls } from '../../node/openssl.js'
import {
  emitDelayedClose,
  enableClose,
  giveAccepted,
  SERVER_CONNECTIONS,
  stopListening,
} from '../../node/server-connections.js'
import { nextBytes, SOCKET_HANDLE } from '../../node/socket-handle.js'
import { outOfDescriptors } from '../../os/limits.js'
import { isMovedTls, type MovedTlsSocket } from '../../tls13/tls-socket.js'
import { closesOfServer, type DrainCounts, sumCounts } from './forced-closes.js'
import {
  type ConnectionKeeper,
  checkServeOptions,
  checkServer,
  type ServableServer,
  type ServeOptions,
} from './serve-options.js'
import { SpareFd } from './spare-fd.js'

/** When the service ends, a new connection has this time to send its first request. */
const SILENT_MS = 500

/** WebSockets are closed this long before all other connections, at most a quarter of the time, so that the application hears of their end. */
const BEFORE_CUT_MS = 2_000

/** The time that remaining connections have, in milliseconds, and why they end. */
export interface LeavingTimes {
  readonly plainMs: number
  readonly tlsMs: number
  readonly why: 'replaced' | 'ended'
}

/** Whether bytes wait in the kernel: a request arrived in the present turn of the event loop, which may be long under load. */
function hasArrived(socket: net.Socket): boolean {
  return isMovedTls(socket) ? socket.hasArrived : nextBytes(socket, 1).length > 0
}

/** For a server that the application gives up while the service goes on. */
const AT_LEISURE: LeavingTimes = { plainMs: 30_000, tlsMs: 30_000, why: 'ended' }

const attachedServers = new WeakSet<ServableServer>()

/**
 * One of the application's servers on one listener. Attaches the server to a dup of the listener's descriptor, detaches it without closing
 * connections, moves its connections to another process if possible, and drains the others.
 *
 * {@link announce} closes no idle connection, because a request may be in flight on it (`http.Server.close()` would close it and lose the
 * request). An HTTP/1 connection ends with its next response, which has `Connection: close`. An HTTP/2 session gets GOAWAY in two steps.
 * Any other connection ends when its client or the application closes it.
 */
export class AttachedServer {
  readonly server: ServableServer
  readonly #open = new OpenSockets()
  readonly #sessions = new Http2Sessions()
  readonly #eventStreams = new EventStreamEnds()
  #stopObserving: () => void = () => {}
  readonly #onSecureClose: Observers
  /** The decrypted sockets of a TLS server, with the time when each finished its handshake (performance.now()). */
  readonly #secure = new Map<net.Socket, number>()
  /** The carrier of connections with TLS that move, or null. */
  #carrier: HttpsCarrier | null = null
  readonly #keeper: ConnectionKeeper | null
  readonly #answers: HttpResponses | null
  readonly #moving: HttpServerConnections | NetServerConnections | undefined
  readonly #failed: (error: unknown) => void
  readonly #stays: boolean
  /** The async context of `serve()`, in which accepted and moved connections run. */
  readonly #context = new AsyncResource('FDB_SERVER')
  /** Makes a server accept that already listens on this socket. Null after the call, and for all other servers. */
  #begin: (() => void) | null
  readonly #spare = new SpareFd()
  #attached = false
  /** The server's handle since it was attached. */
  #handle: object | null = null
  #onDetach = () => {}
  #detached = false
  #acceptedUntilDetached = false

  /**
   * `failed`: gets the exceptions of the application's hooks. `begin`: given if the server already listens on this socket; makes the server
   * accept if it does not yet. Throws ERR_FDB_NOT_A_SERVER, ERR_FDB_SERVER_TWICE, ERR_FDB_SERVER_LISTENS, ERR_FDB_OPTION.
   */
  constructor(
    server: ServableServer,
    options: ServeOptions = {},
    failed: (error: unknown) => void = () => {},
    begin: (() => void) | null = null,
  ) {
    checkServer(server)
    if (attachedServers.has(server)) {
      throw new FdbError(
        'ERR_FDB_SERVER_TWICE',
        'this server was already passed to serve(), and a server accepts on one listener only: give each listener its own server',
      )
    }
    if (server.listening && begin === null) throw listensAlready()
    const secure = this.#secure
    this.#onSecureClose = new Map([
      [
        'close',
        function (this: net.Socket) {
          secure.delete(this)
        },
      ],
    ])
    this.#begin = begin
    this.server = server
    this.#failed = failed
    checkServeOptions(server, options)
    attachedServers.add(server)
    this.#keeper = options.keeper ?? null
    this.#stays = options.move === false
    if (this.#keeper !== null) {
      this.#answers = null
      this.#moving = undefined
      return
    }
    this.#open.follow(server)
    this.#answers = new HttpResponses(server as http.Server, this.#open.areListed ? this.#open : null)
    this.#moving = this.#stays ? undefined : this.#movable(options, failed)
    this.#stopObserving = observe(server, ...this.#observers)
  }

  /** The observers that are called before the listeners of the server, and after them. */
  get #observers(): [Observers, Observers] {
    const { server } = this
    const { add, connecting, connected } = this.#sessions
    const before = new Map<string, (...args: never[]) => void>([['secureConnection', this.#onSecure]])
    const after = new Map<string, (...args: never[]) => void>()
    if (!('updateSettings' in server)) return [before, after]
    before.set('session', add)
    if (!('setTicketKeys' in server))
      return [before.set('connection', connecting), after.set('connection', connected)]
    before.set('connection', expectTls).set('secureConnection', (socket: net.Socket) => {
      this.#onSecure(socket)
      connecting(socket)
    })
    return [before, after.set('connection', expectedTls).set('secureConnection', connected)]
  }

  #movable(
    { http: hooks = {}, socket, tls, move = false }: ServeOptions,
    failed: (error: unknown) => void,
  ): HttpServerConnections | NetServerConnections | undefined {
    const { server } = this
    const deps = { open: this.#open, failed, run: this.#run }
    if (!SOCKET_HANDLE.assumed || !SERVER_CONNECTIONS.assumed) return undefined
    const carrier =
      tls?.move === 'on' ? new HttpsCarrier(server as tls.Server, { below: this.#open, failed }) : null
    this.#carrier = carrier
    const open = carrier === null ? this.#open : this.#decrypted
    if (socket !== undefined)
      return new NetServerConnections({ ...deps, server, hooks: socket, open, carrier: carrier ?? PLAIN })
    if (!HTTP_CONNECTIONS.assumed) return undefined
    const http = { ...deps, answers: this.#answers!, hooks }
    if (isHttpServer(server))
      return new HttpServerConnections({ ...http, server, carrier: PLAIN, sniffed: move })
    if (carrier === null || !isHttpsServer(server)) return undefined
    return new HttpServerConnections({ ...http, server, carrier, open, sniffed: false })
  }

  /** The sockets of {@link #secure}. */
  get #decrypted(): Connections {
    const secure = this.#secure
    return {
      has: socket => secure.has(socket),
      // Others come by the event 'secureConnection'.
      add: this.#onSecure,
      remove: socket => void secure.delete(socket),
      [Symbol.iterator]: () => secure.keys(),
    }
  }

  /** The connections that can move to another process. */
  get moving(): readonly MovableConnections[] {
    if (this.#keeper === null)
      return this.#moving !== undefined && this.#internalsWork() ? [this.#moving] : []
    return this.#stays ? [] : [this.#keeper.moving ?? []].flat()
  }

  /** Tests what the constructor has assumed. */
  #internalsWork(): boolean {
    const works = SOCKET_HANDLE.works && SERVER_CONNECTIONS.works
    return works && (this.#moving instanceof NetServerConnections || HTTP_CONNECTIONS.works)
  }

  get connections(): number {
    return this.#keeper?.connections ?? this.#open.size
  }

  /** The protocol of the server's clients, for `status`, or null if unknown. */
  get scheme(): string | null {
    const { server } = this
    if (this.#keeper !== null) return this.#keeper.scheme ?? null
    // Tests properties, because `instanceof` would load `node:https` in processes that do not use TLS.
    const secure = 'setTicketKeys' in server
    if ('maxHeadersCount' in server) return secure ? 'https' : 'http'
    return secure ? 'tls' : null
  }

  /** Whether the connections use TLS, and have more time to end. */
  get secure(): boolean {
    return this.scheme === 'https' || this.scheme === 'tls' || 'setTicketKeys' in this.server
  }

  /** Returns the number of connections by their activity, if known. */
  kinds(): Readonly<Record<string, number>> {
    if (this.#keeper !== null) return this.#keeper.kinds?.() ?? {}
    const kinds: Record<string, number> = {}
    for (const { reason, count } of this.remaining().closed ?? [])
      kinds[reason] = (kinds[reason] ?? 0) + count
    return kinds
  }

  /** Makes the server listen on a dup of `fd`. Rejects with ERR_FDB_SERVER_LISTENS, ERR_FDB_SERVER_CLOSED, ERR_FDB_NO_DESCRIPTORS, or the kernel's error. */
  async attach(fd: OwnedFd, backlog: number): Promise<void> {
    if (this.#detached) this.#resume()
    this.#answers?.listenIfNeeded()
    const { server } = this
    const begin = this.#begin
    this.#begin = null
    if (server.listening) {
      if (begin === null && !this.accepting) throw listensAlready()
      begin?.()
      this.#attached = true
      this.#handle = handleOf(server)
      if (begin !== null) this.#acceptInBursts(fd)
      return
    }
    let own: OwnedFd
    try {
      own = this.#spare.take(fd)
    } catch (cause) {
      throw outOfDescriptors(`${fd.label} cannot be given to its server`, cause)
    }
    this.#attached = true
    await new Promise<void>((resolve, reject) => {
      const settled = () => {
        stopObserving()
        this.#onDetach = () => {}
      }
      const done = () => {
        settled()
        this.#handle = handleOf(server)
        // Behind the listeners of 'listening', which may replace the callback of the handle.
        process.nextTick(() => this.#acceptInBursts(fd))
        resolve()
      }
      const failed = (error: Error) => {
        settled()
        reject(error)
      }
      // detach() resolves the promise, because the server does not emit 'listening' after it.
      this.#onDetach = done
      const stopObserving = observe(
        server,
        new Map<string, (...args: never[]) => unknown>([
          ['listening', done],
          [
            'error',
            (error: Error) => {
              failed(error)
              // The caller of attach() gets it. Without a listener of the application it would end the process, too.
              return server.listenerCount('error') > 0
            },
          ],
        ]),
      )
      enableClose(server)
      this.#run(() => listenOver(server, own, backlog))
      this.#handle = handleOf(server)
      // If the application has closed the server by then, it emits neither 'listening' nor 'error'.
      setImmediate(() => {
        if (!server.listening) failed(closedMeanwhile())
      })
    })
  }

  /** Borrows `fd`, the listener's socket. */
  #acceptInBursts(fd: OwnedFd): void {
    acceptInBursts(this.server as net.Server, () => {
      const connection = acceptedFrom(fd)
      // Outside of a try: an exception of the application's listeners ends the process, as with a connection that Node accepts.
      if (connection !== null) this.take(connection)
      return connection !== null
    })
  }

  /** The application has closed the server itself. */
  get isClosed(): boolean {
    return this.#attached && !this.accepting
  }

  /** Throws ERR_FDB_SERVER_LISTENS if the server listens elsewhere. */
  check(): void {
    if (this.server.listening && !this.accepting && this.#begin === null) throw listensAlready()
  }

  #resume(): void {
    this.#detached = false
    this.#sessions.resume()
    this.#answers?.resume()
    this.#callKeeper(keeper => keeper.resume?.())
    this.#moving?.resume()
    stayTakenOver()
    this.#eventStreams.stay()
  }

  /** Calls the keeper, if there is one. Its exception is reported and does not stop the handoff. */
  #callKeeper(call: (keeper: ConnectionKeeper) => void): void {
    if (this.#keeper === null) return
    try {
      call(this.#keeper)
    } catch (error) {
      this.#failed(error)
    }
  }

  /**
   * Stops accepting. Connections stay open; the server does not emit 'close' until {@link finish}, and can be attached again. `fd`: the listener's
   * socket, of which it keeps a duplicate for that; null if it will not be attached again.
   */
  detach(fd: OwnedFd | null = null): void {
    if (!this.#detached) this.#acceptedUntilDetached = this.accepting
    this.#detached = true
    if (this.accepting) {
      stopListening(this.server)
      if (fd !== null) this.#spare.keep(fd)
    }
    this.#attached = false
    this.#onDetach()
  }

  closeSpare(): void {
    this.#spare.close()
  }

  /** Whether the server still accepted when it was detached. False if the application had closed it: it wants no further connection. */
  get acceptedUntilDetached(): boolean {
    return this.#acceptedUntilDetached
  }

  /** Gives the server a connection that was accepted after {@link detach}. Takes ownership of the descriptor. */
  take(fd: OwnedFd): void {
    this.#run(() => giveAccepted(this.server as net.Server, fd))
  }

  /** Lets the server emit 'close' when its last connection has ended, because the server will not be attached again. */
  finish(): void {
    emitDelayedClose(this.server)
  }

  /** False also if the application has closed the server, which may listen elsewhere since. */
  get accepting(): boolean {
    return this.#attached && this.server.listening && handleOf(this.server) === this.#handle
  }

  /** Tells all clients that their connections will end (`Connection: close`, GOAWAY). */
  announce(times: LeavingTimes = AT_LEISURE): void {
    this.#callKeeper(keeper => keeper.announce())
    this.#answers?.announce()
    this.#sessions.leave(this.#leaving(times))
    this.#leaveTakenOver(times, () => true)
  }

  /** As {@link announce}, for those connections that can never move. */
  announceFixed(times: LeavingTimes): void {
    if (!this.moving.some(({ movable }) => movable > 0)) this.announce(times)
    else this.#leaveTakenOver(times, ({ moves }) => !moves)
  }

  #leaving({ plainMs, tlsMs, why }: LeavingTimes): Leaving {
    const ms = this.secure ? tlsMs : plainMs
    return { withinMs: ms - Math.min(ms / 4, BEFORE_CUT_MS), why, failed: this.#failed }
  }

  #leaveTakenOver(times: LeavingTimes, only: (taken: TakenOver) => boolean): void {
    const sockets = [...this.#open, ...this.#secure.keys()]
    const how = this.#leaving(times)
    leaveTakenOver(sockets, how, only)
    const free = sockets.filter(socket => takenOverOf(socket) === undefined)
    this.#eventStreams.leave(free, how)
  }

  /** Closes WebSockets, and the HTTP/1 connections between two requests; after {@link SILENT_MS} those that still have sent no request, or whose waiting bytes are no request. */
  endIdle(): void {
    this.#callKeeper(keeper => keeper.endIdle?.())
    this.#leaveTakenOver({ plainMs: 0, tlsMs: 0, why: 'ended' }, () => true)
    if (this.#keeper !== null || !('closeIdleConnections' in this.server)) return
    const server = this.server as http.Server
    if (!tracksConnections(server) || !HTTP_CONNECTIONS.works) {
      server.closeIdleConnections()
      return
    }
    const idleSockets = () =>
      idleParsers(server)
        .map(({ socket }) => socket)
        .filter(socket => !isResponding(socket))
    // Not closeIdleConnections(): in Node 26 it also closes new connections, whose first request may be in flight.
    const idle = idleSockets()
    const silent = new Set(idle.filter(socket => this.#isNew(socket) || hasArrived(socket)))
    for (const socket of idle) if (!silent.has(socket)) socket.destroy()
    const endSilent = () => {
      for (const socket of idleSockets()) if (silent.has(socket)) socket.destroy()
      for (const socket of this.#unused()) socket.destroy()
    }
    // A request that has arrived in time is read first, also if this process was stopped or busy.
    afterReading(SILENT_MS, endSilent, { unref: true })
  }

  /** Returns the connections on which no client has sent anything, in any process. */
  #unused(): net.Socket[] {
    const moved: MovedTlsSocket[] = ([...this.#secure.keys()] as object[]).filter(isMovedTls)
    const below = new Set(moved.map(socket => socket.below))
    const isUnused = (socket: net.Socket) =>
      socket.bytesRead === 0 && !isResponding(socket) && !below.has(socket) && !this.#isTaken(socket)
    return [...this.#open, ...(moved as unknown as net.Socket[])].filter(isUnused)
  }

  /** Whether the application, or a library, has taken a connection over: its client may have sent that request to another process. */
  #isTaken(socket: net.Socket): boolean {
    const isParsed = isMovedTls(socket) || hasNodeListener(this.server as http.Server)
    return isParsed && parserOf(socket) === null
  }

  /** Whether the first request of a connection may be in flight. */
  #isNew(socket: net.Socket): boolean {
    const securedAt = this.#secure.get(socket)
    if (securedAt !== undefined) return performance.now() - securedAt < SILENT_MS
    return socket.bytesRead === 0 && !this.#answers!.isAdopted(socket)
  }

  emptied(): Promise<void> {
    return this.#keeper?.emptied() ?? this.#open.emptied()
  }

  /** Closes the remaining connections, and returns their counts. */
  cut(): DrainCounts {
    if (this.#keeper !== null) return this.#keeper.cut()
    const counts = this.remaining()
    this.#sessions.destroy()
    for (const socket of [...this.#open]) socket.destroy()
    return counts
  }

  /** As {@link cut}, for connections that were on their way to another process at that time, and have come back. A keeper closes these itself. */
  cutReturned(): DrainCounts {
    const back =
      this.#keeper === null && this.#detached && [...this.#open].some(({ destroyed }) => !destroyed)
    return back ? this.cut() : sumCounts([])
  }

  /** Ends the observation of the application's server. */
  release(): void {
    const { server } = this
    attachedServers.delete(server)
    this.closeSpare()
    this.finish()
    this.#answers?.release()
    this.#carrier?.release()
    this.#open.release()
    this.#stopObserving()
  }

  /** Returns the connections that {@link cut} would close now. */
  remaining(): DrainCounts {
    if (this.#keeper !== null) return this.#keeper.remaining?.() ?? sumCounts([])
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
    this.#secure.set(socket, performance.now())
    // The parser of an https.Server takes its bytes below JavaScript.
    this.#carrier?.secured(socket, this.#moving instanceof NetServerConnections)
    observe(socket, this.#onSecureClose)
  }

  readonly #run = <T>(work: () => T): T => this.#context.runInAsyncScope(work)
}

/** Returns a connection that waits; null if there is none, or if no descriptor is free: Node meets that with the next connection. */
function acceptedFrom(fd: OwnedFd): OwnedFd | null {
  try {
    return fd.closed ? null : accept(fd, 'a connection')
  } catch {
    return null
  }
}

function closedMeanwhile(): FdbError {
  return new FdbError(
    'ERR_FDB_SERVER_CLOSED',
    'this server was closed while it was being attached, so that no server would accept on the listener: do not call its close(), the library detaches it',
  )
}

function listensAlready(): FdbError {
  return new FdbError(
    'ERR_FDB_SERVER_LISTENS',
    'this server already listens elsewhere, so that no server would accept on the listener: do not call its listen(), the library does',
  )
}
