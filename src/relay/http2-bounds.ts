import type { ServerSessionOptions } from 'node:http2'
import type { HeadLimits } from '../http1/index.js'

/**
 * The bounds of an HTTP/2 client. If the client exceeds one, its connection ends with the GOAWAY `ENHANCE_YOUR_CALM`.
 *
 * - `resets`: streams that the client has reset before the end of the response, or that were malformed
 * - `refused`: streams with too large a head, or beyond the limit of streams at the same time
 * - `pings`, `settings`: such frames
 * - `continuations`: CONTINUATION frames of one head
 * - `frames`: invalid frames, and empty ones
 * - `flood`: frames whose answers the client does not read
 * - `stalls`: streams whose response the client has not taken
 */
export type Http2Bound =
  | 'resets'
  | 'refused'
  | 'pings'
  | 'settings'
  | 'continuations'
  | 'frames'
  | 'flood'
  | 'stalls'

/** Streams of one connection at the same time. */
export const MAX_STREAMS = 100

/** How many at once, and how many more in each second. A page that a browser leaves resets all its streams at once. */
const RATES: Readonly<Partial<Record<Http2Bound, readonly [burst: number, perSecond: number]>>> = {
  resets: [2 * MAX_STREAMS, 20],
  refused: [2 * MAX_STREAMS, 20],
  pings: [100, 10],
  settings: [20, 1],
  stalls: [20, 0.1],
}

/** Counts for one connection what has a rate. */
export class RateBounds {
  readonly #left = new Map<Http2Bound, { count: number; at: number }>()

  /** Counts one more. Returns false if it is beyond the bound. `now`: milliseconds. */
  allows(bound: Http2Bound, count = 1, now = performance.now()): boolean {
    const [burst, perSecond] = RATES[bound]!
    const left = this.#left.get(bound) ?? { count: burst, at: now }
    left.count = Math.min(burst, left.count + ((now - left.at) * perSecond) / 1_000) - count
    left.at = now
    this.#left.set(bound, left)
    return left.count >= 0
  }
}

const HPACK_OVERHEAD = 32
/** Fields that do not count in HTTP/1: those with a colon, and a cookie in several parts. */
const MORE_FIELDS = 28
const MAX_INVALID_FRAMES = 200
const MAX_SESSION_MEMORY_MIB = 8

/** Node's own bounds. A head that exceeds them gets no response, a smaller one that exceeds the limits of HTTP/1 gets 431. */
export function sessionOptions(
  { headBytes, fields }: Readonly<HeadLimits>,
  webSockets: boolean,
): ServerSessionOptions {
  const maxHeaderListPairs = fields + MORE_FIELDS
  return {
    maxHeaderListPairs,
    maxSessionMemory: MAX_SESSION_MEMORY_MIB,
    maxSessionInvalidFrames: MAX_INVALID_FRAMES,
    settings: {
      maxConcurrentStreams: MAX_STREAMS,
      maxHeaderListSize: headBytes + maxHeaderListPairs * HPACK_OVERHEAD,
      ...(webSockets && { enableConnectProtocol: true }),
    },
  }
}

/** By the numbers of nghttp2 for errors of the peer: their codes for GOAWAY. Node would send INTERNAL_ERROR. */
const CODES: Readonly<Record<number, number>> = { [-505]: 1, [-524]: 3, [-522]: 6, [-523]: 9 }

/** Returns the code of a GOAWAY, or undefined for an error that has none. */
export function goawayCode(error: unknown): number | undefined {
  const { code, errno = 0 } = error as NodeJS.ErrnoException
  return code === 'ERR_HTTP2_ERROR' ? CODES[errno] : undefined
}

const FLOODED = -904
const TOO_MANY_CONTINUATIONS = -905
const CALLBACK_FAILED = -902

/** Returns the bound of Node that a client has exceeded, or null for any other error of its connection. */
export function boundOf(error: unknown): Http2Bound | null {
  const { code, errno } = error as NodeJS.ErrnoException
  if (code === 'ERR_HTTP2_TOO_MANY_INVALID_FRAMES') return 'frames'
  if (code !== 'ERR_HTTP2_ERROR') return null
  if (errno === FLOODED) return 'flood'
  if (errno === TOO_MANY_CONTINUATIONS) return 'continuations'
  // Node's callback refuses a stream for which the memory of the session does not suffice.
  return errno === CALLBACK_FAILED ? 'refused' : null
}
