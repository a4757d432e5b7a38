import net from 'node:net'
import { resolve } from 'node:path'
import type { ListenerOptions } from '../index.js'
import { addressOf, parseListenerSpec } from '../listeners/index.js'
import { BACKLOG, OWN_SERVER } from '../node/held-handle.js'

export interface ListenRequest {
  /** The host; undefined for all addresses, of both families where both exist. */
  readonly host: string | undefined
  readonly port: number
  /** Path of a Unix socket as given; undefined for TCP. */
  readonly path: string | undefined
  readonly backlog: number
  readonly ipv6Only: boolean
  readonly signal: AbortSignal | undefined
  readonly callback: (() => void) | undefined
}

/** A call that goes to Node unchanged. */
export interface LeftToNode {
  /** Message for the user; null for calls that need none. */
  readonly why: string | null
  /** Path of a Unix socket, if there is one. */
  readonly path?: string
}

interface Options extends net.ListenOptions {
  readonly fd?: unknown
  readonly reusePort?: boolean
}

const LEFT: LeftToNode = { why: null }

/** Parses the arguments of `server.listen()` as Node does. Leaves invalid calls to Node, which throws the error. */
export function listenRequest(args: readonly unknown[]): ListenRequest | LeftToNode {
  const last = args.at(-1)
  const callback = typeof last === 'function' ? (last as () => void) : undefined
  const [first, second, third] = args
  const form = typeof first === 'object' && first !== null ? (first as Options) : formOf(args)
  if (form === null) return LEFT
  const { fd, path, exclusive, reusePort, port } = form
  // A descriptor or handle, including fd-broker's own.
  if (
    (fd !== undefined && fd !== null) ||
    form instanceof net.Server ||
    '_handle' in form ||
    OWN_SERVER in form ||
    !isPlain(form)
  )
    return LEFT
  const at = typeof path === 'string' ? { path } : {}
  if (exclusive)
    return { why: 'a server with the option "exclusive" is not handed over to the next version', ...at }
  if (reusePort)
    return { why: 'a server with the option "reusePort" is not handed over to the next version', ...at }
  // The server of a tool for its own processes (tsx). The next version listens elsewhere.
  if (typeof path === 'string' && new RegExp(`(?<!\\d)${process.pid}(?!\\d)`).test(path))
    return { ...LEFT, path }
  const wanted = port === undefined || port === null ? null : portOf(port)
  if (wanted === null && (typeof path !== 'string' || path === '' || (port ?? null) !== null)) return LEFT
  return {
    host: form.host || undefined,
    port: wanted ?? 0,
    path: wanted === null ? path : undefined,
    backlog: backlogOf(second) || backlogOf(third) || form.backlog || BACKLOG,
    ipv6Only: form.ipv6Only ?? false,
    signal: form.signal,
    callback,
  }
}

/** Parses a call without an options object; null if Node does not accept it. */
function formOf([first, second]: readonly unknown[]): Options | null {
  if (first === undefined || first === null || typeof first === 'function') return { port: 0 }
  if (typeof first === 'string' && portOf(first) === null) return { path: first }
  if (typeof first !== 'number' && typeof first !== 'string') return null
  return { port: Number(first), ...(typeof second === 'string' && { host: second }) }
}

/** Returns the port; null if the value is not a port. */
function portOf(port: unknown): number | null {
  const value =
    typeof port === 'number' ? port : typeof port === 'string' && port.trim() !== '' ? Number(port) : -1
  return Number.isInteger(value) && value >= 0 && value <= 65_535 ? value : null
}

function backlogOf(value: unknown): number {
  const found = typeof value === 'number' || typeof value === 'string' ? Number(value) : 0
  return Math.max(found, 0)
}

/** Whether the object has only options: a handle of Node has the method `listen`. */
function isPlain(form: object): boolean {
  return typeof (form as { readonly listen?: unknown }).listen !== 'function'
}

/** Returns the addresses at which a server may listen after the call, the most likely one first. */
export function addressesOf(request: ListenRequest): ListenerOptions[] {
  const { host, port, path, backlog, ipv6Only } = request
  if (path !== undefined) return [unixAddress(path, backlog)]
  const at = (host: string): ListenerOptions => ({
    kind: 'tcp',
    host,
    port,
    backlog,
    ...(net.isIPv6(host) && { ipv6Only }),
  })
  return host === undefined ? [at('::'), at('0.0.0.0')] : [at(host)]
}

/** Returns the address at which a server listens. If the kernel chose the port, the address has port 0, as in the next version's request. */
export function addressNow(server: net.Server, request: ListenRequest): ListenerOptions {
  const address = server.address()
  if (address === null || typeof address === 'string') return addressesOf(request)[0]!
  return addressesOf({ ...request, host: address.address })[0]!
}

/** Returns a name for the listener of an address: the address, with a number if the program has several servers on port 0 of the same host. */
export function listenerName(address: ListenerOptions, isTaken: (name: string) => boolean): string {
  const plain = addressOf(parseListenerSpec(address))
  if (address.port !== 0 || !isTaken(plain)) return plain
  for (let number = 2; ; number++) if (!isTaken(`${plain} (${number})`)) return `${plain} (${number})`
}

function unixAddress(path: string, backlog: number): ListenerOptions {
  if (path.startsWith('\0')) return { kind: 'unix', path: path.slice(1), abstract: true, backlog }
  return { kind: 'unix', path: resolve(path), backlog }
}
