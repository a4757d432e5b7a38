import type net from 'node:net'
import type tls from 'node:tls'
import { type Observers, observe } from '../../node/observed-events.js'
import { canSendOverTls, sendOverTls } from '../../node/openssl.js'
import { isPlain, sendBypassingQueue } from '../../node/socket-handle.js'
import { GradualLeave } from './gradual-leave.js'
import type { Leaving } from './taken-over.js'

/** The used part of `Http2Session`, declared here so that only the application loads `node:http2`. */
interface Http2SessionLike extends NodeJS.EventEmitter {
  readonly closed: boolean
  /** The client has not acknowledged the server's SETTINGS yet, which must be the first frame that the server sends. */
  readonly pendingSettingsAck: boolean
  readonly destroyed: boolean
  ping(callback: (error: Error | null) => void): boolean
  close(): void
  destroy(): void
}

interface OpenSession {
  readonly session: Http2SessionLike
  readonly socket: net.Socket | null
  streams: number
}

/** If the client does not answer the ping within this time, the session sends the final GOAWAY without the answer. */
const ANSWER_MS = 5_000
/** The delay before a first GOAWAY, or a ping, is tried again. */
const RETRY_MS = 20
/** The time between two sessions that end: a client that comes back with TLS needs a handshake. */
const APART_MS = 5
/** A GOAWAY frame without an error, with the highest possible stream number: it refuses no stream that is in flight. */
const GOAWAY = Buffer.from('0000080700000000007fffffff00000000', 'hex')

/**
 * The sessions of an HTTP/2 server. A session ends in two steps (RFC 9113, 6.8): GOAWAY with the highest stream number, then, after a round
 * trip (a ping), the final GOAWAY. A final GOAWAY alone would refuse requests that are in flight.
 *
 * The first GOAWAY bypasses Node: it is written to the kernel, or to OpenSSL, between two frames of the session. After Node's `session.goaway()`
 * nghttp2 would ignore new streams, and stop reading when none is open, so that requests in flight would hang.
 */
export class Http2Sessions {
  readonly #sessions = new Map<Http2SessionLike, OpenSession>()
  readonly #leave = new GradualLeave<OpenSession>(endSession)
  /** The socket of the session that the server makes in this turn of the event loop. */
  #connecting: net.Socket | null = null
  #leaving = false

  /** Call it before the server's own listener makes the session: at 'connection', with TLS at 'secureConnection'. */
  readonly connecting = (socket: net.Socket): void => {
    this.#connecting = socket
  }

  /** Call it after the server's own listener. */
  readonly connected = (): void => {
    this.#connecting = null
  }

  /** Observes 'session'. */
  readonly add = (session: Http2SessionLike): void => {
    const facts: OpenSession = { session, socket: this.#connecting, streams: 0 }
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
        [
          'close',
          () => {
            this.#sessions.delete(session)
            this.#leave.forget(facts)
          },
        ],
      ]),
    )
    if (this.#leaving) endSession(facts)
  }

  /** The open sessions, each with its number of streams. */
  get facts(): Set<{ readonly streams: number }> {
    return new Set(this.#sessions.values())
  }

  /** Ends all sessions, one after the other, within the given time, and at once those that are added later. */
  leave({ withinMs, why }: Pick<Leaving, 'withinMs' | 'why'>): void {
    const those = this.#leaving ? [] : [...this.#sessions.values()]
    this.#leaving = true
    this.#leave.within(those, why === 'ended' ? 0 : Math.min(withinMs, this.#sessions.size * APART_MS))
  }

  /** Undoes {@link leave} for sessions that are added from now on, and those that still wait. Sessions that are already ending still end. */
  resume(): void {
    this.#leaving = false
    this.#leave.stop()
  }

  destroy(): void {
    this.#leave.stop()
    for (const session of this.#sessions.keys()) session.destroy()
  }
}

/** Returns a function that sends bytes between two frames of a session, and returns false if it cannot do so now; null: it never can. */
function senderOf(socket: net.Socket | null): ((bytes: Uint8Array) => boolean) | null {
  if (socket === null) return null
  if (isPlain(socket)) return bytes => sendBypassingQueue(socket, bytes)
  const secure = socket as tls.TLSSocket
  return canSendOverTls(secure) ? bytes => sendOverTls(secure, bytes) : null
}

function endSession({ session, socket }: OpenSession): void {
  const isOpen = () => !session.closed && !session.destroyed
  if (!isOpen()) return
  const send = senderOf(socket)
  if (send === null) {
    session.close()
    return
  }
  let retry: NodeJS.Timeout | undefined
  const end = () => {
    clearTimeout(timer)
    clearTimeout(retry)
    stop()
    if (isOpen()) session.close()
  }
  const timer = setTimeout(end, ANSWER_MS).unref()
  const again = (step: () => void) => {
    retry = setTimeout(() => isOpen() && step(), RETRY_MS).unref()
  }
  const announce = () => {
    if (send(GOAWAY)) ask()
    else again(announce)
  }
  // An error: the application already waits for too many pings, or the session has ended.
  const ask = () => session.ping(error => (error === null ? end() : again(ask)))
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
