import { FdbError } from '../errors.js'
import type { LentFd } from './for-node.js'
import { native, type Poll, READABLE } from './native.js'
import { OwnedFd } from './owned.js'

/** In one turn; the others come in the next one, when the event loop has looked at all else. */
const MOST_AT_ONCE = 128

/** All polled sockets of this thread: to the event loop they are one descriptor. */
class Crowd {
  readonly #epoll: OwnedFd
  readonly #poll: Poll
  readonly #ready = new Int32Array(2 * MOST_AT_ONCE)
  /** By the number of their descriptor. */
  readonly #members: (PolledSocket | undefined)[] = []
  #count = 0

  private constructor(epoll: OwnedFd) {
    this.#epoll = epoll
    this.#poll = native.createPoll(epoll.raw, (_, error) => {
      if (error !== null) throw error
      this.#turn()
    })
  }

  /** Null: this system has none. */
  static open(): Crowd | null {
    const raw = native.createEpoll()
    return raw === null ? null : new Crowd(OwnedFd.own(raw, 'polled sockets'))
  }

  add(fd: number, member: PolledSocket): void {
    this.#members[fd] = member
    // While there are any the process lives, as with sockets of Node's.
    if (this.#count++ === 0) this.#poll.start(READABLE)
  }

  remove(fd: number): void {
    this.#members[fd] = undefined
    if (--this.#count === 0) this.#poll.stop()
  }

  watch(fd: number, before: number, now: number): void {
    native.setEpoll(this.#epoll.raw, fd, before, now)
  }

  /**
   * The number of a member that has gone meanwhile may be that of a new one: so to be ready is a reason to try, and no more. What is left
   * when one of them throws comes again.
   */
  #turn(): void {
    const ready = this.#ready
    const end = 2 * native.askEpoll(this.#epoll.raw, ready)
    for (let at = 0; at < end; at += 2) this.#members[ready[at]!]?.ready(ready[at + 1]!)
  }
}

let crowd: Crowd | null | undefined

function theCrowd(): Crowd | null {
  if (crowd === undefined) crowd = Crowd.open()
  return crowd
}

/** Whether there are {@link PolledSocket}s on this system. */
export function polledSockets(): boolean {
  return theCrowd() !== null
}

/** A descriptor that Node keeps until it is told to close it. */
export interface Lent {
  readonly descriptor: LentFd
  close(): void
}

/** Under the same number: who tells by the number of the newest how many there are would otherwise be told the same for ever. */
function taken(lent: Lent): number {
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

function surrendered(fd: OwnedFd): number {
  if (native.firstNotStream([fd.raw]) === -1) return fd.surrender()
  fd.close()
  throw new FdbError('ERR_FDB_CONNECTION', `a connection is no connected stream socket: ${fd.label}`)
}

/**
 * A connected TCP or Unix stream socket, and the one owner of its descriptor: for thousands of them, since it takes a few words where one of
 * Node's takes kilobytes. No call blocks.
 */
export abstract class PolledSocket {
  /** -1: closed. */
  #fd: number
  #watched = 0

  /**
   * Takes the descriptor. Throws where it is of no such socket, and closes it; what is lent stays as it is where there is no descriptor left for
   * a moment: EMFILE.
   */
  constructor(fd: OwnedFd | Lent) {
    this.#fd = fd instanceof OwnedFd ? surrendered(fd) : taken(fd)
    crowd!.add(this.#fd, this)
  }

  /** It may be that it can be read from, or written to (bits: READABLE, WRITABLE): one that is broken says both. */
  abstract ready(events: number): void

  get open(): boolean {
    return this.#fd >= 0
  }

  /** Only while it is open. */
  get descriptor(): LentFd {
    return this.#fd as LentFd
  }

  /** What {@link ready} is to tell, as long as it lasts. Throws what the kernel says: ENOSPC, ENOMEM. */
  protected watch(events: number): void {
    if (events === this.#watched) return
    crowd!.watch(this.#fd, this.#watched, events)
    this.#watched = events
  }

  /** How many bytes came; 0: its peer has ended its direction; -1: none now. Throws where the peer has gone. */
  protected receive(into: Uint8Array): number {
    return native.receive(this.#fd, into, 0, into.length)
  }

  /** FIN. Who reads hears it where the peer has gone. */
  protected shutDown(): void {
    native.shutDown(this.#fd)
  }

  /** Idempotent. `reset`: with RST, where its protocol has that. */
  protected close(reset = false): void {
    const fd = this.#fd
    if (fd < 0) return
    this.#fd = -1
    // Whoever has a dup of it would have it go on being watched.
    if (this.#watched !== 0) crowd!.watch(fd, this.#watched, 0)
    crowd!.remove(fd)
    try {
      if (reset) native.resetAtClose(fd)
    } finally {
      native.close(fd)
    }
  }
}
