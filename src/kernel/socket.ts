import { type BindOptions, type Inspected, native, type PeerCredentials } from './native.js'
import { OwnedFd } from './owned.js'

export type { BindOptions, PeerCredentials } from './native.js'

export function bindSocket(options: BindOptions, label: string): OwnedFd {
  return OwnedFd.own(native.bindSocket(options), label)
}

/** listen() on a bound or a listening socket: who connects from now on is told that it is this process, and the backlog changes. */
export function listen(fd: OwnedFd, backlog: number): void {
  native.listen(fd.raw, backlog)
}

/** Non-blocking, to a Unix stream socket. ECONNREFUSED, ENOENT, EAGAIN (its queue is full) throw. */
export function connectToUnix(path: string, label: string): OwnedFd {
  return OwnedFd.own(native.connectUnix(path, false), label)
}

/** To a Unix stream socket with an abstract name; throws as {@link connectToUnix} does, ECONNREFUSED where nothing has that name. */
export function connectToAbstract(name: string, label: string): OwnedFd {
  return OwnedFd.own(native.connectUnix(name, true), label)
}

/** To a Unix datagram socket. ECONNREFUSED and ENOENT throw. */
export function connectToDatagram(name: string, abstract: boolean, label: string): OwnedFd {
  return OwnedFd.own(native.connectDatagram(name, abstract), label)
}

/** Null when no connection waits. */
export function accept(listener: OwnedFd, label: string): OwnedFd | null {
  const raw = native.accept(listener.raw)
  return raw === -1 ? null : OwnedFd.own(raw, label)
}

/** Two connected Unix stream sockets. */
export function socketPair(label: string): [OwnedFd, OwnedFd] {
  const [a, b] = native.socketPair()
  return [OwnedFd.own(a, label), OwnedFd.own(b, label)]
}

export function setSocketOption(
  fd: OwnedFd,
  option: 'reuseAddr' | 'reusePort' | 'ipv6Only' | 'passCred',
  value: boolean,
): void {
  native.setOption(fd.raw, option, value)
}

/** As the kernel noted them when the connection was made. */
export function peerCredentials(fd: OwnedFd): PeerCredentials {
  return native.peerCredentials(fd.raw)
}

/**
 * Bytes that the peer of a Unix stream socket has not read, counted as the send buffer counts them: a small message takes 768 bytes of it.
 * Always 0 where the kernel does not tell.
 */
export function unreadBytes(fd: OwnedFd): number {
  return native.unreadBytes(fd.raw)
}

/** Whether `path` is the file of this Unix socket; null where the kernel does not tell. */
export function namesSocket(fd: OwnedFd, path: string): boolean | null {
  return native.namesSocket(fd.raw, path)
}

/** O_NONBLOCK off or on, of the open file: for all processes that hold it. */
export function setBlocking(fd: OwnedFd, on: boolean): void {
  native.setBlocking(fd.raw, on)
}

export type { Inspected } from './native.js'

/** The kernel's facts of these descriptors, in their order, in one native call. */
export function inspect(fds: readonly OwnedFd[]): Inspected[] {
  const raws = new Array<number>(fds.length)
  for (let i = 0; i < fds.length; i++) raws[i] = fds[i]!.raw
  return native.inspect(raws)
}

/** {@link inspect} for one. */
export function inspectOne(fd: OwnedFd): Inspected {
  return native.inspect([fd.raw])[0]!
}

/** The first that is no TCP or Unix stream socket, or that listens; null: all are connections. A fraction of {@link inspect}'s work. */
export function firstNotStream(fds: readonly OwnedFd[]): OwnedFd | null {
  return fds[native.firstNotStream(fds.map(fd => fd.raw))] ?? null
}

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
  /** The sender, by the kernel's word; pid 0: in another PID namespace. */
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
