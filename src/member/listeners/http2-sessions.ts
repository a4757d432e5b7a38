import type net from 'node:net'
import { type Observers, observe } from '../../node/observed-events.js'
import { sendBypassingQueue } from '../../node/socket-handle.js'

/** The used part of `Http2Session`, declared here so that only the application loads `node:http2`. */
interface Http2SessionLike extends NodeJS.EventEmitter {
  readonly closed: boolean
  /** The client has not acknowledged the server's SETTINGS yet, which must be the first frame that the server sends. */
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

/** If the client does not answer the ping within this time, the session sends the final GOAWAY without the answer. */
const PING_MS = 5_000
/** The delay before the first GOAWAY is tried again, if the socket's send buffer is full. */
const GOAWAY_RETRY_MS = 20
/** A GOAWAY frame without an error, with the highest possible stream number: it refuses no stream that is in flight. */
const GOAWAY = Buffer.from('0000080700000000007fffffff00000000', 'hex')

/**
 * The sessions of an HTTP/2 server. A session ends in two steps (RFC 9113, 6.8): GOAWAY with the highest stream number, then, after a round
 * trip (a ping), the final GOAWAY. A final GOAWAY alone would refuse requests that are in flight.
 *
 * The first GOAWAY bypasses Node: it is written to the kernel between two frames of the session. Node's `session.goaway()` would make
 * nghttp2 accept no new stream and stop reading when none is open, so that requests in flight would hang. With TLS only the final GOAWAY is
 * sent, because Node's TLS takes one write at a time, and does not show whether one is under way.
 */
export class Http2Sessions {
  readonly #sessions = new Map<Http2SessionLike, OpenSession>()
  /** The socket of the session that the server makes in this turn of the event loop. */
  #connecting: net.Socket | null = null
  #leaving = false

  /** Observes 'connection' before the server's own listener makes the session. Not used with TLS. */
  readonly onConnection = (socket: net.Socket): void => {
    this.#connecting = socket
  }

  /** Observes 'session'. */
  readonly add = (session: Http2SessionLike): void => {
    const facts: OpenSession = { socket: this.#connecting, streams: 0 }
    this.#connecting = null
    this.#sessions.set(session, facts)
    const onStreamClose: Observers = new Map([['close', () => facts.streams--]])
    observe(
      session,
      new Map<string, (...args: never[]) => void>([
        [
          'stream',
          (stream: NodeJS.EventEmitter) => {
            facts.streams++
            observe(stream, onStreamClose)
          },
        ],
        ['close', () => void this.#sessions.delete(session)],
      ]),
    )
    if (this.#leaving) endSession(session, facts)
  }

  /** The open sessions, each with its number of streams. */
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
    stop()
    if (!session.closed && !session.destroyed) session.close()
  }
  const timer = setTimeout(end, PING_MS)
  timer.unref()
  const announce = () => {
    if (session.closed || session.destroyed) return
    // ping() returns false if the application already waits for too many pings: then the timer ends the session.
    if (sendBypassingQueue(socket, GOAWAY)) session.ping(end)
    else retry = setTimeout(announce, GOAWAY_RETRY_MS)
  }
  let waits = session.pendingSettingsAck
  const acknowledged = () => {
    if (waits) announce()
    waits = false
  }
  const stop = observe(
    session,
    new Map([
      ['close', end],
      ['localSettings', acknowledged],
    ]),
  )
  if (!waits) announce()
}
