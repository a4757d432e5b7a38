import type http from 'node:http'
import type net from 'node:net'
import { nodeHttp } from '../../base/lazy.js'
import { PendingSet } from './pending-set.js'

/**
 * The answers that an HTTP/1 server is giving. One that announces the end is the last on its connection: Node closes behind it.
 *
 * Every request comes by here, and costs next to nothing while the server serves. Connections are told apart from the first
 * {@link announce}, {@link announceOn} or {@link onEnded} on.
 */
export class HttpAnswers {
  readonly #server: http.Server
  /** Node does not close an answer behind another one, if their connection has ended. */
  readonly #underWay = new PendingSet<http.ServerResponse>(
    ({ closed, req }) => (closed && req.complete) || req.socket.destroyed,
  )
  /** The last answer of each connection; null: connections are not told apart. */
  #newest: WeakMap<net.Socket, http.ServerResponse> | null = null
  readonly #marked = new WeakSet<http.ServerResponse>()
  /** Their connections end with the next answer, whatever becomes of the others. */
  #ending = new WeakSet<net.Socket>()
  /** Requests on each connection, here and before: counted while the server limits them, as Node's own count begins again with each process. */
  readonly #requests = new WeakMap<net.Socket, number>()
  readonly #adopted = new WeakSet<net.Socket>()
  #announced = false
  #onEnded: ((socket: net.Socket) => void) | null = null
  #ServerResponse: typeof http.ServerResponse | null = null
  readonly #onClose: (this: http.ServerResponse) => void

  constructor(server: http.Server) {
    this.#server = server
    const closed = (response: http.ServerResponse) => this.#closed(response)
    // One function for all answers.
    this.#onClose = function () {
      closed(this)
    }
    // Before the application's own listener: it must find the answer marked already.
    server.prependListener('request', this.#onRequest)
  }

  /** Every answer from now on announces the end. */
  announce(): void {
    this.#announced = true
    this.#tellApart()
    for (const answer of this.#underWay.all()) this.#mark(answer)
  }

  /** The next answer on this connection announces the end. */
  announceOn(socket: net.Socket): void {
    this.#ending.add(socket)
    const newest = this.#tellApart().get(socket)
    if (newest !== undefined) this.#mark(newest)
  }

  /** Connections may live again behind the answers that come. */
  resume(): void {
    this.#announced = false
    this.#ending = new WeakSet()
    if (this.#onEnded === null) this.#newest = null
  }

  /** Called when an exchange has ended: its connection may be between two requests then. */
  set onEnded(listener: ((socket: net.Socket) => void) | null) {
    this.#onEnded = listener
    if (listener === null) return
    this.#tellApart()
    for (const answer of this.#underWay.all()) this.#watch(answer)
  }

  /** Connections with answers under way. */
  busy(): Set<net.Socket> {
    const answering = this.#underWay.all().filter(({ closed }) => !closed)
    return new Set(answering.map(({ req }) => req.socket))
  }

  /** The connection had so many requests in other processes. */
  adopt(socket: net.Socket, requests: number): void {
    this.#adopted.add(socket)
    this.#requests.set(socket, requests)
  }

  /** The connection had requests in another process. */
  isAdopted(socket: net.Socket): boolean {
    return this.#adopted.has(socket)
  }

  /** Requests on the connection, here and in other processes: those that came while the server limited them. */
  requests(socket: net.Socket): number {
    return this.#requests.get(socket) ?? 0
  }

  release(): void {
    this.#server.off('request', this.#onRequest)
    this.#underWay.clear()
  }

  readonly #onRequest = (request: http.IncomingMessage, response: unknown): void => {
    // HTTP/2 has answers of its own.
    this.#ServerResponse ??= nodeHttp().ServerResponse
    if (!(response instanceof this.#ServerResponse)) return
    this.#underWay.add(response)
    const limit = this.#server.maxRequestsPerSocket ?? 0
    if (limit === 0 && this.#newest === null) return
    const { socket } = request
    const newest = this.#tellApart()
    const earlier = newest.get(socket)
    newest.set(socket, response)
    if (this.#onEnded !== null) this.#watch(response)
    const isLast = this.#countsLast(socket, limit)
    if (!(this.#announced || isLast || this.#ending.has(socket))) return
    const moved = earlier !== undefined && this.#unmark(earlier)
    this.#mark(response)
    if (moved) setImmediate(() => this.#readNoMore(response))
  }

  #tellApart(): WeakMap<net.Socket, http.ServerResponse> {
    this.#newest ??= new WeakMap(this.#underWay.all().map(answer => [answer.req.socket, answer]))
    return this.#newest
  }

  #watch(response: http.ServerResponse): void {
    if (response.closed) {
      this.#closed(response)
      return
    }
    response.off('close', this.#onClose)
    response.on('close', this.#onClose)
  }

  /** The answer may have ended before its request was there as a whole. */
  #closed({ req }: http.ServerResponse): void {
    const { socket, complete } = req
    if (!complete) req.once('close', () => this.#onEnded?.(socket))
    this.#onEnded?.(socket)
  }

  /** Counts a request. True: it is the last that the server allows on this connection, which Node does not know. */
  #countsLast(socket: net.Socket, limit: number): boolean {
    if (limit === 0) return false
    const requests = this.requests(socket) + 1
    this.#requests.set(socket, requests)
    return this.#adopted.has(socket) && requests >= limit
  }

  /** The answer will say `Connection: close`, if its head has not gone yet. Only the last of pipelined ones: those behind it would be lost. */
  #mark(response: http.ServerResponse): void {
    if (response.headersSent || !response.shouldKeepAlive) return
    if (this.#newest?.get(response.req.socket) !== response) return
    response.shouldKeepAlive = false
    this.#marked.add(response)
  }

  #unmark(response: http.ServerResponse): boolean {
    if (!this.#marked.delete(response) || response.headersSent) return false
    response.shouldKeepAlive = true
    return true
  }

  /** A client that always has a request on the way would never be told: what it sends behind this one stays unread. */
  #readNoMore(response: http.ServerResponse): void {
    const { socket, complete } = response.req
    if (complete && this.#marked.has(response) && this.#newest?.get(socket) === response) socket.pause()
  }
}
