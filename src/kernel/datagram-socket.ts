import { native, READABLE } from './native.js'
import { OwnedFd } from './owned.js'
import { PolledSocket } from './polled-socket.js'

/** Bytes of the two ends of a datagram: see {@link DatagramSocket.readFrom}. */
export const ENDS_BYTES = 40

/** Room for the largest datagram. */
export const DATAGRAM_BYTES = 65_536

/** Returns a UDP socket that sends to this address, and receives only from it. Throws ENETUNREACH, EADDRNOTAVAIL (no free port), EMFILE. */
export function connectUdp(host: string, port: number): OwnedFd {
  return OwnedFd.own(native.connectUdp(host, port), 'flow to a server')
}

/** Returns IP address and port of the peer. */
export function peerOfEnds(ends: Buffer): { host: string; port: number } {
  return { host: native.peerOfEnds(ends), port: ends.readUInt16BE(2) }
}

/** A UDP socket that owns its descriptor, in the epoll set of all {@link PolledSocket}s. No call blocks. */
export class DatagramSocket extends PolledSocket {
  readonly #onReady: () => void

  /** Calls `onReady` in each turn in which a datagram or an error waits, while the socket {@link watches}. */
  constructor(fd: OwnedFd, onReady: () => void) {
    super(null)
    this.#onReady = onReady
    this.adoptUnchecked(fd)
  }

  override ready(): void {
    this.#onReady()
  }

  /** Throws ENOSPC, ENOMEM. */
  watches(on: boolean): void {
    this.watch(on ? READABLE : 0)
  }

  /** Returns the size of the next datagram; -1 if none waits. Throws the error that an earlier datagram has met in the network. */
  read(into: Uint8Array): number {
    return this.receive(into)
  }

  /** As {@link read}. Writes both ends of the datagram to `ends`: equal bytes for equal ends. */
  readFrom(into: Uint8Array, ends: Uint8Array): number {
    return native.receiveFrom(this.descriptor, into, 0, into.length, ends)
  }

  /** Returns when the next datagram came, which stays; null if none waits. Equal times: it is the same datagram. */
  nextArrival(): number | null {
    const arrival = native.arrival(this.descriptor)
    return arrival < 0 ? null : arrival
  }

  /** Sends to the peer. Returns false if the kernel has no room. Throws an error of the kernel; ECONNREFUSED is that of an earlier datagram. */
  send(from: Uint8Array, length: number): boolean {
    return native.send(this.descriptor, from, 0, length, null, 0, 0) >= 0
  }

  /** As {@link send}, from the own end to the peer's. */
  sendTo(from: Uint8Array, length: number, ends: Uint8Array): boolean {
    return native.sendTo(this.descriptor, from, 0, length, ends) >= 0
  }

  override close(): void {
    super.close()
  }
}
