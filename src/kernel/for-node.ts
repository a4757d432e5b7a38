import net from 'node:net'
import { native } from './native.js'
import { OwnedFd } from './owned.js'

/** Makes a `net.Socket` of a connected TCP or Unix stream descriptor. It takes the descriptor, and closes it when it throws. */
export function socketOver(fd: OwnedFd, options: Omit<net.SocketConstructorOpts, 'fd'>): net.Socket {
  let socket: net.Socket
  try {
    socket = new net.Socket({ ...options, fd: fd.raw })
  } catch (error) {
    fd.close()
    throw error
  }
  fd.release()
  return socket
}

/**
 * Has a server accept on a listening socket; it takes the descriptor. The server's 'error' event tells of failures. Node calls listen()
 * again, with 511 unless it is told a backlog: if more clients wait, the kernel refuses new ones until the backlog is corrected.
 */
export function listenOver(server: net.Server, fd: OwnedFd, backlog: number): void {
  server.listen({ fd: fd.release() }, backlog)
}

/** Takes charge of a number that the application has opened, and of nothing that Node would close. */
export function ownNumber(number: number, label: string): OwnedFd {
  native.adopt(number)
  native.setCloexec(number, true)
  return OwnedFd.own(number, label)
}

/** The descriptor numbers for a child process that inherits them; their owners keep them. */
export function numbersOf(fds: readonly OwnedFd[]): number[] {
  return fds.map(fd => fd.raw)
}

/** For an application that closes it itself. */
export function releaseNumber(fd: OwnedFd): number {
  return fd.release()
}

/** The peer of a socket has `ended` its direction, or the connection is `broken`. */
export type Hangup = 'none' | 'ended' | 'broken'

const HANGUPS: readonly Hangup[] = ['none', 'ended', 'broken']

declare const lent: unique symbol

/** A descriptor that Node opened and keeps: for a look at once, or a duplicate. */
export type LentFd = number & { readonly [lent]: true }

export function isLent(descriptor: unknown): descriptor is LentFd {
  return typeof descriptor === 'number' && descriptor >= 0
}

/**
 * How far the peer of a socket has come with what was sent, in bytes of which only the difference between two looks counts: what a TCP
 * peer has acknowledged, or what a Unix peer has read of the `written` bytes. Grows if and only if the peer takes something.
 */
export function ackedBytes(descriptor: LentFd, written: number): number {
  return native.ackedBytes(descriptor) ?? written - native.unreadBytes(descriptor)
}

/** The kernel gives the lowest number that is free: so many, or more, are open. */
export function isBeyond(descriptor: LentFd, count: number): boolean {
  return descriptor >= count
}

/** Throws what the kernel says: EMFILE. */
export function duplicateLent(descriptor: LentFd, label: string): OwnedFd {
  return OwnedFd.duplicate(descriptor, label)
}

/** For sockets that are not read from at the moment. */
export function hangups(descriptors: readonly LentFd[]): Hangup[] {
  return native.hangups(descriptors).map(state => HANGUPS[state]!)
}

/** `length` bytes of `first` from `offset`, and behind them those of `more`. Returns how many the kernel has taken; -1: not now. Throws where the peer has gone. */
export function sendOn(
  descriptor: LentFd,
  first: Uint8Array,
  offset: number,
  length: number,
  more: Uint8Array | null = null,
  moreOffset = 0,
  moreLength = 0,
): number {
  // A range that is not there is not looked at.
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

/** Has the kernel notice a peer that is gone without a word (SO_KEEPALIVE), at the times that the machine is set to. */
export function keepAlive(fd: LentFd): void {
  try {
    native.setOption(fd, 'keepAlive', true)
  } catch {
    // EINVAL of macOS: the peer has broken the connection already, and the next read says so.
  }
}
