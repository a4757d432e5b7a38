import { close } from 'node:fs'
import { FdbError } from '../errors.js'
import { native } from './native.js'

/** The report of a leak: the descriptor has been closed already. */
export interface Leak {
  fd: number
  label: string
}

/** Outlives its {@link OwnedFd}, so that the collector can tell whether it was closed: `raw` is -1 then. */
interface Slot {
  raw: number
  readonly label: string
  /** The owners of this number; null: there has been one only. */
  sharers: { count: number } | null
}

/** Returns whether this was the last owner of the number, which then closes it or gives it away. */
function leave(slot: Slot): boolean {
  slot.raw = -1
  return slot.sharers === null || --slot.sharers.count === 0
}

const listeners = new Set<(leak: Leak) => void>()

/* No unregister token: a closed slot makes the callback a no-op, and registering costs half as much. */
const collected = new FinalizationRegistry((slot: Slot) => {
  if (slot.raw < 0) return
  const leak: Leak = { fd: slot.raw, label: slot.label }
  try {
    if (leave(slot)) native.close(leak.fd)
  } catch {
    // Other code closed the number behind our back: the leak is reported all the same.
  }
  for (const listener of listeners) listener(leak)
})

/**
 * Calls `listener` for every descriptor whose owner was garbage collected without close() or release(). It has been closed by then. When that happens is up to
 * the collector; that it is reported is for finding bugs, not for cleaning up. Returns a function that removes the listener.
 */
export function onLeak(listener: (leak: Leak) => void): () => void {
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
  }
}

/**
 * The one owner of a descriptor (of those that share it, each is). Closing it is final and idempotent: the number is never closed twice, so that a
 * stranger's descriptor with the same number is safe. Belongs to the thread that made it.
 */
export class OwnedFd implements Disposable {
  readonly #slot: Slot

  private constructor(raw: number, label: string, sharers: Slot['sharers'] = null) {
    this.#slot = { raw, label, sharers }
    collected.register(this, this.#slot)
  }

  /**
   * Takes charge of a descriptor that has no other owner, not of one of Node's streams or sockets. The caller must not use or close `raw`
   * afterwards. (A descriptor that the addon did not open is closed when its owner says so, not with its thread: `ownNumber()`.)
   */
  static own(raw: number, label: string): OwnedFd {
    return new OwnedFd(raw, label)
  }

  /** Duplicates a descriptor that has another owner, for example a socket of Node's. Throws what the kernel says: EMFILE. */
  static duplicate(raw: number, label: string): OwnedFd {
    return new OwnedFd(native.dup(raw), label)
  }

  /** The purpose of this descriptor, for messages. */
  get label(): string {
    return this.#slot.label
  }

  /** True after close() or release(). */
  get closed(): boolean {
    return this.#slot.raw < 0
  }

  /** The number, for native calls only: borrow it, do not keep it. Throws ERR_FDB_FD_CLOSED once closed or released. */
  get raw(): number {
    const raw = this.#slot.raw
    if (raw < 0) throw closedError(this.#slot.label)
    return raw
  }

  /** A second descriptor of the same open file description, CLOEXEC, with an owner of its own. */
  dup(label: string = this.#slot.label): OwnedFd {
    return OwnedFd.duplicate(this.raw, label)
  }

  /**
   * A second owner of the same number, which is closed when both have closed it: where there are many, and each would count twice
   * against the limit of this process. Not for what both poll. @internal
   */
  share(): OwnedFd {
    const { label } = this.#slot
    const raw = this.raw
    this.#slot.sharers ??= { count: 1 }
    this.#slot.sharers.count++
    return new OwnedFd(raw, label, this.#slot.sharers)
  }

  /** Gives the descriptor away (to Node: `listen({ fd })`, `new Socket({ fd })`): the new owner of the number closes it. */
  release(): number {
    const raw = this.surrender()
    native.release(raw)
    return raw
  }

  /** The same to another owner of this room: with its thread it is closed as before. @internal */
  surrender(): number {
    const { sharers } = this.#slot
    // The others keep theirs.
    const raw = sharers !== null && sharers.count > 1 ? native.dup(this.raw) : this.raw
    leave(this.#slot)
    return raw
  }

  close(): void {
    const raw = this.#slot.raw
    if (raw >= 0 && leave(this.#slot)) native.close(raw)
  }

  /**
   * Closes a large memory file in another thread: the last one to close it waits for the kernel to free it, 0.2 ms for each MB. Its number
   * stays in use for a moment. @internal
   */
  closeAside(): void {
    const raw = this.#slot.raw
    if (raw < 0 || !leave(this.#slot)) return
    // In another thread Node complains: it has not opened it there.
    if (process.getBuiltinModule('node:worker_threads').isMainThread) {
      native.release(raw)
      close(raw, () => {})
    } else native.close(raw)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** Closes all, also after one of them failed to, in one native call. @internal */
  static closeAll(fds: Iterable<OwnedFd>): void {
    const raws: number[] = []
    for (const fd of fds) {
      const { raw } = fd.#slot
      if (raw >= 0 && leave(fd.#slot)) raws.push(raw)
    }
    if (raws.length > 0) native.closeMany(raws)
  }
}

/** Closes every one that is still open, in one native call; closed ones are skipped. */
export function closeAll(fds: Iterable<OwnedFd>): void {
  OwnedFd.closeAll(fds)
}

function closedError(label: string): FdbError {
  return new FdbError(
    'ERR_FDB_FD_CLOSED',
    `The descriptor "${label}" was closed or given away before this use. Take a dup() for a second user.`,
    { details: { label } },
  )
}

/**
 * Grows the descriptor table of this process to `count`: resolves when it is there, some 15 ms later. The process goes on meanwhile, as long as it needs
 * no more descriptors than it had. When the kernel grows the table by itself, at each doubling, it stops a process with threads for as long. Does
 * nothing above RLIMIT_NOFILE. Never rejects.
 */
export function makeRoom(count: number): Promise<void> {
  return native.makeRoom(count)
}
