import type net from 'node:net'
import { sendBypassingQueue } from '../node/kernel-sender.js'

/** The part of an `Http2Session` that is used; the module itself is loaded by the application. */
export interface Http2SessionLike extends NodeJS.EventEmitter {
  readonly closed: boolean
  /** The client has not acknowledged the first SETTINGS yet; no other frame may precede it. */
  readonly pendingSettingsAck: boolean
  readonly destroyed: boolean
  ping(callback: () => void): boolean
  close(): void
  destroy(): void
}

interface OpenSession {
  readonly socket: net.Socket | null
  streams: number
}

/** The time in which a client must answer the ping. */
const PING_MS = 5_000
/** The delay until GOAWAY is retried if the socket is full. */
const RETRY_MS = 20
/** A whole GOAWAY frame: no error, and the highest possible stream number, so that no stream in flight is refused. */
const GOAWAY = Buffer.from('0000080700000000007fffffff00000000', 'hex')

/**
 * The sessions of an HTTP/2 server. A session ends in two steps (RFC 9113, 6.8): GOAWAY with the highest stream number, then, after a round
 * trip (a ping), the final GOAWAY. With the final one alone, requests in flight would be refused.
 *
 * The first GOAWAY bypasses Node: it is written to the kernel between two frames of the session. Node's `session.goaway()` would make
 * nghttp2 accept no new stream and stop reading when none is open, so that requests in flight would hang. With TLS only the final GOAWAY is
 * sent, because Node's TLS takes one write at a time, and does not show whether one is under way.
 */
export class Http2Sessions {
  readonly #sessions = new Map<Http2SessionLike, OpenSession>()
  /** The socket for which the server makes a session in this turn of the event loop. */
  #connecting: net.Socket | null = null
  #leaving = false

  /** A listener of 'connection', to be called before the server's own. Only without TLS. */
  readonly onConnection = (socket: net.Socket): void => {
    this.#connecting = socket
  }

  /** A listener of 'session'. */
  readonly add = (session: Http2SessionLike): void => {
    const facts: OpenSession = { socket: this.#connecting, streams: 0 }
    this.#connecting = null
    this.#sessions.set(session, facts)
    session.on('stream', (stream: NodeJS.EventEmitter) => {
      facts.streams++
      stream.once('close', () => facts.streams--)
    })
    session.once('close', () => this.#sessions.delete(session))
    if (this.#leaving) endSession(session, facts)
  }

  /** The number of streams of each session. */
  get facts(): Set<{ readonly streams: number }> {
    return new Set(this.#sessions.values())
  }

  /** Ends all sessions, and those that are added later. Idempotent. */
  leave(): void {
    if (this.#leaving) return
    this.#leaving = true
    for (const [session, facts] of this.#sessions) endSession(session, facts)
  }

  /** Undoes {@link leave} for sessions that are added from now on. Sessions that are already ending still end. */
  resume(): void {
    this.#leaving = false
  }

  destroy(): void {
    for (const session of this.#sessions.keys()) session.destroy()
  }
}

function endSession(session: Http2SessionLike, { socket }: OpenSession): void {
  if (session.closed || session.destroyed) return
  if (socket === null) {
    session.close()
    return
  }
  let retry: NodeJS.Timeout | undefined
  const end = () => {
    clearTimeout(timer)
    clearTimeout(retry)
    session.off('close', end)
    if (!session.closed && !session.destroyed) session.close()
  }
  const timer = setTimeout(end, PING_MS)
  timer.unref()
  session.once('close', end)
  const announce = () => {
    if (session.closed || session.destroyed) return
    // ping() may fail if the application has too many under way: then the timer ends the session.
    if (sendBypassingQueue(socket, GOAWAY)) session.ping(end)
    else retry = setTimeout(announce, RETRY_MS)
  }
  if (session.pendingSettingsAck) session.once('localSettings', announce)
  else announce()
}
