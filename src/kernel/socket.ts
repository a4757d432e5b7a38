import { numbersOf } from './for-node.js'
import { type BindOptions, type Inspected, native, type PeerCredentials } from './native.js'
import { closeAll, type ForeignFds, OwnedFd } from './owned.js'

export function bindSocket(options: BindOptions, label: string): OwnedFd {
  return OwnedFd.own(native.bindSocket(options), label)
}

/** Calls listen() on a bound or listening socket. Also changes the backlog of a listening socket. New clients of a Unix socket see the credentials of this process. */
export function listen(fd: OwnedFd, backlog: number): void {
  native.listen(fd.raw, backlog)
}

/** Connects to a Unix stream socket without blocking. Throws ECONNREFUSED, ENOENT, EAGAIN (the accept queue is full). */
export function connectToUnix(path: string, label: string): OwnedFd {
  return OwnedFd.own(native.connectUnix(path, false), label)
}

/** As {@link connectToUnix}, for an abstract name. Throws ECONNREFUSED if no socket has that name. */
export function connectToAbstract(name: string, label: string): OwnedFd {
  return OwnedFd.own(native.connectUnix(name, true), label)
}

/** Connects to a Unix datagram socket. Throws ECONNREFUSED, ENOENT, EPROTOTYPE (a stream socket). */
export function connectToDatagram(name: string, abstract: boolean, label: string): OwnedFd {
  return OwnedFd.own(native.connectDatagram(name, abstract), label)
}

/** Returns null if no connection waits. */
export function accept(listener: OwnedFd, label: string): OwnedFd | null {
  const raw = native.accept(listener.raw)
  return raw === -1 ? null : OwnedFd.own(raw, label)
}

export function socketPair(label: string): [OwnedFd, OwnedFd] {
  const [a, b] = native.socketPair()
  return [OwnedFd.own(a, label), OwnedFd.own(b, label)]
}

export function setSocketOption(
  fd: OwnedFd,
  option: 'reuseAddr' | 'reusePort' | 'ipv6Only' | 'passCred' | 'tellAddress' | 'longQueue',
  value: boolean,
): void {
  native.setOption(fd.raw, option, value)
}

/** Returns the credentials that the peer had when the connection was established. */
export function peerCredentials(fd: OwnedFd): PeerCredentials {
  return native.peerCredentials(fd.raw)
}

/**
 * Returns how many bytes the peer of a Unix stream socket has not read, counted like the send buffer: even a small message counts as 768 bytes.
 * Returns 0 if the kernel cannot tell.
 */
export function unreadBytes(fd: OwnedFd): number {
  return native.unreadBytes(fd.raw)
}

/** Whether the peer of a stream socket has closed its end. Bytes that it sent before may still be unread. */
export function isHungUp(fd: OwnedFd): boolean {
  return native.hangups([fd.raw])[0] !== 0
}

/** Reports whether `path` is the file of this Unix socket; null if the kernel cannot tell. */
export function namesSocket(fd: OwnedFd, path: string): boolean | null {
  return native.namesSocket(fd.raw, path)
}

/** Clears or sets O_NONBLOCK of the open file description, for all processes that share it. */
export function setBlocking(fd: OwnedFd, on: boolean): void {
  native.setBlocking(fd.raw, on)
}

/** Returns the kernel's facts of these descriptors, in the same order. */
export function inspect(fds: readonly OwnedFd[]): Inspected[] {
  return native.inspect(numbersOf(fds))
}

export function inspectOne(fd: OwnedFd): Inspected {
  return native.inspect([fd.raw])[0]!
}

/** Returns the first descriptor that is not a TCP or Unix stream connection, or null. Much cheaper than {@link inspect}. */
export function firstNotStream(fds: readonly OwnedFd[]): OwnedFd | null {
  return fds[native.firstNotStream(numbersOf(fds))] ?? null
}

/**
 * Sends `length` bytes from `offset`. Returns the number of bytes sent, or -1 (EAGAIN). If the number is above 0, all `fds` (at most 253) were sent with
 * the first byte: do not send them again. The descriptors keep their owners.
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

/** Reports whether the kernel passes this open descriptor to other processes. The kernel refuses only io_uring (since Linux 6.7). */
export function isPassable(fd: OwnedFd | number): boolean {
  const ends: OwnedFd[] = []
  try {
    ends.push(...socketPair('a descriptor that may not be passed'))
    native.sendMessage(ends[0]!.raw, Buffer.of(0), 0, 1, [typeof fd === 'number' ? fd : fd.raw])
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EINVAL'
  } finally {
    closeAll(ends)
  }
}

export interface ReceivedMessage {
  /** 0: end of the stream; -1: nothing to read. */
  readonly bytes: number
  /** The caller owns the descriptors; null if none came. */
  readonly fds: OwnedFd[] | null
  /** The message is incomplete, because the kernel closed descriptors that did not fit, or cut a datagram. */
  readonly truncated: boolean
}

/** `foreign`: the sender is another user's process. */
export function receiveMessage(
  socket: OwnedFd,
  into: Uint8Array,
  foreign: ForeignFds | null = null,
): ReceivedMessage {
  const { bytes, fds, truncated } = native.receiveMessage(socket.raw, into, 0, into.length)
  const owned = fds === null ? null : fds.map(raw => OwnedFd.ownReceived(raw, 'received', foreign))
  return { bytes, fds: owned, truncated }
}

export interface ReceivedDatagram extends ReceivedMessage {
  /** The sender, as the kernel reports it; pid 0: in another PID namespace. */
  readonly from: PeerCredentials
}

/** Receives from a datagram socket with the option `passCred`. */
export function receiveDatagram(socket: OwnedFd, into: Uint8Array): ReceivedDatagram {
  const { bytes, fds, truncated, pid, uid, gid } = native.receiveDatagram(socket.raw, into, 0, into.length)
  const owned = fds === null ? null : fds.map(raw => OwnedFd.own(raw, 'received'))
  return { bytes, fds: owned, truncated, from: { pid, uid, gid } }
}
