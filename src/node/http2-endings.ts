import type net from 'node:net'
import type tls from 'node:tls'
import { afterReading } from '../base/after-reading.js'
import { observe } from './observed-events.js'
import { canSendOverTls, sendOverTls } from './openssl.js'
import { isPlain, sendBypassingQueue } from './socket-handle.js'

/** The used part of `Http2Session`, declared here so that only the application loads `node:http2`. */
export interface Http2SessionLike extends NodeJS.EventEmitter {
  readonly closed: boolean
  /** The client has not acknowledged the server's SETTINGS yet, which must be the first frame that the server sends. */
  readonly pendingSettingsAck: boolean
  readonly destroyed: boolean
  ping(callback: (error: Error | null) => void): boolean
  close(): void
  destroy(): void
}

interface EndingSession {
  readonly session: Http2SessionLike
  /** The socket of the session; null if it is unknown. */
  readonly socket: net.Socket | null
}

/** If the client does not answer the ping within this time, the session sends the final GOAWAY without the answer. */
const ANSWER_MS = 5_000
/** The delay before a first GOAWAY, or a ping, is tried again. */
const RETRY_MS = 20
/** A GOAWAY frame without an error, with the highest possible stream number: it refuses no stream that is in flight. */
const GOAWAY = Buffer.from('0000080700000000007fffffff00000000', 'hex')

/** Returns a function that sends bytes between two frames of a session, and returns false if it cannot do so now; null: it never can. */
function senderOf(socket: net.Socket | null): ((bytes: Uint8Array) => boolean) | null {
  if (socket === null) return null
  if (isPlain(socket)) return bytes => sendBypassingQueue(socket, bytes)
  const secure = socket as tls.TLSSocket
  return canSendOverTls(secure) ? bytes => sendOverTls(secure, bytes) : null
}

/**
 * Ends a session in two steps (RFC 9113, 6.8): GOAWAY with the highest stream number, then, after a round trip (a ping), the final GOAWAY. A final GOAWAY alone
 * would refuse requests that are in flight.
 *
 * The first GOAWAY bypasses Node: it is written to the kernel, or to OpenSSL, between two frames of the session. After Node's `session.goaway()`
 * nghttp2 would ignore new streams, and stop reading when none is open, so that requests in flight would hang.
 */
export function endHttp2Session({ session, socket }: EndingSession): void {
  const isOpen = () => !session.closed && !session.destroyed
  if (!isOpen()) return
  const send = senderOf(socket)
  if (send === null) {
    session.close()
    return
  }
  let retry: NodeJS.Timeout | undefined
  const end = () => {
    limit.clear()
    clearTimeout(retry)
    stop()
    if (isOpen()) session.close()
  }
  // The final GOAWAY would refuse requests that have arrived while this process was stopped.
  const limit = afterReading(ANSWER_MS, end, { unref: true })
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

/** The part of `Http2Stream` that ends its sending side. */
interface ClosableStream {
  _final?: (done: () => void) => void
  close(code: number): void
}

/**
 * Resets a stream whose response is incomplete. `close()` alone would first send the end of the stream, and the client would take the response for
 * complete.
 */
export function resetHttp2Stream(stream: { close(code: number): void }, code: number): void {
  ;(stream as ClosableStream)._final = done => done()
  stream.close(code)
}
