/**
 * Host patterns of routes, and the form of a request's Host that is compared with them.
 *
 *     example.com      this host, on any port
 *     *.example.com    every host below it, however deep, but not example.com itself
 *     *                every host
 */

import { isIPv4 } from 'node:net'
import { domainToASCII } from 'node:url'
import { isIPv6 } from '../../base/lazy.js'
import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'

const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/

const MAX_CHARACTERS = 253

/** Matches patterns that are canonical: the last label shows that they are no addresses. */
const PLAIN = /^(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/

/** Returns the canonical spelling of a host pattern: lower case, punycode, no trailing dot, IPv6 compressed and in brackets. */
export function canonicalHost(pattern: string): string | InvalidValue {
  if (pattern === '*' || (pattern.length <= MAX_CHARACTERS && PLAIN.test(pattern))) return pattern
  if (pattern === '') return new InvalidValue('"" is not a host; write "*" for every host')
  const refuse = (why: string) => new InvalidValue(`${shortJson(pattern)} is not a host: ${why}`)
  if (/[/?#@\s\\%]/.test(pattern)) return refuse('write only the name, for example app.example.com')
  if (isIPv6(pattern)) return refuse(`write an IPv6 address in brackets, [${pattern}]`)
  if (pattern.startsWith('[')) {
    const inside = /^\[([^\]]*)\]$/.exec(pattern)?.[1]
    if (inside === undefined || !isIPv6(inside)) return refuse('write [ADDRESS], without a port')
    return compressIpv6(pattern)
  }
  if (pattern.includes(':')) return refuse('leave the port out, a route is for all ports')
  const wildcard = pattern.startsWith('*.')
  const rest = wildcard ? pattern.slice(2) : pattern
  if (rest.includes('*')) return refuse('a * stands alone or as the whole first label, *.example.com')
  const given = rest.endsWith('.') ? rest.slice(0, -1) : rest
  const ascii = /^[\x21-\x7e]*$/.test(given) ? given.toLowerCase() : domainToASCII(given)
  if (isIPv4(ascii)) return wildcard ? refuse('an address has no hosts below it') : ascii
  if (ascii.length === 0 || ascii.length > MAX_CHARACTERS - (wildcard ? 2 : 0))
    return refuse('a name has 1 to 253 characters')
  const labels = ascii.split('.')
  const bad = labels.find(label => !LABEL.test(label))
  if (bad !== undefined) return refuse(`${shortJson(bad)} is not a label (1 to 63 letters, digits and -)`)
  if (/^\d+$/.test(labels.at(-1)!)) return refuse('it ends like an IPv4 address, but is not one')
  return wildcard ? `*.${ascii}` : ascii
}

/** Returns a host pattern that applies to the requests of one listener only, in the form `LISTENER@HOST`: no host has an @. */
export function scopedHost(listener: string | undefined, host: string): string {
  return listener === undefined ? host : `${listener}@${host}`
}

/** Reverses {@link scopedHost}. `listener`: null for a host of all listeners. */
export function splitScope(scoped: string): { listener: string | null; host: string } {
  const at = scoped.indexOf('@')
  return at < 0
    ? { listener: null, host: scoped }
    : { listener: scoped.slice(0, at), host: scoped.slice(at + 1) }
}

let lastHost = ''
let lastName = ''

/** Returns a request's host in the form of a pattern: lower case, without port and trailing dot. Does not validate it: an invalid host can match only wildcards. */
export function requestHost(host: string): string {
  if (host === lastHost) return lastName
  lastName = nameOf(host)
  lastHost = host
  return lastName
}

function nameOf(host: string): string {
  let end = 0
  let lower = true
  for (; end < host.length; end++) {
    const code = host.charCodeAt(end)
    if (code === COLON) break
    if (code === BRACKET && end === 0) return ipv6Host(host)
    if (code >= CAPITAL_A && code <= CAPITAL_Z) lower = false
  }
  if (end > 1 && host.charCodeAt(end - 1) === DOT) end--
  const name = end === host.length ? host : host.slice(0, end)
  return lower ? name : name.toLowerCase()
}

const DOT = 0x2e
const COLON = 0x3a
const CAPITAL_A = 0x41
const CAPITAL_Z = 0x5a
const BRACKET = 0x5b

function ipv6Host(host: string): string {
  const end = host.indexOf(']')
  return end < 0 ? host : compressIpv6(host.slice(0, end + 1))
}

function compressIpv6(bracketed: string): string {
  const url = `http://${bracketed}/`
  return URL.canParse(url) ? new URL(url).hostname : bracketed
}
