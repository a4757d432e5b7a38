/**
 * Listener specifications in the notation of operators:
 *
 *     tcp://0.0.0.0:443?reusePort      tcp://[::1]:80      tcp://*:80      udp://[::]:53
 *     unix:/run/app.sock?mode=0660&gid=33                  unix:@abstract-name
 *
 * Hosts are IP addresses, not names: a name may resolve to another address in the next generation. `*` means `[::]` with `ipv6Only=false`: IPv4 and
 * IPv6 in one socket.
 *
 * Options: `reuseAddr` (default true for tcp; false for udp, where it would let another socket take the datagrams), `reusePort` (false), `ipv6Only`
 * (true on an IPv6 address, so that a socket never serves both families by accident), `backlog` (4096; tcp and unix), and for unix paths `mode`
 * (octal; default: set by the umask), `uid`, `gid` (numbers). In a path write `%` as `%25` and `?` as `%3F`.
 */
import { isIPv4 } from 'node:net'
import { isIPv6 } from '../base/lazy.js'
import type { Given } from '../checks/options.js'
import { FdbError } from '../errors.js'
import type { Inspected } from '../kernel/index.js'

/** Length of the accept queue; the kernel limits it to `net.core.somaxconn`. */
export const DEFAULT_BACKLOG = 4096
/** Maximum bytes of a Unix socket's path or abstract name (sun_path without its NUL). */
export const MAX_UNIX_NAME = 107

export type ListenerKind = 'tcp' | 'udp' | 'unix'

/** A checked specification. Every field that applies to its kind is set. */
export interface ListenerSpec {
  kind: ListenerKind
  /** IP address; '' for unix. */
  host: string
  /** 0 lets the kernel choose a port. Always 0 for unix. */
  port: number
  /** Absolute path, or abstract name without its NUL; '' for tcp and udp. */
  path: string
  abstract: boolean
  reuseAddr: boolean
  reusePort: boolean
  ipv6Only: boolean
  /** 0 for udp. */
  backlog: number
  mode?: number
  uid?: number
  gid?: number
}

/** The object form of a specification: missing fields get their defaults. */
export type ListenerOptions = Pick<ListenerSpec, 'kind'> & Given<ListenerSpec>

type SpecPart = 'kind' | 'host' | 'port' | 'path' | 'options' | keyof ListenerSpec

function refuse(spec: unknown, part: SpecPart, why: string): never {
  const shown = typeof spec === 'string' ? spec : JSON.stringify(spec)
  throw new FdbError('ERR_FDB_SPEC', `The listener ${shown} has an invalid ${part}: ${why}`, {
    details: { spec: shown, part },
  })
}

/** Parses a specification as a text or an object. Throws ERR_FDB_SPEC, which names the wrong part. */
export function parseListenerSpec(input: string | ListenerOptions): ListenerSpec {
  if (typeof input === 'string') return complete(input, parseText(input))
  if (typeof input !== 'object' || input === null)
    return refuse(input, 'kind', 'a listener is a string (for example tcp://0.0.0.0:443) or an object.')
  return complete(input, input)
}

function parseText(text: string): ListenerOptions {
  const mark = text.indexOf('?')
  const head = mark < 0 ? text : text.slice(0, mark)
  const options = mark < 0 ? {} : parseQuery(text, text.slice(mark + 1))
  const colon = head.indexOf(':')
  const kind = colon < 0 ? '' : head.slice(0, colon)
  const rest = head.slice(colon + 1)
  if (kind === 'unix') return { kind, ...parseUnix(text, rest), ...options }
  if (kind !== 'tcp' && kind !== 'udp') {
    return refuse(text, 'kind', 'it must begin with tcp://, udp:// or unix: (for example tcp://0.0.0.0:443).')
  }
  if (!rest.startsWith('//')) return refuse(text, 'kind', `write ${kind}://HOST:PORT.`)
  return { kind, ...parseHostPort(text, rest.slice(2)), ...options }
}

function parseHostPort(text: string, rest: string): Pick<ListenerOptions, 'host' | 'port' | 'ipv6Only'> {
  const found = /^(?:\[(?<v6>[^\]]*)\]|(?<plain>[^:[\]]*)):(?<port>[^:]*)$/.exec(rest)
  if (found?.groups === undefined) {
    if (isIPv6(rest) || rest.split(':').length > 2) {
      return refuse(text, 'host', 'write an IPv6 address in brackets before the port: [::1]:80.')
    }
    return refuse(text, 'port', 'write HOST:PORT (port 0 lets the kernel choose).')
  }
  const { v6, plain, port: digits = '' } = found.groups
  if (!/^\d{1,5}$/.test(digits)) return refuse(text, 'port', `"${digits}" is not a number from 0 to 65535.`)
  if (v6 !== undefined && !isIPv6(v6)) return refuse(text, 'host', `"${v6}" is not an IPv6 address.`)
  if (plain === '*') return { host: '::', port: Number(digits), ipv6Only: false }
  return { host: v6 ?? plain ?? '', port: Number(digits) }
}

function parseUnix(text: string, rest: string): Pick<ListenerOptions, 'path' | 'abstract'> {
  const name = rest.startsWith('///') ? rest.slice(2) : rest
  let path: string
  try {
    path = decodeURIComponent(name)
  } catch {
    return refuse(text, 'path', 'write % as %25.')
  }
  return path.startsWith('@') ? { path: path.slice(1), abstract: true } : { path }
}

const FLAGS = new Set(['reuseAddr', 'reusePort', 'ipv6Only'])
const NUMBERS = new Set(['backlog', 'uid', 'gid'])

function parseQuery(text: string, query: string): Partial<ListenerSpec> {
  const options: Record<string, boolean | number> = {}
  for (const pair of query.split('&')) {
    if (pair === '') continue
    const equals = pair.indexOf('=')
    const key = equals < 0 ? pair : pair.slice(0, equals)
    const value = equals < 0 ? undefined : pair.slice(equals + 1)
    if (Object.hasOwn(options, key)) return refuse(text, 'options', `${key} is given twice.`)
    if (FLAGS.has(key)) options[key] = parseFlag(text, key as SpecPart, value)
    else if (NUMBERS.has(key)) options[key] = parseNumber(text, key as SpecPart, value, /^\d{1,10}$/, 10)
    else if (key === 'mode') options[key] = parseNumber(text, 'mode', value, /^[0-7]{1,4}$/, 8)
    else {
      const known = [...FLAGS, ...NUMBERS, 'mode'].join(', ')
      return refuse(text, 'options', `"${key}" is not known (known: ${known}).`)
    }
  }
  return options as Partial<ListenerSpec>
}

function parseFlag(text: string, key: SpecPart, value: string | undefined): boolean {
  if (value === undefined || value === 'true' || value === '1') return true
  if (value === 'false' || value === '0') return false
  return refuse(text, key, `"${value}" is neither true nor false.`)
}

function parseNumber(
  text: string,
  key: SpecPart,
  value: string | undefined,
  shape: RegExp,
  base: number,
): number {
  if (value === undefined || !shape.test(value)) {
    const wanted = base === 8 ? 'an octal number, for example 0660' : 'a number'
    return refuse(text, key, `"${value ?? ''}" is not ${wanted}.`)
  }
  return Number.parseInt(value, base)
}

function checkInteger(
  spec: unknown,
  part: SpecPart,
  value: number | undefined,
  min: number,
  max: number,
): void {
  if (value === undefined || (Number.isInteger(value) && value >= min && value <= max)) return
  refuse(spec, part, `${value} is not an integer from ${min} to ${max}.`)
}

/** Checks the fields of `options` and adds the defaults. `input` is for messages. */
function complete(input: unknown, options: ListenerOptions): ListenerSpec {
  const { kind } = options
  if (kind !== 'tcp' && kind !== 'udp' && kind !== 'unix') {
    return refuse(input, 'kind', 'it must be tcp, udp or unix.')
  }
  const stream = kind !== 'udp'
  if (!stream && options.backlog) refuse(input, 'backlog', 'udp sockets have no backlog.')
  if (stream) checkInteger(input, 'backlog', options.backlog, 1, 2 ** 31 - 1)
  const backlog = stream ? (options.backlog ?? DEFAULT_BACKLOG) : 0
  return kind === 'unix' ? completeUnix(input, options, backlog) : completeInet(input, options, kind, backlog)
}

function completeInet(
  input: unknown,
  options: ListenerOptions,
  kind: 'tcp' | 'udp',
  backlog: number,
): ListenerSpec {
  const { port } = options
  if (options.path) refuse(input, 'path', `a ${kind} listener has a host and a port, no path.`)
  for (const part of ['mode', 'uid', 'gid'] as const) {
    if (options[part] !== undefined) refuse(input, part, `only unix paths have a ${part}.`)
  }
  if (options.abstract) refuse(input, 'abstract', 'only unix sockets can be abstract.')
  if (port === undefined) return refuse(input, 'port', 'it is missing (0 lets the kernel choose).')
  checkInteger(input, 'port', port, 0, 65535)
  const any = options.host === '*'
  const host = any ? '::' : (options.host ?? '')
  const v6 = isIPv6(host)
  if (!v6 && !isIPv4(host)) {
    const hint = host === 'localhost' ? 'write 127.0.0.1 or [::1]' : 'write an IP address, or * for all'
    return refuse(input, 'host', `"${host}" is a name or empty, and names are not resolved: ${hint}.`)
  }
  if (!v6 && options.ipv6Only) refuse(input, 'ipv6Only', `${host} is an IPv4 address.`)
  return {
    kind,
    host,
    port,
    path: '',
    abstract: false,
    reuseAddr: options.reuseAddr ?? kind === 'tcp',
    reusePort: options.reusePort ?? false,
    ipv6Only: v6 && (options.ipv6Only ?? !any),
    backlog,
  }
}

function completeUnix(input: unknown, options: ListenerOptions, backlog: number): ListenerSpec {
  const { path = '', abstract = false } = options
  if (options.host || options.port) refuse(input, 'host', 'a unix listener has a path, no host or port.')
  for (const part of ['reuseAddr', 'reusePort', 'ipv6Only'] as const) {
    if (options[part]) refuse(input, part, 'unix sockets do not have this option.')
  }
  if (path === '') refuse(input, 'path', 'it is empty.')
  if (path.includes('\0')) refuse(input, 'path', 'it contains a NUL.')
  if (!abstract && !path.startsWith('/')) {
    refuse(input, 'path', 'it must be absolute: the next generation may run in another folder.')
  }
  const bytes = Buffer.byteLength(path)
  if (bytes > MAX_UNIX_NAME) {
    refuse(input, 'path', `it has ${bytes} bytes, the kernel allows ${MAX_UNIX_NAME}; use a shorter path.`)
  }
  checkInteger(input, 'mode', options.mode, 0, 0o777)
  checkInteger(input, 'uid', options.uid, 0, 2 ** 32 - 2)
  checkInteger(input, 'gid', options.gid, 0, 2 ** 32 - 2)
  for (const part of ['mode', 'uid', 'gid'] as const) {
    if (abstract && options[part] !== undefined) refuse(input, part, 'an abstract socket is not a file.')
  }
  return {
    kind: 'unix',
    host: '',
    port: 0,
    path,
    abstract,
    reuseAddr: false,
    reusePort: false,
    ipv6Only: false,
    backlog,
    ...(options.mode === undefined ? {} : { mode: options.mode }),
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  }
}

/** Returns the shortest text that {@link parseListenerSpec} parses to the same specification. */
export function formatListenerSpec(spec: ListenerSpec): string {
  const options: string[] = []
  if (spec.kind === 'unix') {
    if (spec.mode !== undefined) options.push(`mode=0${spec.mode.toString(8)}`)
    if (spec.uid !== undefined) options.push(`uid=${spec.uid}`)
    if (spec.gid !== undefined) options.push(`gid=${spec.gid}`)
  } else {
    if (spec.reuseAddr !== (spec.kind === 'tcp')) options.push(`reuseAddr=${spec.reuseAddr}`)
    if (spec.reusePort) options.push('reusePort')
    if (isIPv6(spec.host) && !spec.ipv6Only) options.push('ipv6Only=false')
  }
  if (spec.kind !== 'udp' && spec.backlog !== DEFAULT_BACKLOG) options.push(`backlog=${spec.backlog}`)
  const query = options.length === 0 ? '' : `?${options.join('&')}`
  return addressOf(spec) + query
}

/** Returns the text of a specification without its options. */
export function addressOf({ kind, host, port, path, abstract }: ListenerSpec): string {
  return formatEndpoint(kind, kind === 'unix' ? path : host, port, abstract)
}

/** Formats an address in the notation of specifications. */
export function formatEndpoint(kind: ListenerKind, name: string, port: number, abstract: boolean): string {
  if (kind !== 'unix') return `${kind}://${isIPv6(name) ? `[${name}]` : name}:${port}`
  return `unix:${abstract ? '@' : ''}${name.replace(/[%?]/g, encodeURIComponent)}`
}

/** Parses a specification that another process has written. Returns null for '', and for the text of another release that this one cannot parse. */
export function parseSentSpec(text: string): ListenerSpec | null {
  try {
    return text === '' ? null : parseListenerSpec(text)
  } catch {
    return null
  }
}

/** Reports whether a listener has a path in the file system. */
export function isPath(spec: ListenerSpec | null): spec is ListenerSpec {
  return spec !== null && spec.kind === 'unix' && !spec.abstract
}

/** Reports whether a socket is of this kind. tcp and unix sockets must also listen. */
export function isOfKind(about: Inspected, { kind }: Pick<ListenerSpec, 'kind'>): boolean {
  const stream = about.socketType === 'stream' && about.accepting === true
  if (kind === 'unix') return about.family === 'unix' && stream
  const inet = about.family === 'inet' || about.family === 'inet6'
  return inet && (kind === 'tcp' ? stream : about.socketType === 'dgram')
}

/** Reports whether a socket of the same kind is bound to this address. A socket on `::` for both families is also bound to `0.0.0.0`. */
export function isLocatedAt(about: Inspected, { kind, host, port, path, abstract }: ListenerSpec): boolean {
  const { address = '' } = about
  // Up to Node 20, libuv pads an abstract name with NULs to its full length.
  if (kind === 'unix')
    return (
      (abstract ? address.replace(/\0+$/, '') : address) === path && (about.abstract ?? false) === abstract
    )
  if (about.port !== port) return false
  // ListenStream=PORT of systemd binds all addresses of both families.
  const every = address === '::' && about.ipv6Only === false
  return address === host || (every && host === '0.0.0.0')
}
