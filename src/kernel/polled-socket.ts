import { FdbError } from '../errors.js'
import type { LentFd } from './for-node.js'
import { native, type Poll, READABLE } from './native.js'
import { OwnedFd } from './owned.js'

/** In one turn; the others come in the next one, when the event loop has looked at all else. */
const MOST_AT_ONCE = 64
/** That are read from one at a time before anybody is told of them; no power of 2, so that not all begin in the same lines of a cache. */
const SLOT = 16 * 1024 + 320
/** The most bytes that one call reads: they are still in a cache when their socket hears of them. */
const MOST_READ = 256 * 1024

const DESCRIPTOR = 0
const EVENTS = 1
const BYTES = 2
const FIELDS = 3

/** All polled sockets of this thread: to the event loop they are one descriptor. */
class PolledSet {
  readonly #epoll: OwnedFd
  readonly #poll: Poll
  readonly #ready = new Int32Array(FIELDS * MOST_AT_ONCE)
  readonly #memory = Buffer.allocUnsafeSlow(SLOT * MOST_AT_ONCE)
  readonly #slots = Array.from({ length: MOST_AT_ONCE }, (_, i) =>
    this.#memory.subarray(i * SLOT, (i + 1) * SLOT),
  )
  /** The sockets that are told in this turn, as they were when the kernel was asked. Each only once. */
  readonly #reported = new Array<PolledSocket | undefined>(MOST_AT_ONCE).fill(undefined)
  #at = 0
  #end = 0
  /** By the number of their descriptor. */
  readonly #members: (PolledSocket | undefined)[] = []
  /** By the same number: 1 where bytes are wanted as soon as they come. */
  #eager = new Uint8Array(1024)
  #count = 0

  private constructor(epoll: OwnedFd) {
    this.#epoll = epoll
    this.#poll = native.createPoll(epoll.raw, (_, error) => {
      if (error !== null) throw error
      this.#pollReady()
    })
  }

  /** Null: this system has none. */
  static open(): PolledSet | null {
    const raw = native.createEpoll()
    return raw === null ? null : new PolledSet(OwnedFd.own(raw, 'polled sockets'))
  }

  add(fd: number, member: PolledSocket): void {
    this.#members[fd] = member
    // While there are any the process lives, as with sockets of Node's.
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
    // A callback has thrown before the rest of that turn was told: it comes first.
    this.#dispatchReady()
    const ready = this.#ready
    const end = native.askEpoll(this.#epoll.raw, ready, this.#eager, this.#memory, SLOT, MOST_READ)
    // The number of one that goes meanwhile may become that of a new one, which has nothing to do with what was read.
    for (let i = 0; i < end; i++) this.#reported[i] = this.#members[ready[i * FIELDS + DESCRIPTOR]!]
    this.#at = 0
    this.#end = end
    this.#dispatchReady()
  }

  #dispatchReady(): void {
    const ready = this.#ready
    try {
      while (this.#at < this.#end) {
        const i = this.#at++
        const member = this.#reported[i]
        this.#reported[i] = undefined
        if (member?.open)
          member.ready(ready[i * FIELDS + EVENTS]!, this.#slots[i]!, ready[i * FIELDS + BYTES]!)
      }
    } finally {
      if (this.#at < this.#end) setImmediate(() => this.#dispatchReady())
    }
  }

  /** A copy of what was read from a member that has not been told of it, and will not be. */
  takeUndelivered(member: PolledSocket): Buffer | null {
    for (let i = this.#at; i < this.#end; i++) {
      if (this.#reported[i] !== member) continue
      this.#reported[i] = undefined
      const bytes = this.#ready[i * FIELDS + BYTES]!
      return bytes > 0 ? Buffer.from(this.#slots[i]!.subarray(0, bytes)) : null
    }
    return null
  }
}

let polledSet: PolledSet | null | undefined

function openPolledSet(): PolledSet | null {
  if (polledSet === undefined) polledSet = PolledSet.open()
  return polledSet
}

/** Whether there are {@link PolledSocket}s on this system. */
export function polledSockets(): boolean {
  return openPolledSet() !== null
}

/** An address that needs no name lookup. */
export type KernelAddress = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

/** A descriptor that Node keeps until it is told to close it. */
export interface Lent {
  readonly descriptor: LentFd
  close(): void
}

/** Under the same number: who tells by the number of the newest how many there are would otherwise be told the same for ever. */
function adoptLent(lent: Lent): number {
  const spare = native.dup(lent.descriptor)
  lent.close()
  try {
    const lowest = native.dup(spare)
    native.close(spare)
    return lowest
  } catch {
    // Another thread was faster.
    return spare
  }
}

function adoptOwned(fd: OwnedFd): number {
  if (native.firstNotStream([fd.raw]) === -1) return fd.surrender()
  fd.close()
  throw new FdbError('ERR_FDB_CONNECTION', `a connection is no connected stream socket: ${fd.label}`)
}

/**
 * A connected TCP or Unix stream socket, and the one owner of its descriptor: for thousands of them, since it takes a few words where one of
 * Node's takes kilobytes. No call blocks.
 */
export abstract class PolledSocket {
  /** -1: closed, or not there yet. */
  #fd = -1
  #watched = 0

  /** Null: it comes later, see {@link adopt}. */
  constructor(fd: OwnedFd | Lent | null) {
    if (fd !== null) this.adopt(fd)
  }

  /**
   * Takes the descriptor. Throws where it is of no such socket, and closes it; what is lent stays as it is where there is no descriptor left for
   * a moment: EMFILE.
   */
  protected adopt(fd: OwnedFd | Lent): void {
    this.#fd = fd instanceof OwnedFd ? adoptOwned(fd) : adoptLent(fd)
    polledSet!.add(this.#fd, this)
  }

  /**
   * Begins to connect to an IP address or a path; with what comes of it it is writable, see {@link connectFailure}. Throws what is known at
   * once: EMFILE, EADDRNOTAVAIL, ENOENT.
   */
  protected connectTo(address: KernelAddress): void {
    this.#fd =
      address.kind === 'unix'
        ? native.connectUnix(address.path, false)
        : native.connectTcp(address.host, address.port)
    polledSet!.add(this.#fd, this)
  }

  /** Null: the connection stands; undefined: nothing is known yet. A failure is told once. */
  protected connectFailure(): Error | null | undefined {
    const errno = native.connectResult(this.#fd)
    if (errno === -1) return undefined
    return errno === 0 ? null : native.failure(errno, 'connect')
  }

  /**
   * It may be that it can be read from, or written to (bits: READABLE, WRITABLE): one that is broken says both. `bytes`: what was read already,
   * into `chunk`, which is good until this returns; of an eager one only. As {@link receive} says it, or less: see {@link failure}.
   */
  abstract ready(events: number, chunk: Buffer, bytes: number): void

  get open(): boolean {
    return this.#fd >= 0
  }

  /** Only while it is open. */
  get descriptor(): LentFd {
    return this.#fd as LentFd
  }

  /** Sets the events of which {@link ready} is told. Throws what the kernel says: ENOSPC, ENOMEM. */
  protected watch(events: number): void {
    if (events === this.#watched) return
    polledSet!.watch(this.#fd, this.#watched, events)
    this.#watched = events
  }

  /** Whether bytes are read before {@link ready} tells that there are some, a few kilobytes at a time. */
  protected setEager(eager: boolean): void {
    if (this.#fd >= 0) polledSet!.setEager(this.#fd, eager ? 1 : 0)
  }

  /** Bytes that were read from it in this turn, before it was told. */
  protected takeRead(): Buffer | null {
    return polledSet!.takeUndelivered(this)
  }

  /** The error of a read that returned less than -1. */
  protected failure(bytes: number): Error {
    return native.failure(-1 - bytes, 'recv')
  }

  /** How many bytes came; 0: its peer has ended its direction; -1: none now. Throws where the peer has gone. */
  protected receive(into: Uint8Array): number {
    return native.receive(this.#fd, into, 0, into.length)
  }

  /** Sends FIN. Reading shows if the peer has gone. */
  protected shutDown(): void {
    native.shutDown(this.#fd)
  }

  /** Idempotent. `reset`: with RST, where its protocol has that. */
  protected close(reset = false): void {
    const fd = this.#fd
    if (fd < 0) return
    this.#fd = -1
    // A holder of a dup would have it watched on.
    if (this.#watched !== 0) polledSet!.watch(fd, this.#watched, 0)
    polledSet!.remove(fd)
    try {
      if (reset) native.resetAtClose(fd)
    } finally {
      native.close(fd)
    }
  }
}
