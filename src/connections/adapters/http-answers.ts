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
  /** Its place among the connections with answers under way; -1: it has none there. */
  at: number
  /** The round in which it was told to end with its next answer, whatever becomes of the others; 0: it was not. */
  toldIn: number
  /** When its keep-alive timeout passes (`performance.now()`), Infinity: never. Counts while it is idle. */
  keepAliveUntil: number
}

/**
 * The answers that an HTTP/1 server is giving. One that announces the end is the last on its connection: Node closes behind it. Every request
 * comes by here: what it costs counts.
 */
export class HttpAnswers {
  readonly #server: http.Server
  /** Connections with answers under way, in no order. */
  readonly #busy: Seen[] = []
  /** A property of each socket: a WeakMap costs more than the rest of what is done here. */
  readonly #seen = Symbol('fd-broker.answers')
  readonly #marked = new WeakSet<http.ServerResponse>()
  /** Connections that were told to go one by one, in an earlier round, may live again. */
  #round = 1
  #announced = false
  #ServerResponse: typeof http.ServerResponse | null = null
  readonly #onClose: (this: http.ServerResponse) => void
  /** An exchange has ended: its connection may be between two requests now. */
  onEnded: ((socket: net.Socket) => void) | null = null

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
    for (const { newest } of this.#busy) if (newest !== null) this.#mark(newest)
  }

  /** The next answer on this connection does. */
  announceOn(socket: net.Socket): void {
    const seen = this.seen(socket)
    const { newest } = seen
    seen.toldIn = this.#round
    if (newest !== null) this.#mark(newest)
  }

  /** Answers that come may let their connections live again. */
  resume(): void {
    this.#announced = false
    this.#round++
  }

  /** Connections with answers under way. */
  busy(): Set<net.Socket> {
    return new Set(this.#busy.flatMap(({ newest }) => (newest === null ? [] : [newest.req.socket])))
  }

  seen(socket: net.Socket): Seen {
    const own = socket as unknown as Record<symbol, Seen | undefined>
    let seen = own[this.#seen]
    if (seen === undefined) {
      const keepAliveUntil = Number.POSITIVE_INFINITY
      seen = { requests: 0, before: 0, newest: null, at: -1, toldIn: 0, keepAliveUntil }
      own[this.#seen] = seen
    }
    return seen
  }

  release(): void {
    this.#server.off('request', this.#onRequest)
  }

  readonly #onRequest = (request: http.IncomingMessage, response: unknown): void => {
    // HTTP/2 has answers of its own.
    this.#ServerResponse ??= nodeHttp().ServerResponse
    if (!(response instanceof this.#ServerResponse)) return
    const { socket } = request
    const seen = this.seen(socket)
    const earlier = seen.newest
    seen.newest = response
    seen.requests++
    if (seen.at < 0) seen.at = this.#busy.push(seen) - 1
    response.on('close', this.#onClose)
    if (this.#announced || seen.toldIn === this.#round || this.#isLimit(seen)) {
      const moved = earlier !== null && this.#unmark(earlier)
      this.#mark(response)
      if (moved) setImmediate(() => this.#readNoMore(response))
    }
  }

  #closed(response: http.ServerResponse): void {
    const { socket, complete } = response.req
    const seen = this.seen(socket)
    // Node does not close the answers behind it, if the connection has ended.
    if (seen.newest === response || socket.destroyed) this.#rests(seen)
    const timeout = socket.timeout ?? 0
    seen.keepAliveUntil = timeout > 0 ? performance.now() + timeout : Number.POSITIVE_INFINITY
    // Answered before the request was there as a whole.
    if (!complete) response.req.once('close', () => this.onEnded?.(socket))
    this.onEnded?.(socket)
  }

  /** No answer is under way on it. */
  #rests(seen: Seen): void {
    seen.newest = null
    if (seen.at < 0) return
    const last = this.#busy.pop()!
    if (last !== seen) {
      this.#busy[seen.at] = last
      last.at = seen.at
    }
    seen.at = -1
  }

  /** Node's own count begins again with each process. */
  #isLimit({ requests, before }: Seen): boolean {
    if (before === 0) return false
    const limit = this.#server.maxRequestsPerSocket ?? 0
    return limit > 0 && before + requests >= limit
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
