import { isIP } from 'node:net'
import { connectUdp, DatagramSocket, type OwnedFd, peerOfEnds } from '../kernel/index.js'
import type { Destination } from './destination.js'
import type { Timed } from './timer-wheel.js'

/** The most datagrams of a client that wait while the name of its server is looked up: further ones are dropped. */
const MOST_HELD = 16

export interface FlowEvents {
  /** A datagram or an error of the server waits. */
  onServer(flow: Flow): void
  onIdle(flow: Flow): void
}

/** How a datagram got on. `full`: the kernel has no room. `refused`: the kernel does not send it. `away`: the server of an earlier one does not listen. */
export type Sent = 'sent' | 'full' | 'refused' | { readonly away: Error }

const AWAY: ReadonlySet<unknown> = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN'])

/** The datagrams between one client and one server, over a socket that is connected to the server. */
export class Flow implements Timed {
  /** Both ends of the client's datagrams, see `DatagramSocket.readFrom()`. */
  readonly ends: Buffer
  readonly client: string
  /** The name of the upstream. */
  readonly route: string
  /** {@link Destination.key}. */
  readonly destination: string
  /** Null until the address of the server is known. */
  socket: DatagramSocket | null = null
  /** Another process has the flow: this one still passes on what it reads from the client, and reads nothing from the server. */
  moved = false
  /** The process that serves has refused the flow. */
  pinned = false
  /** The server has sent a datagram. */
  answered = false
  bytesSent = 0
  bytesReceived = 0
  startedAt = performance.now()
  deadline = 0
  tick = -1
  #held: Buffer[] = []
  readonly #events: FlowEvents

  constructor(
    ends: Buffer,
    { route, destination }: { route: string; destination: string },
    events: FlowEvents,
  ) {
    this.ends = ends
    this.client = peerOfEnds(ends).host
    this.route = route
    this.destination = destination
    this.#events = events
  }

  get key(): string {
    return keyOf(this.ends)
  }

  get movable(): boolean {
    return this.socket !== null && !this.moved && !this.pinned
  }

  onDeadline(): void {
    this.#events.onIdle(this)
  }

  /** Owns the descriptor, a connected UDP socket. */
  open(fd: OwnedFd): void {
    this.socket = new DatagramSocket(fd, () => this.#events.onServer(this))
    this.socket.watches(true)
  }

  send(chunk: Uint8Array, length: number): Sent {
    if (this.socket === null) {
      if (this.#held.length === MOST_HELD) return 'full'
      this.#held.push(Buffer.from(chunk.subarray(0, length)))
      return 'sent'
    }
    try {
      return this.socket.send(chunk, length) ? 'sent' : 'full'
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (AWAY.has(code)) return { away: error as Error }
      return code === 'ENOBUFS' ? 'full' : 'refused'
    }
  }

  /** Returns what the client has sent before the socket was open. */
  takeHeld(): Buffer[] {
    return this.#held.splice(0)
  }

  close(): void {
    this.socket?.close()
    this.socket = null
    this.#held = []
  }
}

export function keyOf(ends: Buffer): string {
  return ends.toString('latin1')
}

/** Calls `found` with the IP address of a server, at once or later, or with null. */
export function addressOf({ address, named }: Destination, found: (host: string | null) => void): void {
  if (address.kind !== 'tcp') found(null)
  else if (isIP(address.host) !== 0) found(address.host)
  else if (named === undefined) found(null)
  else named.lookup(address.host, {}, (error, host) => found(error === null ? String(host) : null))
}

/** Returns a socket that is connected to the server. Throws the kernel's error. */
export function connectTo({ address }: Destination, host: string): OwnedFd {
  return connectUdp(host, address.kind === 'tcp' ? address.port : 0)
}
