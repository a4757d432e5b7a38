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
const PORT = /^[0-9]{1,5}$/

/** Small letters, digits and `-._~`: a name of these needs no further look. */
const PLAIN = new Uint8Array(128)
for (const character of 'abcdefghijklmnopqrstuvwxyz0123456789-._~') PLAIN[character.charCodeAt(0)] = 1

/**
 * Undefined for anything but a name, an IPv4 address or an IPv6 address in brackets, with an optional port: no user,
 * no list, no percent-encoding, no empty name, no empty port.
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
  return { host: host.toLowerCase(), port }
}
