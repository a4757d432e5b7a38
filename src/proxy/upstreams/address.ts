import { isIPv4 } from 'node:net'
import { isIPv6 } from '../../base/lazy.js'
import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'

/** The address of an upstream server. `text` is the canonical spelling, `secure` means TLS. */
export type UpstreamAddress =
  | { kind: 'tcp'; host: string; port: number; text: string; secure?: true }
  | { kind: 'unix'; path: string; text: string }

/** A server of an upstream. */
export type ServerConfig = UpstreamAddress & {
  /** The server's share of the requests, relative to the other servers; absent: 1. */
  weight?: number
  /** The server gets requests only while no other one is usable. */
  backup?: true
}

const SUN_PATH_BYTES = 107
const STREAMS = /^(tcp|tls):/
const DATAGRAMS = /^udp:/

/** Servers take HTTP requests, whole connections (`tcp://`, `tls://`) or datagrams (`udp://`). */
export type ServerKind = 'requests' | 'connections' | 'datagrams'

/** Returns what the servers of one upstream take. */
export function kindOf(servers: readonly UpstreamAddress[]): ServerKind {
  const has = (kind: RegExp) => servers.some(({ text }) => kind.test(text))
  if (has(DATAGRAMS)) return 'datagrams'
  return has(STREAMS) ? 'connections' : 'requests'
}

/** Reports whether a server is spoken to by TLS. */
export function usesTls(server: UpstreamAddress): server is UpstreamAddress & { kind: 'tcp'; secure: true } {
  return server.kind === 'tcp' && server.secure === true
}

/** Reports whether servers with these addresses can be in one upstream. */
export function ofOneKind(addresses: readonly string[]): boolean {
  const has = (kind: RegExp) => addresses.some(address => kind.test(address))
  return has(DATAGRAMS)
    ? addresses.every(address => DATAGRAMS.test(address))
    : !has(/^https?:/) || !has(STREAMS)
}

/** Parses `http://HOST:PORT`, `tcp://HOST:PORT`, `udp://HOST:PORT` (a name, an IPv4 address or `[::1]`), with TLS `https://` or `tls://`, or `unix:/path`. */
export function upstreamAddress(text: string): UpstreamAddress | InvalidValue {
  const refuse = (why: string) =>
    new InvalidValue(
      `${shortJson(text)} is not an upstream address (http://HOST:PORT, https://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT or unix:/path)${why === '' ? '' : `: ${why}`}`,
    )
  if (text.startsWith('unix:')) {
    const path = text.slice(5)
    if (!path.startsWith('/')) return refuse('the path must be absolute')
    if (path.includes('\0')) return refuse('the path contains a NUL')
    const bytes = Buffer.byteLength(path)
    return bytes <= SUN_PATH_BYTES
      ? { kind: 'unix', path, text: `unix:${path}` }
      : refuse(`the path has ${bytes} bytes, at most ${SUN_PATH_BYTES} are possible`)
  }
  const [, scheme, authority, rest = ''] = /^(https?|tcp|tls|udp):\/\/([^/?#]*)(.*)$/s.exec(text) ?? []
  if (authority === undefined) return refuse('')
  if (authority.includes('@')) return refuse('leave user and password out')
  if (rest !== '' && rest !== '/') return refuse(`leave ${shortJson(rest)} out, requests keep their own path`)
  const [, v6, name = '', port] = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(authority) ?? []
  if (port === undefined) return refuse(/:\d+$/.test(authority) ? '' : 'the port is missing')
  if (Number(port) < 1 || Number(port) > 65_535) return refuse(`${port} is not a port from 1 to 65535`)
  const zone = v6 !== undefined && isIPv6(v6) ? /%.*/s.exec(v6)?.[0] : undefined
  if (zone !== undefined)
    return refuse(`${shortJson(v6)} has a zone, ${shortJson(zone)}; give an address without one`)
  if (v6 !== undefined && !isIPv6(v6)) return refuse(`${shortJson(v6)} is not an IPv6 address`)
  const host = v6 ?? name.toLowerCase()
  if (v6 === undefined && !isIPv4(host) && !isName(host)) return refuse(`${shortJson(name)} is not a host`)
  const written = v6 === undefined ? host : new URL(`http://[${v6}]/`).hostname
  const secure = scheme === 'https' || scheme === 'tls'
  const address = { host, port: Number(port), text: `${scheme}://${written}:${Number(port)}` }
  return { kind: 'tcp', ...address, ...(secure && { secure }) }
}

export function isName(host: string): boolean {
  if (host.length > 253 || /(^|\.)\d+$/.test(host)) return false
  return host.split('.').every(label => /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label))
}
