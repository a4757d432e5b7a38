import { Http1Refusal, type Side } from './refusal.js'

/** What comes before the minor version. */
export const VERSION_BYTES: Uint8Array = Buffer.from('HTTP/1.', 'latin1')
const MAJOR = 5

/**
 * The refusal of the byte at `index` of `HTTP/1.x`: another digit than ours is a version that is not spoken, anything
 * else no version.
 */
export function versionRefusal(index: number, byte: number, offset: number, side: Side): Http1Refusal {
  const digit = byte >= 0x30 && byte <= 0x39
  if (digit && (index === MAJOR || index === VERSION_BYTES.length)) {
    return new Http1Refusal('version-unsupported', offset, side)
  }
  return new Http1Refusal(side === 'request' ? 'request-line' : 'status-line', offset, side)
}
