import type http from 'node:http'
import type net from 'node:net'
import { nodeHttp } from '../../base/lazy.js'
import { isResponding, lastRequestOf, responseOf } from '../../node/http-connections.js'
import { type Observers, observe, observersOf } from '../../node/observed-events.js'

/** The events of a request on HTTP/1. (An HTTP/2 server emits 'request' for a request on HTTP/2 only if the application listens to it.) */
const REQUESTS = ['request', 'checkContinue', 'checkExpectation'] as const

/**
 * The responses under way of an HTTP/1 server. A response that announces the end (`Connection: close`) is the last on its connection.
 *
 * While the server only serves, requests are not observed, which would take 2 % of the CPU time of a short request. The first {@link announce},
 * {@link announceOn} or {@link onEnded} begins to observe them, and finds the responses under way.
 */
export class HttpResponses {
  readonly #server: http.Server
  readonly #connections: Iterable<net.Socket> | null
  #observes = false
  #stopObserving: () => void = () => {}
  /** Node never sets `closed` on a pipelined response whose connection has ended, so a destroyed socket counts as the response's end too. */
  readonly #underWay = new PendingSet<http.ServerResponse>(
    ({ closed, req }) => (closed && req.complete) || req.socket.destroyed,
  )
  /** Responses behind which pipelined responses wait that are not known yet. */
  readonly #followed = new WeakSet<http.ServerResponse>()
  /** The last response of each connection, or null if responses are not assigned to connections. */
  #newest: WeakMap<net.Socket, http.ServerResponse> | null = null
  readonly #marked = new WeakSet<http.ServerResponse>()
  /** The connections that end with their next response, if there are any. */
  #ending: WeakSet<net.Socket> | null = null
  /**
   * The requests on each connection, in all processes. Counted only while the server limits them: Node's own count restarts in each
   * process.
   */
  readonly #requests = new WeakMap<net.Socket, number>()
  readonly #adopted = new WeakSet<net.Socket>()
  #announced = false
  #onEnded: ((socket: net.Socket) => void) | null = null
  #ServerResponse: typeof http.ServerResponse | null = null
  readonly #watched = new WeakSet<http.ServerResponse>()
  readonly #onClose: Observers

  /** `connections`: null if responses cannot be found later, because Node does not list the connections of this server. */
  constructor(server: http.Server, connections: Iterable<net.Socket> | null) {
    this.#server = server
    this.#connections = connections
    const closed = (response: http.ServerResponse) => this.#closed(response)
    // One for all responses, to save memory.
    this.#onClose = observersOf({
      close(this: http.ServerResponse) {
        closed(this)
      },
    })
    this.listenIfNeeded()
  }

  /** Begins or ends to observe requests. Call it repeatedly, because the application may set `maxRequestsPerSocket` at any time. */
  listenIfNeeded(): void {
    const { maxRequestsPerSocket } = this.#server
    const ends = this.#announced || this.#ending !== null || this.#onEnded !== null
    const needed = this.#connections === null || ends || (maxRequestsPerSocket ?? 0) > 0
    if (needed === this.#observes) return
    this.#observes = needed
    if (!needed) {
      this.release()
      this.#newest = null
      return
    }
    // The application's own listener finds the response already marked.
    this.#stopObserving = observe(
      this.#server,
      new Map(REQUESTS.map(event => [event, this.#onRequest] as const)),
    )
    for (const socket of this.#connections ?? []) this.#find(socket)
  }

  /** From now on every response announces the end. */
  announce(): void {
    this.#announced = true
    this.listenIfNeeded()
    this.#byConnection()
    for (const answer of this.#underWay.all()) this.#mark(answer)
  }

  /** The next response on this connection announces the end. */
  announceOn(socket: net.Socket): void {
    this.#ending ??= new WeakSet()
    this.#ending.add(socket)
    this.listenIfNeeded()
    const newest = this.#byConnection().get(socket)
    if (newest !== undefined) this.#mark(newest)
  }

  /** Ends {@link announce} and {@link announceOn}. */
  resume(): void {
    this.#announced = false
    this.#ending = null
    if (this.#onEnded === null) this.#newest = null
    this.listenIfNeeded()
  }

  /** Called when an exchange has ended, after which the connection may be between two requests. */
  set onEnded(listener: ((socket: net.Socket) => void) | null) {
    this.#onEnded = listener
    this.listenIfNeeded()
    if (listener === null) return
    this.#byConnection()
    for (const answer of this.#underWay.all()) this.#watch(answer)
  }

  busy(): Set<net.Socket> {
    if (!this.#observes) return new Set([...this.#connections!].filter(isResponding))
    const answering = this.#underWay.all().filter(({ closed }) => !closed)
    return new Set(answering.map(({ req }) => req.socket))
  }

  /** Adds a connection that had `requests` requests in other processes. */
  adopt(socket: net.Socket, requests: number): void {
    this.#adopted.add(socket)
    this.#requests.set(socket, requests)
    this.listenIfNeeded()
  }

  isAdopted(socket: net.Socket): boolean {
    return this.#adopted.has(socket)
  }

  /** Returns the number of requests on the connection, in all processes. Counts only while the server limits them. */
  requests(socket: net.Socket): number {
    return this.#requests.get(socket) ?? 0
  }

  release(): void {
    this.#stopObserving()
    this.#underWay.clear()
  }

  readonly #onRequest = (request: http.IncomingMessage, response: unknown): void => {
    // HTTP/2 responses are of another class.
    this.#ServerResponse ??= nodeHttp().ServerResponse
    if (!(response instanceof this.#ServerResponse)) return
    // The application passes a request of 'checkContinue' on as a 'request'.
    if (this.#newest?.get(request.socket) === response) return
    this.#underWay.add(response)
    const limit = this.#server.maxRequestsPerSocket ?? 0
    if (limit === 0 && this.#newest === null) return
    const { socket } = request
    const newest = this.#byConnection()
    const earlier = newest.get(socket)
    newest.set(socket, response)
    if (this.#onEnded !== null) this.#watch(response)
    const isLast = this.#countsLast(socket, limit)
    if (!(this.#announced || isLast || this.#ending?.has(socket))) return
    const moved = earlier !== undefined && this.#unmark(earlier)
    this.#mark(response)
    if (moved) setImmediate(() => this.#readNoMore(response))
  }

  /** Finds the response under way on a connection, without those of later requests that wait behind it. */
  #find(socket: net.Socket): void {
    const response = responseOf(socket)
    const last = lastRequestOf(socket)
    if (response === null) {
      if (last !== null && !last.complete) onClose(last, () => this.#onEnded?.(socket))
      return
    }
    this.#underWay.add(response)
    if (last === null || last === response.req) return
    this.#followed.add(response)
    onClose(response, () => this.#findNext(socket))
  }

  /** Finds the next response on a connection when a response of {@link #followed} has ended. */
  #findNext(socket: net.Socket): void {
    if (!this.#observes || this.#newest?.has(socket)) return
    this.#find(socket)
    const next = responseOf(socket)
    if (next === null || this.#followed.has(next)) return
    this.#newest?.set(socket, next)
    if (this.#onEnded !== null) this.#watch(next)
    if (this.#announced || this.#ending?.has(socket)) this.#mark(next)
  }

  #byConnection(): WeakMap<net.Socket, http.ServerResponse> {
    if (this.#newest !== null) return this.#newest
    const last = this.#underWay.all().filter(answer => !this.#followed.has(answer))
    this.#newest = new WeakMap(last.map(answer => [answer.req.socket, answer]))
    return this.#newest
  }

  #watch(response: http.ServerResponse): void {
    if (response.closed) {
      this.#closed(response)
      return
    }
    if (this.#watched.has(response)) return
    this.#watched.add(response)
    observe(response, this.#onClose)
  }

  /** A response may end before its request has been read completely. */
  #closed({ req }: http.ServerResponse): void {
    const { socket, complete } = req
    if (!complete) onClose(req, () => this.#onEnded?.(socket))
    this.#onEnded?.(socket)
  }

  /** Counts a request. Returns true if it is the last one that the server allows on an adopted connection, which Node cannot know. */
  #countsLast(socket: net.Socket, limit: number): boolean {
    if (limit === 0) return false
    const requests = this.requests(socket) + 1
    this.#requests.set(socket, requests)
    return this.#adopted.has(socket) && requests >= limit
  }

  /**
   * Adds `Connection: close` unless the head was sent. Only the last of pipelined responses may have it, or the later ones would be lost.
   */
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

  /** Stops reading after this request: with a client that always pipelines another request, no response would ever be the last. */
  #readNoMore(response: http.ServerResponse): void {
    const { socket, complete } = response.req
    if (complete && this.#marked.has(response) && this.#newest?.get(socket) === response) socket.pause()
  }
}

function onClose(message: http.IncomingMessage | http.ServerResponse, closed: () => void): void {
  const stop = observe(message, {
    close: () => {
      stop()
      closed()
    },
  })
}

/** Ended entries are dropped when the list has twice as many entries as after the last drop, and this many more. */
const MOST_ENDED = 32
/** Ended entries are also dropped at this interval, because a response may hold a large body. */
const DROP_MS = 1_000

/**
 * Sockets or responses that have not ended, in the order of their arrival. Ended entries are dropped later: a 'close' listener for each
 * would cost 2 % of the CPU time of a short response.
 */
export class PendingSet<T> {
  readonly #hasEnded: (entry: T) => boolean
  #entries: T[] = []
  #dropAt = MOST_ENDED
  #timer: NodeJS.Timeout | undefined

  constructor(hasEnded: (entry: T) => boolean) {
    this.#hasEnded = hasEnded
  }

  add(entry: T): void {
    if (this.#entries.push(entry) >= this.#dropAt) this.all()
    this.#timer ??= setTimeout(this.#dropEnded, DROP_MS).unref()
  }

  /** Returns the entries that have not ended. */
  all(): readonly T[] {
    this.#entries = this.#entries.filter(entry => !this.#hasEnded(entry))
    this.#dropAt = 2 * this.#entries.length + MOST_ENDED
    return this.#entries
  }

  clear(): void {
    this.#entries = []
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  readonly #dropEnded = (): void => {
    this.#timer = this.all().length > 0 ? setTimeout(this.#dropEnded, DROP_MS).unref() : undefined
  }
}
