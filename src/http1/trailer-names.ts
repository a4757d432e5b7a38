/**
 * Trailer names are judged without keeping their bytes: a 32-bit hash (FNV-1a) of the name in small letters, `_` taken
 * for `-`, is all that a tracker remembers of one. A collision refuses a harmless trailer, never lets a bad one through.
 */
const FNV_OFFSET = 0x811c9dc5
const FNV_PRIME = 0x01000193
const UNDERSCORE = 0x5f
const HYPHEN = 0x2d

export const NO_NAME = FNV_OFFSET

/** The hash after one more byte; `lower` is from TOKEN_LOWER. Always an unsigned 32-bit integer. */
export function hashName(hash: number, lower: number): number {
  return Math.imul(hash ^ (lower === UNDERSCORE ? HYPHEN : lower), FNV_PRIME) >>> 0
}

/** Fields that frame, route, authenticate or describe a message may not come behind it (RFC 9110, 6.5.1). */
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
]

const FORBIDDEN_HASHES = new Set(FORBIDDEN.map(name => [...Buffer.from(name)].reduce(hashName, NO_NAME)))

export function isForbiddenTrailer(hash: number): boolean {
  return FORBIDDEN_HASHES.has(hash)
}
