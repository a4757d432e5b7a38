import { native, type PeerCredentials } from './native.js'
import { OwnedFd } from './owned.js'

export { MAX_FDS_PER_MESSAGE } from './native.js'

/**
 * Bytes taken, or -1: not now. When it is more than 0 all of `fds`, at most {@link MAX_FDS_PER_MESSAGE}, have gone with the first of
 * them; they stay their owner's.
 */
export function sendMessage(
  socket: OwnedFd,
  data: Uint8Array,
  offset: number,
  length: number,
  fds: readonly OwnedFd[],
): number {
  return native.sendMessage(socket.raw, data, offset, length, fds.length === 0 ? null : numbersOf(fds))
}

export interface ReceivedMessage {
  /** 0: the stream has ended; -1: nothing is there now. */
  readonly bytes: number
  /** Owned by the caller; null when none came. */
  readonly fds: OwnedFd[] | null
  /** The kernel closed descriptors that did not fit: what came is not whole. */
  readonly truncated: boolean
}

export function receiveMessage(
  socket: OwnedFd,
  into: Uint8Array,
  offset: number,
  length: number,
): ReceivedMessage {
  const { bytes, fds, truncated } = native.receiveMessage(socket.raw, into, offset, length)
  return { bytes, fds: fds === null ? null : fds.map(raw => OwnedFd.own(raw, 'received')), truncated }
}

export interface ReceivedDatagram extends ReceivedMessage {
  /** Who has sent it, by the kernel's word; pid 0: in another PID namespace. */
  readonly from: PeerCredentials
}

/** From a datagram socket with the option `passCred`. */
export function receiveDatagram(socket: OwnedFd, into: Uint8Array): ReceivedDatagram {
  const { bytes, fds, truncated, pid, uid, gid } = native.receiveDatagram(socket.raw, into, 0, into.length)
  const owned = fds === null ? null : fds.map(raw => OwnedFd.own(raw, 'received'))
  return { bytes, fds: owned, truncated, from: { pid, uid, gid } }
}

function numbersOf(fds: readonly OwnedFd[]): number[] {
  if (fds.length === 1) return [fds[0]!.raw]
  return fds.map(fd => fd.raw)
}
