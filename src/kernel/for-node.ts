import type dgram from 'node:dgram'
import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import net from 'node:net'
import { native } from './native.js'
import { closeOnThrow, OwnedFd } from './owned.js'
import { openFileOf, openFilesOf, procText } from './proc.js'

/** Creates a `net.Socket` for a connected TCP or Unix stream descriptor. Takes ownership of the descriptor, and closes it if it throws. */
export function socketOver(fd: OwnedFd, options: Omit<net.SocketConstructorOpts, 'fd'>): net.Socket {
  const socket = closeOnThrow([fd], () => new net.Socket({ ...options, fd: fd.raw }))
  fd.release()
  return socket
}

/**
 * Makes a server accept on a listening socket. Takes ownership of the descriptor, and closes it if it throws. The server reports failures with 'error'.
 * Node calls listen() again with `backlog`: pass the listener's own backlog, because the kernel refuses new clients while more than `backlog` wait.
 */
export function listenOver(server: net.Server, fd: OwnedFd, backlog: number): void {
  const { label } = fd
  const number = fd.release()
  closeOnThrow([{ close: () => OwnedFd.own(number, label).close() }], () =>
    server.listen({ fd: number }, backlog),
  )
}

/**
 * Makes a UDP socket of Node read from a descriptor. Takes ownership of the descriptor, and closes it if it throws. Node sets SO_REUSEADDR, which would let
 * another user's process take the datagrams: the socket gets the option back that it had.
 */
export function bindOver(socket: dgram.Socket, fd: OwnedFd): void {
  const { reuseAddr = false } = native.inspect([fd.raw])[0]!
  const { label } = fd
  const number = fd.release()
  try {
    socket.bind({ fd: number, exclusive: true })
  } catch (error) {
    // A handler of 'listening' has thrown: Node owns the number, and the socket reads.
    if (hasAddress(socket)) socket.close()
    else OwnedFd.own(number, label).close()
    throw error
  }
  native.setOption(number, 'reuseAddr', reuseAddr)
}

/** Reports whether a UDP socket of Node is bound, and so owns a descriptor. */
export function hasAddress(socket: dgram.Socket): boolean {
  try {
    socket.address()
    return true
  } catch {
    return false
  }
}

/** Whether an application's value is an open descriptor. */
export function isOpenDescriptor(fd: unknown): fd is OwnedFd | number {
  if (typeof fd !== 'number') return fd instanceof OwnedFd && !fd.closed
  try {
    fstatSync(fd, { bigint: true })
    return true
  } catch {
    return false
  }
}

/** Takes ownership of a descriptor that the application has opened, and that Node does not own. */
export function ownNumber(number: number, label: string): OwnedFd {
  native.adopt(number)
  native.setCloexec(number, true)
  return OwnedFd.own(number, label)
}

/**
 * As {@link ownNumber}, for a descriptor that stays with the owner for long: the application may close the number meanwhile, against its promise, and
 * then neither loses the descriptor nor another file that gets the number. Takes an owner of the application too, whose close() then does nothing.
 */
export function takeDescriptor(fd: OwnedFd | number, label: string): OwnedFd {
  if (typeof fd !== 'number') return fd.take()
  native.setCloexec(fd, true)
  return OwnedFd.ownGiven(fd, label)
}

/** Descriptors that Node and its event loop open for themselves. */
const OF_EVENT_LOOP = /^anon_inode:\[(?:eventpoll|eventfd|io_uring)\]$/

/**
 * Whether Node has opened this number for itself, so that the process was not given it: a part of its event loop, or /dev/null in place of a closed stdin,
 * stdout or stderr.
 */
export function isOfNode(number: number): boolean {
  const target = openFileOf(process.pid, number)
  if (target === null) return false
  if (OF_EVENT_LOOP.test(target)) return true
  const access = accessOf(number)
  if (number <= 2) return target === '/dev/null' && access === constants.O_RDWR
  // The event loop has both ends of the pipe by which signals arrive.
  return (
    target.startsWith('pipe:') &&
    (openFilesOf(process.pid) ?? []).some(([other, file]) => file === target && accessOf(other) !== access)
  )
}

function accessOf(number: number | string): number {
  const [, flags = '0'] = /^flags:\s*(\d+)/m.exec(procText(`self/fdinfo/${number}`)) ?? []
  return Number.parseInt(flags, 8) & 3
}

/** Returns the numbers for one call. The descriptors keep their owners. */
export function numbersOf(fds: readonly OwnedFd[]): number[] {
  return fds.length === 1 ? [fds[0]!.raw] : fds.map(fd => fd.raw)
}

/** Gives the descriptor to the application, which must close it. */
export function releaseNumber(fd: OwnedFd): number {
  return fd.release()
}

/** `ended`: the peer has sent FIN. `broken`: the connection failed. */
export type Hangup = 'none' | 'ended' | 'broken'

const HANGUPS: readonly Hangup[] = ['none', 'ended', 'broken']

declare const lent: unique symbol

/** A descriptor that Node owns: use it in the same turn, or duplicate it. */
export type LentFd = number & { readonly [lent]: true }

export function isLent(descriptor: unknown): descriptor is LentFd {
  return typeof descriptor === 'number' && descriptor >= 0
}

/**
 * Returns how many bytes a TCP peer has acknowledged, or a Unix peer has read of the `written` bytes. Only the difference between two results is
 * meaningful: it is above 0 if and only if the peer has made progress.
 */
export function ackedBytes(descriptor: LentFd, written: number): number {
  return native.ackedBytes(descriptor) ?? written - native.unreadBytes(descriptor)
}

/** Reports whether at least `count` numbers were in use when the descriptor was opened: the kernel always assigns the lowest free number. */
export function isBeyond(descriptor: LentFd, count: number): boolean {
  return descriptor >= count
}

/** Duplicates a descriptor of Node. Throws EMFILE. */
export function duplicateLent(descriptor: LentFd, label: string): OwnedFd {
  return OwnedFd.duplicate(descriptor, label)
}

/** Checks sockets from which this process does not read. */
export function hangups(descriptors: readonly LentFd[]): Hangup[] {
  return native.hangups(descriptors).map(state => HANGUPS[state]!)
}

/** Sends `length` bytes of `first` from `offset`, then those of `more`. Returns the number of bytes sent, or -1 (EAGAIN). Throws if the connection is broken. */
export function sendBytes(
  descriptor: LentFd,
  first: Uint8Array,
  offset: number,
  length: number,
  more: Uint8Array | null = null,
  moreOffset = 0,
  moreLength = 0,
): number {
  // null is cheaper than an empty range.
  return native.send(
    descriptor,
    first,
    offset,
    length,
    moreLength === 0 ? null : more,
    moreOffset,
    moreLength,
  )
}

/** Returns the next bytes that the kernel has, at most `most`, which stay there. Empty also if the peer has ended. Throws if the connection is broken. */
export function peekBytes(descriptor: LentFd, most: number): Uint8Array {
  const into = new Uint8Array(most)
  return into.subarray(0, Math.max(0, native.peek(descriptor, into, 0, most)))
}

/** Returns the address and port of this end of a TCP connection; null for others, and if the connection is closed. */
export function localEnd(descriptor: LentFd): { address: string; port: number } | null {
  try {
    const { address, port } = native.inspect([descriptor])[0]!
    return address === undefined || port === undefined ? null : { address, port }
  } catch {
    return null
  }
}

/** Reports whether neither bytes nor FIN nor an error wait to be read. */
export function isSilentSocket(descriptor: LentFd): boolean {
  try {
    return native.peek(descriptor, new Uint8Array(1), 0, 1) === -1
  } catch {
    return false
  }
}

/** As {@link peekBytes}, and takes them from the kernel. */
export function takeBytes(descriptor: LentFd, most: number): Uint8Array {
  const into = new Uint8Array(most)
  return into.subarray(0, Math.max(0, native.receive(descriptor, into, 0, most)))
}

/** Lets the kernel detect a dead peer (SO_KEEPALIVE), with the intervals of the machine. */
export function keepAlive(fd: LentFd): void {
  try {
    native.setOption(fd, 'keepAlive', true)
  } catch {
    // macOS returns EINVAL for a broken connection; the next read reports it.
  }
}

/**
 * Opens the pipe or terminal of a standard stream again, so that a write to it never waits for a slow reader: O_NONBLOCK on the stream itself
 * would count for other processes that share it. Returns the number of the stream itself if it cannot be opened again, as a socket cannot.
 * The caller's library owns any other number.
 */
export function nonBlockingOutput(stream: 1 | 2): number {
  try {
    const about = fstatSync(stream, { bigint: true })
    if (!about.isFIFO() && !about.isCharacterDevice()) return stream
    return openSync(`/proc/self/fd/${stream}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch {
    return stream
  }
}

/**
 * Clears O_NONBLOCK, which Node sets, from a standard stream that is a pipe: programs that share it lose output behind a slow reader. Only for a process
 * that writes there by {@link nonBlockingOutput}. A socket stays as it is, because it cannot be opened again.
 */
export function restoreBlocking(stream: 1 | 2): void {
  try {
    if (!fstatSync(stream, { bigint: true }).isFIFO()) return
    const again = nonBlockingOutput(stream)
    // A log that cannot open the pipe again, as that of another user, writes to the stream itself, and must not wait for its reader.
    if (again === stream) return
    closeSync(again)
    native.setBlocking(stream, true)
  } catch {
    // The stream is closed, or stays as it is.
  }
}
