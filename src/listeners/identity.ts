import type { Inspected } from '../kernel/index.js'
import { formatEndpoint, type ListenerSpec } from './spec.js'

type SocketAddressFacts = Pick<Inspected, 'type' | 'family' | 'socketType' | 'address' | 'port' | 'abstract'>

/**
 * Formats a socket's address like a listener specification: `tcp://127.0.0.1:8080`, `unix:/run/a.sock`, `unix:@name`, `unix:` (unbound). For any
 * other descriptor returns its type: `file`, `fifo`, …
 */
export function formatAddress(identity: SocketAddressFacts): string {
  const { type, family, socketType, address = '', port = 0, abstract = false } = identity
  if (type !== 'socket') return type
  if (family === 'unix') return formatEndpoint('unix', address, 0, abstract)
  if (family !== 'inet' && family !== 'inet6') return `socket (${family ?? 'unknown'} family)`
  if (socketType !== 'stream' && socketType !== 'dgram')
    return `socket (${family} ${socketType ?? 'unknown'})`
  return formatEndpoint(socketType === 'stream' ? 'tcp' : 'udp', address, port, false)
}

/** As {@link formatAddress}, with the path of the specification: the kernel reports the one under which a Unix socket was bound, which may be renamed. */
export function listenerAddress(identity: SocketAddressFacts, spec: ListenerSpec | null): string {
  if (spec?.kind !== 'unix' || spec.abstract) return formatAddress(identity)
  return formatEndpoint('unix', spec.path, 0, false)
}

/** Identifies and describes a kernel object. */
export type FdIdentity = Pick<
  Inspected,
  | 'type'
  | 'dev'
  | 'ino'
  | 'family'
  | 'socketType'
  | 'protocol'
  | 'accepting'
  | 'cookie'
  | 'address'
  | 'port'
  | 'abstract'
>

const SOCKET_FACTS = ['family', 'socketType', 'protocol', 'accepting'] as const

/**
 * Compares a received descriptor with the announced one. Returns null if both are the same kernel object (by the socket cookies if both have
 * one, otherwise by device and inode) with the same type and state. Otherwise returns a sentence with the difference.
 */
export function verifyIdentity(expected: FdIdentity, got: FdIdentity | Inspected): string | null {
  if ('error' in got && got.error !== undefined) return `the descriptor is not usable (${got.error})`
  if (expected.type !== got.type) return `expected a ${expected.type}, got a ${got.type}`
  if (expected.type === 'socket') {
    for (const fact of SOCKET_FACTS) {
      if (expected[fact] !== got[fact]) {
        const where = formatAddress(expected)
        return `${fact} of ${where} should be ${String(expected[fact])}, got ${String(got[fact])}`
      }
    }
    if (expected.cookie !== undefined && got.cookie !== undefined) {
      if (expected.cookie === got.cookie) return null
      return `expected the socket ${formatAddress(expected)} with cookie ${expected.cookie}, got ${formatAddress(got)} with cookie ${got.cookie}`
    }
  }
  if (expected.dev === got.dev && expected.ino === got.ino) return null
  return `expected ${formatAddress(expected)} with inode ${expected.ino} on device ${expected.dev}, got ${formatAddress(got)} with inode ${got.ino} on device ${got.dev}`
}
