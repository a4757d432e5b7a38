import {
  BACKSLASH,
  COLON,
  CR,
  EQUALS,
  HEX,
  IN_VALUE,
  LF,
  QUOTE,
  SEMICOLON,
  SPACE,
  TAB,
  TOKEN_LOWER,
} from './bytes.js'
import { Http1Refusal, type Side } from './refusal.js'

/** Digits of a chunk's size, with leading zeros. */
const MAX_DIGITS = 16
/** Bytes of all extensions of one chunk: `;token`, `;token=token` and `;token="quoted"`. The relay forwards extensions. */
export const MAX_EXTENSION_BYTES = 256
export const MAX_TRAILER_BYTES = 8 * 1024

/** The element of the chunk syntax (RFC 9112, 7.1) to which the next byte belongs. Other versions read these numbers in a {@link FramingRecord}: do not change them. */
const ChunkPhase = {
  size: 0,
  extensionNameFirst: 1,
  extensionName: 2,
  extensionValueFirst: 3,
  extensionValue: 4,
  sizeLf: 5,
  data: 6,
  dataCr: 7,
  dataLf: 8,
  trailerFirst: 9,
  trailerName: 10,
  trailerValue: 11,
  trailerLf: 12,
  lastLf: 13,
  done: 14,
  extensionQuoted: 15,
  extensionEscaped: 16,
  extensionQuotedEnd: 17,
} as const

export const CHUNKED_DONE = ChunkPhase.done

export function isBetweenChunks({ phase, count }: FramingRecord): boolean {
  return phase === ChunkPhase.size && count === 0
}

interface ChunkState extends FramingRecord {
  readonly side: Side
  blanks: number[] | null
}

/** Advances through `bytes[at, to)` of a chunked body to its end; with `one` to the end of the current chunk. Returns the position reached. See {@link Framing.advance} for `data`. */
export function advanceChunked(
  state: ChunkState,
  bytes: Uint8Array,
  at: number,
  to: number,
  data: number[] | undefined,
  one = false,
): number {
  while (at < to) {
    const byte = bytes[at]!
    switch (state.phase) {
      case ChunkPhase.size:
        readSize(state, byte, at)
        break
      case ChunkPhase.sizeLf:
        if (byte !== LF) throw new Http1Refusal('chunk-size', at, state.side)
        state.count = 0
        state.phase = state.left === 0 ? ChunkPhase.trailerFirst : ChunkPhase.data
        break
      case ChunkPhase.data: {
        const taken = Math.min(state.left, to - at)
        state.left -= taken
        data?.push(at, at + taken)
        at += taken
        if (state.left === 0) state.phase = ChunkPhase.dataCr
        continue
      }
      case ChunkPhase.dataCr:
        if (byte !== CR) throw new Http1Refusal('chunk-ending', at, state.side)
        state.phase = ChunkPhase.dataLf
        break
      case ChunkPhase.dataLf:
        if (byte !== LF) throw new Http1Refusal('chunk-ending', at, state.side)
        state.phase = ChunkPhase.size
        if (one) return at + 1
        break
      case ChunkPhase.done:
        return at
      default:
        if (isExtension(state.phase)) readExtension(state, byte, at)
        else readTrailer(state, byte, at)
    }
    at++
  }
  return at
}

function readSize(state: ChunkState, byte: number, at: number): void {
  const digit = HEX[byte]!
  if (digit < 16) {
    const size = state.left * 16 + digit
    if (++state.count > MAX_DIGITS || size > Number.MAX_SAFE_INTEGER)
      throw new Http1Refusal('chunk-size', at, state.side)
    state.left = size
    return
  }
  if (state.count === 0) throw new Http1Refusal('chunk-size', at, state.side)
  if (state.side === 'response' && (byte === SPACE || byte === TAB)) {
    // A digit must not follow a blank. At the maximum count the next digit is an error.
    state.count = MAX_DIGITS
    state.blanks ??= []
    state.blanks.push(at)
    return
  }
  if (byte === CR) state.phase = ChunkPhase.sizeLf
  else if (byte === SEMICOLON) state.phase = ChunkPhase.extensionNameFirst
  else throw new Http1Refusal('chunk-size', at, state.side)
  state.count = 0
}

function readExtension(state: ChunkState, byte: number, at: number): void {
  if (++state.count > MAX_EXTENSION_BYTES) throw new Http1Refusal('chunk-extension', at, state.side)
  const { phase } = state
  if (phase === ChunkPhase.extensionQuoted || phase === ChunkPhase.extensionEscaped) {
    readQuoted(state, byte, at)
    return
  }
  if (phase === ChunkPhase.extensionValueFirst && byte === QUOTE) {
    state.phase = ChunkPhase.extensionQuoted
    return
  }
  if (phase === ChunkPhase.extensionQuotedEnd && byte !== SEMICOLON && byte !== CR)
    throw new Http1Refusal('chunk-extension', at, state.side)
  if (TOKEN_LOWER[byte] !== 0) {
    if (phase === ChunkPhase.extensionNameFirst) state.phase = ChunkPhase.extensionName
    else if (phase === ChunkPhase.extensionValueFirst) state.phase = ChunkPhase.extensionValue
    return
  }
  if (phase === ChunkPhase.extensionName && byte === EQUALS) {
    state.phase = ChunkPhase.extensionValueFirst
    return
  }
  const mayEnd =
    phase === ChunkPhase.extensionName ||
    phase === ChunkPhase.extensionValue ||
    phase === ChunkPhase.extensionQuotedEnd
  if (!mayEnd) throw new Http1Refusal('chunk-extension', at, state.side)
  if (byte === SEMICOLON) state.phase = ChunkPhase.extensionNameFirst
  else if (byte === CR) {
    state.phase = ChunkPhase.sizeLf
    state.count = 0
  } else throw new Http1Refusal('chunk-extension', at, state.side)
}

/** Inside a quoted string (RFC 9110, 5.6.4) a semicolon does not end the extension. */
function readQuoted(state: ChunkState, byte: number, at: number): void {
  if (IN_VALUE[byte] === 0) throw new Http1Refusal('chunk-extension', at, state.side)
  if (state.phase === ChunkPhase.extensionEscaped) state.phase = ChunkPhase.extensionQuoted
  else if (byte === BACKSLASH) state.phase = ChunkPhase.extensionEscaped
  else if (byte === QUOTE) state.phase = ChunkPhase.extensionQuotedEnd
}

function readTrailer(state: ChunkState, byte: number, at: number): void {
  if (state.phase === ChunkPhase.lastLf) {
    if (byte !== LF) throw new Http1Refusal('chunk-ending', at, state.side)
    state.phase = ChunkPhase.done
    state.count = 0
    return
  }
  if (state.phase === ChunkPhase.trailerFirst && byte === CR) {
    state.phase = ChunkPhase.lastLf
    return
  }
  if (++state.count > MAX_TRAILER_BYTES) throw new Http1Refusal('trailers-too-large', at, state.side)
  if (state.phase === ChunkPhase.trailerLf) {
    if (byte !== LF) throw new Http1Refusal('trailer-invalid', at, state.side)
    state.phase = ChunkPhase.trailerFirst
  } else if (state.phase === ChunkPhase.trailerValue) {
    if (byte === CR) state.phase = ChunkPhase.trailerLf
    else if (IN_VALUE[byte] === 0) throw new Http1Refusal('trailer-invalid', at, state.side)
  } else if (TOKEN_LOWER[byte] !== 0) {
    const hash = state.phase === ChunkPhase.trailerFirst ? FNV_OFFSET : state.hash
    state.hash = hashName(hash, TOKEN_LOWER[byte]!)
    state.phase = ChunkPhase.trailerName
  } else if (state.phase === ChunkPhase.trailerName && byte === COLON) {
    if (FORBIDDEN_HASHES.has(state.hash)) throw new Http1Refusal('trailer-forbidden', at, state.side)
    state.hash = 0
    state.phase = ChunkPhase.trailerValue
  } else throw new Http1Refusal('trailer-invalid', at, state.side)
}

export function isChunkPosition(state: FramingRecord): boolean {
  const { phase, count, left, hash } = state
  const min = phase === ChunkPhase.trailerName || phase === ChunkPhase.trailerValue ? 1 : 0
  const max = maxCount(phase)
  if (!Number.isInteger(count) || count < min || count > max) return false
  if (!Number.isInteger(hash) || hash < 0 || hash > 0xffffffff) return false
  if (hash !== 0 && phase !== ChunkPhase.trailerName) return false
  if (phase === ChunkPhase.data) return left > 0
  if (phase === ChunkPhase.size) return count > 0 || left === 0
  if (isExtension(phase)) return true
  return phase < ChunkPhase.data || left === 0
}

function isExtension(phase: number): boolean {
  const first = phase >= ChunkPhase.extensionNameFirst && phase <= ChunkPhase.extensionValue
  return first || (phase >= ChunkPhase.extensionQuoted && phase <= ChunkPhase.extensionQuotedEnd)
}

function maxCount(phase: number): number {
  if (phase === ChunkPhase.size) return MAX_DIGITS
  if (isExtension(phase)) return MAX_EXTENSION_BYTES
  if (phase >= ChunkPhase.trailerFirst && phase <= ChunkPhase.lastLf) return MAX_TRAILER_BYTES
  return Number.isInteger(phase) && phase >= 0 && phase <= ChunkPhase.done ? 0 : -1
}

/**
 * The state has only a hash of a trailer's name: FNV-1a of the lower-case name with `-` for `_`. If two names have the same hash, a harmless trailer is
 * refused, but a forbidden trailer never passes.
 */
const FNV_OFFSET = 0x811c9dc5
const FNV_PRIME = 0x01000193
const UNDERSCORE = 0x5f
const HYPHEN = 0x2d

function hashName(hash: number, lower: number): number {
  return Math.imul(hash ^ (lower === UNDERSCORE ? HYPHEN : lower), FNV_PRIME) >>> 0
}

/** Fields that a client must not forge, because servers believe that a proxy wrote them. CGI turns `Proxy` into the variable HTTP_PROXY. */
export const FORGEABLE_FIELDS = [
  'X-Real-IP',
  'X-Forwarded-Port',
  'X-Forwarded-Prefix',
  'X-Forwarded-Server',
  'X-Original-URL',
  'X-Original-Host',
  'X-Rewrite-URL',
  'Proxy',
]

/** Tell a server about the certificate that a proxy's client has shown. The first one: whether there is a valid one. */
export const CERTIFICATE_FIELDS = [
  'X-Client-Cert-Verified',
  'X-Client-Cert-Subject',
  'X-Client-Cert-Issuer',
  'X-Client-Cert-Serial',
  'X-Client-Cert-San',
  'X-Client-Cert-Fingerprint',
] as const

/**
 * Fields that frame, route, authenticate or describe a message: they must not be trailers (RFC 9110, 6.5.1). Also those that a client must
 * not forge: a server may treat a trailer as a header.
 */
const FORBIDDEN = [
  'authorization',
  'cache-control',
  'connection',
  'content-encoding',
  'content-length',
  'content-range',
  'content-type',
  'cookie',
  'expect',
  'forwarded',
  'host',
  'keep-alive',
  'location',
  'max-forwards',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'range',
  'set-cookie',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'www-authenticate',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  ...[...FORGEABLE_FIELDS, ...CERTIFICATE_FIELDS].map(name => name.toLowerCase()),
]

const FORBIDDEN_HASHES = new Set(FORBIDDEN.map(name => [...Buffer.from(name)].reduce(hashName, FNV_OFFSET)))

/** How a reader finds the end of a body. `none`: the message has no body. `tunnel`: the bytes are no longer HTTP. */
export type FramingKind = 'none' | 'length' | 'chunked' | 'until-close' | 'tunnel'

/** The complete state of {@link Framing}. Does not depend on how the bytes were split into reads. */
export interface FramingRecord {
  kind: FramingKind
  /** Remaining bytes of the body (`length`) or of the current chunk's data (`chunked`). */
  left: number
  /** The position in the chunk syntax, see `ChunkPhase`; 0 if the body is not chunked. */
  phase: number
  /** How many digits of the size, bytes of the extensions or bytes of the trailers (depending on the phase) were read; 0 in other phases, or if the body is not chunked. */
  count: number
  /** In the name of a trailer: the hash of its bytes so far. Otherwise 0. */
  hash: number
}
