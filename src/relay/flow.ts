import type { LookupAddress } from 'node:dns'
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
  /** When the flow has moved, in milliseconds of `performance.now()`. */
  movedAt = 0
  /** The process that serves has refused the flow. */
  pinned = false
  /** The server has sent a datagram. */
  answered = false
  /** The server counts as one that listens. */
  heard = false
  /** The address of a server with a name; null if it needs none, or another process has looked it up. */
  address: string | null = null
  /** Another address of the same server has just refused. */
  again = false
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
    const sent = attempt(this.socket, chunk, length)
    // The error may be that of an earlier datagram, which was too long for the way to the server: the kernel divides the next ones.
    return sent === 'refused' ? attempt(this.socket, chunk, length) : sent
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

function attempt(socket: DatagramSocket, chunk: Uint8Array, length: number): Sent {
  try {
    return socket.send(chunk, length) ? 'sent' : 'full'
  } catch (error) {
    if (isAway(error)) return { away: error }
    return (error as NodeJS.ErrnoException).code === 'ENOBUFS' ? 'full' : 'refused'
  }
}

/** Whether the network has reported that the server does not listen. Other errors concern one datagram. */
export function isAway(error: unknown): error is Error {
  return AWAY.has((error as NodeJS.ErrnoException).code)
}

export function keyOf(ends: Buffer): string {
  return ends.toString('latin1')
}

/** Calls `found` with the IP address of a server, at once or later, or with null. */
export function addressOf({ address, named }: Destination, found: (host: string | null) => void): void {
  if (address.kind !== 'tcp') found(null)
  else if (isIP(address.host) !== 0) found(address.host)
  else if (named === undefined) found(null)
  else
    named.lookup(address.host, { all: true }, (error, all) => {
      const addresses = error === null ? (all as readonly LookupAddress[]).map(each => each.address) : []
      const turn = named.turn()
      found(turn !== null && addresses.includes(turn) ? turn : (addresses[0] ?? null))
    })
}

/** Notes that one address of a server refuses. Reports whether its name has another one. */
export function hasFurtherAddress({ named }: Destination, { address, again }: Flow): boolean {
  if (named === undefined || address === null) return false
  named.tried(address, false)
  if (again) return false
  const turn = named.turn()
  return turn !== null && turn !== address
}

/** Returns a socket that is connected to the server. Throws the kernel's error. */
export function connectTo({ address }: Destination, host: string): OwnedFd {
  return connectUdp(host, address.kind === 'tcp' ? address.port : 0)
}
