import { FdbError } from '../errors.js'
import type { LentFd } from './for-node.js'
import { native, type Poll, READABLE } from './native.js'
import { closeOnThrow, OwnedFd } from './owned.js'

/** Maximum number of sockets in one turn. The others wait for the next turn, so that the event loop can do other work in between. */
const MAX_EVENTS = 64
/** Bytes of one socket's part of the read buffer. The size is not a power of 2, so that the parts do not start in the same cache lines. */
const SLOT = 16 * 1024 + 320
/** Maximum bytes that one call reads, so that they are still in the CPU cache when the socket processes them. */
const MAX_READ_BYTES = 256 * 1024
/** Added to the number after a turn with little to read. Small, because turns of short requests and of long answers alternate. */
const MORE_EVENTS = 2

const DESCRIPTOR = 0
const EVENTS = 1
const BYTES = 2
const FIELDS = 3

const NOT_REPORTED = -1

/** All polled sockets of this thread, in one epoll set: the event loop polls only the set. */
class PolledSet {
  readonly #epoll: OwnedFd
  readonly #poll: Poll
  readonly #ready = new Int32Array(FIELDS * MAX_EVENTS)
  /** The part of `#ready` for the next turn. Its length limits the sockets: one that the poll reports and does not read any more, because of {@link MAX_READ_BYTES}, needs two more system calls. */
  #asked = this.#ready
  readonly #memory = Buffer.allocUnsafeSlow(SLOT * MAX_EVENTS)
  readonly #slots = Array.from({ length: MAX_EVENTS }, (_, i) =>
    this.#memory.subarray(i * SLOT, (i + 1) * SLOT),
  )
  /** The ready sockets of the last poll, in the order of `#ready`. After a socket was notified, its element is undefined. */
  readonly #reported = new Array<PolledSocket | undefined>(MAX_EVENTS).fill(undefined)
  #at = 0
  #end = 0
  #inTurn = false
  /** The sockets by descriptor number. */
  readonly #members: (PolledSocket | undefined)[] = []
  /** By descriptor number: 1 if the poll reads from the socket before it notifies it. */
  #eager = new Uint8Array(1024)
  #count = 0

  private constructor(epoll: OwnedFd) {
    this.#epoll = epoll
    this.#poll = native.createPoll(epoll.raw, (_, error) => {
      if (error !== null) throw error
      this.#pollReady()
    })
  }

  /** Returns null if this system has no epoll. */
  static open(): PolledSet | null {
    const raw = native.createEpoll()
    if (raw === null) return null
    const epoll = OwnedFd.own(raw, 'polled sockets')
    return closeOnThrow([epoll], () => new PolledSet(epoll))
  }

  add(fd: number, member: PolledSocket): void {
    this.#members[fd] = member
    // Keeps the process alive while there are sockets, as sockets of Node do.
    if (this.#count++ === 0) this.#poll.start(READABLE)
  }

  remove(fd: number): void {
    this.#members[fd] = undefined
    this.setEager(fd, 0)
    if (--this.#count === 0) this.#poll.stop()
  }

  watch(fd: number, before: number, now: number): void {
    native.setEpoll(this.#epoll.raw, fd, before, now)
  }

  setEager(fd: number, eager: 0 | 1): void {
    if (fd >= this.#eager.length) {
      const grown = new Uint8Array(2 ** Math.ceil(Math.log2(fd + 1)))
      grown.set(this.#eager)
      this.#eager = grown
    }
    this.#eager[fd] = eager
  }

  #pollReady(): void {
    // After a callback has thrown, sockets of the previous poll may not have been notified yet.
    this.#dispatchReady()
    const ready = this.#ready
    const end = native.askEpoll(this.#epoll.raw, this.#asked, this.#eager, this.#memory, SLOT, MAX_READ_BYTES)
    let bytes = 0
    let read = 0
    // Resolves all numbers now: if a callback closes a socket, a new socket may get its number, but must not get its bytes.
    for (let i = 0; i < end; i++) {
      const member = this.#members[ready[i * FIELDS + DESCRIPTOR]!]
      this.#reported[i] = member
      if (member !== undefined) member.reportedAt = i
      const got = ready[i * FIELDS + BYTES]!
      if (got <= 0) continue
      bytes += got
      read++
    }
    if (bytes >= MAX_READ_BYTES) this.#askFor(read)
    else if (bytes < MAX_READ_BYTES / 2 && this.#asked !== ready)
      this.#askFor(this.#asked.length / FIELDS + MORE_EVENTS)
    this.#at = 0
    this.#end = end
    this.#inTurn = true
    try {
      this.#dispatchReady()
    } finally {
      this.#inTurn = false
    }
  }

  #askFor(events: number): void {
    if (events * FIELDS === this.#asked.length) return
    this.#asked = events >= MAX_EVENTS ? this.#ready : this.#ready.subarray(0, events * FIELDS)
  }

  /** Whether a callback runs that the last poll has caused: a socket that this poll has not reported had nothing to read at the begin of this turn. */
  get isInTurn(): boolean {
    return this.#inTurn
  }

  #dispatchReady(): void {
    const ready = this.#ready
    try {
      while (this.#at < this.#end) {
        const i = this.#at++
        const member = this.#reported[i]
        this.#reported[i] = undefined
        if (member === undefined) continue
        member.reportedAt = NOT_REPORTED
        if (member.open)
          member.ready(ready[i * FIELDS + EVENTS]!, this.#slots[i]!, ready[i * FIELDS + BYTES]!)
      }
    } finally {
      if (this.#at < this.#end) setImmediate(() => this.#dispatchReady())
    }
  }

  /** Returns a copy of the bytes that were read from a socket which has not been notified, and cancels the notification. Null if there are none. */
  takeUndelivered(member: PolledSocket): Buffer | null {
    const i = member.reportedAt
    if (i === NOT_REPORTED) return null
    member.reportedAt = NOT_REPORTED
    this.#reported[i] = undefined
    const bytes = this.#ready[i * FIELDS + BYTES]!
    return bytes > 0 ? Buffer.from(this.#slots[i]!.subarray(0, bytes)) : null
  }
}

let polledSet: PolledSet | null | undefined

function openPolledSet(): PolledSet | null {
  if (polledSet === undefined) polledSet = PolledSet.open()
  return polledSet
}

/** Reports whether this system supports {@link PolledSocket}. */
export function hasPolledSockets(): boolean {
  return openPolledSet() !== null
}

/** The address of an upstream, without a host name: `host` is an IP address. */
export type KernelAddress = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

/** A descriptor that Node owns until `close()`. */
export interface Lent {
  readonly descriptor: LentFd
  close(): void
}

/**
 * Duplicates a descriptor of Node and closes Node's. Returns the lowest free number, which is often the number of Node's descriptor. `isBeyond()` relies on
 * low numbers.
 */
function adoptLent(lent: Lent): number {
  const spare = native.dup(lent.descriptor)
  lent.close()
  try {
    const lowest = native.dup(spare)
    native.close(spare)
    return lowest
  } catch {
    // Another thread has taken the last free number.
    return spare
  }
}

function adoptOwned(fd: OwnedFd): number {
  if (native.firstNotStream([fd.raw]) === -1) return fd.transfer()
  fd.close()
  throw new FdbError('ERR_FDB_CONNECTION', `the descriptor "${fd.label}" is not a connected stream socket`)
}

/**
 * A connected TCP or Unix stream socket that owns its descriptor. A polled socket needs only a few words of memory, a socket of Node kilobytes. No
 * call blocks.
 */
export abstract class PolledSocket {
  /** -1 before {@link adopt} and after {@link close}. */
  #fd = -1
  #watched = 0
  /** @internal The place of the socket in the report of the last poll; -1 if the poll has not reported the socket, or {@link ready} was called since. */
  reportedAt: number = NOT_REPORTED

  /** If `fd` is null, call {@link adopt} or {@link connectTo} later. */
  constructor(fd: OwnedFd | Lent | null) {
    if (fd !== null) this.adopt(fd)
  }

  /**
   * Takes ownership of the descriptor. Closes it and throws if it is not a connected stream socket. Throws EMFILE if no descriptor is free for a dup;
   * a lent descriptor then stays with Node.
   */
  protected adopt(fd: OwnedFd | Lent): void {
    this.#fd = fd instanceof OwnedFd ? adoptOwned(fd) : adoptLent(fd)
    openPolledSet()!.add(this.#fd, this)
  }

  /** As {@link adopt}, for a socket of any type. */
  protected adoptUnchecked(fd: OwnedFd): void {
    this.#fd = fd.transfer()
    openPolledSet()!.add(this.#fd, this)
  }

  /**
   * Starts to connect to an IP address or a path. The socket becomes writable when {@link connectFailure} knows the result. Throws immediate errors:
   * EMFILE, EADDRNOTAVAIL, ENOENT.
   */
  protected connectTo(address: KernelAddress): void {
    this.#fd =
      address.kind === 'unix'
        ? native.connectUnix(address.path, false)
        : native.connectTcp(address.host, address.port)
    openPolledSet()!.add(this.#fd, this)
  }

  /** Returns null if the connection is established, undefined if the result is not known yet. Returns a failure only once. */
  protected connectFailure(): Error | null | undefined {
    const errno = native.connectResult(this.#fd)
    if (errno === -1) return undefined
    return errno === 0 ? null : native.failure(errno, 'connect')
  }

  /**
   * Called when the socket may be readable or writable (bits READABLE, WRITABLE); a broken socket has both bits. `bytes` is the number of bytes that
   * the poll has read into `chunk`, which is valid during the call: 0 if the peer has sent FIN, -1 if the poll has read nothing, less after an error
   * (see {@link failure}).
   */
  abstract ready(events: number, chunk: Buffer, bytes: number): void

  get open(): boolean {
    return this.#fd >= 0
  }

  /** Valid only while the socket is `open`. */
  get descriptor(): LentFd {
    return this.#fd as LentFd
  }

  /** Sets the events for which {@link ready} is called. Throws ENOSPC, ENOMEM. */
  protected watch(events: number): void {
    if (events === this.#watched) return
    polledSet!.watch(this.#fd, this.#watched, events)
    this.#watched = events
  }

  /** Sets whether the poll reads a few kilobytes before it calls {@link ready}. */
  protected setEager(eager: boolean): void {
    if (this.#fd >= 0) polledSet!.setEager(this.#fd, eager ? 1 : 0)
  }

  /** Takes the bytes that the poll has read in this turn, if {@link ready} has not been called yet. */
  protected takeRead(): Buffer | null {
    return polledSet!.takeUndelivered(this)
  }

  /** Whether a callback runs that the last poll of all sockets has caused. */
  protected get isInTurn(): boolean {
    return polledSet!.isInTurn
  }

  /** Whether the last poll has reported this socket, and {@link ready} has not been called yet. */
  protected get isReported(): boolean {
    return this.reportedAt !== NOT_REPORTED
  }

  /** Returns the error for a number of bytes below -1. */
  protected failure(bytes: number): Error {
    return native.failure(-1 - bytes, 'recv')
  }

  /** Returns the number of bytes; 0 if the peer has sent FIN; -1 if there is nothing to read. Throws if the connection is broken. */
  protected receive(into: Uint8Array): number {
    return native.receive(this.#fd, into, 0, into.length)
  }

  /** Sends FIN. A broken connection is reported by the next read. */
  protected shutDown(): void {
    native.shutDown(this.#fd)
  }

  /** Idempotent. With `reset` sends RST, if the protocol has it. */
  protected close(reset = false): void {
    const fd = this.#fd
    if (fd < 0) return
    this.#fd = -1
    // Otherwise epoll would continue to watch the socket as long as a dup of it is open.
    if (this.#watched !== 0) polledSet!.watch(fd, this.#watched, 0)
    polledSet!.remove(fd)
    try {
      if (reset) native.resetAtClose(fd)
    } finally {
      native.close(fd)
    }
  }
}
