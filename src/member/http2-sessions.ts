import type net from 'node:net'
import { sendBypassingQueue } from '../node/kernel-sender.js'

/** The part of an `Http2Session` that is used; the module itself is loaded by the application. */
export interface Http2SessionLike extends NodeJS.EventEmitter {
  readonly closed: boolean
  /** The client has not acknowledged our first SETTINGS, before which no other frame may come. */
  readonly pendingSettingsAck: boolean
  readonly destroyed: boolean
  ping(callback: () => void): boolean
  close(): void
  destroy(): void
}

interface Facts {
  readonly socket: net.Socket | null
  streams: number
}

/** A client that does not answer by then is told the end all the same. */
const PING_MS = 5_000
/** Where its client reads too slowly for more to be written. */
const AGAIN_MS = 20
/** A whole GOAWAY frame: no error, and the highest stream there can be, so that none that is on its way is refused. */
const GOAWAY = Buffer.from('0000080700000000007fffffff00000000', 'hex')

/**
 * The sessions of an HTTP/2 server. A client is told to go in two steps (RFC 9113, 6.8): GOAWAY with the highest stream
 * number, then, a round trip later (a ping), the real end. With the last step alone, requests that cross it are refused.
 *
 * The first step goes to the kernel past Node, between the frames of the session (which hands over whole frames, in order). Node's `session.goaway()` would have nghttp2 take no new stream from then on, and read no more as soon as
 * none is open: requests that cross it would hang. Under TLS there is the last step only: Node's TLS takes one write at a
 * time, and has no way to tell whether the session's is under way.
 */
export class Http2Sessions {
  readonly #sessions = new Map<Http2SessionLike, Facts>()
  /** The socket of which the server makes a session in this very turn. */
  #coming: net.Socket | null = null
  #leaving = false

  /** Before the server's own listener of 'connection'; in the clear only. */
  readonly comes = (socket: net.Socket): void => {
    this.#coming = socket
  }

  /** The listener of 'session'. */
  readonly add = (session: Http2SessionLike): void => {
    const facts: Facts = { socket: this.#coming, streams: 0 }
    this.#coming = null
    this.#sessions.set(session, facts)
    session.on('stream', (stream: NodeJS.EventEmitter) => {
      facts.streams++
      stream.once('close', () => facts.streams--)
    })
    session.once('close', () => this.#sessions.delete(session))
    if (this.#leaving) sendAway(session, facts)
  }

  /** Streams of each. */
  get facts(): Set<{ readonly streams: number }> {
    return new Set(this.#sessions.values())
  }

  /** Every client is told, also those that come. Idempotent. */
  leave(): void {
    if (this.#leaving) return
    this.#leaving = true
    for (const [session, facts] of this.#sessions) sendAway(session, facts)
  }

  /** Sessions that come may stay. */
  resume(): void {
    this.#leaving = false
  }

  destroy(): void {
    for (const session of this.#sessions.keys()) session.destroy()
  }
}

function sendAway(session: Http2SessionLike, { socket }: Facts): void {
  if (session.closed || session.destroyed) return
  if (socket === null) {
    session.close()
    return
  }
  let again: NodeJS.Timeout | undefined
  const end = () => {
    clearTimeout(timer)
    clearTimeout(again)
    session.off('close', end)
    if (!session.closed && !session.destroyed) session.close()
  }
  const timer = setTimeout(end, PING_MS)
  timer.unref()
  session.once('close', end)
  const announce = () => {
    if (session.closed || session.destroyed) return
    // False: too many pings of the application are on their way; the time decides.
    if (sendBypassingQueue(socket, GOAWAY)) session.ping(end)
    else again = setTimeout(announce, AGAIN_MS)
  }
  if (session.pendingSettingsAck) session.once('localSettings', announce)
  else announce()
}
