import net from 'node:net'
import { resolve } from 'node:path'
import type { ListenerOptions } from '../index.js'
import { addressOf, parseListenerSpec } from '../listeners/index.js'
import type { ListenRequest } from './listen-request.js'

/** The addresses at which a server listens after such a request, the likely one first. */
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

/** The address at which a server listens, with port 0 if the kernel has chosen it: the next version asks for that, too. */
export function addressNow(server: net.Server, request: ListenRequest): ListenerOptions {
  const address = server.address()
  if (address === null || typeof address === 'string') return addressesOf(request)[0]!
  return addressesOf({ ...request, host: address.address })[0]!
}

/** The name of a listener: its address, and a number where the kernel chooses several ports. */
export function listenerName(address: ListenerOptions, isTaken: (name: string) => boolean): string {
  const plain = addressOf(parseListenerSpec(address))
  if (address.port !== 0 || !isTaken(plain)) return plain
  for (let number = 2; ; number++) if (!isTaken(`${plain} (${number})`)) return `${plain} (${number})`
}

function unixAddress(path: string, backlog: number): ListenerOptions {
  if (path.startsWith('\0')) return { kind: 'unix', path: path.slice(1), abstract: true, backlog }
  return { kind: 'unix', path: resolve(path), backlog }
}
