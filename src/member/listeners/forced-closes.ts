import type net from 'node:net'
import { HttpServerConnections } from '../../connections/adapters/http-server.js'
import { NetServerConnections } from '../../connections/adapters/net-server.js'
import type { MovableConnections } from '../../connections/movable.js'
import type { ForcedClose } from '../../operator/status-report.js'

/** The connections that were closed at the end of a drain. */
export interface DrainCounts {
  /** Connections without a request or stream, as far as known. */
  readonly idle: number
  readonly busy: number
  /** The connections by kind and reason, if the keeper knows them. */
  readonly closed?: readonly ForcedClose[]
}

export class ForcedCloses {
  readonly #closed = new Map<string, ForcedClose>()

  add(kind: string, reason: string, count = 1): void {
    if (count <= 0) return
    const key = `${kind} ${reason}`
    this.#closed.set(key, { kind, reason, count: count + (this.#closed.get(key)?.count ?? 0) })
  }

  addAll(closed: readonly ForcedClose[]): void {
    for (const { kind, reason, count } of closed) this.add(kind, reason, count)
  }

  get counts(): DrainCounts {
    const closed = [...this.#closed.values()]
    const sum = (of: readonly ForcedClose[]) => of.reduce((all, { count }) => all + count, 0)
    const busy = sum(closed.filter(({ reason }) => reason === 'answering' || reason === 'half-request'))
    return { idle: sum(closed) - busy, busy, closed }
  }
}

export function sumCounts(counts: readonly DrainCounts[]): DrainCounts {
  const closes = new ForcedCloses()
  let idle = 0
  let busy = 0
  for (const each of counts) {
    idle += each.idle
    busy += each.busy
    closes.addAll(each.closed ?? [])
  }
  return { idle, busy, closed: closes.counts.closed! }
}

interface RemainingConnections {
  readonly server: net.Server
  readonly moving: MovableConnections | undefined
  readonly open: Iterable<net.Socket> & { readonly size: number }
  /** The decrypted sockets of the connections that have finished their TLS handshake. */
  readonly secure: { readonly size: number; keys(): Iterable<net.Socket> }
  /** The HTTP/2 sessions, with the streams of each. */
  readonly sessions: Iterable<{ readonly streams: number }> & { readonly size: number }
  /** The HTTP/1 connections with an unfinished response; with TLS, their decrypted sockets. */
  readonly busy: ReadonlySet<net.Socket>
  readonly scheme: string | null
}

/** Counts the remaining connections, by kind and by the reason why they have not moved or ended. */
export function closesOfServer({
  server,
  moving,
  open,
  secure,
  sessions,
  busy,
  scheme,
}: RemainingConnections): ForcedCloses {
  const closes = new ForcedCloses()
  const isTls = 'setTicketKeys' in server
  if (isTls) closes.add('tls', 'handshake', open.size - secure.size)
  if (moving instanceof HttpServerConnections || moving instanceof NetServerConnections) {
    for (const socket of isTls ? secure.keys() : open) closes.add(...moving.describeConnection(socket))
    return closes
  }
  for (const { streams } of sessions) closes.add('http2', streams > 0 ? 'answering' : 'idle')
  const known = isTls ? secure.size : open.size
  const others = known - sessions.size
  // An HTTP/2 server may have HTTP/1 clients.
  if (scheme === 'http' || scheme === 'https' || 'updateSettings' in server) {
    const kind = isTls ? 'https' : 'http'
    closes.add(kind, 'answering', Math.min(busy.size, others))
    closes.add(kind, 'idle', others - busy.size)
  } else closes.add(isTls ? 'tls' : 'net', 'open', others)
  return closes
}
