import type http from 'node:http'
import type net from 'node:net'
import { nodeHttp } from '../../base/lazy.js'

export interface Seen {
  /** Requests that came here. */
  requests: number
  /** Requests that came in other processes. */
  before: number
  /** To the last of them, until it has ended. */
  newest: http.ServerResponse | null
  /** When its keep-alive timeout passes (`performance.now()`), Infinity: never. Counts while it is idle. */
  keepAliveUntil: number
}

/** The answers that an HTTP/1 server is giving. One that announces the end is the last on its connection: Node closes behind it. */
export class HttpAnswers {
  readonly #server: http.Server
  readonly #open = new Set<http.ServerResponse>()
  readonly #seen = new WeakMap<net.Socket, Seen>()
  readonly #marked = new WeakSet<http.ServerResponse>()
  /** Connections that end with their next answer, whatever becomes of the others. */
  #last = new WeakSet<net.Socket>()
  #announced = false
  /** An exchange has ended: its connection may be between two requests now. */
  onEnded: ((socket: net.Socket) => void) | null = null

  constructor(server: http.Server) {
    this.#server = server
    // Before the application's own listener: it must find the answer marked already.
    server.prependListener('request', this.#onRequest)
  }

  /** Every answer from now on announces the end. */
  announce(): void {
    this.#announced = true
    for (const response of this.#open) this.#mark(response)
  }

  /** The next answer on this connection does. */
  announceOn(socket: net.Socket): void {
    this.#last.add(socket)
    const { newest } = this.seen(socket)
    if (newest !== null) this.#mark(newest)
  }

  /** Answers that come may let their connections live again. */
  resume(): void {
    this.#announced = false
    this.#last = new WeakSet()
  }

  /** Connections with answers under way. */
  busy(): Set<net.Socket> {
    return new Set([...this.#open].map(response => response.req.socket))
  }

  seen(socket: net.Socket): Seen {
    let seen = this.#seen.get(socket)
    if (seen === undefined) {
      seen = { requests: 0, before: 0, newest: null, keepAliveUntil: Number.POSITIVE_INFINITY }
      this.#seen.set(socket, seen)
    }
    return seen
  }

  release(): void {
    this.#server.off('request', this.#onRequest)
  }

  readonly #onRequest = (request: http.IncomingMessage, response: unknown): void => {
    // HTTP/2 has answers of its own.
    if (!(response instanceof nodeHttp().ServerResponse)) return
    const { socket } = request
    const seen = this.seen(socket)
    const earlier = seen.newest
    seen.newest = response
    seen.requests++
    this.#open.add(response)
    response.once('close', () => this.#closed(response, seen))
    if (this.#announced || this.#last.has(socket) || this.#isLimit(seen)) {
      const moved = earlier !== null && this.#unmark(earlier)
      this.#mark(response)
      if (moved) setImmediate(() => this.#readNoMore(response))
    }
  }

  #closed(response: http.ServerResponse, seen: Seen): void {
    this.#open.delete(response)
    if (seen.newest === response) seen.newest = null
    const { socket, complete } = response.req
    const timeout = socket.timeout ?? 0
    seen.keepAliveUntil = timeout > 0 ? performance.now() + timeout : Number.POSITIVE_INFINITY
    // Answered before the request was there as a whole.
    if (!complete) response.req.once('close', () => this.onEnded?.(socket))
    this.onEnded?.(socket)
  }

  /** Node's own count begins again with each process. */
  #isLimit({ requests, before }: Seen): boolean {
    const limit = this.#server.maxRequestsPerSocket ?? 0
    return before > 0 && limit > 0 && before + requests >= limit
  }

  /** The answer will say `Connection: close`, if its head has not gone yet. Only the last of pipelined ones: those behind it would be lost. */
  #mark(response: http.ServerResponse): void {
    if (response.headersSent || !response.shouldKeepAlive) return
    if (this.seen(response.req.socket).newest !== response) return
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
    if (complete && this.#marked.has(response) && this.seen(socket).newest === response) socket.pause()
  }
}
