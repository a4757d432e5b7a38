/** A host and port as in Host, CONNECT and absolute targets (RFC 3986, 3.2; RFC 9110, 7.2). */
export interface Authority {
  /** In small letters; an IPv6 address in its brackets. */
  host: string
  /** undefined if none was named. */
  port: number | undefined
}

const COLON = 0x3a
const BRACKET = 0x5b
const NAME = /^[0-9A-Za-z._~-]+$/
const IPV6 = /^\[[0-9A-Fa-f:.]{2,45}\]$/
const PORT = /^[0-9]{0,5}$/

/** Small letters, digits and `-._~`: a name of these needs no further look. */
const PLAIN = new Uint8Array(128)
for (const character of 'abcdefghijklmnopqrstuvwxyz0123456789-._~') PLAIN[character.charCodeAt(0)] = 1

/**
 * Undefined for anything but a name, an IPv4 address or an IPv6 address in brackets, with an optional port: no user,
 * no list, no percent-encoding, no empty name. An empty port is none (RFC 3986, 3.2.3).
 */
export function parseAuthority(text: string): Authority | undefined {
  let end = 0
  while (end < text.length && PLAIN[text.charCodeAt(end)] === 1) end++
  if (end === text.length) return end === 0 ? undefined : { host: text, port: undefined }
  const ipv6 = text.charCodeAt(0) === BRACKET
  if (ipv6 || text.charCodeAt(end) !== COLON) end = text.indexOf(':', ipv6 ? text.indexOf(']') : end)
  const host = end < 0 ? text : text.slice(0, end)
  if (!(ipv6 ? IPV6 : NAME).test(host)) return undefined
  if (end < 0) return { host: host.toLowerCase(), port: undefined }
  const digits = text.slice(end + 1)
  const port = Number(digits)
  if (!PORT.test(digits) || port > 65535) return undefined
  return { host: host.toLowerCase(), port: digits === '' ? undefined : port }
}

interface Seen {
  readonly bytes: Uint8Array
  readonly authority: Readonly<Authority>
}

const MOST_SEEN = 512
/** A longer one is no host that many ask for. */
const MOST_SEEN_BYTES = 64
const seen: (Seen | undefined)[] = new Array(MOST_SEEN).fill(undefined)

/**
 * {@link parseAuthority} of `bytes[start, end)`. Clients name the same hosts again and again: those named last are known by their bytes,
 * and their strings, which routes are looked up by, are the same ones.
 */
export function readAuthority(bytes: Buffer, start: number, end: number): Readonly<Authority> | undefined {
  let hash = end - start
  for (let at = start; at < end; at++) hash = Math.imul(hash, 31) + bytes[at]!
  const slot = (hash ^ (hash >>> 9)) & (MOST_SEEN - 1)
  const known = seen[slot]
  if (known !== undefined && isSame(known.bytes, bytes, start, end)) return known.authority
  const authority = parseAuthority(bytes.toString('latin1', start, end))
  if (authority !== undefined && end - start <= MOST_SEEN_BYTES) {
    seen[slot] = {
      bytes: Uint8Array.prototype.slice.call(bytes, start, end),
      authority: Object.freeze(authority),
    }
  }
  return authority
}

function isSame(known: Uint8Array, bytes: Uint8Array, start: number, end: number): boolean {
  if (known.length !== end - start) return false
  for (let i = 0; i < known.length; i++) if (known[i] !== bytes[start + i]) return false
  return true
}
