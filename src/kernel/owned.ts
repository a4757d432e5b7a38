import { fstatSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { native } from './native.js'

/** Reports a leaked descriptor, which has been closed already. */
export interface Leak {
  fd: number
  label: string
}

/**
 * Counts the descriptors that processes of one other user have sent, and their duplicates, until they are closed: in another thread,
 * because the close may wait for as long as that user likes: SO_LINGER with unsent data, FUSE.
 */
export class ForeignFds {
  /** Lanes of {@link Native.closeAside}. Descriptors of different lanes are closed in no order. */
  readonly #lanes: readonly number[]
  #next = 0
  /** @internal */
  open = 0

  constructor(...lanes: number[]) {
    this.#lanes = lanes
  }

  /** Number of descriptors that wait to be closed. */
  get closing(): number {
    return this.#lanes.reduce((sum, lane) => sum + native.closingAside(lane), 0)
  }

  /** Number of descriptors that are open or wait to be closed. */
  get count(): number {
    return this.open + this.closing
  }

  /** @internal */
  close(raws: readonly number[]): void {
    native.closeAside(this.#lanes[this.#next++ % this.#lanes.length]!, raws)
  }
}

/**
 * Connections of other users: descriptors that such a user has sent, and that no process has received, are closed with the connection, and never wait
 * for descriptors that were received, and hardly for each other.
 */
export const foreignConnections = new ForeignFds(-1, -2, -3, -4, -5, -6, -7, -8)

/** Lane of descriptors that no other user has sent. */
const OWN_LANE = -9

/** A descriptor that the application has given away, and of which the owner has a duplicate. */
interface Given {
  readonly number: number
  readonly dev: bigint
  readonly ino: bigint
}

function givenNow(number: number): Given {
  const { dev, ino } = fstatSync(number, { bigint: true })
  return { number, dev, ino }
}

/**
 * Closes the number, unless the application has closed it itself: then it is closed, or another file has it. The duplicate must still be open, because
 * until then no other file gets the same identity.
 */
function closeGiven({ number, dev, ino }: Given): void {
  try {
    const now = givenNow(number)
    if (now.dev === dev && now.ino === ino) native.close(number)
  } catch {
    // The application has closed it.
  }
}

/** Outlives its {@link OwnedFd}, so that the finalizer can see whether the owner was closed. */
interface Slot {
  /** -1 after close() and release(). */
  raw: number
  readonly label: string
  /** The number of owners of the same descriptor; null if it was never shared. */
  sharers: { count: number; foreign: ForeignFds | null; readonly given: Given | null } | null
  /** Null if it came from this process, its user or root. If it is shared, {@link sharers} has the value. */
  foreign: ForeignFds | null
  /** The number of which this is a duplicate, and which is closed with it. If it is shared, {@link sharers} has the value. */
  readonly given: Given | null
}

function foreignOf({ sharers, foreign }: Slot): ForeignFds | null {
  return sharers === null ? foreign : sharers.foreign
}

/** Removes one owner. If it was the last, returns true: the caller must close the descriptor or give it away. */
function dropOwner(slot: Slot): boolean {
  slot.raw = -1
  const last = slot.sharers === null || --slot.sharers.count === 0
  const foreign = foreignOf(slot)
  const { given } = slot.sharers ?? slot
  if (last && given !== null) closeGiven(given)
  if (last && foreign !== null) foreign.open--
  return last
}

function closeNumber(raw: number, slot: Slot): void {
  const foreign = foreignOf(slot)
  if (foreign === null) native.close(raw)
  else foreign.close([raw])
}

const listeners = new Set<(leak: Leak) => void>()

// Without an unregister token, registering costs half as much. The callback ignores closed slots.
const registry = new FinalizationRegistry((slot: Slot) => {
  if (slot.raw < 0) return
  const leak: Leak = { fd: slot.raw, label: slot.label }
  try {
    if (dropOwner(slot)) closeNumber(leak.fd, slot)
  } catch {
    // Other code has closed the number. The leak is reported anyway.
  }
  for (const listener of listeners) listener(leak)
})

/**
 * Calls `listener` for each descriptor whose owner was garbage collected without close() or release(); the descriptor is closed by then. Use it only
 * to find bugs: the time of the call depends on the garbage collector. Returns a function that removes the listener.
 */
export function onLeak(listener: (leak: Leak) => void): () => void {
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
  }
}

/**
 * The owner of a descriptor, or one of several after {@link share}. Closing is idempotent: the number is never closed twice, because another
 * descriptor may have got the same number. Belongs to the thread that created it.
 */
export class OwnedFd implements Disposable {
  readonly #slot: Slot

  private constructor(
    raw: number,
    label: string,
    foreign: ForeignFds | null,
    sharers: Slot['sharers'] = null,
    given: Given | null = null,
  ) {
    this.#slot = { raw, label, sharers, foreign, given }
    if (foreign !== null && sharers === null) foreign.open++
    registry.register(this, this.#slot)
  }

  /**
   * Takes ownership of a descriptor without another owner: not one of a stream or socket of Node. The caller must not use or close `raw` afterwards.
   * A descriptor that the addon has not opened stays open when its thread ends, unless you use `ownNumber()`.
   */
  static own(raw: number, label: string): OwnedFd {
    return new OwnedFd(raw, label, null)
  }

  /** As {@link own}, for a descriptor that another user has sent if `foreign` is given. @internal */
  static ownReceived(raw: number, label: string, foreign: ForeignFds | null): OwnedFd {
    return new OwnedFd(raw, label, foreign)
  }

  /** Duplicates a descriptor that has another owner, for example a socket of Node. Throws EMFILE. */
  static duplicate(raw: number, label: string): OwnedFd {
    return new OwnedFd(native.dup(raw), label, null)
  }

  /**
   * Takes ownership of a number that the application may still use, or close by mistake: owns a duplicate, and closes the number with it if the number
   * still is the same file. Throws EMFILE. @internal
   */
  static ownGiven(number: number, label: string): OwnedFd {
    const given = givenNow(number)
    return new OwnedFd(native.dup(number), label, null, null, given)
  }

  /** Takes the descriptor from its owner, whose close() then does nothing. @internal */
  take(): OwnedFd {
    const taken = this.share()
    dropOwner(this.#slot)
    return taken
  }

  /** The purpose of this descriptor, for messages. */
  get label(): string {
    return this.#slot.label
  }

  /** True after close() or release(). */
  get closed(): boolean {
    return this.#slot.raw < 0
  }

  /** The number, for one native call: do not keep it. Throws ERR_FDB_FD_CLOSED after close() or release(). */
  get raw(): number {
    const raw = this.#slot.raw
    if (raw < 0) throw closedError(this.#slot.label)
    return raw
  }

  /** Returns a second descriptor (CLOEXEC) of the same open file description, with its own owner. */
  dup(label: string = this.#slot.label): OwnedFd {
    return new OwnedFd(native.dup(this.raw), label, foreignOf(this.#slot))
  }

  /** Counts a descriptor as another user's from now on, unless it counts as one already. @internal */
  countAs(foreign: ForeignFds | null): this {
    if (foreign === null || this.closed || foreignOf(this.#slot) !== null) return this
    const slot = this.#slot.sharers ?? this.#slot
    slot.foreign = foreign
    foreign.open++
    return this
  }

  /**
   * Returns a second owner of the same number; the last owner's close() closes it. Unlike dup(), needs no further descriptor. Two owners must not poll
   * the same number.
   * @internal
   */
  share(): OwnedFd {
    const { label } = this.#slot
    const raw = this.raw
    this.#slot.sharers ??= { count: 1, foreign: this.#slot.foreign, given: this.#slot.given }
    this.#slot.sharers.count++
    return new OwnedFd(raw, label, null, this.#slot.sharers)
  }

  /** Gives the descriptor to another owner, which closes it: for example to Node with `listen({ fd })` or `new Socket({ fd })`. */
  release(): number {
    const raw = this.transfer()
    native.release(raw)
    return raw
  }

  /** As {@link release}, but for an owner in this folder: the addon still closes the descriptor when its thread ends. @internal */
  transfer(): number {
    const { sharers } = this.#slot
    // Other owners keep the number, so the new owner gets a duplicate.
    const raw = sharers !== null && sharers.count > 1 ? native.dup(this.raw) : this.raw
    dropOwner(this.#slot)
    return raw
  }

  close(): void {
    const raw = this.#slot.raw
    if (raw >= 0 && dropOwner(this.#slot)) closeNumber(raw, this.#slot)
  }

  /**
   * Closes a Unix stream of which no other process has a descriptor. One of another user is closed in another thread only if descriptors wait in it:
   * a thread takes as long as the processor is busy, and connections are many. @internal
   */
  closeStream(): void {
    const { raw } = this.#slot
    if (raw < 0 || !dropOwner(this.#slot)) return
    if (foreignOf(this.#slot) === null || native.stopReceiving(raw)) native.close(raw)
    else closeNumber(raw, this.#slot)
  }

  /**
   * Closes in another thread a descriptor whose last close waits in the kernel: that of a large memory file until its memory is free (0.2 ms for each
   * MB), that of an inotify instance up to 20 ms. The number stays in use until then. @internal
   */
  closeAside(): void {
    const raw = this.#slot.raw
    if (raw < 0 || !dropOwner(this.#slot)) return
    if (foreignOf(this.#slot) !== null) closeNumber(raw, this.#slot)
    else native.closeAside(OWN_LANE, [raw])
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal */
  static closeAll(fds: Iterable<OwnedFd>): void {
    const raws: number[] = []
    const aside = new Map<ForeignFds, number[]>()
    for (const fd of fds) {
      const { raw } = fd.#slot
      const foreign = foreignOf(fd.#slot)
      if (raw < 0 || !dropOwner(fd.#slot)) continue
      if (foreign === null) raws.push(raw)
      else {
        const each = aside.get(foreign)
        if (each === undefined) aside.set(foreign, [raw])
        else each.push(raw)
      }
    }
    for (const [foreign, each] of aside) foreign.close(each)
    if (raws.length > 0) native.closeMany(raws)
  }
}

/** Closes all descriptors that are still open, in one native call, even if closing one of them fails. */
export function closeAll(fds: Iterable<OwnedFd>): void {
  OwnedFd.closeAll(fds)
}

/** Returns the result of `work`. If it throws, closes `owned` first. */
export function closeOnThrow<T>(owned: Iterable<{ close(): void } | null | undefined>, work: () => T): T {
  try {
    return work()
  } catch (error) {
    for (const each of owned) each?.close()
    throw error
  }
}

/** ENOSPC: this user's limit of watches (fs.epoll.max_user_watches) is reached. */
const SHORTAGES: ReadonlySet<unknown> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS', 'ENOSPC'])

/** Whether a call has failed because no descriptor or no memory was left: a later call may succeed. */
export function isShortage(error: unknown): boolean {
  return SHORTAGES.has((error as Partial<NodeJS.ErrnoException> | null)?.code)
}

function closedError(label: string): FdbError {
  return new FdbError(
    'ERR_FDB_FD_CLOSED',
    `The descriptor "${label}" was used after it was closed or given away. Use dup() for a second user.`,
    { details: { label } },
  )
}
